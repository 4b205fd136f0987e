"""One detection: both recognizers are asked, the judge is, and what came of it is written."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

from app import __version__
from app.detection_report import page
from app.recognizers import Asked, Classes, RecognizerError, Source, alone_in
from app.recognizers.asked import Images
from app.recognizers.images import images_to_ask
from app.recognizers.named import DEFAULT_SIZE, ONNX, bundled, content, is_url, opened
from app.recognizers.plans import noted
from defenses.clone_detection.bank import Bank, BankError, locate, shipped
from defenses.clone_detection.features import ALL, ALL_LABELS_ONLY, Features, compare
from defenses.clone_detection.sampling import boundary_sample, random_sample
from defenses.clone_detection.verdict import Judge, Verdict
from models.bundle import Bundle

REPORT, RESULT = "report.html", "detection.json"
SIDES = ("owner", "suspect")  # whose answers are kept


@dataclass(frozen=True, slots=True)
class Detection:
    """What is asked of whom; the same detection in the same folder goes on where it stopped."""

    owner: str
    suspect: str
    images: str
    bank: str | None
    seed: int
    by_number: bool
    out: Path

    def run(self, *, owner_key: str | None, suspect_key: str | None, rate: float) -> str:
        """Ask, judge, write the report and the JSON; returns the verdict in words. Raises RecognizerError, BankError, BundleError."""
        columns = *Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn()
        with alone_in(self.out):
            noted(
                self.out,
                "detection",
                owner=self.owner,
                suspect=self.suspect,
                content=content(self.suspect),
                images=self.images,
                seed=self.seed,
                by_number=self.by_number,
            )
            with ExitStack() as until_the_end, Progress(*columns, console=Console(stderr=True)) as progress:
                # a file does not say what its classes are called, nor an address what all of ours are called
                classes = Classes(by_number=self.by_number or (is_url(self.owner) and self.suspect.endswith(ONNX)))
                bars = {side: progress.add_task(side, total=None, visible=False) for side in SIDES}

                def asked(side: str, source: Source) -> Asked:
                    on_answer = partial(progress.advance, bars[side])
                    return until_the_end.enter_context(Asked(source, self._kept(side), classes=classes, on_answer=on_answer))

                ours, mine = opened(self.owner, key=owner_key, rate=math.inf, until_the_end=until_the_end)
                original = asked("owner", ours)
                path = self._bank(original, mine)
                known, count = _counted(path)
                plan = noted(self.out, "detection", bank=_digest(path), count=count)
                theirs, _ = opened(
                    bundled(self.suspect, self.out / "suspect-bundle", ours=mine.manifest if mine else None), key=suspect_key, rate=rate,
                    until_the_end=until_the_end,
                )  # fmt: skip
                suspect = asked("suspect", theirs)
                size = mine.manifest.input.size if mine else DEFAULT_SIZE
                pool = images_to_ask(self.images, count=3 * count, size=size, seed=self.seed)
                progress.reset(bars["owner"], visible=True, description="asking ours")
                progress.reset(bars["suspect"], total=2 * count, visible=True, description="asking the suspect")
                judge, features = self._compared(
                    original,
                    suspect,
                    pool,
                    known=known,
                    ours=mine.manifest.name if mine else original.model,
                    on_steps=lambda steps: progress.update(bars["owner"], total=(3 + steps) * count),
                )
                queries = {"owner": original.queries, "suspect": suspect.queries}
            return self._written(known, judge=judge, features=features, found={"queries": queries, "plan": plan})

    def _bank(self, original: Asked, mine: Bundle | None) -> Path:
        """The bank's file: that which is given, else that of our recognizer's name. Raises RecognizerError, BankError, BundleError."""
        if self.bank is not None:
            return locate(self.bank)
        if mine is not None:
            return shipped(mine.manifest.name)
        original(images_to_ask(self.images, count=1, size=DEFAULT_SIZE, seed=self.seed))  # the first of those that come anyway
        if not original.model:
            raise RecognizerError(f"{self.owner} does not say what its model is called: give a bank with --bank NAME|FILE")
        return shipped(original.model)

    def _written(self, known: Bank, *, judge: Judge, features: Features, found: Mapping[str, Any]) -> str:
        """Judge, and write what came of it."""
        verdict = judge(features)
        result = {
            "verdict": asdict(verdict), "features": asdict(features), **found,
            "bank": {"task": known.task, "sampler": dict(known.sampler)}, "version": __version__,
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
            "answers": {name: _digest(self._kept(name)) for name in SIDES},
        }  # fmt: skip
        (self.out / RESULT).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        (self.out / REPORT).write_text(page(result, known, judge=judge, features=features, verdict=verdict), encoding="utf-8")
        return said(verdict, features, clones_of_others=known.sampler.get("clones_of_others"))

    def _compared(
        self, original: Asked, suspect: Asked, pool: Images, *, known: Bank, ours: str, on_steps: Callable[[int], None]
    ) -> tuple[Judge, Features]:
        """Ask both. What the suspect tells about images at random decides by which features it is judged, and so how near the rest is."""
        random, count = np.random.default_rng(self.seed), len(pool) // 3
        far = random_sample(original, pool[2 * count :], random=random, count=count)
        wide = suspect(far.inputs)
        silent = far.original.confidences is None or wide.confidences is None
        judge = Judge.of(known, names=ALL_LABELS_ONLY if silent else ALL, original=ours)
        on_steps(judge.choice.steps)
        near = boundary_sample(original, pool[: 2 * count], random=random, count=count, steps=judge.choice.steps)
        features = compare(suspect(near.inputs), wide, near=near, far=far)
        if features.names != judge.tree.names:  # whoever tells scores of some images only
            judge = Judge.of(known, names=features.names, steps=judge.choice.steps, original=ours)
        if not self.by_number and not original.classes.keys() & suspect.classes.keys():
            theirs = ", ".join(sorted(suspect.classes.values())[:3])
            hint = f"ours never named a class as the suspect does ({theirs} ...): if the classes have the same numbers, give --by-number"
            features = replace(features, message="; ".join(filter(None, (features.message, hint))))
        return judge, features

    def _kept(self, name: str) -> Path:
        return self.out / f"{name}.jsonl"


def said(verdict: Verdict, features: Features, *, clones_of_others: Mapping[str, int] | None = None) -> str:
    """The verdict in a few sentences; `clones_of_others` is what the bank knows of clones of somebody else's recognizer."""
    told = ", ".join(f"{name} {value:.3f}" for name, value in zip(features.names, features.vector(features.names).tolist(), strict=True))
    what = "consistent with being a clone" if verdict.consistent else "not consistent with being a clone"
    lines = [
        f"{what} (p = {verdict.p_value:.3g}; {told})",
        f"Of {verdict.independents} pairs of recognizers that know nothing of each other {verdict.false_positive_rate:.1%} were taken for "
        f"clones, at most {verdict.at_most:.1%} at 95% confidence; of true clones {verdict.missed:.1%} were missed.",
    ]
    if clones_of_others and verdict.consistent:
        wrong, pairs = clones_of_others["consistent"], clones_of_others["pairs"]
        lines.append(
            f"Of {pairs} clones of somebody else's recognizer {wrong} looked like clones of the wrong one: what was distilled looks it."
        )
    return "\n".join([*lines, *([verdict.message] if verdict.message else [])])


def _counted(path: Path) -> tuple[Bank, int]:
    """A bank, and how many inputs of a sample its pairs were measured with. Raises BankError."""
    known = Bank.load(path)
    count = known.sampler.get("count")
    if not isinstance(count, int):
        raise BankError(f"{path} does not say how many inputs of a sample its pairs were measured with")
    return known, count


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
