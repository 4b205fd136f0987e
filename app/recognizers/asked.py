"""A recognizer whose answers are kept: what was asked once is not asked again, by this run or by the one that goes on with it."""

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from defenses.clone_detection.recognizer import Answers

Images = NDArray[np.uint8]  # (n, height, width, 3)


class RecognizerError(Exception):
    """A recognizer can't be asked; one line says why."""


@dataclass(frozen=True, slots=True)
class Told:
    """The best class of one image: its name, its number where the recognizer numbers classes, its score in [0, 1] where it tells one.

    `model` is what the recognizer calls itself, "" where it does not say. Raises ValueError for a score that is no number.
    """

    label: str
    class_id: int
    score: float | None
    model: str = ""

    def __post_init__(self) -> None:
        if self.score is not None and not math.isfinite(self.score):
            raise ValueError(f"a score of {self.score}")


class Source(Protocol):
    """Where answers come from."""

    def __call__(self, images: Images) -> Iterator[Told]:
        """The answers to images (n, height, width, 3), in their order, each as soon as it is there."""
        ...


class Classes:
    """Numbers for classes, the same for both recognizers of a pair: by their names, without regard to case, or `by_number` as they are."""

    def __init__(self, *, by_number: bool = False) -> None:
        self._by_number = by_number
        self._numbers: dict[str, int] = {}

    def number(self, told: Told) -> int:
        """The number of a class; a name that nobody has told before gets the next one."""
        if self._by_number:
            return told.class_id
        return self._numbers.setdefault(told.label.strip().casefold(), len(self._numbers))


class Asked:
    """A Recognizer over a source. Every answer is kept in the file before the next image is asked about, so that nothing is asked twice.

    `queries` counts the answers that the file holds: what the recognizer was asked in all, by earlier runs too. `on_answer` is called
    once for each input. One run at a time, or two would write the same file: see `alone_in`. Raises RecognizerError for a damaged one.
    """

    def __init__(self, source: Source, kept: Path, *, classes: Classes, on_answer: Callable[[], None] = lambda: None) -> None:
        self._source, self._classes, self._on_answer = source, classes, on_answer
        kept.parent.mkdir(parents=True, exist_ok=True)
        self._told = dict(_read(kept))
        self._file = kept.open("ab")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    @property
    def queries(self) -> int:
        """How many images it was asked about."""
        return len(self._told)

    @property
    def model(self) -> str:
        """What it called itself in the first answer that said so, or ""."""
        return next((told.model for told in self._told.values() if told.model), "")

    @property
    def classes(self) -> Mapping[int, str]:
        """Every class that it has named so far: its number and its name."""
        return {self._classes.number(told): told.label for told in self._told.values()}

    def __call__(self, inputs: NDArray[Any]) -> Answers:
        """Answer images uint8 (n, height, width, 3); the confidences are None unless every answer has a score."""
        digests = [hashlib.sha256(image.tobytes()).hexdigest() for image in inputs]
        new = {digest: row for row, digest in reversed(list(enumerate(digests))) if digest not in self._told}
        rows = sorted(new.values())
        for row, told in zip(rows, self._source(inputs[rows]) if rows else (), strict=True):
            self._keep(digests[row], told)
            self._on_answer()
        for _ in range(len(inputs) - len(rows)):
            self._on_answer()
        answers = [self._told[digest] for digest in digests]
        scores = [told.score for told in answers if told.score is not None]
        return Answers(
            np.array([self._classes.number(told) for told in answers], dtype=np.int64),
            np.array(scores, dtype=np.float64).clip(0, 1) if len(scores) == len(answers) else None,
        )

    def _keep(self, digest: str, told: Told) -> None:
        self._told[digest] = told
        self._file.write(json.dumps({"image": digest, **asdict(told)}).encode() + b"\n")
        self._file.flush()


def _read(kept: Path) -> Iterator[tuple[str, Told]]:
    """What a file holds; a line that was cut off when a run was killed is cut off for good. Raises RecognizerError for other damage."""
    if not kept.exists():
        return
    whole = 0
    with kept.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                break
            try:
                answer = _answer(json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                raise RecognizerError(f"{kept}, line {number} is damaged: without it its image is asked about again ({error!r})") from error
            yield answer
            whole += len(line)
    os.truncate(kept, whole)


def _answer(page: Any) -> tuple[str, Told]:
    score, model = page["score"], str(page.get("model", ""))
    return str(page["image"]), Told(str(page["label"]), int(page["class_id"]), None if score is None else float(score), model)
