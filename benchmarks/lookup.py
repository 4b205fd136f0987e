"""Measure find-or-found on both stores: latency, throughput and bytes a query, with up to a million neighbourhoods.

`python -m benchmarks.lookup` fills each store (codes of random bits, and of real pictures where CLONEGUARD_DATA is), asks it micro-batches
of 1 and of 32 queries (half of them new, a quarter near-duplicates, a quarter known pixels), one call after the other for the latency and
four at once for the throughput, and writes results/lookup.json. Multi-index hashing in Redis, which was not built, is measured beside
them. Redis runs on the same machine, with an append-only file.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import uvloop
from redis import Redis as Server
from redis.asyncio import Redis
from rich.table import Column, Table

from benchmarks.lookup_traffic import Codes, codes_of_pictures, fill_embedded, fill_redis, random_codes, traffic
from benchmarks.multi_index import MultiIndex
from benchmarks.publishing import console
from benchmarks.recipe import recipe
from defenses.stores import open_store
from defenses.stores.protocol import Sighting
from defenses.stores.redis_store import key_prefix
from tests.redis_server import RunningRedis

INDEX = "benchmark"
RADII = (7, 29)  # bits: those of the bundle cifar10
BATCHES = (1, 32)
AT_ONCE = 4  # calls under way for the throughput
PATIENT = 5.0  # seconds: a late answer is to be measured, not to be replaced by the local view's

Row = dict[str, Any]
Call = Callable[[Sequence[Sighting]], Awaitable[Any]]


def main() -> None:
    """Run everything, each store in a process of its own; print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--pictures", type=int, default=10_000, help="entries with codes of real pictures; 0: none")
    parser.add_argument("--calls", type=int, default=400, help="of each size, one after the other; a fifth of them beyond 100,000 entries")
    parser.add_argument("--rival-calls", type=int, default=100, help="of multi-index hashing")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "lookup.json", help="where the figures go")
    options = parser.parse_args()
    how = recipe() | {"command": "CLONEGUARD_DATA=DIR python -m benchmarks.lookup", **vars(options), "json": options.json.name}
    how["versions"] |= {name: version(name) for name in ("faiss-cpu", "redis")}
    rows: list[Row] = []
    for source, entries in sources(options.entries, pictures=options.pictures):
        calls = options.calls if entries <= 100_000 else options.calls // 5
        asked = 2 * calls * sum(BATCHES)
        random = np.random.default_rng(options.seed)
        codes = (codes_of_pictures if source == "pictures" else random_codes)(entries + asked, random)
        stored, new = codes[:entries], codes[entries:]
        contenders = [(embedded, calls), (redis, calls)]
        contenders += [(multi_index, options.rival_calls)] if entries <= options.pictures else []
        for contender, count in contenders:
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as alone:
                found = alone.submit(contender, stored, new, calls=count, seed=options.seed).result()
            rows += [{"store": contender.__name__, "codes": source, "entries": entries, **row} for row in found]
            console.print(f"{contender.__name__}, {entries:,} {source} done")
    show(rows)
    options.json.write_text(json.dumps({"recipe": how, "rows": rows}, indent=2) + "\n", encoding="utf-8")
    console.print(f"written to {options.json}", soft_wrap=True)


def sources(entries: Sequence[int], *, pictures: int) -> list[tuple[str, int]]:
    """What to store: (codes of what, how many)."""
    real = [("pictures", pictures)] if pictures and "CLONEGUARD_DATA" in os.environ else []
    return real + [("random bits", count) for count in entries]


def embedded(stored: Codes, new: Codes, *, calls: int, seed: int) -> list[Row]:
    """The embedded store; bytes are those of its file, and what the process grew by when it was opened."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store.db"
        fill_embedded(path, INDEX, stored)
        disk = sum(file.stat().st_size for file in path.parent.iterdir())
        return uvloop.run(ask_store(f"sqlite:///{path}", stored, new, calls=calls, seed=seed, kept_bytes=disk))


def redis(stored: Codes, new: Codes, *, calls: int, seed: int) -> list[Row]:
    """The Redis store; bytes are Redis's `used_memory`, and what the replica's process grew by."""
    with tempfile.TemporaryDirectory() as folder, RunningRedis(Path(folder)) as server, server.client() as client:
        before = client.info("memory")["used_memory"]

        async def fill() -> None:
            async with Redis(port=server.port) as filler:
                await fill_redis(filler, key_prefix(INDEX), stored)

        uvloop.run(fill())
        used = client.info("memory")["used_memory"] - before
        return uvloop.run(ask_store(server.url, stored, new, calls=calls, seed=seed, kept_bytes=used, busy_us=lambda: script_us(client)))


def script_us(client: Server) -> float:
    """Microseconds that Redis's one core has spent in scripts."""
    return float(client.info("commandstats").get("cmdstat_evalsha", {"usec": 0})["usec"])


def multi_index(stored: Codes, new: Codes, *, calls: int, seed: int) -> list[Row]:
    """Multi-index hashing in Redis, in micro-batches of one."""

    async def ask() -> list[Row]:
        with RunningRedis(Path(folder)) as server, server.client() as client:
            before = client.info("memory")["used_memory"]
            async with Redis(port=server.port) as connection:
                rival = MultiIndex(connection, radii=RADII)
                await rival.fill(stored)
                used = client.info("memory")["used_memory"] - before
                candidates: list[int] = []

                async def call(sightings: Sequence[Sighting]) -> None:
                    (one,) = sightings
                    codes = (np.frombuffer(code, dtype=np.uint8) for code in (one.perceptual, one.embedding))
                    candidates.append(sum(await rival.find_or_found(*codes)))

                queries = traffic(stored, new, np.random.default_rng(seed))[: 2 * calls]
                row = await measure(call, queries, batch=1, calls=calls)
                row["redis_us"] = script_us(client) / len(queries)
                return [row | {"kept_bytes": used / len(stored), "candidates": sum(candidates) / len(candidates)}]

    with tempfile.TemporaryDirectory() as folder:
        return uvloop.run(ask())


async def ask_store(
    url: str, stored: Codes, new: Codes, *, calls: int, seed: int, kept_bytes: int, busy_us: Callable[[], float] | None = None
) -> list[Row]:
    """Open the filled store and measure it at each size of micro-batch."""
    queries = traffic(stored, new, np.random.default_rng(seed))
    process = psutil.Process()
    resident, started = process.memory_info().rss, time.perf_counter()
    store = await open_store(
        url, index=INDEX, audit_key=b"", perceptual_radius=RADII[0], embedding_radius=RADII[1], most_neighbourhoods=2 * len(stored),
        timeout_seconds=PATIENT,
    )  # fmt: skip
    opened = {"open_seconds": time.perf_counter() - started, "memory_bytes": (process.memory_info().rss - resident) / len(stored)}
    assert await store.neighbourhoods() == len(stored), "the store was filled as it fills itself"
    rows = []
    for batch in BATCHES:
        mine, queries = queries[: 2 * calls * batch], queries[2 * calls * batch :]
        before = busy_us() if busy_us else 0.0
        rows.append(await measure(store.find_or_found, mine, batch=batch, calls=calls) | {"kept_bytes": kept_bytes / len(stored), **opened})
        if busy_us:
            rows[-1]["redis_us"] = (busy_us() - before) / len(mine)
    assert not store.degraded
    await store.close()
    return rows


async def measure(call: Call, queries: Sequence[Sighting], *, batch: int, calls: int) -> Row:
    """The first half of `queries` one call after the other, the second half `AT_ONCE` calls at a time."""
    parts = [queries[at : at + batch] for at in range(0, len(queries), batch)]
    seconds = []
    for part in parts[:calls]:
        started = time.perf_counter()
        await call(part)
        seconds.append(time.perf_counter() - started)
    waiting = iter(parts[calls:])

    async def worker() -> None:
        for part in waiting:
            await call(part)

    started = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
    rate = batch * len(parts[calls:]) / (time.perf_counter() - started)
    p50, p99 = np.percentile(seconds, [50, 99]) * 1000
    return {"batch": batch, "calls": calls, "p50_ms": float(p50), "p99_ms": float(p99), "rate": rate}


def show(rows: Sequence[Row]) -> None:
    """Print the table."""
    columns = (
        Column("store", no_wrap=True),
        "codes",
        "entries",
        "batch",
        "p50 ms",
        "p99 ms",
        "queries/s",
        "Redis us",
        "kept B",
        "memory B",
        "open s",
    )
    table = Table(*columns, title="find or found; bytes are a neighbourhood's, microseconds of Redis a query's")
    for row in rows:
        cells = [f"{row[name]:.2f}" for name in ("p50_ms", "p99_ms")] + [f"{row['rate']:,.0f}"]
        cells += [f"{row['redis_us']:,.0f}" if "redis_us" in row else "", f"{row['kept_bytes']:,.0f}"]
        more = [f"{row['memory_bytes']:,.0f}", f"{row['open_seconds']:.1f}"] if "open_seconds" in row else ["", ""]
        table.add_row(row["store"], row["codes"], f"{row['entries']:,}", str(row["batch"]), *cells, *more)
    console.print(table)


if __name__ == "__main__":
    main()
