"""F8: the audit log on a full disk."""

from collections.abc import Callable

import httpx
import psutil
import pytest

from tests.abuse import FULL
from tests.abuse.audit import audited_ids
from tests.abuse.images import encode, picture
from tests.server import RunningServer

ROOM_BYTES = 256 * 2**10
REFUSALS = 200 if FULL else 20
JPEG = {"Content-Type": "image/jpeg"}


@pytest.mark.abuse
def test_what_can_not_be_recorded_is_refused_and_said(start: Callable[..., RunningServer], figure: Callable[..., None]) -> None:
    """Where the file can't grow every query gets 503; each is counted and logged; every answer that left is in the log.

    A limit on the size of files (RLIMIT_FSIZE) fails writes as a full disk does, and needs no disk of its own. When there is room again
    answers go on, and the log's chain is whole.
    """
    server = start()
    process = psutil.Process(server.pid)
    seeds = iter(range(10**6))
    answered: list[str] = []
    refused = 0

    def ask(client: httpx.Client) -> int:
        nonlocal refused
        response = client.post("/predict", content=encode(picture(next(seeds)), "JPEG"), headers=JPEG)
        if response.status_code == 200:
            answered.append(response.json()["id"])
        else:
            assert response.status_code == 503
            assert int(response.headers["Retry-After"]) >= 1
            refused += 1
        return response.status_code

    with httpx.Client(base_url=server.url, timeout=30) as client:
        for _ in range(20):
            assert ask(client) == 200
        size = max(file.stat().st_size for file in server.state.glob("cloneguard.db*"))
        process.rlimit(psutil.RLIMIT_FSIZE, (size + ROOM_BYTES, psutil.RLIM_INFINITY))
        for _ in range(5000):
            if ask(client) == 503:
                break
        assert refused == 1
        while refused < REFUSALS:
            ask(client)
        filled = len(answered)
        assert server.alive
        assert server.metric("cloneguard_shed_total", reason="store") == refused
        assert server.metric("cloneguard_audit_records_total") == filled
        assert server.log_text().count("the store failed") >= refused
        dropped = server.metric("cloneguard_audit_dropped_total")
        process.rlimit(psutil.RLIMIT_FSIZE, (psutil.RLIM_INFINITY, psutil.RLIM_INFINITY))
        for _ in range(20):
            assert ask(client) == 200
    ids = audited_ids(server)
    assert ids == answered
    assert "Traceback" not in server.log_text()
    figure(f"{refused} refused with 503, all counted and logged, of them {dropped:.0f} as dropped records")
    figure(f"{len(ids)} answers, all in the log")
