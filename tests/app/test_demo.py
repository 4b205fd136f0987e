"""The demo's parts: what it counts, says and draws, and the children that it must not leave behind."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from app import demo_processes
from app.demo_processes import Child, Interruption, Seen, attacker_client, free_port, is_free, serving
from app.demo_report import page
from app.demo_rows import Row, counted, finished, keep, row_folder, story, table
from app.profiles import ProfileName

PLAN = {"budget": 100, "evaluation": 20, "recipe": "fast", "epochs": 1, "seed": 0}
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABc3UBGAAAAABJRU5ErkJggg=="


def measure(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.04, "high": value + 0.04, "n": 500}


def row(out: Path, attack: str, profile: ProfileName, *, told: float, honest: float | None, seen: Seen) -> Row:
    run: dict[str, Any] = {
        "fidelity": measure(told),
        "fidelity_to_reference": None if honest is None else measure(honest),
        "queries_answered": 100,
        "seconds": 12.0,
        "told": {"most_frequent": 0.3, "labels": [{"label": "cat", "count": 30}]},
        "examples": [{"png": PIXEL, "label": f"answer of {profile}", "score": None}],
    }
    return Row(attack, profile, run, seen, row_folder(out, profile, attack))


@pytest.fixture
def rows(tmp_path: Path) -> list[Row]:
    """A theft that succeeds and one that does not, as in a demo."""
    return [
        row(tmp_path, "complementary:composite", ProfileName.OPEN, told=0.71, honest=0.7, seen=Seen(120)),
        row(tmp_path, "complementary:composite", ProfileName.BALANCED, told=0.4, honest=0.1, seen=Seen(120, 90, 30, 60)),
    ]


def test_what_a_profile_does_not_look_for_is_no_zero(rows: list[Row]) -> None:
    """Under open nothing was looked for; under balanced the shares are of all queries."""
    assert [rows[0].saw(what) for what in ("ood", "near_duplicates", "altered")] == [None, None, None]
    assert [rows[1].saw(what) for what in ("ood", "near_duplicates", "altered")] == [0.75, 0.25, 0.5]


def test_the_table_fits_a_terminal_of_80_columns(rows: list[Row]) -> None:
    """A line a theft, nothing cut off."""
    console = Console(width=80)
    with console.capture() as capture:
        console.print(table(rows))
    assert "…" not in capture.get()
    assert re.search(r"open +120 +71\.0% +70\.0% +off +off +off", capture.get())
    assert re.search(r"balanced +120 +40\.0% +10\.0% +75\.0% +25\.0% +50\.0%", capture.get())


def test_the_story_says_who_was_fooled(rows: list[Row]) -> None:
    """Only where the thief's own measure and the honest one are apart."""
    fooled = [sentence for sentence in story(rows) if "fooled" in sentence]
    assert len(fooled) == 1
    assert fooled[0].startswith("Under balanced")
    assert "by 30 points" in fooled[0]


def test_without_a_reference_nothing_is_claimed(tmp_path: Path) -> None:
    """A theft that was not measured against the honest recognizer says so and draws what there is."""
    unknown = row(tmp_path, "composite", ProfileName.OPEN, told=0.5, honest=None, seen=Seen(120))
    assert not any("agrees" in sentence for sentence in story([unknown]))
    assert "not known" in page([unknown], plan=PLAN, out=tmp_path)


def test_the_report_has_plots_and_loads_nothing(rows: list[Row], tmp_path: Path) -> None:
    """Two plots, the thieves' reports beside it, and the picture that was asked of both profiles with both answers."""
    html = page(rows, plan=PLAN, out=tmp_path)
    assert html.count('class="plot" src="data:image/svg+xml;base64,') == 2
    assert 'href="balanced/complementary-composite/campaign/report.html"' in html
    assert 'always saying "cat" agrees with 30.0%' in html
    assert "open: answer of open<br>balanced: answer of balanced" in html
    assert not re.findall(r"""(?:src|href)=["']?(?:https?:)?//""", html)


def test_an_unfinished_theft_is_no_row(tmp_path: Path) -> None:
    """What was counted before an interruption is kept, and added to what the next server counts."""
    assert counted(tmp_path) == (Seen(), False)
    keep(tmp_path, Seen(10, 5, 2, 1))
    seen, done = counted(tmp_path)
    assert (seen.plus(Seen(1, 1, 1, 1)), done) == (Seen(11, 6, 3, 2), False)
    assert finished(tmp_path, attack="composite", profile=ProfileName.OPEN) is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_noted_and_raised_where_it_is_safe(number: signal.Signals) -> None:
    """Not when it comes, which may be while a child is being started; afterwards the handlers are as before."""
    inherited = signal.signal(number, signal.SIG_DFL)  # whoever started the tests may ignore it, as nohup does
    try:
        with Interruption() as interruption:
            interruption.wait(0)
            os.kill(os.getpid(), number)
            with pytest.raises(KeyboardInterrupt):
                interruption.wait(60)
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, inherited)


def test_a_child_that_does_not_listen_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM first, and SIGKILL when that was not enough."""
    monkeypatch.setattr(demo_processes, "STOP_SECONDS", 0.2)
    script = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    child = Child([sys.executable, "-c", script], log=tmp_path / "log")
    with Interruption() as interruption:
        while not (tmp_path / "log").read_text():
            interruption.wait(0.01)
    assert child.code is None
    child.stop()
    assert child.code == -signal.SIGKILL
    assert child.last_line() == "deaf"


def test_settings_of_the_environment_do_not_reach_the_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A defence that a variable turned off would make the demo lie."""
    monkeypatch.setenv("CLONEGUARD_OOD__MODE", "off")
    child = Child([sys.executable, "-c", "import os; print(os.environ.get('CLONEGUARD_OOD__MODE'))"], log=tmp_path / "log")
    with Interruption() as interruption:
        while child.code is None:
            interruption.wait(0.01)
    assert child.last_line() == "None"


def test_anothers_server_is_not_attacked(tmp_path: Path) -> None:
    """A port that is taken ends the demo before anything is started."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert not is_free(port)
        server = serving("open", bundle="cifar10", port=port, state=tmp_path / "state", log=tmp_path / "log", interruption=Interruption())
        with pytest.raises(OSError, match=f"port {port}"), server:
            pass
    assert not (tmp_path / "log").exists()


def test_a_server_that_ends_says_why(tmp_path: Path) -> None:
    """Its last line is in the error."""
    interruption = Interruption()
    server = serving("open", bundle="nowhere", port=free_port(), state=tmp_path / "state", log=tmp_path / "log", interruption=interruption)
    with pytest.raises(ChildProcessError, match="no bundle 'nowhere'"), server:
        pass


def test_without_the_attacker_client_the_line_that_installs_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is another distribution, which the server does not need."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(FileNotFoundError, match=r"pip install .* \./attacker_client"):
        attacker_client()


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--profiles", "open,closed"], "closed"), (["--attacks", " ,"], "nothing is listed"), (["--budget", "61"], "--budget 60")],
)
def test_what_can_not_be_asked_for_is_said(tmp_path: Path, options: list[str], message: str) -> None:
    """An unknown profile, no attack, and other options than those that the demo in the directory began with: exit code 2."""
    (tmp_path / "demo.json").write_text('{"budget": 60, "evaluation": 20, "recipe": "fast", "epochs": 1, "seed": 0, "port": 1}')
    command = [sys.executable, "-m", "app", "demo", "--out", str(tmp_path), "--evaluation", "20", "--recipe", "fast", "--epochs", "1"]
    environment = {**os.environ, "COLUMNS": "200"}
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert done.returncode == 2
    assert message in done.stderr
