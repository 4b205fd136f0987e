"""F4: kill -9 under load."""

import threading
import time
from collections.abc import Callable

import httpx
import pytest

from tests.abuse import FULL
from tests.abuse.audit import audited_ids
from tests.abuse.images import encode, picture
from tests.server import RunningServer

KILLS = 20 if FULL else 2
CLIENTS = 4
JPEG = {"Content-Type": "image/jpeg"}


class Asker(threading.Thread):
    """Asks for ever new pictures, one at a time, and remembers what was answered and how often nobody answered."""

    def __init__(self, server: RunningServer, seeds: range) -> None:
        super().__init__()
        self._server, self._seeds = server, seeds
        self.up, self.done = threading.Event(), threading.Event()
        self.answered: dict[int, str] = {}
        self.lost = 0
        self.others: list[int] = []

    def run(self) -> None:
        """Ask until done; after a lost request, wait until the server is said to be up again."""
        with httpx.Client(base_url=self._server.url, timeout=30) as client:
            for seed in self._seeds:
                while not self.up.wait(0.1):
                    if self.done.is_set():
                        return
                if self.done.is_set():
                    return
                try:
                    response = client.post("/predict", content=encode(picture(seed), "JPEG", quality=90), headers=JPEG)
                except httpx.TransportError:
                    self.lost += 1
                    self.up.clear()
                    continue
                if response.status_code == 200:
                    self.answered[seed] = response.json()["id"]
                else:
                    self.others.append(response.status_code)


@pytest.mark.abuse
def test_kill_9_loses_only_what_was_in_flight(start: Callable[..., RunningServer], figure: Callable[..., None]) -> None:
    """Each kill costs each client one request at most; every answer is in the audit log, once; its neighbourhoods are remembered."""
    server = start()
    askers = [Asker(server, range(number * 10**6, (number + 1) * 10**6)) for number in range(CLIENTS)]
    for asker in askers:
        asker.start()
    try:
        for _ in range(KILLS):
            for asker in askers:
                asker.up.set()
            answered = sum(len(asker.answered) for asker in askers)
            give_up = time.monotonic() + 30
            while sum(len(asker.answered) for asker in askers) < answered + 40 and time.monotonic() < give_up:
                time.sleep(0.01)
            server.kill()
            server.restart()
    finally:
        for asker in askers:
            asker.done.set()
        for asker in askers:
            asker.join()
    answers = {seed: request for asker in askers for seed, request in asker.answered.items()}
    assert len(answers) >= 40 * KILLS
    assert not [status for asker in askers for status in asker.others]
    assert max(asker.lost for asker in askers) <= KILLS
    ids = audited_ids(server)
    assert len(ids) == len(set(ids))
    assert "Traceback" not in server.log_text()
    assert set(answers.values()) <= set(ids)
    found = near_duplicates_found(server, list(answers)[-40:])
    assert found >= 39
    lost = sum(asker.lost for asker in askers)
    figure(f"{KILLS} kills: {lost} of {len(answers) + lost:,} requests lost, all in flight; 0 answers not in the log")
    figure(f"{found:.0f} of 40 copies found")


def near_duplicates_found(server: RunningServer, seeds: list[int]) -> float:
    """How many recompressed copies of these pictures join a neighbourhood."""
    before = server.metric("cloneguard_near_duplicate_queries_total")
    for seed in seeds:
        httpx.post(f"{server.url}/predict", content=encode(picture(seed), "JPEG", quality=60), headers=JPEG).raise_for_status()
    return server.metric("cloneguard_near_duplicate_queries_total") - before
