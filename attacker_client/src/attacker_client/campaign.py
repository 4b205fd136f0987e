"""THE PAGE: the way of a campaign, top to bottom, in execution order.

check -> images -> ledger and oracles -> scene -> attack -> student.pt -> evaluation -> run.json and report.html
"""

import json
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from attacker_client import attacks, checkpoints, images, records, report, students
from attacker_client.attacks.attack import Attack, Scene
from attacker_client.attacks.sybil import near_duplicates_together
from attacker_client.buying import LedgerBuyer
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


async def run(
    campaign: Campaign,
    *,
    out: Path,
    resume: bool = False,
    keys: Sequence[str] = (),
    reference_key: str | None = None,
    concurrency: int = 32,
) -> Result:
    """Run a campaign in a directory, or go on with the one that was interrupted there; a finished one is measured again, from its ledger.

    Raises CampaignError, ImagesError, StudentError, UnusableReference and LedgerError for what can't be begun, and OracleError where the
    endpoint refuses for good. Whatever ends it, what was bought stays, and the same campaign with `resume` goes on.
    """
    attack, who = check(campaign, keys=keys)
    pools = images.choose(campaign.images, size=campaign.size, seed=campaign.seed)
    test = images.labelled_images(Path(campaign.test_images), campaign.size) if campaign.test_images else None
    async with AsyncExitStack() as until_the_end:
        honest = _model(campaign.reference)
        ledger = until_the_end.enter_context(Ledger.open(out / "ledger.db", asdict(campaign), resume=resume))
        reference = honest or await _endpoint(campaign, out, until_the_end, key=reference_key, concurrency=concurrency)
        stopwatch = until_the_end.enter_context(Stopwatch(ledger))
        oracles: list[Oracle] = []
        for one in who:
            known = oracles[0].dialect if oracles else None
            oracle = Oracle(campaign.target, dialect=known, headers=one.headers, local_address=one.local_address)
            oracles.append(await until_the_end.enter_async_context(oracle))
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

        finished = ledger.fact("finished")
        student: Student | None = None
        if finished == "trained" and (out / "student.pt").exists():
            student = students.load(out / "student.pt")
        elif finished != "not trained":
            student = await attack(scene)
        # Of a training that was finished before, an attack that is run again sees nothing: what it found the first time counts.
        findings = ledger.fact("findings")
        if findings is None:
            findings = json.loads(json.dumps(scene.findings, default=records.plain))
            ledger.remember("findings", findings)
        found = Evaluation()
        if student is not None:
            students.save(student, out / "student.pt")
            found = await evaluate(
                student, held_out=pools.evaluation, test=test[:2] if test else None, buyer=examiner, names=ledger.labels,
                reference=reference, most=campaign.evaluation, seed=campaign.seed,
            )  # fmt: skip
            found.notes += records.unspent(campaign.budget, buyer.counts, pool=len(pools.buying), together=near_duplicates_together(attack))
        if skipped := [*pools.skipped, *(test[2] if test else ())]:
            found.notes.append(f"{len(skipped)} images could not be read, {skipped[0]} for one.")
        written = records.as_run(
            campaign, found, bought=buyer.counts, measured=examiner.counts, told=witness.summary(ledger.labels), findings=findings,
            epochs=records.history(out / "checkpoints"), trained=student is not None, seconds=stopwatch.seconds,
            command=records.command(campaign, out),
        )  # fmt: skip
        (out / "run.json").write_text(json.dumps(written, indent=1, default=records.plain) + "\n", encoding="utf-8")
        page = report.write(out)
        ledger.remember("finished", "not trained" if student is None else "trained")
        checkpoints.forget(out / "checkpoints")
    return Result(report.read_run(out), student, page)


def _model(reference: str | None) -> Reference | None:
    """The honest recognizer, if it is a file: looked at before anything is begun, since a campaign begun with another is another."""
    return None if reference is None or "://" in reference else OnnxReference(Path(reference))


async def _endpoint(campaign: Campaign, out: Path, until_the_end: AsyncExitStack, *, key: str | None, concurrency: int) -> Reference | None:
    """The honest recognizer, if it is an endpoint. It has a ledger of its own: the same images get other answers there."""
    if campaign.reference is None:
        return None
    ledger = until_the_end.enter_context(Ledger.open(out / "reference.db", {"target": campaign.reference}, resume=True))
    oracle = await until_the_end.enter_async_context(Oracle(campaign.reference, api_key=key))
    buyer = LedgerBuyer([oracle], ledger, budget=2 * campaign.evaluation, purpose="reference", concurrency=concurrency)
    return EndpointReference(buyer, ledger.labels)


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
        _keep_apart("domain", campaign.options["domain"], ("--images", campaign.images), ("--test-images", campaign.test_images))
    _keep_apart("--images", campaign.images, ("--test-images", campaign.test_images))
    if campaign.recipe not in RECIPES:
        raise CampaignError(f"no recipe {campaign.recipe!r}; there are {', '.join(RECIPES)}")
    students.build(campaign.student, classes=2, size=campaign.size, seed=0, pretrained=campaign.pretrained)  # only to see whether it can be
    return attack, who


def _keep_apart(option: str, folder: str, *others: tuple[str, str | None]) -> None:
    """Refuse to train on images that are measured with: those of --images are in part, those of --test-images all."""
    for other, measured in others:
        if measured is None or not (Path(folder).is_dir() and Path(measured).is_dir()):
            continue
        mine, theirs = Path(folder).resolve(), Path(measured).resolve()
        if mine.is_relative_to(theirs) or theirs.is_relative_to(mine):
            raise CampaignError(f"{option} {folder} has images in common with {other} {measured}, which the student is measured with")
