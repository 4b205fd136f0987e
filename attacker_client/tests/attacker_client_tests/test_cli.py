"""The command line says what it can do, asks, and keeps off machines that aren't yours."""

import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.testing import CliRunner

from attacker_client.architectures import STUDENTS
from attacker_client.attacks import ATTACKS, WRAPPERS
from attacker_client.cli import app
from attacker_client.recipes import RECIPES

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


def test_list_names_everything(runner: CliRunner) -> None:
    """`list` names every attack, wrapper, student and recipe with a line about it, and an attack's options with defaults and choices."""
    output = runner.invoke(app, ["list"]).output
    for table in (ATTACKS, WRAPPERS, STUDENTS, RECIPES):
        for name, row in table.items():
            (line,) = [line for line in output.splitlines() if line.startswith(f"│ {name} ")]
            assert row.summary[:40] in line
    for shown in ("by=round-robin (round-robin|random|neighbourhood)", "pace=0.0", "variants=5", "mirror=true", "domain= "):
        assert shown in output


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


def test_ask_where_nobody_listens(runner: CliRunner, picture: Path) -> None:
    """An address whose metadata can't be had is told in a line, and the status is 3."""
    result = runner.invoke(app, ["ask", "http://127.0.0.1:9/v2/models/toy", str(picture)])
    assert result.exit_code == 3, result.output
    assert result.output.startswith("attacker-client: http://127.0.0.1:9/v2/models/toy")
    assert result.output.count("\n") == 1


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


def run_words(url: str, out: Path, *more: str) -> list[str]:
    """A run that looks around with twenty queries."""
    return ["run", url, "--attack", "probe", "--images", "builtin", "--budget", "20", "--size", "16", "--out", str(out), *more]


@pytest.fixture
def url(serve: Serve) -> str:
    """An endpoint that says the same of every image."""

    async def handler(request: Request) -> Response:  # noqa: ARG001
        return answer(("cat", 0, 0.9), ("dog", 1, 0.1))

    return serve(handler)


def test_run_report_compare(runner: CliRunner, url: str, tmp_path: Path) -> None:
    """`run` prints a table and the report's place, `report` writes it again, `compare` makes a page; a second `run` needs --resume."""
    result = runner.invoke(app, run_words(url, tmp_path / "one"))
    assert result.exit_code == 0, result.output
    assert "probe" in result.output and str(tmp_path / "one" / "report.html") in result.output
    before = (tmp_path / "one" / "report.html").read_bytes()
    (tmp_path / "one" / "report.html").unlink()
    assert runner.invoke(app, ["report", str(tmp_path / "one")]).exit_code == 0
    assert (tmp_path / "one" / "report.html").read_bytes() == before
    compared = runner.invoke(app, ["compare", str(tmp_path / "one"), str(tmp_path / "one"), "--to", str(tmp_path / "compare.html")])
    assert compared.exit_code == 0, compared.output
    assert "2 campaigns compared" in (tmp_path / "compare.html").read_text()
    assert runner.invoke(app, run_words(url, tmp_path / "one")).exit_code == 2
    assert runner.invoke(app, run_words(url, tmp_path / "one", "--resume")).exit_code == 0


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (["--attack", "nothing"], "nothing"),
        (["--images", "nowhere"], "nowhere"),
        (["--student", "nothing"], "nothing"),
        (["--option", "queries"], "NAME=VALUE"),
        (["--option", "queries=many"], "many"),
        (["--reference", "nowhere.onnx"], "nowhere.onnx"),
    ],
)
def test_run_says_what_is_wrong(runner: CliRunner, url: str, tmp_path: Path, more: list[str], text: str) -> None:
    """A campaign that can't be begun ends with status 2 and a line that says why, and leaves the directory free."""
    result = runner.invoke(app, run_words(url, tmp_path / "out", *more))
    assert result.exit_code == 2, result.output
    assert text in result.output
    assert runner.invoke(app, run_words(url, tmp_path / "out")).exit_code == 0


def test_run_refused(runner: CliRunner, serve: Serve, tmp_path: Path) -> None:
    """An endpoint that refuses for good is told with what to do next, and the status is 3."""

    async def handler(request: Request) -> Response:  # noqa: ARG001
        return problem(403, "Suspended")

    result = runner.invoke(app, run_words(serve(handler), tmp_path / "out"))
    assert result.exit_code == 3, result.output
    assert "Suspended" in result.output and "--resume" in result.output


def test_run_needs_an_owner(runner: CliRunner, tmp_path: Path) -> None:
    """A campaign against another machine is not begun unless its address is repeated."""
    result = runner.invoke(app, run_words("http://198.51.100.7", tmp_path / "out"))
    assert result.exit_code == 2
    assert "--i-own-this http://198.51.100.7" in result.output
    assert not (tmp_path / "out").exists()


def test_reference_needs_an_owner(runner: CliRunner, url: str, tmp_path: Path) -> None:
    """The reference is asked too, so it must be the user's as well."""
    result = runner.invoke(app, run_words(url, tmp_path / "out", "--reference", "http://198.51.100.7"))
    assert result.exit_code == 2
    assert "--i-own-this http://198.51.100.7" in result.output


@pytest.mark.parametrize("command", ["report", "compare"])
def test_no_campaign_there(runner: CliRunner, tmp_path: Path, command: str) -> None:
    """A directory without a finished campaign is a usage error."""
    result = runner.invoke(app, [command, str(tmp_path)])
    assert result.exit_code == 2
    assert "no finished campaign" in result.output


def test_help_needs_no_torch() -> None:
    """Looking at the help is quick: torch, which takes seconds, isn't loaded."""
    code = "import sys; from attacker_client import cli; assert not {'torch', 'matplotlib', 'skimage'} & set(sys.modules), 'loaded'"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_not_an_address(runner: CliRunner, picture: Path) -> None:
    """A target that is no address is a usage error."""
    assert runner.invoke(app, ["ask", "somewhere", str(picture)]).exit_code == 2
