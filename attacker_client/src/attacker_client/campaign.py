"""THE PAGE: the way of a campaign, top to bottom, in execution order.

check -> images -> ledger and oracles -> scene -> attack -> student.pt -> evaluation -> run.json -> report.html
"""

import json
import platform
import shlex
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attacker_client import attacks, images, report, students
from attacker_client.attacks.attack import Attack, Scene
from attacker_client.attacks.sybil import near_duplicates_together
from attacker_client.buying import Counts, LedgerBuyer
from attacker_client.display import BuyingBar
from attacker_client.evaluation import Evaluation, evaluate
from attacker_client.identities import Identity, identities
from attacker_client.ledger import Ledger
from attacker_client.oracle import Oracle
from attacker_client.recipes import RECIPES
from attacker_client.references import EndpointReference, OnnxReference, Reference
from attacker_client.stopwatch import Stopwatch
from attacker_client.students import Student
from attacker_client.told import Witness
from attacker_client.training import StudentTrainer
from attacker_client.wire import is_loopback


class CampaignError(Exception):
    """The campaign can't be begun as it was asked for; the text says why."""


@dataclass(frozen=True, slots=True)
class Campaign:
    """Everything that decides the outcome, and nothing else: no keys, no speed, no place on the disk."""

    target: str
    attack: str
    images: str
    budget: int
    student: str = "small"
    recipe: str = "fast"
    options: dict[str, str] = field(default_factory=dict)
    epochs: int | None = None
    hard_labels: bool = False
    pretrained: bool = False
    size: int = 32
    identities: int = 1
    forwarded_for: bool = False
    test_images: str | None = None
    reference: str | None = None
    evaluation: int = 1_000
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """What a campaign leaves: run.json's content, the student if there is one, and the report."""

    run: dict[str, Any]
    student: Student | None
    report: Path


async def run(campaign: Campaign, *, out: Path, resume: bool = False, keys: Sequence[str] = (), concurrency: int = 32) -> Result:
    """Run a campaign in a directory, or go on with the one that was interrupted there.

    Raises CampaignError, ImagesError, StudentError, UnusableReference and LedgerError for what can't be begun, and OracleError where the
    endpoint refuses for good. Whatever ends it, what was bought stays, and the same campaign with `resume` goes on.
    """
    attack, who = check(campaign, keys=keys)
    pools = images.choose(campaign.images, size=campaign.size, seed=campaign.seed)
    test = images.labelled_images(Path(campaign.test_images), campaign.size) if campaign.test_images else None
    async with AsyncExitStack() as until_the_end:
        reference = await _reference(campaign, out, until_the_end, concurrency=concurrency)
        ledger = until_the_end.enter_context(Ledger.open(out / "ledger.db", asdict(campaign), resume=resume))
        stopwatch = until_the_end.enter_context(Stopwatch(ledger))
        oracles = [
            await until_the_end.enter_async_context(Oracle(campaign.target, headers=one.headers, local_address=one.local_address))
            for one in who
        ]
        bar = BuyingBar(campaign.budget)

        def on_answer(spent: int) -> None:
            bar.spent(spent)
            stopwatch.tick()

        names = [one.name for one in who]
        buyer = LedgerBuyer(
            oracles, ledger, budget=campaign.budget, purpose="attack", concurrency=concurrency, names=names, on_answer=on_answer
        )
        examiner = LedgerBuyer(oracles, ledger, budget=2 * campaign.evaluation, purpose="evaluation", concurrency=concurrency, names=names)
        witness = Witness(buyer, ledger, bar)
        trainer = StudentTrainer(
            campaign.student, RECIPES[campaign.recipe], size=campaign.size, checkpoints=out / "checkpoints", seed=campaign.seed,
            hard=campaign.hard_labels, pretrained=campaign.pretrained, epochs=campaign.epochs, on_epoch=lambda _: stopwatch.tick(),
        )  # fmt: skip
        scene = Scene(pools.buying, witness, trainer, campaign.seed)

        student = await attack(scene)
        # Of a training that was finished before, an attack that is run again sees nothing: what it found the first time counts.
        findings = ledger.fact("findings")
        if findings is None:
            findings = json.loads(json.dumps(scene.findings, default=_plain))
            ledger.remember("findings", findings)
        found = Evaluation()
        if student is not None:
            students.save(student, out / "student.pt")
            found = await evaluate(
                student, held_out=pools.evaluation, test=test[:2] if test else None, buyer=examiner, names=ledger.labels,
                reference=reference, most=campaign.evaluation, seed=campaign.seed,
            )  # fmt: skip
            found.notes += unspent(campaign.budget, buyer.counts, pool=len(pools.buying), together=near_duplicates_together(attack))
        if skipped := [*pools.skipped, *(test[2] if test else ())]:
            found.notes.append(f"{len(skipped)} images could not be read, {skipped[0]} for one.")
        written = _as_run(
            campaign, found, bought=buyer.counts, measured=examiner.counts, told=witness.summary(ledger.labels), findings=findings,
            epochs=history(out / "checkpoints"), trained=student is not None, seconds=stopwatch.seconds, command=command(campaign, out),
        )  # fmt: skip
    (out / "run.json").write_text(json.dumps(written, indent=1, default=_plain) + "\n", encoding="utf-8")
    return Result(report.read_run(out), student, report.write(out))


async def _reference(campaign: Campaign, out: Path, until_the_end: AsyncExitStack, *, concurrency: int) -> Reference | None:
    """The honest recognizer, where there is one. An endpoint has a ledger of its own: the same images get other answers there."""
    if campaign.reference is None:
        return None
    if "://" not in campaign.reference:
        return OnnxReference(Path(campaign.reference))
    ledger = until_the_end.enter_context(Ledger.open(out / "reference.db", {"target": campaign.reference}, resume=True))
    oracle = await until_the_end.enter_async_context(Oracle(campaign.reference))
    buyer = LedgerBuyer([oracle], ledger, budget=2 * campaign.evaluation, purpose="reference", concurrency=concurrency)
    return EndpointReference(buyer, ledger.labels)


def _as_run(
    campaign: Campaign, found: Evaluation, *, bought: Counts, measured: Counts, told: dict[str, Any], findings: dict[str, Any],
    epochs: list[dict[str, Any]], trained: bool, seconds: float, command: str,
) -> dict[str, Any]:  # fmt: skip
    """run.json."""
    asked_for = {name: value for name, value in asdict(campaign).items() if name not in ("attack", "budget", "epochs", "evaluation")}
    return {
        "attack": campaign.attack,
        "budget": campaign.budget,
        "queries_answered": bought.queries_answered,
        "seconds": round(seconds, 1),
        **asdict(found),
        "evaluation": {"queries_answered": measured.queries_answered, "queries_sent": measured.queries_sent},
        "queries_sent": bought.queries_sent,
        "refusals": bought.refused,
        "bad_images": bought.bad_images,
        "seconds_waiting": round(bought.seconds_waiting, 1),
        "bytes_sent": bought.bytes_sent,
        "bytes_received": bought.bytes_received,
        "uncertain": bought.uncertain,
        **asked_for,
        "student": campaign.student if trained else None,
        "epochs": epochs,
        "findings": findings,
        "versions": {"attacker-client": version_of("attacker-client"), "torch": torch.__version__, "python": platform.python_version()},
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads",
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "told": {name: value for name, value in told.items() if name != "examples"},
        "examples": told["examples"],
    }


def check(campaign: Campaign, *, keys: Sequence[str] = ()) -> tuple[Attack, list[Identity]]:
    """The attack, and who asks, of a campaign that can be begun; before anything is bought. Raises CampaignError, StudentError."""
    try:
        attack = attacks.build(campaign.attack, campaign.options)
        who = identities(campaign.identities, api_keys=keys, url=campaign.target, forwarded_for=campaign.forwarded_for)
    except ValueError as error:
        raise CampaignError(str(error)) from error
    spreads = "sybil" in campaign.attack.split(":")
    if spreads and len(who) == 1:
        raise CampaignError("sybil needs at least two identities: give --identities N, or several API keys")
    if len(who) > 1 and not spreads:
        raise CampaignError(f"only sybil asks as several clients: --attack sybil:{campaign.attack}")
    if "domain" in campaign.options:
        _keep_apart(Path(campaign.options["domain"]), campaign)
    if campaign.recipe not in RECIPES:
        raise CampaignError(f"no recipe {campaign.recipe!r}; there are {', '.join(RECIPES)}")
    students.build(campaign.student, classes=2, size=campaign.size, seed=0, pretrained=campaign.pretrained)  # only to see whether it can be
    return attack, who


def _keep_apart(domain: Path, campaign: Campaign) -> None:
    """Refuse to train on images that are measured with: those of --images are in part, those of --test-images all."""
    for option, folder in (("--images", campaign.images), ("--test-images", campaign.test_images)):
        if folder in (None, "builtin") or not Path(folder).is_dir():
            continue
        mine, other = domain.resolve(), Path(folder).resolve()
        if mine.is_relative_to(other) or other.is_relative_to(mine):
            raise CampaignError(f"domain={domain} has images in common with {option} {folder}, which the student is measured with")


def unspent(budget: int, bought: Counts, *, pool: int, together: int) -> list[str]:
    """A note where the attack ended before the budget; `together` is the queries an image of the pool takes."""
    if budget - bought.queries_answered < together:
        return []
    asked = bought.queries_answered + bought.bad_images
    ended = "pool" if asked <= pool * together < budget + bought.bad_images else "attack"
    return [f"The {ended} ended after {bought.queries_answered:,} of {budget:,} queries."]


def command(campaign: Campaign, out: Path) -> str:
    """The command line that repeats a campaign, without keys."""
    words = ["attacker-client", "run", campaign.target]
    for each in fields(campaign):
        value = getattr(campaign, each.name)
        if each.name in ("target", "options") or value == each.default:
            continue
        words += [f"--{each.name.replace('_', '-')}", *([] if value is True else [str(value)])]
    for name, value in campaign.options.items():
        words += ["--option", f"{name}={value}"]
    for url in (campaign.target, campaign.reference or ""):
        if "://" in url and not is_loopback(url):
            words += ["--i-own-this", url]
    return shlex.join([*words, "--out", str(out)])


def history(checkpoints: Path) -> list[dict[str, Any]]:
    """What is known of each epoch of each training, in their order; `fit` numbers the trainings."""
    files = sorted(checkpoints.glob("fit-*/history.json"))
    return [{"fit": int(file.parent.name.removeprefix("fit-")), **row} for file in files for row in json.loads(file.read_bytes())]


def _plain(value: object) -> object:
    """What attacks find may be numpy's or a path."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return str(value)
