"""C1: the attacker client killed and resumed."""

import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from tests.abuse import FULL
from tests.end_to_end.test_theft_resumed import BUDGET, CONCURRENCY, EVALUATION, Kept, Thief, has_answered, settled
from tests.server import RunningServer

KILLS = 10


@pytest.mark.abuse
@pytest.mark.skipif(not FULL, reason="tests/end_to_end/test_theft_resumed.py, with three kills, is the short form")
def test_a_client_killed_while_buying_loses_nothing_that_was_answered(
    start: Callable[..., RunningServer], tmp_path: Path, figure: Callable[..., None]
) -> None:
    """After each kill the server's count less the ledger's answers is within what was under way; intents were kept before sending."""
    server = start("--profile", "open")
    thief, random = Thief(server.url, tmp_path / "out"), Random(1)
    under_way, before, most = 0, Kept(0, 0, {}), 0
    for kill in range(KILLS):
        child = thief.start()
        try:
            while not has_answered(server, (kill + 1) * BUDGET // (KILLS + 1)):
                assert child.poll() is None, "it was to be killed, and has ended by itself"
                time.sleep(0.002)
            time.sleep(random.uniform(0, 0.005))
        finally:
            child.kill()
            child.wait()
        kept = thief.kept()
        under_way += kept.under_way
        assert kept.under_way <= CONCURRENCY
        unpaid = settled(server) - kept.answered
        assert 0 <= unpaid <= under_way
        assert all(kept.sent[digest] == times for digest, times in before.sent.items()), "an image was sent again that had its answer"
        before, most = kept, max(most, int(unpaid))
    thief.finish()
    kept = thief.kept()
    assert (kept.answered, kept.under_way) == (BUDGET + EVALUATION, 0)
    assert 0 <= settled(server) - kept.answered <= under_way
    figure(f"{KILLS} kills: the server counted at most {most} more than the ledger, {under_way} were in flight; budget {BUDGET} kept")
