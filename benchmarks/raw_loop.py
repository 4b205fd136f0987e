"""The limit: the server's own recognizer in a bare loop, no HTTP, no decoding, no defence.

`python -m benchmarks.raw_loop BUNDLE --seconds S` prints one JSON line: images a second and resident bytes.
"""

import argparse
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil

from models.bundle import load

BATCH = 16


def main() -> None:
    """Run `workers` loops beside each other on one session, as the server's workers do."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    bundle = load(options.bundle, device="cpu", threads=1)
    bundle.warm_up(max_batch=BATCH)
    size = bundle.manifest.input.size
    images = np.random.default_rng(0).integers(0, 256, (BATCH, size, size, 3), dtype=np.uint8)
    deadline = time.perf_counter() + options.seconds

    def loop() -> tuple[int, float]:
        done = 0
        while time.perf_counter() < deadline:
            bundle.infer(images)
            done += BATCH
        return done, time.perf_counter()

    start = time.perf_counter()
    with ThreadPoolExecutor(options.workers) as pool:
        loops = [future.result() for future in [pool.submit(loop) for _ in range(options.workers)]]
    seconds = max(end for _, end in loops) - start
    print(
        json.dumps(
            {"rate": sum(done for done, _ in loops) / seconds, "rss": psutil.Process().memory_info().rss, "precision": bundle.precision}
        )
    )


if __name__ == "__main__":
    main()
