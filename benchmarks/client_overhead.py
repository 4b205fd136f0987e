"""Measure what the attacker client adds to the server's own work: `python -m benchmarks.client_overhead`.

Round by round, in turn, two processes ask a server under the profile `open` about as many images over as many connections: the client's own
LedgerBuyer (PNG encoding, ledger, answers read into a transfer set) and this folder's raw load generator, which sends finished requests and
reads no more of an answer than where it ends. Where both take about as long a query, the server is what the thief waits for.
"""

import argparse
import asyncio
import io
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from statistics import median

import numpy as np
import psutil
from PIL import Image
from rich.console import Console
from rich.table import Column, Table

from attacker_client.buying import LedgerBuyer
from attacker_client.encoding import encode
from attacker_client.ledger import Ledger
from attacker_client.oracle import Oracle
from benchmarks.image_sets import Pixels
from benchmarks.images import smooth_images
from benchmarks.load import Target, closed_loop, in_own_process
from benchmarks.recipe import recipe
from tests.server import RunningServer

WARM_UP_SECONDS = 1.0
REACH = 0.2  # of the server's own time a query, which is the raw load's
TITLES = {
    "client_microseconds": "client: microseconds a query",
    "raw_microseconds": "raw load: microseconds a query",
    "overhead": "what the client adds",
    "client_cpu_microseconds": "client: its own CPU microseconds a query",
    "server_cpu_microseconds": "server: CPU microseconds a query of the client",
    "cpu_share": "client's CPU to the server's",
}

Row = dict[str, float]
console = Console(width=None if sys.stdout.isatty() else 160)  # in a file the table doesn't fit rich's 80 columns


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all rounds, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=3_000, help="queries of each side in each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--concurrency", type=int, default=32, help="default: the client's own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "client_overhead.json")
    options = parser.parse_args(arguments)
    how = recipe() | {"command": "python -m benchmarks.client_overhead", "seed": options.seed, "profile": "open"}
    how |= {"budget": {"images": options.images, "rounds": options.rounds, "concurrency": options.concurrency}}
    how["versions"] |= {"attacker-client": version("attacker-client")}
    if how["load_average_before"] > 0.5:
        console.print(f"This machine is busy (load average {how['load_average_before']}): the figures are of little worth.", style="yellow")
    rows = []
    for number in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder, RunningServer(Path(folder) / "state", "--profile", "open") as server:
            rows.append(one_round(server, options.seed + number, images=options.images, concurrency=options.concurrency))
        console.print(f"round {number + 1} of {options.rounds} done")
    found = {name: {"median": median(of := [row[name] for row in rows]), "min": min(of), "max": max(of)} for name in TITLES}
    console.print(table(found))
    options.json.write_text(json.dumps({"recipe": how, "reach": REACH, "figures": found, "rows": rows}, indent=2) + "\n", encoding="utf-8")
    console.print(f"written to {options.json}", soft_wrap=True)


def one_round(server: RunningServer, seed: int, *, images: int, concurrency: int) -> Row:
    """Times and CPU times a query of both sides on a fresh server; no image is asked about twice. The side that begins changes by seed."""
    target = Target(server.port, media_type="image/png")
    pictures = pixels(3 * images, seed=seed)
    bought, bodies = pictures[:images], encode(pictures[images:])
    warm = in_own_process(closed_loop, target, bodies[images:], concurrency=concurrency, seconds=WARM_UP_SECONDS)
    row: Row = {}
    for side in ("client", "raw") if seed % 2 else ("raw", "client"):
        if side == "raw":
            load = in_own_process(closed_loop, target, bodies, concurrency=concurrency, seconds=images / warm.rate)
            row |= {
                "raw_microseconds": 1e6 / load.rate,
                "raw_queries": load.requests,
                "raw_not_answered": load.requests - load.statuses[200],
            }
        else:
            before = server_cpu_seconds(server)
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                seconds, cpu, answered = pool.submit(buy_alone, server.url, bought, concurrency).result()
            row |= {"client_microseconds": 1e6 * seconds / images, "client_cpu_microseconds": 1e6 * cpu / images}
            row |= {"server_cpu_microseconds": 1e6 * (server_cpu_seconds(server) - before) / images, "client_answered": answered}
    row["overhead"] = row["client_microseconds"] / row["raw_microseconds"] - 1
    row["cpu_share"] = row["client_cpu_microseconds"] / row["server_cpu_microseconds"]
    return row


def buy_alone(url: str, images: Pixels, concurrency: int) -> tuple[float, float, int]:
    """Buy answers for all images as a campaign does; seconds and this process's CPU seconds, and how many answers came."""
    return asyncio.run(_buy(url, images, concurrency))


async def _buy(url: str, images: Pixels, concurrency: int) -> tuple[float, float, int]:
    with tempfile.TemporaryDirectory() as folder, Ledger.open(Path(folder) / "ledger.db", {"target": url}, resume=False) as ledger:
        async with Oracle(url) as oracle:
            buyer = LedgerBuyer([oracle], ledger, budget=len(images), purpose="attack", concurrency=concurrency)
            start, cpu = time.perf_counter(), time.process_time()
            await buyer.buy(images)
            return time.perf_counter() - start, time.process_time() - cpu, buyer.counts.queries_answered


def pixels(count: int, *, seed: int) -> Pixels:
    """Generated images (count, 32, 32, 3), which need no data folder."""
    return np.stack([np.asarray(Image.open(io.BytesIO(file))) for file in smooth_images(count=count, seed=seed)])


def server_cpu_seconds(server: RunningServer) -> float:
    """What the server's process has used so far."""
    times = psutil.Process(server.pid).cpu_times()
    return float(times.user + times.system)


def table(found: dict[str, Row]) -> Table:
    """Medians over the rounds and how far they go."""
    made = Table(Column("figure", no_wrap=True), "median", "min", "max", "reach", title="the attacker client beside a raw load")
    for name, title in TITLES.items():
        form = "{:.1%}" if name in ("overhead", "cpu_share") else "{:,.0f}"
        made.add_row(
            title, *(form.format(found[name][of]) for of in ("median", "min", "max")), f"< {REACH:.0%}" if name == "overhead" else ""
        )
    return made


if __name__ == "__main__":
    main()
