"""F7: the wall clock jumps."""

import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.abuse import FULL
from tests.abuse.audit import audited_ids
from tests.abuse.images import encode, picture
from tests.server import RunningServer

LIBRARY = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))), None)
JUMPS = ("+3600", "-3600", "-86400", "+0") if FULL else ("+3600", "-86400")  # seconds from the true time
LIMIT = 30 if FULL else 5
CACHE_SECONDS = 1  # how long the library believes what it read
JPEG = {"Content-Type": "image/jpeg"}


@pytest.fixture
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that says by how many seconds the clocks of servers started from here on are wrong; monotonic time stays true."""
    file = tmp_path / "clock"
    file.write_text("+0")
    for name, value in {
        "LD_PRELOAD": str(LIBRARY),
        "FAKETIME_TIMESTAMP_FILE": str(file),
        "FAKETIME_CACHE_DURATION": str(CACHE_SECONDS),
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }.items():
        monkeypatch.setenv(name, value)
    return file


@pytest.mark.abuse
@pytest.mark.skipif(LIBRARY is None, reason="libfaketime is not installed (Debian: apt-get install libfaketime)")
def test_a_jumping_clock_refunds_nothing_and_keeps_the_order_of_the_log(
    start: Callable[..., RunningServer], clock: Path, figure: Callable[..., None]
) -> None:
    """Jumps of an hour and a day, forward and back: who has used up his day stays refused; the log stays in the order of the answers."""
    server = start("--set", f"limits.per_day={LIMIT}")
    answered: list[str] = []
    refused = 0
    with httpx.Client(base_url=server.url, timeout=30) as client:
        for step, jump in enumerate(("+0", *JUMPS)):
            clock.write_text(jump)
            time.sleep(2 * CACHE_SECONDS)
            for number in range(LIMIT + 5):
                response = client.post("/predict", content=encode(picture(step * 100 + number), "JPEG"), headers=JPEG)
                if response.status_code == 200:
                    answered.append(response.json()["id"])
                else:
                    assert response.status_code == 429
                    refused += 1
            assert step or len(answered) == LIMIT
    assert audited_ids(server) == answered
    server.terminate()
    figure(f"{len(JUMPS)} jumps, {refused} refused, {len(answered) - LIMIT} answered beyond the limit of a day", met=len(answered) == LIMIT)
    figure(f"{len(answered)} records in the order of their answers")
