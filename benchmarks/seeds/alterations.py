"""Compare the ways to alter an answer: how well a classifier tells altered answers from honest ones, when near-duplicates are recognised.

`CLONEGUARD_DATA=DIR python -m benchmarks.seeds.alterations` asks about CIFAR-10 test images, n variants of each, and prints the AUC of the
best way to tell (`voting.detectable`). Every variant counts as recognised: this is what altering gives away where the lookup is perfect,
`kinbara` prints what a real one leaves. The thief trains its classifier on answers of which it knows whether they were altered, which is
more than a thief can have.
"""

import argparse
import asyncio
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.image_sets import cifar10
from benchmarks.seeds.fingerprints import Eyes
from benchmarks.seeds.offline import Seen
from benchmarks.seeds.voting import RATES, THIEF, detectable, with_variants
from defenses.companions import Companions
from defenses.misrecognition import IntentionalMisrecognition
from defenses.relabelling import Alteration, Relabelling
from defenses.vocabulary import Case, Mode
from defenses.watermark import Watermark
from models import bundle as bundles

COMPARED = (Alteration.DERANGEMENT, Alteration.WRONG_CLASS, Alteration.SECOND_CLASS, Alteration.IMPERSONATION)
COUNTS = (1, 9)
console = Console()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="cifar10")
    parser.add_argument("--images", type=int, default=1_000)
    parser.add_argument("--keys", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    random = np.random.default_rng(options.seed)
    eyes = Eyes.of(bundles.load(options.bundle, device="cpu", threads=os.cpu_count() or 1))
    images = cifar10(Path(os.environ["CLONEGUARD_DATA"]), "test", options.images, random)
    seen = with_variants(eyes, images, random)
    table = Table("alteration", *(f"rate {rate:g}, n = {n}" for rate in RATES for n in COUNTS), title="AUC: was it altered?")
    for alteration in COMPARED:
        aucs = asyncio.run(measured(eyes.calibration.companions, seen, alteration, people=options.images, keys=options.keys))
        table.add_row(alteration, *(f"{auc:.3f}" for auc in aucs))
    console.print(table)


async def measured(companions: Companions | None, seen: Seen, alteration: Alteration, *, people: int, keys: int) -> list[float]:
    """The AUC of the best way to tell, for each rate and count; the original founds its neighbourhood."""
    aucs = []
    for rate in RATES:
        for n in COUNTS:
            asked = np.arange(people)[:, None] + people * np.arange(n)
            case = seen.case(asked.ravel(), client=THIEF)
            case = replace(case, neighbourhoods=tuple(founder for founder in case.founded()[::n] for _ in range(n)))
            answers = [await _altered(case, key, rate=rate, alteration=alteration, companions=companions) for key in range(keys)]
            told = np.stack([answer.scores.reshape(people, n, -1) for answer in answers])
            altered = np.stack([np.array([bool(reason) for reason in answer.reasons]).reshape(people, n)[:, 0] for answer in answers])
            aucs.append(max(detectable(told, altered, np.zeros(people, np.int64)).values()))
    return aucs


async def _altered(case: Case, key: int, *, rate: float, alteration: Alteration, companions: Companions | None) -> Case:
    named: dict[str, Any] = {"secret": f"secret {key}".encode(), "model": "alterations"}
    step = IntentionalMisrecognition(
        **named, mode=Mode.ENFORCE, rate=rate, watermark_mode=Mode.OFF, watermark=Watermark(**named, rate=0),
        relabelling=Relabelling(**named, alteration=alteration, companions=companions),
    )  # fmt: skip
    return await step(case)


if __name__ == "__main__":
    main()
