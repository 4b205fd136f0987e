"""The circuit breaker."""

import asyncio

import pytest

from defenses.stores import breaker
from defenses.stores.breaker import Breaker
from tests.defenses.stores.replicas import until

pytestmark = pytest.mark.anyio
ERROR = ConnectionError("nobody there")


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breaker, "PROBE_SECONDS", 0.01)


async def test_a_late_answer_opens_it_for_a_moment() -> None:
    """The first probe does not wait; where it helps for a moment only, the next one does."""
    probes = 0

    async def probe() -> None:
        nonlocal probes
        probes += 1

    subject = Breaker(probe, what="nothing")
    subject.open(ERROR)
    assert subject.is_open
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert (probes, subject.is_open) == (1, False)
    subject.open(ERROR)
    for _ in range(5):
        await asyncio.sleep(0)
    assert (probes, subject.is_open) == (1, True)
    await until(lambda: not subject.is_open)
    assert probes == 2


async def test_it_closes_when_a_probe_succeeds_and_can_open_again() -> None:
    """Probes go on until one does not raise; while they do, opening it again changes nothing."""
    outcomes = [ERROR, TimeoutError(), None, None]
    probes = 0

    async def probe() -> None:
        nonlocal probes
        probes += 1
        if error := outcomes.pop(0):
            raise error

    subject = Breaker(probe, what="nothing")
    subject.open(ERROR)
    subject.open(ERROR)
    await until(lambda: not subject.is_open)
    assert probes == 3
    subject.open(ERROR)
    await until(lambda: not subject.is_open)
    assert probes == 4


async def test_closing_ends_the_probes() -> None:
    """Nothing runs on behind a store that was closed."""
    probes = 0

    async def probe() -> None:
        nonlocal probes
        probes += 1
        raise ERROR

    subject = Breaker(probe, what="nothing")
    subject.open(ERROR)
    await until(lambda: probes > 1)
    await subject.close()
    before = probes
    await asyncio.sleep(0.1)
    subject.open(ERROR)  # of a call that was under way
    await asyncio.sleep(0.1)
    assert probes == before
