"""From which account was it taken? `CLONEGUARD_DATA=DIR python -m benchmarks.attribution`, after `benchmarks.bank`.

A service with the watermark alone, twenty accounts. One of them (or two) steals: standard, knockoff and composite, at several budgets and
two shares of watermarked answers; every clone is then asked by `cloneguard verify`, which must name the thief and nobody else. Fifty
recognizers that know nothing of the service, the bank's independents, its clones of those, and small ones made here, say how often a told
label is named by chance, and nobody may be named for any of them.

What was finished is kept in --out, and what was interrupted goes on with the same command. Writes the null rate that ships, and the table.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from app.evidence import Evidence
from attacker_client import students
from attacker_client.students import Student
from benchmarks.attribution_thefts import RATES, THEFTS, VICTIM, Row, Theft, stolen
from benchmarks.bank_recognizers import INDEPENDENTS, Independent, trained
from benchmarks.publishing import console, data_folder, shown
from benchmarks.recipe import recipe
from defenses.evidence.attribution import attribute, one_each
from defenses.evidence.null_rate import SHIPPED, NullRate
from defenses.evidence.screening import Triggers
from models import manifest
from models.bundle import BUNDLED

FEWEST = 50  # recognizers that know nothing of ours
SMALL = tuple(Independent("lenet", seed, epochs=2, share=0.25) for seed in range(100, 100 + FEWEST))
WIDEST = {rate: Theft(rate, "standard", 20_000) for rate in RATES}  # whose triggers independents are asked about


def main(arguments: Sequence[str] | None = None) -> None:
    """Steal, measure the null rate, verify; print the table and write it."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--out", type=Path, default=Path("reports") / "attribution", help="folder where what is finished is kept")
    made.add_argument("--bank", type=Path, default=Path("reports") / "bank", help="where `benchmarks.bank` has kept its recognizers")
    made.add_argument("--jobs", type=int, default=2, help="thefts at a time")
    made.add_argument("--thefts", action="store_true", help="steal and stop")
    made.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "attribution.json", help="where the table goes")
    made.add_argument("--null-rate", type=Path, default=SHIPPED / f"{VICTIM}.json", help="where the null rate goes")
    options = made.parse_args(arguments)
    how = recipe() | {"command": "CLONEGUARD_DATA=DIR python -m benchmarks.attribution"}
    data, threads = data_folder(), max(1, (os.cpu_count() or 1) // options.jobs)

    def steal(theft: Theft) -> tuple[Path, Row]:
        found = stolen(theft, data=data, out=options.out, threads=threads)
        console.print(f"{theft.name}: accuracy {shown(found[1]['accuracy'])}, {found[1]['seconds']:,.0f} s", highlight=False)
        return found

    for theft in WIDEST.values():  # the first of a rate makes the guests
        steal(theft)
    with ThreadPoolExecutor(options.jobs) as pool:
        thefts = list(pool.map(steal, THEFTS))
    if options.thefts:
        return
    others = independents(data=data, bank=options.bank, out=options.out)
    ours = manifest.load(BUNDLED / VICTIM)
    model = f"{ours.name}@{ours.version}"
    seen = {
        rate: Evidence([options.out / WIDEST[rate].name / "state" / "evidence.db"], model=model, secrets=None, labels=len(ours.labels))
        for rate in RATES
    }
    answers = {rate: [answered(other, evidence) for other in others.values()] for rate, evidence in seen.items()}
    null = measured(seen[max(RATES)].triggers, answers[max(RATES)], how=how | {"recognizers": list(others)})
    options.null_rate.parent.mkdir(exist_ok=True)
    options.null_rate.write_text(json.dumps(asdict(null), indent=1) + "\n", encoding="utf-8")
    accused = {rate: [accusations(seen[rate].triggers, answers[rate], at) for at in range(len(others))] for rate in RATES}
    rows = [row | verified(theft, folder, null=options.null_rate) for theft, (folder, row) in zip(THEFTS, thefts, strict=True)]
    console.print(table(rows))
    for rate in RATES:
        wrongly = sum(bool(names) for names in accused[rate])
        console.print(f"watermark {rate:.1%}: of {len(others)} independents {wrongly} get anybody named", highlight=False)
    console.print(f"null rate: mean {null.mean:.1%}, highest {null.highest:.1%} over {null.triggers} triggers", highlight=False)
    page = {
        "recipe": how,
        "null_rate": asdict(null),
        "accused_by_independents": {f"{rate:g}": accused[rate] for rate in RATES},
        "thefts": rows,
    }
    options.json.write_text(json.dumps(page, indent=1) + "\n", encoding="utf-8")
    console.print(f"written to {options.json} and {options.null_rate}", soft_wrap=True)


def independents(*, data: Path, bank: Path, out: Path) -> dict[str, Student]:
    """At least fifty: the bank's, its clones of those (stolen from others than us), and small ones."""
    found = {one.name: trained(one, data=data, out=bank) for one in INDEPENDENTS}
    found |= {path.parents[1].name: students.load(path) for path in sorted((bank / "clones").glob("*/campaign/student.pt"))}
    found |= {one.name: trained(one, data=data, out=out) for one in SMALL[: FEWEST - len(found)]}
    return found


def answered(recognizer: Student, evidence: Evidence) -> dict[str, int]:
    """What a recognizer says about every image of the evidence, by digest."""
    digests = sorted({one.image for own in evidence.triggers.values() for one in own})
    labels = recognizer.probabilities(np.stack([evidence.pixels(digest) for digest in digests])).argmax(axis=1)
    return dict(zip(digests, labels.tolist(), strict=True))


def measured(triggers: Triggers, answers: Sequence[dict[str, int]], *, how: Row | None = None) -> NullRate:
    """How often independents name what was told, over all accounts' triggers."""
    return NullRate.measured([one for own in triggers.values() for one in one_each(own)], answers, recipe=how)


def accusations(triggers: Triggers, answers: Sequence[dict[str, int]], at: int) -> list[str]:
    """Whom one independent gets named, where the null rate is measured on the others."""
    others = [*answers[:at], *answers[at + 1 :]]
    found = attribute(triggers, answers[at], independents=measured(triggers, others).highest)
    return [one.client for one in found if one.named]


def verified(theft: Theft, folder: Path, *, null: Path) -> Row:
    """What `cloneguard verify` says of a clone: whom it names, and the figures of the thieves and of the closest other account."""
    report = folder / "verification"
    words = [
        "verify",
        "--suspect",
        str(folder / "student.onnx"),
        "--state",
        str(folder / "state"),
        "--bundle",
        VICTIM,
        "--out",
        str(report),
    ]
    command = [sys.executable, "-m", "app", *words, "--null-rate", str(null)]
    ran = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if ran.returncode:
        raise RuntimeError(f"cloneguard verify ended with {ran.returncode}: {ran.stderr}")
    page: dict[str, Any] = json.loads((report / "verification.json").read_bytes())
    clients = {one["client"]: one for one in page["clients"]}
    others = [one for name, one in clients.items() if name not in theft.thieves]
    return {
        "named": page["named"],
        "right": set(page["named"]) == set(theft.thieves),
        "thieves": [clients[name] for name in theft.thieves if name in clients],
        "closest_other": min(others, key=lambda one: one["corrected"]),
        "queries": page["queries"],
        "screened": page["screened"],
    }


def table(rows: Sequence[Row]) -> Table:
    """One theft a row."""
    made = Table("watermark", "attack", "recipe", "answers", "accuracy", "told", "asked", "repeated", "expected", "p, corrected", "named")
    for row in rows:
        for thief in row["thieves"] or [dict.fromkeys(("triggers", "asked", "matches"), 0) | {"null_rate": 0.0, "corrected": 1.0}]:
            figures = (str(thief["triggers"]), str(thief["asked"]), str(thief["matches"]), f"{thief['null_rate'] * thief['asked']:.1f}")
            made.add_row(
                f"{row['rate']:.1%}", row["attack"], row["recipe"], f"{row['budget']:,}", f"{row['accuracy']['value']:.1%}", *figures,
                f"{thief['corrected']:.1g}", ", ".join(row["named"]) or "nobody",
            )  # fmt: skip
    return made


if __name__ == "__main__":
    main()
