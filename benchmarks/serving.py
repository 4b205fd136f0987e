"""Measure our server against the plain service that most people write, interleaved in one run.

`python -m benchmarks.serving` starts in turn, round by round: our server under the profiles open and balanced, the plain
FastAPI + ONNX Runtime service on the fp32 and on the int8 model, and the raw ONNX Runtime loop that is the limit. All get the
same bodies from the same closed-loop generator, which runs in its own process on the same machine. A server starts each round
with an empty store; its bodies don't repeat until all were used, and the result says how many did.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from benchmarks.contenders import Contender, ours, plain, running
from benchmarks.images import request_bodies
from benchmarks.load import Target, closed_loop, in_own_process
from benchmarks.plain_model import classifier_only
from benchmarks.recipe import recipe
from models import manifest
from models.bundle import locate

RAW = "raw loop"
RATIOS = (("balanced", "plain fp32"), ("balanced", "plain int8"), ("balanced", "open"), ("open", RAW))
COMPARED = 100  # bodies whose answers are compared with those of `open`
WARM_UP_SECONDS = 1.0

Row = dict[str, Any]
console = Console()


def main() -> None:
    """Run everything, print the tables, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--images", type=int, default=40_000, help="distinct generated bodies")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bundle", default="cifar10")
    parser.add_argument("--plain-threads", type=int, default=0, help="ONNX Runtime threads of the plain service; 0: its default")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "serving.json")
    options = parser.parse_args()
    how = recipe()
    bodies = request_bodies(count=options.images, seed=options.seed)
    console.print(f"bodies: {bodies.source}")
    if how["load_average_before"] > 0.5:
        console.print(
            f"This machine is busy (load average {how['load_average_before']}): the figures will be of little worth.", style="yellow"
        )
    bundle = locate(options.bundle)
    page = manifest.load(bundle)
    rows: list[Row] = []
    answers: dict[str, list[int]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        contenders = [ours("open", bundle), ours("balanced", bundle), *plain_services(bundle, Path(scratch), threads=options.plain_threads)]
        for round_number in range(options.rounds):
            turn = round_number % len(contenders)  # nobody is always first on a machine that warms up
            for contender in (*contenders[turn:], *contenders[:turn]):
                rows += measure(
                    contender, bodies.images, answers, concurrency=options.concurrency, seconds=options.seconds, round_number=round_number
                )
            rows.append(raw_loop(bundle, seconds=options.seconds, round_number=round_number))
            console.print(f"round {round_number + 1} of {options.rounds} done")
    agreement = {name: sum(a == b for a, b in zip(found, answers["open"], strict=True)) / COMPARED for name, found in answers.items()}
    compared = ratios(rows, concurrency=options.concurrency)
    show(rows, compared, agreement)
    budget = {"seconds": options.seconds, "rounds": options.rounds, "concurrency": options.concurrency, "warm_up_seconds": WARM_UP_SECONDS}
    how |= {
        "command": "python -m benchmarks.serving",
        "plain_threads": options.plain_threads,
        "profiles": ["open", "balanced"],
        "bundle": f"{page.name} {page.version}",
        "seed": options.seed,
    }
    how |= {"budget": budget, "bodies": {"source": bodies.source, "distinct": len(bodies.images)}}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"recipe": how, "ratios": compared, "same_label_as_open": agreement, "rows": rows}, indent=2) + "\n")
    console.print(f"written to {options.out}")


def plain_services(bundle: Path, scratch: Path, *, threads: int) -> list[Contender]:
    """The plain service on each precision that the bundle has."""
    page = manifest.load(bundle)
    services = []
    for precision, name in page.models.items():
        directory = scratch / f"plain-{precision}"
        directory.mkdir()
        classifier_only(bundle / name, directory, labels=page.labels, size=page.input.size)
        services.append(plain(f"plain {precision}", directory, threads=threads))
    return services


def measure(
    contender: Contender,
    bodies: Sequence[bytes],
    answers: dict[str, list[int]],
    *,
    concurrency: Sequence[int],
    seconds: float,
    round_number: int,
) -> list[Row]:
    """Start one service and measure it at each concurrency; its first round's answers to the first bodies go to `answers`."""
    rows = []
    with tempfile.TemporaryDirectory() as directory, running(contender, Path(directory)) as service:
        first = service.best_classes(bodies[:COMPARED])
        answers.setdefault(contender.name, first)
        sent = len(first)
        for clients, length in ((max(concurrency), WARM_UP_SECONDS), *((c, seconds) for c in concurrency)):
            start = sent % len(bodies)
            queue = (*bodies[start:], *bodies[:start])
            load = in_own_process(closed_loop, Target(service.port), queue, concurrency=clients, seconds=length)
            sent += load.requests
            rows.append(
                {
                    "round": round_number,
                    "service": contender.name,
                    "concurrency": clients,
                    "rate": load.rate,
                    "p50_ms": load.latency_ms(50),
                    "p99_ms": load.latency_ms(99),
                    "rss_mb": service.resident_bytes() / 2**20,
                    "statuses": {str(status): count for status, count in load.statuses.items()},
                    "dropped": load.dropped,
                    "repeated_bodies": max(0, min(load.requests, sent - len(bodies))),
                    "generator_cpu_share": load.cpu_seconds / load.seconds,
                }
            )
    return rows[1:]  # the first one was to warm up


def raw_loop(bundle: Path, *, seconds: float, round_number: int) -> Row:
    """The same recognizer without HTTP, decoding or defences, in its own process."""
    command = [sys.executable, "-m", "benchmarks.raw_loop", str(bundle), "--seconds", str(seconds)]
    result = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return {"round": round_number, "service": RAW, "concurrency": None, "rate": result["rate"], "rss_mb": result["rss"] / 2**20}


def ratios(rows: Sequence[Row], *, concurrency: Sequence[int]) -> list[Row]:
    """Rates against each other within each round, so that a machine's slow minute hits both sides; median, least and most."""
    rates = {(row["service"], row["concurrency"], row["round"]): row["rate"] for row in rows}
    rounds = sorted({row["round"] for row in rows})
    services = {row["service"] for row in rows}
    compared = []
    for above, below in RATIOS:
        for clients in concurrency if {above, below} <= services else ():
            each = [rates[above, clients, n] / rates[below, None if below == RAW else clients, n] for n in rounds]
            summary = {"median": median(each), "min": min(each), "max": max(each), "rounds": each}
            compared.append({"ratio": f"{above} / {below}", "concurrency": clients, **summary})
    return compared


def show(rows: Sequence[Row], compared: Sequence[Row], agreement: dict[str, float]) -> None:
    """Print medians over the rounds, then the ratios."""
    columns = (Column("service", no_wrap=True), "clients", "req/s", "p50 ms", "p99 ms", "MB", "not 200", "as open")
    table = Table(*columns, title="medians over the rounds")
    for service, clients in dict.fromkeys((row["service"], row["concurrency"]) for row in rows):
        mine = [row for row in rows if (row["service"], row["concurrency"]) == (service, clients)]
        cells = [f"{median(row['rate'] for row in mine):,.0f}"]
        if service != RAW:
            cells += [f"{median(row[name] for row in mine):.2f}" for name in ("p50_ms", "p99_ms")]
            failed = sum(row["dropped"] + sum(n for status, n in row["statuses"].items() if status != "200") for row in mine)
            rest = [f"{failed:,}", f"{agreement[service]:.0%}"]
        else:
            cells, rest = [*cells, "", ""], ["", ""]
        table.add_row(service, "" if clients is None else str(clients), *cells, f"{max(row['rss_mb'] for row in mine):,.0f}", *rest)
    console.print(table)
    table = Table(Column("ratio of requests/s", no_wrap=True), "clients", "median", "min", "max", title="ratios, round by round")
    for row in compared:
        table.add_row(row["ratio"], str(row["concurrency"]), *(f"{row[name]:.2f}" for name in ("median", "min", "max")))
    console.print(table)


if __name__ == "__main__":
    main()
