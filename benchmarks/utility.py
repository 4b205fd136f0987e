"""Measure what the defences cost honest users: `CLONEGUARD_DATA=DIR python -m benchmarks.utility`.

Over HTTP, the whole CIFAR-10 (JPEG) and GTSRB test sets, their files as they are, go to three servers that run side by side under the
profiles open, balanced and strict. One client sends every image to the three in turn, never two at a time, so that latencies are paired;
a machine's slow second hits all three. Each server starts with an empty state, so near-duplicates are those among the test images.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Column, Table

from app.metrics import REASONS
from app.profiles import ProfileName
from benchmarks.answers import Answered, Client
from benchmarks.recipe import recipe
from models import manifest
from models.bundle import BUNDLED, locate
from models.folders import image_files
from tests.server import RunningServer

PROFILES = (ProfileName.OPEN, ProfileName.BALANCED, ProfileName.STRICT)
SETS = {"cifar10": "CIFAR-10 (JPEG)", "gtsrb": "GTSRB"}
WARM_UP = 100  # answers that count, with latencies that do not
REACH = {"balanced": {"top1_lost": 0.015, "altered": 0.015}}

Row = dict[str, Any]
console = Console()


def main() -> None:
    """Run everything, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    there = [name for name in SETS if (BUNDLED / name / "bundle.json").is_file()]
    parser.add_argument("--bundles", nargs="+", default=there, metavar="NAME|DIR", help="bundles named cifar10 and gtsrb")
    parser.add_argument("--most", type=int, help="images of each test set; default: all")
    parser.add_argument("--seed", type=int, default=0, help="of the images' order")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "utility.json")
    options = parser.parse_args()
    result: dict[str, Any] = recipe() | {"command": "python -m benchmarks.utility", "seed": options.seed, "reach": REACH, "sets": []}
    for name in options.bundles:
        page = manifest.load(locate(name))
        files = image_files(Path(os.environ["CLONEGUARD_DATA"]) / page.name / "test")
        order = np.random.default_rng(options.seed).permutation(len(files))[: options.most]
        with tempfile.TemporaryDirectory() as folder:
            rows = measure(str(locate(name)), [files[row] for row in order], Path(folder))
        console.print(table(SETS[page.name], rows))
        result["sets"].append({"set": SETS[page.name], "bundle": f"{page.name}@{page.version}", "images": len(order), "profiles": rows})
    console.print(
        f"reach: balanced loses at most {REACH['balanced']['top1_lost']:.1%} top-1 and alters at most {REACH['balanced']['altered']:.1%}"
    )
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    console.print(f"written to {options.out}")


def measure(bundle: str, files: Sequence[Path], folder: Path, *, profiles: Sequence[str] = PROFILES) -> list[Row]:
    """Ask servers under each of `profiles` for the images of `files`, CLASS/*; their states go to `folder`. One row a profile."""
    with ExitStack() as stack:
        servers = {name: stack.enter_context(RunningServer(folder / name, "--profile", name, "--bundle", bundle)) for name in profiles}
        clients = {name: stack.enter_context(Client(server.port)) for name, server in servers.items()}
        answers = ask(clients, [path.read_bytes() for path in files])
        altered = {
            name: {reason: server.metric("cloneguard_misrecognized_answers_total", reason=reason) / len(files) for reason in REASONS}
            for name, server in servers.items()
        }
    return [row(name, answers, altered[name], [path.parent.name for path in files], reference=profiles[0]) for name in profiles]


def ask(clients: Mapping[str, Client], bodies: Sequence[bytes]) -> dict[str, list[Answered]]:
    """Every client's answers to all bodies: one body after the other, to each client in turn, and nobody is always first."""
    answers: dict[str, list[Answered]] = {name: [] for name in clients}
    names = list(clients)
    for number, body in enumerate(track(bodies, description="asking")):
        turn = number % len(names)
        for name in (*names[turn:], *names[:turn]):
            answers[name].append(clients[name].ask(body))
    return answers


def row(name: str, answers: Mapping[str, Sequence[Answered]], altered: Mapping[str, float], truth: Sequence[str], *, reference: str) -> Row:
    """One profile's figures, latencies beside those of `reference` for the same images."""
    mine, theirs = ([answer.label for answer in answers[key]] for key in (name, reference))
    warm = slice(min(WARM_UP, len(truth) // 2), None)
    seconds, others = (np.array([answer.seconds for answer in answers[key]][warm]) for key in (name, reference))
    latency = {
        f"p{p}": {
            "ms": 1e3 * float(np.percentile(seconds, p)),
            f"to_{reference}": float(np.percentile(seconds, p) / np.percentile(others, p)),
        }
        for p in (50, 99)
    }
    return {
        "profile": name,
        "top1": float(np.mean([label == true for label, true in zip(mine, truth, strict=True)])),
        "altered": {"all": sum(altered.values()), **altered},
        f"other_label_than_{reference}": float(np.mean([label != other for label, other in zip(mine, theirs, strict=True)])),
        "latency": latency | {"added_ms_median": 1e3 * float(np.median(seconds - others))},
    }


def table(title: str, rows: Sequence[Row]) -> Table:
    """One test set, a row a profile; what is lost, and the ratios, are against the first one."""
    reasons = " / ".join(REASONS)
    columns = (Column("profile", no_wrap=True), "top-1", "lost", "altered", reasons, "p50 / p99 ms", f"to {rows[0]['profile']}", "added ms")
    shown = Table(*columns, title=f"{title}: what honest users pay")
    for one in rows:
        p50, p99 = (one["latency"][p] for p in ("p50", "p99"))
        ratio = f"to_{rows[0]['profile']}"
        shown.add_row(
            one["profile"],
            f"{one['top1']:.2%}",
            f"{rows[0]['top1'] - one['top1']:.2%}",
            f"{one['altered']['all']:.2%}",
            " / ".join(f"{100 * one['altered'][reason]:.2f}" for reason in REASONS),
            f"{p50['ms']:.2f} / {p99['ms']:.2f}",
            f"{p50[ratio]:.2f} / {p99[ratio]:.2f}",
            f"{one['latency']['added_ms_median']:.2f}",
        )
    return shown


if __name__ == "__main__":
    main()
