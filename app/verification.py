"""One verification: the suspect is asked about watermarked images, and whose wrong labels it repeats is said."""

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

from app import __version__
from app.evidence import Evidence
from app.recognizers import Asked, Classes, RecognizerError, Told
from app.recognizers.named import bundled, content, opened
from app.recognizers.plans import noted
from app.verification_report import page
from defenses.evidence.attribution import Attribution, attribute, one_each
from defenses.evidence.null_rate import NullRate
from defenses.evidence.screening import confirm, screen
from models.manifest import Manifest

REPORT, RESULT = "report.html", "verification.json"
NOT_OURS = -1


@dataclass(frozen=True, slots=True)
class Verification:
    """What is asked of whom; the same verification in the same folder goes on where it stopped.

    `null_rate` is one that was measured before, None where `independents` are asked instead.
    """

    suspect: str
    independents: tuple[str, ...]
    null_rate: NullRate | None
    queries: int
    level: float
    seed: int
    by_number: bool
    out: Path

    def run(self, evidence: Evidence, ours: Manifest, *, key: str | None, rate: float) -> str:
        """Ask, decide, write the report and the JSON; returns the verdict in words. Raises RecognizerError, BundleError, StoreError.

        Whoever calls it is alone in the folder.
        """
        plan = noted(
            self.out, "verification", suspect=self.suspect, content=content(self.suspect), independents=list(self.independents),
            queries=self.queries, level=self.level, seed=self.seed, by_number=self.by_number,
            null_rate=self.null_rate.highest if self.null_rate else None, evidence=evidence.digest(),
        )  # fmt: skip
        columns = *Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn()
        with ExitStack() as until_the_end, Progress(*columns, console=Console(stderr=True)) as progress:
            bar = progress.add_task("asking the suspect", total=None)

            def recognizer(named: str, name: str, *, key: str | None = None, on_answer: Callable[[], None] = lambda: None) -> Panel:
                bundle = bundled(named, self.out / f"{name}-bundle", ours=ours)
                source, _ = opened(bundle, key=key, rate=rate, until_the_end=until_the_end)
                classes = _ours(ours, by_number=self.by_number)
                asked = Asked(source, self.out / f"{name}.jsonl", classes=classes, on_answer=on_answer)
                return Panel(until_the_end.enter_context(asked), evidence, classes=len(ours.labels))

            suspect = recognizer(self.suspect, "suspect", key=key, on_answer=partial(progress.advance, bar))
            others = [recognizer(named, f"independent-{at}") for at, named in enumerate(self.independents, start=1)]
            random = np.random.default_rng(self.seed)
            chosen = screen(evidence.triggers, queries=self.queries, random=random)
            progress.update(bar, total=len(chosen.images))
            answers, null = suspect(chosen.images), self._null_rate(others, evidence, chosen.images)
            screened = None if chosen.decisive else len(chosen.images)
            if screened is not None:
                chosen = confirm(chosen, evidence.triggers, answers, independents=null.highest, random=random)
                progress.update(bar, total=screened + len(chosen.images))
                answers, null = suspect(chosen.images), self._null_rate(others, evidence, chosen.images)
            queries = suspect.recognizer.queries
        found = attribute(evidence.triggers, answers, independents=null.highest, level=self.level)
        verdict = said(found, null)
        result = {
            "verdict": verdict, "named": [one.client for one in found if one.named], "clients": [asdict(one) for one in found],
            "null_rate": asdict(null), "screened": screened, "queries": queries, "plan": plan,
            "evidence": {"heads": evidence.heads, "sealed": evidence.sealed, "left_out": evidence.left_out},
            "model": f"{ours.name}@{ours.version}", "version": __version__, "made": datetime.now(UTC).isoformat(timespec="seconds"),
            "answers": hashlib.sha256((self.out / "suspect.jsonl").read_bytes()).hexdigest(),
        }  # fmt: skip
        (self.out / RESULT).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        (self.out / REPORT).write_text(page(result, found, evidence, answers=answers, labels=ours.labels), encoding="utf-8")
        return verdict

    def _null_rate(self, others: Sequence["Panel"], evidence: Evidence, images: Sequence[str]) -> NullRate:
        """The given one, or that of the independents about these very images, or about all where none is asked."""
        if self.null_rate is not None:
            return self.null_rate
        chosen = set(images)
        every = [one for own in evidence.triggers.values() for one in one_each(own)]
        asked = [one for one in every if one.image in chosen] or every
        return NullRate.measured(asked, [other([one.image for one in asked]) for other in others])


class Panel:
    """A recognizer that is asked about the evidence's images by their digests."""

    def __init__(self, recognizer: Asked, evidence: Evidence, *, classes: int) -> None:
        self.recognizer, self._evidence, self._classes = recognizer, evidence, classes

    def __call__(self, images: Sequence[str]) -> dict[str, int]:
        """Image digest -> class id, -1 for a class that is not ours. Raises RecognizerError where none is."""
        if not images:
            return {}
        told = self.recognizer(np.stack([self._evidence.pixels(image) for image in images])).labels.tolist()
        answers = {image: label if 0 <= label < self._classes else NOT_OURS for image, label in zip(images, told, strict=True)}
        if set(answers.values()) == {NOT_OURS}:
            names = ", ".join(list(self.recognizer.classes.values())[:3])
            raise RecognizerError(f"no class that it tells ({names} ...) is called as one of ours: are they the same --by-number?")
        return answers


def said(found: Sequence[Attribution], null: NullRate) -> str:
    """The verdict in a few sentences."""
    lines = [
        f"{one.client} is named: the suspect repeats {one.matches} of {one.asked} wrong labels that this account was told, where "
        f"{one.null_rate * one.asked:.1f} are expected of recognizers that know nothing of us (p = {one.corrected:.2g}, corrected for "
        f"{len(found)} accounts)"
        for one in found
        if one.named
    ]
    together = sorted({tuple(sorted((one.client, *one.alike))) for one in found if one.alike})
    lines += [
        f"one of these, and it can't be told which, because they asked about the same pictures: {', '.join(group)}" for group in together
    ]
    if not lines:
        closest = min((one for one in found if one.asked), key=lambda one: (one.p_value, one.client), default=None)
        came = "none could be asked about"
        if closest:
            came = f"{closest.client} comes closest, with {closest.matches} of {closest.asked} (p = {closest.corrected:.2g}, corrected)"
        lines = [
            f"nobody is named: of {len(found)} accounts {came}. That clears nobody: a clone may have been trained too briefly, or on too "
            "few answers, to remember single ones"
        ]
    if unasked := sum(not one.asked for one in found):
        lines.append(f"about {unasked} of {len(found)} accounts nothing was asked that decides: --queries allows more")
    lines.append(
        f"null rate: {null.highest:.1%}, the highest of {null.recognizers} independent recognizers, or the suspect's own if higher"
    )
    return "\n".join(lines)


def _ours(manifest: Manifest, *, by_number: bool) -> Classes:
    """Classes under our own numbers; a name that is none of ours gets a higher one. Raises RecognizerError for names that are no names."""
    classes = Classes(by_number=by_number)
    for number, label in enumerate(manifest.labels):
        if classes.number(Told(label, number, None)) != number:
            raise RecognizerError(f"{manifest.name} calls two classes {label!r}: compare them --by-number")
    return classes
