"""C2: a target that refuses, hangs and talks garbage, as the attacker client meets it."""

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from attacker_client.buying import LedgerBuyer
from attacker_client.ledger import Ledger
from attacker_client.oracle import Oracle
from tests.abuse import FULL

IMAGES, BUDGET = (1000, 700) if FULL else (100, 70)
PATIENCE_SECONDS = 0.5
RETRY_AFTER = 1
ANSWER = b'{"id":"q","model":{"name":"m","version":"1"},"predictions":[{"label":"cat","class_id":3,"score":0.9}],"created":1}'


class Hostile(ThreadingHTTPServer):
    """Refuses, hangs and talks garbage in turn, and answers between; notes who came back before he was allowed to."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.turn = itertools.cycle(("answer", "answer", "429", "answer", "503", "answer", "hang", "answer", "garbage", "break"))
        self.asked: Counter[str] = Counter()
        self.refused_at: dict[bytes, float] = {}
        self.too_early = 0

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def next_turn(self, body: bytes) -> str:
        """What happens to this request."""
        with self.lock:
            refused = self.refused_at.pop(body, None)
            self.too_early += refused is not None and time.monotonic() < refused + RETRY_AFTER
            what = next(self.turn)
            self.asked[what] += 1
            if what in {"429", "503"}:
                self.refused_at[body] = time.monotonic()
            return what


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: Hostile

    def do_POST(self) -> None:
        """Do what is next."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        match self.server.next_turn(body):
            case "answer":
                self._say(200, ANSWER)
            case "garbage":
                self._say(200, b"\xff<html>{")
            case "hang":
                time.sleep(4 * PATIENCE_SECONDS)
                self.close_connection = True
            case "break":
                self.close_connection = True
            case refusal:
                self._say(int(refusal), b"{}", ("Retry-After", str(RETRY_AFTER)))

    def _say(self, status: int, body: bytes, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in (("Content-Type", "application/json"), ("Content-Length", str(len(body))), *headers):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def hostile() -> Iterator[Hostile]:
    """The target, in threads of this process."""
    with Hostile() as target:
        thread = threading.Thread(target=target.serve_forever)
        thread.start()
        yield target
        target.shutdown()
        thread.join()


@pytest.mark.abuse
@pytest.mark.anyio
async def test_the_client_waits_as_told_stops_at_its_budget_and_counts_failures(
    hostile: Hostile, tmp_path: Path, figure: Callable[..., None]
) -> None:
    """No image comes back before its Retry-After; exactly the budget is answered; what failed is counted, each kind as often as it came."""
    images = np.random.default_rng(2).integers(0, 256, (IMAGES, 8, 8, 3), dtype=np.uint8)
    with Ledger.open(tmp_path / "ledger.db", {"target": hostile.url}, resume=False) as ledger:
        async with Oracle(hostile.url, attempts=14, backoff=0.005, timeout=PATIENCE_SECONDS) as oracle:
            buyer = LedgerBuyer([oracle], ledger, budget=BUDGET, purpose="attack", concurrency=16)
            bought = await buyer.buy(images)
            counts = buyer.counts
    garbled = int((bought.weights == 0).sum())
    assert hostile.too_early == 0
    assert counts.queries_answered == BUDGET == hostile.asked["answer"]
    assert counts.refused == hostile.asked["429"] + hostile.asked["503"]
    assert counts.queries_sent == hostile.asked.total()
    assert garbled == hostile.asked["garbage"]
    assert len(bought) == BUDGET + garbled
    asked = ", ".join(f"{count} {what}" for what, count in sorted(hostile.asked.items()))
    figure(f"budget {BUDGET}: {asked}; {counts.refused} refusals waited out, 0 too early; {garbled} images without an answer, all counted")
