"""What the tests of this folder may ask for beside servers, and the page that they write at full length."""

from collections.abc import Callable, Generator, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from benchmarks.recipe import recipe
from tests.abuse import FULL
from tests.abuse.load import highest_rate
from tests.abuse.page import PAGE, Outcome, written
from tests.abuse.rows import row_named
from tests.server import RunningServer

OUTCOMES = pytest.StashKey[dict[str, Outcome]]()
RECIPE = pytest.StashKey[Mapping[str, Any]]()
CAPACITY = pytest.StashKey[float]()


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Iterator[Callable[..., None]]:
    """Note what was measured: `figure("p99 31 ms", met=p99 <= 60)`. A miss fails the test once it is over, at full length only.

    The row is the one that the test's docstring begins with, or its module's. Times are figures; behaviour is asserted.
    """
    missed: list[str] = []

    def note(measured: str, *, met: bool = True) -> None:
        request.node.user_properties.append(("measured" if met else "missed", measured))
        if FULL and not met:
            missed.append(measured)

    yield note
    assert not missed


@pytest.fixture(autouse=True)
def no_traceback(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever happens to the shared server, no error goes past its handlers into its log."""
    if "server" not in request.fixturenames:
        yield
        return
    server: RunningServer = request.getfixturevalue("server")
    said = len(server.log_text())
    yield
    assert "Traceback" not in server.log_text()[said:]


@pytest.fixture(scope="session")
def capacity(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> float:
    """R0 (1/s), of a server with an embedded store of its own."""
    with RunningServer(tmp_path_factory.mktemp("capacity") / "state") as server:
        pytestconfig.stash[CAPACITY] = rate = highest_rate(server.port)
    return rate


def pytest_configure(config: pytest.Config) -> None:
    """Begin with no outcomes, and note how busy the machine is before we make it so."""
    config.stash.setdefault(OUTCOMES, {})
    config.stash.setdefault(RECIPE, recipe() if FULL else {})


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Sort what a test said into its row."""
    report = yield
    function, module = getattr(item, "function", None), getattr(item, "module", None)
    name = row_named(getattr(function, "__doc__", None), getattr(module, "__doc__", None))
    if name is not None:
        outcome = item.config.stash[OUTCOMES].setdefault(name, Outcome())
        if report.when == "call":
            outcome.passed += report.passed
            outcome.measured += [str(text) for kind, text in item.user_properties if kind == "measured"]
            outcome.missed += [str(text) for kind, text in item.user_properties if kind == "missed"]
        if report.failed and not any(kind == "missed" for kind, _ in item.user_properties):
            outcome.missed.append(f"{item.name} failed")
        if report.skipped:
            outcome.skipped.append(str(call_reason(report)))
    return report


def call_reason(report: pytest.TestReport) -> object:
    """Why a test was skipped."""
    return report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the page, at full length only."""
    outcomes = session.config.stash.get(OUTCOMES, {})
    if FULL and outcomes:
        page = PAGE.read_text() if PAGE.exists() else ""
        day = datetime.now(UTC).strftime("%Y-%m-%d")
        rate = session.config.stash.get(CAPACITY, None)
        PAGE.write_text(written(page, outcomes, recipe=session.config.stash[RECIPE], day=day, capacity=rate))
