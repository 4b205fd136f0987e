"""A thief's campaign against a real server, killed again and again: what he pays twice is what was under way."""

import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

import pytest

from tests.server import RunningServer

BUDGET, EVALUATION, CONCURRENCY = 300, 20, 8
KILLED_AT = (0.15, 0.6)  # while buying, by the share of the budget that is answered; the last kill comes while the student is trained


@dataclass(frozen=True, slots=True)
class Kept:
    """What a thief's ledger says once he is dead."""

    answered: int
    under_way: int
    sent: dict[bytes, int]  # how often each answered image was sent, by its digest


class Thief:
    """The attacker's client as a process that goes on with its campaign every time it is started."""

    def __init__(self, url: str, out: Path) -> None:
        self.out = out
        words = [url, "--attack", "knockoff-random", "--images", "builtin", "--budget", str(BUDGET), "--size", "16", "--epochs", "30"]
        words += ["--evaluation", str(EVALUATION), "--concurrency", str(CONCURRENCY), "--out", str(out), "--resume"]
        self._command = [sys.executable, "-c", "from attacker_client.cli import main; main()", "run", *words]

    def start(self) -> "subprocess.Popen[bytes]":
        """Begin or go on."""
        return subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def finish(self) -> None:
        """Go on to the end."""
        subprocess.run(self._command, check=True, timeout=600, stdout=subprocess.DEVNULL)

    def kept(self) -> Kept:
        """Read the ledger of a dead thief."""
        with closing(sqlite3.connect(self.out / "ledger.db")) as database:
            rows = database.execute("SELECT digest, state, sent FROM queries").fetchall()
        sent = {digest: times for digest, state, times in rows if state == "answered"}
        return Kept(len(sent), sum(state == "intent" for _, state, _ in rows), sent)


@pytest.fixture
def server(start: Callable[..., RunningServer]) -> RunningServer:
    """A server that this thief alone asks."""
    return start("--profile", "open")


def answers(server: RunningServer) -> float:
    """The server's count of answers."""
    return server.metric("cloneguard_queries_total", outcome="answered")


def has_answered(server: RunningServer, queries: int) -> bool:
    """Whether the server has come so far."""
    return answers(server) >= queries


def settled(server: RunningServer) -> float:
    """The same, once what was under way has come to its end."""
    before = -1.0
    while before != (now := answers(server)):
        before = now
        time.sleep(0.2)
    return now


def test_a_killed_theft_pays_twice_only_for_what_was_under_way(server: RunningServer, tmp_path: Path) -> None:
    """kill -9 at three moments: the server's count less the ledger's is within what was under way, and no answer is bought twice."""
    thief, random = Thief(server.url, tmp_path / "out"), Random(5)
    trained = tmp_path / "out" / "checkpoints" / "fit-0001" / "last.pt"
    moments: list[Callable[[], bool]] = [partial(has_answered, server, round(share * BUDGET)) for share in KILLED_AT]
    moments.append(trained.exists)
    under_way, before = 0, Kept(0, 0, {})
    for moment in moments:
        child = thief.start()
        while not moment():
            assert child.poll() is None, "it was to be killed, and has ended by itself"
            time.sleep(0.005)
        time.sleep(random.uniform(0, 0.02))
        child.kill()
        child.wait()
        kept = thief.kept()
        under_way += kept.under_way
        assert kept.under_way <= CONCURRENCY
        assert 0 <= settled(server) - kept.answered <= under_way
        assert all(kept.sent[digest] == times for digest, times in before.sent.items()), "an image was sent again that had its answer"
        before = kept
    assert before.answered == BUDGET, "the last kill was to be while training"
    thief.finish()
    kept = thief.kept()
    assert (kept.answered, kept.under_way) == (BUDGET + EVALUATION, 0)
    assert 0 <= settled(server) - kept.answered <= under_way
    assert all(kept.sent[digest] == times for digest, times in before.sent.items())
    assert (tmp_path / "out" / "report.html").exists()
