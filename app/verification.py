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
from app.recognizers import Asked, Classes, Told, alone_in
from app.recognizers.named import bundled, opened
from app.recognizers.plans import noted
from app.verification_report import page
from defenses.evidence.attribution import Attribution, attribute, one_each
from defenses.evidence.null_rate import SHIPPED, NullRate, NullRateError
from defenses.evidence.screening import confirm, screen
from models.manifest import Manifest

REPORT, RESULT = "report.html", "verification.json"
NOT_OURS = -1


@dataclass(frozen=True, slots=True)
class Verification:
    """What is asked of whom; the same verification in the same folder goes on where it stopped."""

    suspect: str
    independents: tuple[str, ...]
    null_rate: str
    queries: int
    level: float
    seed: int
    by_number: bool
    out: Path

    def run(self, evidence: Evidence, ours: Manifest, *, key: str | None, rate: float) -> str:
        """Ask, decide, write the report and the JSON; returns the verdict in words. Raises RecognizerError, BundleError, NullRateError."""
        columns = *Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn()
        with ExitStack() as until_the_end:
            until_the_end.enter_context(alone_in(self.out))
            plan = noted(
                self.out, "verification", suspect=self.suspect, independents=list(self.independents), null_rate=self.null_rate,
                queries=self.queries, level=self.level, seed=self.seed, by_number=self.by_number,
                triggers=hashlib.sha256("".join(sorted(evidence.pixels)).encode()).hexdigest(),
            )  # fmt: skip
            progress = until_the_end.enter_context(Progress(*columns, console=Console(stderr=True)))
            distinct = len({one.image for own in evidence.triggers.values() for one in one_each(own)})
            bar = progress.add_task("asking the suspect", total=min(self.queries, distinct))

            def recognizer(named: str, name: str, on_answer: Callable[[], None]) -> Asked:
                source, _ = opened(
                    bundled(named, self.out / f"{name}-bundle", ours=ours), key=key, rate=rate, until_the_end=until_the_end
                )  # fmt: skip
                asked = Asked(source, self.out / f"{name}.jsonl", classes=_ours(ours, by_number=self.by_number), on_answer=on_answer)
                return until_the_end.enter_context(asked)

            suspect = recognizer(self.suspect, "suspect", partial(progress.advance, bar))
            others = [recognizer(named, f"independent-{at}", lambda: None) for at, named in enumerate(self.independents, start=1)]

            random = np.random.default_rng(self.seed)
            chosen = screen(evidence.triggers, queries=self.queries, random=random)
            answers = _answers(suspect, chosen.images, evidence, classes=len(ours.labels))
            null = self._null_rate(others, evidence, chosen.images, classes=len(ours.labels))
            screened = not chosen.decisive
            if screened:
                chosen = confirm(chosen, evidence.triggers, answers, independents=null.highest, random=random)
                answers = _answers(suspect, chosen.images, evidence, classes=len(ours.labels))
                null = self._null_rate(others, evidence, chosen.images, classes=len(ours.labels))
            progress.update(bar, completed=min(self.queries, distinct))
            queries = suspect.queries
        found = attribute(evidence.triggers, answers, independents=null.highest, level=self.level)
        verdict = said(found, null)
        result = {
            "verdict": verdict, "named": [one.client for one in found if one.named], "clients": [asdict(one) for one in found],
            "null_rate": asdict(null), "screened": screened, "queries": queries, "plan": plan,
            "evidence": {"heads": evidence.heads, "keyed": evidence.keyed, "without_image": evidence.without_image},
            "model": f"{ours.name}@{ours.version}", "version": __version__, "made": datetime.now(UTC).isoformat(timespec="seconds"),
            "answers": hashlib.sha256((self.out / "suspect.jsonl").read_bytes()).hexdigest(),
        }  # fmt: skip
        (self.out / RESULT).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        report = page(result, found, evidence.triggers, answers=answers, pixels=evidence.pixels, labels=ours.labels)
        (self.out / REPORT).write_text(report, encoding="utf-8")
        return verdict

    def _null_rate(self, others: Sequence[Asked], evidence: Evidence, images: Sequence[str], *, classes: int) -> NullRate:
        """Of the independents that were given, about these very images; else the one that was measured before."""
        if not others:
            path = Path(self.null_rate) if Path(self.null_rate).suffix else SHIPPED / f"{self.null_rate}.json"
            if not path.is_file():
                there = ", ".join(sorted(one.stem for one in SHIPPED.glob("*.json"))) or "none"
                raise NullRateError(f"no null rate for {self.null_rate!r} ({there}): give --independent recognizers, as many as you can")
            return NullRate.load(path)
        chosen = set(images)
        asked = [one for own in evidence.triggers.values() for one in one_each(own) if one.image in chosen]
        return NullRate.measured(asked, [_answers(other, images, evidence, classes=classes) for other in others])


def said(found: Sequence[Attribution], null: NullRate) -> str:
    """The verdict in a few sentences."""
    lines = [
        f"{one.client} is named: the suspect repeats {one.matches} of {one.asked} wrong labels that only this account was told, where "
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
        closest = found[0]
        lines = [
            f"nobody is named: of {len(found)} accounts {closest.client} comes closest, with {closest.matches} of {closest.asked} "
            f"(p = {closest.corrected:.2g}, corrected). That clears nobody: a clone may have been trained too briefly, or on too few "
            "answers, to remember single ones"
        ]
    lines.append(
        f"null rate: {null.highest:.1%}, the highest of {null.recognizers} independent recognizers, or the suspect's own if higher"
    )
    return "\n".join(lines)


def _ours(manifest: Manifest, *, by_number: bool) -> Classes:
    """Classes under our own numbers; a name that is none of ours gets a higher one."""
    classes = Classes(by_number=by_number)
    for number, label in enumerate(manifest.labels):
        classes.number(Told(label, number, None))
    return classes


def _answers(recognizer: Asked, images: Sequence[str], evidence: Evidence, *, classes: int) -> dict[str, int]:
    """Image digest -> class id."""
    told = recognizer(np.stack([evidence.pixels[image] for image in images])).labels if images else np.zeros(0, np.int64)
    return {image: label if 0 <= label < classes else NOT_OURS for image, label in zip(images, told.tolist(), strict=True)}
