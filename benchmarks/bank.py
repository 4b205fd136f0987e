"""Make the bank of clone detection: `CLONEGUARD_DATA=DIR python -m benchmarks.bank`.

Twelve recognizers of CIFAR-10 that know nothing of each other, 132 ordered pairs, and 24 clones stolen from four of them over HTTP with
Tiny-ImageNet images. Near an original's boundary and at random, every suspect is asked about crops of scikit-image's photographs, as
`cloneguard detect` asks. The bundle that ships is one more original, so that its suspects are compared with its own independents. The
number of bisection steps and the tree are chosen with architectures held out.

Hours on 2 cores, minutes with a GPU; what was finished is kept in --out, and what was interrupted goes on with the same command. Every
answer is kept in --out/answers, so that features can be computed from them again.
--independents stops when these are trained, --clones when everything is stolen.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.table import Table

from app.recognizers.images import BUILTIN, images_to_ask
from benchmarks.bank_answers import measured
from benchmarks.bank_clones import Theft, planned, stolen
from benchmarks.bank_recognizers import INDEPENDENTS, SIZE, TASK, Network, Served, bundled, trained
from benchmarks.image_sets import Pixels
from benchmarks.publishing import console, data_folder
from benchmarks.recipe import recipe
from defenses.clone_detection.bank import BANKS, Bank, Model
from defenses.clone_detection.choosing import EVEN, out_of_fold
from defenses.clone_detection.features import ALL, ALL_LABELS_ONLY, LABELS_ONLY, NAMES, compare
from defenses.clone_detection.recognizer import Recognizer
from defenses.clone_detection.sampling import COUNT, boundary_sample, random_sample
from defenses.clone_detection.verdict import Judge
from models import bundle as bundles
from models.bundle import locate
from models.manifest import load

STOLEN = INDEPENDENTS[:4]  # one of each architecture


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, steal and measure what is missing; print how well clones are told; write the bank."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--independents", action="store_true", help="train these and stop")
    made.add_argument("--clones", action="store_true", help="steal too, and stop")
    made.add_argument("--count", type=int, default=COUNT, help="inputs of a sample")
    made.add_argument("--out", type=Path, default=Path("reports") / "bank", help="folder where what is finished is kept")
    made.add_argument("--json", type=Path, default=BANKS / f"{TASK}.json", help="where the bank goes: it ships with the product")
    options = made.parse_args(arguments)
    data, out = data_folder(), options.out
    recognizers: dict[str, Recognizer] = {one.name: Network(trained(one, data=data, out=out)) for one in INDEPENDENTS}
    if options.independents:
        return
    thefts = planned(STOLEN)
    clones = {theft.name: Network(stolen(theft, bundled(theft.original, data=data, out=out), data=data, out=out)) for theft in thefts}
    if options.clones:
        return
    asked = images_to_ask(BUILTIN, count=3 * options.count, size=SIZE, seed=0)  # as `cloneguard detect` asks, and no thief did
    rows = []
    for name, original in {**recognizers, TASK: Served(bundles.load(TASK))}.items():
        suspects = {other: one for other, one in recognizers.items() if other != name}
        suspects |= {theft.name: clones[theft.name] for theft in thefts if theft.original.name == name}
        with console.status(f"{name}: {len(suspects)} suspects"):
            rows += measured(name, original, suspects, asked, out=out / "answers", count=options.count)
    command = "CLONEGUARD_DATA=DIR python -m benchmarks.bank" + (f" --count {options.count}" if options.count != COUNT else "")
    sampler = {"images": BUILTIN, "count": options.count, "recipe": recipe() | {"command": command}}
    bank = Bank(TASK, sampler, models(thefts, out), tuple(rows))
    stolen_from = {one.name: recognizers[one.name] for one in STOLEN} | {TASK: Served(bundles.load(TASK))}
    others = of_others(bank, stolen_from, clones, asked, count=options.count)
    bank = replace(bank, sampler=sampler | {"clones_of_others": others})
    bank.save(options.json)
    console.print(
        f"clones of somebody else's recognizer: {others['consistent']} of {others['pairs']} are consistent with being clones of ours"
    )
    console.print(table(bank))
    console.print(by_theft(bank))
    console.print(f"written to {options.json}", soft_wrap=True)


def models(thefts: Sequence[Theft], out: Path) -> dict[str, Model]:
    """What is known of every model, from the recipes beside them."""
    manifest = load(locate(TASK))
    known = {TASK: Model(manifest.recipe["architecture"], recipe={"version": manifest.version, "accuracy": manifest.measured["test_top1"]})}
    known |= {
        one.name: Model(one.architecture, recipe=json.loads((out / "independents" / one.name / "recipe.json").read_bytes()))
        for one in INDEPENDENTS
    }
    for theft in thefts:
        how = json.loads((out / "clones" / theft.name / "recipe.json").read_bytes())
        known[theft.name] = Model(theft.student, clone_of=theft.original.name, recipe=how)
    return known


def of_others(
    bank: Bank, originals: Mapping[str, Recognizer], clones: Mapping[str, Recognizer], asked: Pixels, *, count: int
) -> dict[str, int]:
    """How many clones of other recognizers are consistent with being clones of an original: no bank of independents tells that.

    A clone of scores is less confident than what was trained on classes, whoever's scores they were.
    """
    counts = {"pairs": 0, "consistent": 0, "of_scores": 0, "of_scores_consistent": 0}
    for name, original in originals.items():
        judge, random = Judge.of(bank, original=name), np.random.default_rng(0)
        far = random_sample(original, asked[2 * count :], random=random, count=count)
        near = boundary_sample(original, asked[: 2 * count], random=random, count=count, steps=judge.choice.steps)
        for suspect, clone in clones.items():
            if bank.models[suspect].clone_of != name:
                consistent = judge(compare(clone(near.inputs), clone(far.inputs), near=near, far=far)).consistent
                scores = bank.models[suspect].recipe["told"] == "scores"
                counts["pairs"] += 1
                counts["consistent"] += consistent
                counts["of_scores"] += scores
                counts["of_scores_consistent"] += scores and consistent
    return counts


def table(bank: Bank) -> Table:
    """How well clones are told from independents whose architectures the tree has not seen, by all features and by the paper's."""
    made = Table(
        "features", "steps", "depth", "balanced accuracy", "false-positive rate", "at most (95%)", "missed", "AUC", title=bank.task
    )
    for names, original in ((ALL, TASK), (NAMES, TASK), (ALL_LABELS_ONLY, TASK), (LABELS_ONLY, TASK), (ALL, "")):
        judge = Judge.of(bank, names=names, original=original)
        quality = judge.choice.quality
        rates = (quality.balanced_accuracy, quality.false_positive_rate, judge.at_most, 1 - quality.true_positive_rate, quality.auc)
        made.add_row(
            ", ".join(names) + ("" if original else ", as they are"),
            str(judge.choice.steps),
            str(judge.choice.depth),
            *(f"{rate:.1%}" for rate in rates),
        )
    return made


def by_theft(bank: Bank) -> Table:
    """Which clones are found by all features, by how they were stolen, by trees that know neither architecture of the pair."""
    judge, folds = Judge.of(bank, original=TASK), bank.architectures_held_out()
    rows = bank.features(judge.choice.steps) if judge.strangers is None else bank.relative(judge.choice.steps)
    shares = out_of_fold(rows, bank.clones, folds, names=ALL, depth=judge.choice.depth)
    made = Table("attack", "told", "clones", "found", "fidelity to the original", title=f"{bank.task}: clones found")
    thefts: dict[tuple[str, str], list[tuple[bool, float]]] = {}
    for row, share, clone in zip(bank.rows, shares.tolist(), bank.clones.tolist(), strict=True):
        if clone:
            how = bank.models[row.suspect].recipe
            thefts.setdefault((how["attack"], how["told"]), []).append((share > EVEN, how["fidelity"]["value"]))
    for (attack, told), found in sorted(thefts.items()):
        fidelities = [fidelity for _, fidelity in found]
        made.add_row(attack, told, str(len(found)), str(sum(hit for hit, _ in found)), f"{min(fidelities):.0%} to {max(fidelities):.0%}")
    return made


if __name__ == "__main__":
    main()
