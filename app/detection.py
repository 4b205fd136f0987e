"""One detection: both recognizers are asked, the judge is, and what came of it is written."""

import hashlib
import json
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
from app.recognizers.endpoint import Endpoint
from app.recognizers.images import images_to_ask
from app.recognizers.local import bundle_source
from defenses.clone_detection.bank import Bank, BankError, locate, shipped
from defenses.clone_detection.features import ALL, ALL_LABELS_ONLY, Features, compare
from defenses.clone_detection.sampling import boundary_sample, random_sample
from defenses.clone_detection.verdict import Judge, Verdict
from models import bundle as bundles
from models.bundle import Bundle
from models.manifest import FILE
from models.packaging import make_bundle

DEFAULT_SIZE = 32  # pixels a side, where our recognizer is an address
PLAN, REPORT, RESULT = "plan.json", "report.html", "detection.json"
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
            self._noted(owner=self.owner, suspect=self.suspect, images=self.images, seed=self.seed, by_number=self.by_number)
            with ExitStack() as until_the_end, Progress(*columns, console=Console(stderr=True)) as progress:
                classes = Classes(by_number=self.by_number)
                bars = {side: progress.add_task(side, total=None, visible=False) for side in SIDES}

                def asked(side: str, source: Source) -> Asked:
                    on_answer = partial(progress.advance, bars[side])
                    return until_the_end.enter_context(Asked(source, self._kept(side), classes=classes, on_answer=on_answer))

                ours, mine = _source(self.owner, key=owner_key, rate=rate, until_the_end=until_the_end)
                original = asked("owner", ours)
                path = self._bank(original, mine)
                known, count = _counted(path)
                plan = self._noted(bank=_digest(path), count=count)
                theirs, _ = _source(self._bundled(mine), key=suspect_key, rate=rate, until_the_end=until_the_end)
                suspect = asked("suspect", theirs)
                size = mine.manifest.input.size if mine else DEFAULT_SIZE
                pool = images_to_ask(self.images, count=3 * count, size=size, seed=self.seed)
                progress.reset(bars["owner"], visible=True, description="asking ours")
                progress.reset(bars["suspect"], total=2 * count, visible=True, description="asking the suspect")
                judge, features = self._compared(
                    original, suspect, pool, known=known, on_steps=lambda steps: progress.update(bars["owner"], total=(3 + steps) * count)
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
        return said(verdict, features)

    def _compared(
        self, original: Asked, suspect: Asked, pool: Images, *, known: Bank, on_steps: Callable[[int], None]
    ) -> tuple[Judge, Features]:
        """Ask both. What the suspect tells about images at random decides by which features it is judged, and so how near the rest is."""
        random, count = np.random.default_rng(self.seed), len(pool) // 3
        far = random_sample(original, pool[2 * count :], random=random, count=count)
        wide = suspect(far.inputs)
        silent = far.original.confidences is None or wide.confidences is None
        judge = Judge.of(known, names=ALL_LABELS_ONLY if silent else ALL)
        on_steps(judge.choice.steps)
        near = boundary_sample(original, pool[: 2 * count], random=random, count=count, steps=judge.choice.steps)
        features = compare(suspect(near.inputs), wide, near=near, far=far)
        if features.names != judge.tree.names:  # whoever tells scores of some images only
            judge = Judge.of(known, names=features.names, steps=judge.choice.steps)
        if not self.by_number and not original.classes.keys() & suspect.classes.keys():
            theirs = ", ".join(sorted(suspect.classes.values())[:3])
            hint = f"ours never named a class as the suspect does ({theirs} ...): if the classes have the same numbers, give --by-number"
            features = replace(features, message="; ".join(filter(None, (features.message, hint))))
        return judge, features

    def _kept(self, name: str) -> Path:
        return self.out / f"{name}.jsonl"

    def _noted(self, **decided: Any) -> dict[str, Any]:
        """Note in the plan what decides what is asked. Raises RecognizerError where the folder holds a detection with another plan."""
        kept = self.out / PLAN
        try:
            before = dict(json.loads(kept.read_bytes())) if kept.exists() else {}
        except (ValueError, TypeError) as error:
            raise RecognizerError(f"{kept} is damaged: give another --out ({error!r})") from error
        if changed := [name for name, value in decided.items() if before.get(name, value) != value]:
            raise RecognizerError(f"{self.out} holds another detection: {', '.join(changed)} differ; give another --out")
        plan = before | decided
        unfinished = kept.with_suffix(".partial")
        unfinished.write_text(json.dumps(plan, indent=1) + "\n", encoding="utf-8")
        unfinished.replace(kept)
        return plan

    def _bundled(self, ours: Bundle | None) -> str:
        """The suspect; an ONNX file becomes a bundle with our labels. Raises BundleError, RecognizerError."""
        if not self.suspect.endswith(".onnx"):
            return self.suspect
        if ours is None:
            raise RecognizerError("an ONNX file does not say what its classes are called: give our bundle as --owner")
        directory, manifest = self.out / "suspect-bundle", ours.manifest
        if not (directory / FILE).is_file():
            make_bundle(
                Path(self.suspect), directory, name="suspect", version="1", labels=manifest.labels, size=manifest.input.size,
                mean=(0, 0, 0), std=(1, 1, 1),
            )  # fmt: skip
        return str(directory)


def said(verdict: Verdict, features: Features) -> str:
    """The verdict in a sentence or two."""
    told = ", ".join(f"{name} {value:.3f}" for name, value in zip(features.names, features.vector(features.names).tolist(), strict=True))
    what = "consistent with being a clone" if verdict.consistent else "not consistent with being a clone"
    return (
        f"{what} (p = {verdict.p_value:.3g}; {told})\n"
        f"Of {verdict.independents} pairs of recognizers that know nothing of each other {verdict.false_positive_rate:.1%} were taken for "
        f"clones, at most {verdict.at_most:.1%} at 95% confidence; of true clones {verdict.missed:.1%} were missed."
        + (f"\n{verdict.message}" if verdict.message else "")
    )


def _counted(path: Path) -> tuple[Bank, int]:
    """A bank, and how many inputs of a sample its pairs were measured with. Raises BankError."""
    known = Bank.load(path)
    count = known.sampler.get("count")
    if not isinstance(count, int):
        raise BankError(f"{path} does not say how many inputs of a sample its pairs were measured with")
    return known, count


def _source(named: str, *, key: str | None, rate: float, until_the_end: ExitStack) -> tuple[Source, Bundle | None]:
    """Where a recognizer's answers come from, and the bundle if it is one."""
    if named.startswith(("http://", "https://")):
        return until_the_end.enter_context(Endpoint(named, rate=rate, api_key=key)), None
    bundle = bundles.load(named, device="auto")
    return bundle_source(bundle), bundle


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
