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


async def test_it_opens_after_more_failures_in_a_row_than_are_tolerated() -> None:
    """One late answer between good ones is no outage; two in a row are."""
    subject = Breaker(asyncio.Event().wait, what="nothing", tolerated=1)  # type: ignore[arg-type]
    for _ in range(5):
        subject.failed(ERROR)
        assert (subject.is_doubtful, subject.is_open) == (True, False)
        subject.succeeded()
        assert not subject.is_doubtful
    subject.failed(ERROR)
    subject.failed(ERROR)
    assert subject.is_open
    await subject.close()


async def test_it_closes_when_a_probe_succeeds_and_can_open_again() -> None:
    """Probes go on until one does not raise; then the count of failures starts anew."""
    outcomes = [ERROR, TimeoutError(), None, None]
    probes = 0

    async def probe() -> None:
        nonlocal probes
        probes += 1
        if error := outcomes.pop(0):
            raise error

    subject = Breaker(probe, what="nothing", tolerated=0)
    subject.failed(ERROR)
    subject.failed(ERROR)
    await until(lambda: not subject.is_open)
    assert probes == 3
    assert not subject.is_doubtful
    subject.failed(ERROR)
    await until(lambda: not subject.is_open)
    assert probes == 4


async def test_closing_ends_the_probes() -> None:
    """Nothing runs on behind a store that was closed."""
    probes = 0

    async def probe() -> None:
        nonlocal probes
        probes += 1
        raise ERROR

    subject = Breaker(probe, what="nothing", tolerated=0)
    subject.failed(ERROR)
    await until(lambda: probes > 1)
    await subject.close()
    before = probes
    await asyncio.sleep(0.1)
    assert probes == before
