"""A4: request smuggling."""

import pytest

from tests.abuse.raw_http import connect, read_all, statuses
from tests.abuse.smuggling import vectors
from tests.server import RunningServer


@pytest.mark.abuse
@pytest.mark.parametrize("name", vectors())
def test_no_second_request_runs(server: RunningServer, name: str) -> None:
    """One response at most, and no query is answered: the only valid image is in the hidden request."""
    before = server.metric("cloneguard_queries_total", outcome="answered")
    with connect(server.port, timeout=2) as connection:
        connection.sendall(vectors()[name])
        answered = statuses(read_all(connection))
    assert len(answered) <= 1
    assert all(status < 500 for status in answered)
    assert server.metric("cloneguard_queries_total", outcome="answered") == before
