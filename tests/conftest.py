"""What every test may ask for: the event loop's kind, and a running server."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.server import RunningServer


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Asynchronous tests run on asyncio, as the service does."""
    return "asyncio"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A real server under the default profile, shared by all tests of the session: leave it as it was found.

    Suspicion is in shadow: all tests are one client, and the foreign images of one would spoil the answers of the others.
    """
    with RunningServer(tmp_path_factory.mktemp("server") / "state", "--set", "suspicion.mode=shadow") as running:
        yield running


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., RunningServer]]:
    """Start servers of one's own, with any options of `cloneguard serve`; they end with the test."""
    started: list[RunningServer] = []

    def start_one(*options: str, state: Path | None = None) -> RunningServer:
        started.append(RunningServer(state or tmp_path / f"state-{len(started)}", *options))
        return started[-1]

    yield start_one
    for running in started:
        running.terminate()
