"""The command line says what it can do, asks, and keeps off machines that aren't yours."""

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.testing import CliRunner

from attacker_client.cli import app

from .conftest import Handler, Request, Response, answer, problem

Serve = Callable[[Handler], str]


@pytest.fixture
def runner() -> CliRunner:
    """A terminal wide enough for a row a line."""
    return CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A file that begins as a JPEG does."""
    path = tmp_path / "cat.jpg"
    path.write_bytes(b"\xff\xd8\xff\xe0 a picture")
    return path


def test_version(runner: CliRunner) -> None:
    """`version` prints the distribution's."""
    assert runner.invoke(app, ["version"]).output.strip() == version("attacker-client")


def test_list_is_honest(runner: CliRunner) -> None:
    """`list` names every command there is and says that there are no attacks."""
    output = runner.invoke(app, ["list"]).output
    assert all(name in output for name in ("list", "ask", "version"))
    assert "Attacks: none" in output


def test_ask_prints_label_and_score(runner: CliRunner, serve: Serve, picture: Path) -> None:
    """`ask` prints each image's label and score, sends the key, and exits with 0."""
    keys = []

    async def handler(request: Request) -> Response:
        keys.append(request.headers.get("authorization"))
        return answer(("tabby [cat]", 3, 0.875), ("dog", 5, 0.125))

    result = runner.invoke(app, ["ask", serve(handler), str(picture), str(picture), "--api-key", "k-2"])
    assert result.exit_code == 0, result.output
    rows = [line for line in result.output.splitlines() if "cat.jpg" in line]
    assert len(rows) == 2
    assert all("tabby [cat]" in row and "0.8750" in row for row in rows)
    assert "2 of 2 answered, 2 requests sent" in result.output
    assert keys == ["Bearer k-2"] * 2


def test_ask_label_only(runner: CliRunner, serve: Serve, picture: Path) -> None:
    """An answer without scores says so instead of inventing one."""

    async def handler(request: Request) -> Response:  # noqa: ARG001 - a handler's signature
        return answer(("cat", 3, None))

    assert "not told" in runner.invoke(app, ["ask", serve(handler), str(picture)]).output


def test_ask_reports_errors(runner: CliRunner, serve: Serve, picture: Path) -> None:
    """An image without an answer is told on its own line with its reason, and the exit status is 1."""

    async def handler(request: Request) -> Response:  # noqa: ARG001
        return problem(422, "Not an image")

    result = runner.invoke(app, ["ask", serve(handler), str(picture)])
    assert result.exit_code == 1
    assert "cat.jpg: BadImage" in result.output
    assert "Not an image" in result.output
    assert "0 of 1 answered" in result.output


@pytest.mark.parametrize("extra", [[], ["--i-own-this", "http://198.51.100.8"]])
def test_foreign_target_is_refused(runner: CliRunner, picture: Path, extra: list[str]) -> None:
    """A target that isn't loopback needs its own address repeated, and is not asked without it."""
    result = runner.invoke(app, ["ask", "http://198.51.100.7", str(picture), *extra])
    assert result.exit_code == 2
    assert "--i-own-this http://198.51.100.7" in result.output


def test_foreign_target_that_is_owned(runner: CliRunner, serve: Serve, picture: Path) -> None:
    """The repeated address opens the door, whichever way it is written."""

    async def handler(request: Request) -> Response:  # noqa: ARG001
        return answer(("cat", 3, None))

    port = serve(handler).rpartition(":")[2]
    result = runner.invoke(app, ["ask", f"http://0.0.0.0:{port}", str(picture), "--i-own-this", f"http://0.0.0.0:{port}/predict"])
    assert result.exit_code == 0, result.output


def test_not_an_address(runner: CliRunner, picture: Path) -> None:
    """A target that is no address is a usage error."""
    assert runner.invoke(app, ["ask", "somewhere", str(picture)]).exit_code == 2
