"""A campaign killed with kill -9 goes on where it stopped."""

import asyncio
import subprocess
import sys
import time
from collections import Counter
from hashlib import sha256
from pathlib import Path
from random import Random

from attacker_client.ledger import Ledger

from .conftest import Request, Response, answer, asgi, serving

IMAGES, CONCURRENCY, KILLS = 500, 8, 5
CHILD = """
import asyncio, sys
from pathlib import Path
import numpy as np
from attacker_client.buying import LedgerBuyer
from attacker_client.ledger import Ledger
from attacker_client.oracle import Oracle

async def main(url, path, n, concurrency):
    images = np.random.default_rng(0).integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)
    with Ledger.open(Path(path), {"target": url}, resume=True) as ledger:
        async with Oracle(url) as oracle:
            buyer = LedgerBuyer([oracle], ledger, budget=n, purpose="attack", concurrency=concurrency)
            got = await buyer.buy(images)
    assert len(got) == n and (got.weights == 1).all()

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
"""


class Endpoint:
    """Counts what it is asked, as it is asked."""

    def __init__(self) -> None:
        self.asked: Counter[bytes] = Counter()
        self.under_way = 0

    async def __call__(self, request: Request) -> Response:
        self.under_way += 1
        self.asked[sha256(request.body).digest()] += 1
        await asyncio.sleep(0.004)
        self.under_way -= 1
        return answer(("cat", 3, 0.5))

    def wait_for(self, queries: int) -> None:
        while self.asked.total() < queries:
            time.sleep(0.0005)

    def settle(self) -> None:
        """Wait until no request of a dead process is left."""
        before = -1
        while before != self.asked.total() or self.under_way:
            before = self.asked.total()
            time.sleep(0.05)


def test_killed_five_times(tmp_path: Path) -> None:
    """Only what was under way at a kill is asked twice; no image whose answer is in the ledger ever is; all is bought in the end."""
    endpoint, random, path = Endpoint(), Random(4), tmp_path / "ledger.sqlite"
    asked_before = 0
    kept_before: dict[bytes, int] = {}
    with serving(asgi(endpoint)) as url:
        command = [sys.executable, "-c", CHILD, url, str(path), str(IMAGES), str(CONCURRENCY)]
        for kill in range(KILLS):
            with subprocess.Popen(command) as child:
                endpoint.wait_for(asked_before + random.randint(1, IMAGES // (KILLS + 2)))
                time.sleep(random.uniform(0, 0.01))
                assert child.poll() is None, "it was to be killed, and has ended by itself"
                child.kill()
            endpoint.settle()
            with Ledger.open(path, {"target": url}, resume=True) as ledger:
                kept = {digest: endpoint.asked[digest] for digest in endpoint.asked if digest in ledger.known([digest])}
                assert len(kept) == ledger.bought("attack")
                assert ledger.uncertain("attack") <= CONCURRENCY
            lost = endpoint.asked.total() - len(kept)
            assert 0 <= lost <= (kill + 1) * CONCURRENCY
            assert all(endpoint.asked[digest] == times for digest, times in kept_before.items()), "answered images were bought twice"
            kept_before, asked_before = kept, endpoint.asked.total()
        assert subprocess.run(command, check=False).returncode == 0
    assert 0 <= endpoint.asked.total() - IMAGES <= KILLS * CONCURRENCY
    assert all(endpoint.asked[digest] == times for digest, times in kept_before.items())
    with Ledger.open(path, {"target": url}, resume=True) as ledger:
        assert (ledger.bought("attack"), ledger.uncertain("attack")) == (IMAGES, 0)
        assert ledger.tally("attack").sent >= endpoint.asked.total()
