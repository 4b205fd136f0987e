"""Reproduce Tables I and II of Mori, Nakamura, Nitta and Babaguchi: is this recognizer a clone of that one?

`CLONEGUARD_DATA=DIR python -m benchmarks.seeds.mori`. Recognizers of 2-D features of MNIST and CIFAR-10, their clones by labels (a) or by
labels and confidences (b), and strangers: 72 pairs. The number of bisection steps, which the paper does not state and which decides,
is chosen with the tree's depth by cross-validation within the half that trains, never on the half that tests.

A seed takes some 12 minutes of CPU time, most of it for 26 MLPs: the first was finished after 18 minutes on 2 cores that other
trainings kept busy. What was finished is kept in --out, and what was interrupted goes on with the same command. --table-1 stops after
the pairs of Table I, a minute a seed.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from benchmarks.bank import by_theft
from benchmarks.bank import table as bank_table
from benchmarks.bank_recognizers import TASK
from benchmarks.publishing import console, data_folder
from benchmarks.recipe import recipe
from benchmarks.seeds import mori_tables as tables
from benchmarks.seeds.mori_divisions import PAPER, Division, Figures, evaluate
from benchmarks.seeds.mori_features import SETS, SetName, features
from benchmarks.seeds.mori_pairs import ALL, STEPS, TABLE_I, Pair, Size, measured
from defenses.clone_detection.bank import Bank, shipped
from defenses.clone_detection.features import LABELS_ONLY
from defenses.clone_detection.sampling import STEPS as DEFAULT_STEPS

FULL_SEEDS = (0, 1, 2)
DIVISIONS: tuple[Division, ...] = tuple(PAPER)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is not measured yet, print the tables, write the JSON."""
    options = parsed(arguments)
    seeds = list(FULL_SEEDS) if options.full else options.seeds
    names: tuple[SetName, ...] = ("mnist",) if options.table_1 else SETS
    how = recipe() | {"command": " ".join(["CLONEGUARD_DATA=DIR python -m benchmarks.seeds.mori", *published(options)]), "seeds": seeds}
    how["versions"] |= {name: version(name) for name in ("scikit-learn", "torch")}
    pairs = all_pairs(names, seeds, data=data_folder(), out=options.out, jobs=options.jobs, first=options.table_1)
    first = [pair for pair in pairs if pair.set == "mnist" and pair.which in TABLE_I]
    console.print(tables.table_i(first, STEPS))
    patterns = {seed: tables.pattern([pair for pair in first if pair.seed == seed], steps=DEFAULT_STEPS) for seed in seeds}
    for seed, claims in patterns.items():
        for claim, holds in claims.items():
            console.print(f"seed {seed}, {DEFAULT_STEPS} steps: {claim}: {'yes' if holds else 'NO'}", highlight=False)
    if options.table_1:
        return
    console.print(tables.steps_table(pairs))
    by_seed = [[pair for pair in pairs if pair.seed == seed] for seed in seeds]
    with console.status("growing trees"):
        found = [evaluate(own, division, steps=STEPS) for own in by_seed for division in DIVISIONS]
        labels_only = [evaluate(own, division, steps=STEPS, names=LABELS_ONLY) for own in by_seed for division in DIVISIONS]
        fixed = {k: [evaluate(own, division, steps=(k,)) for own in by_seed for division in DIVISIONS] for k in STEPS}
    console.print(tables.table_ii(found, seeds=len(seeds), title="MNIST and CIFAR-10"))
    console.print(tables.table_ii(labels_only, seeds=len(seeds), title="alpha alone, for suspects that tell labels only"))
    console.print(tables.fixed_table(fixed))
    console.print(tables.wrong_table(found))
    reached = tables.reach(found, patterns)
    console.print_json(data=reached)
    real = Bank.load(shipped(TASK))  # the same on real image recognizers, from the bank that ships; `benchmarks.bank` makes it
    console.print(bank_table(real))
    console.print(by_theft(real))
    page = {
        "recipe": how,
        "reach": reached,
        "table_i": {"steps": DEFAULT_STEPS, "paper": tables.PAPER_I, "pattern": patterns},
        "table_ii": {"paper": PAPER, "all_features": per_seed(found, seeds), "alpha_alone": per_seed(labels_only, seeds)},
        "table_ii_at_given_steps": {k: per_seed(rows, seeds) for k, rows in fixed.items()},
        "pairs": [plain(pair) for pair in pairs],
    }
    options.json.write_text(json.dumps(page) + "\n", encoding="utf-8")
    console.print(f"written to {options.json}", soft_wrap=True)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--seeds", type=int, nargs="+", default=[0])
    made.add_argument("--full", action="store_true", help=f"seeds {', '.join(map(str, FULL_SEEDS))}")
    made.add_argument("--table-1", action="store_true", help="only Table I: print it and write nothing")
    made.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="processes, one a set and seed")
    made.add_argument("--out", type=Path, default=Path("reports") / "mori", help="folder where what is finished is kept")
    made.add_argument("--json", type=Path, default=Path(__file__).parents[1] / "results" / "mori.json", help="where the figures go")
    options = made.parse_args(arguments)
    if options.full and options.seeds != [0]:
        made.error("--full has seeds of its own: give no --seeds with it")
    return options


def published(options: argparse.Namespace) -> list[str]:
    """The options that decide the figures."""
    words = ["--full"] if options.full else []
    return words + ([] if options.seeds == [0] else ["--seeds", *map(str, options.seeds)])


def per_seed(found: Sequence[Figures], seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Figures as plain values, each with its seed."""
    return [{"seed": seed} | one.to_json() for one, seed in zip(found, [seed for seed in seeds for _ in DIVISIONS], strict=True)]


def plain(pair: Pair) -> dict[str, Any]:
    """A pair as plain values: alpha, beta and gamma by steps."""
    rounded = {k: [round(value, 4) for value in triple] for k, triple in pair.features.items()}
    return {"set": pair.set, "seed": pair.seed, **asdict(pair.which), "features": rounded}


def all_pairs(names: Sequence[SetName], seeds: Sequence[int], *, data: Path, out: Path, jobs: int, first: bool) -> list[Pair]:
    """Measure all sets and seeds, in processes of their own."""
    work = [(name, seed, data, out, first) for seed in seeds for name in names]
    # torch and scikit-learn don't survive a fork with their threads running
    with ProcessPoolExecutor(min(jobs, len(work)), mp_context=get_context("spawn")) as pool:
        return [pair for pairs in pool.map(_pairs, *zip(*work, strict=True)) for pair in pairs]


def _pairs(name: SetName, seed: int, data: Path, out: Path, first: bool) -> list[Pair]:  # noqa: FBT001 - by position from the pool
    wanted = TABLE_I if first else ALL
    made = []
    with threadpool_limits(1):
        for pair in measured(name, seed, wanted, lambda: features(name, data, seed=seed, out=out), out=out, size=Size()):
            made.append(pair)
            print(f"{name}, seed {seed}: {len(made)} of {len(wanted)} pairs, {pair.which.name}", file=sys.stderr, flush=True)
    return made


if __name__ == "__main__":
    main()
