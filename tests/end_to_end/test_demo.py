"""`cloneguard demo` for real, much shortened: interrupted in the middle, and gone on with."""

import json
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

OPTIONS = ("--attacks", "knockoff-random", "--budget", "600", "--evaluation", "60", "--epochs", "1")
IN_FLIGHT = 32  # queries that the client has under way: those of the moment of the kill may be asked again


@dataclass(frozen=True, slots=True)
class Interrupted:
    """A demo that got Ctrl-C while the second thief was asking, and its children at that moment."""

    out: Path
    code: int
    said: str
    children: list[psutil.Process]


def command(out: Path) -> list[str]:
    return [sys.executable, "-m", "app", "demo", "--out", str(out), *OPTIONS]


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Interrupted:
    """Start a demo, send SIGINT once the second server has answered, and wait for its end."""
    out = tmp_path_factory.mktemp("demo") / "out"
    counts = out / "balanced" / "knockoff-random" / "seen.json"
    process = subprocess.Popen(command(out), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    give_up = time.monotonic() + 240
    while not counts.exists() or json.loads(counts.read_bytes())["queries"] == 0:
        if process.poll() is not None or time.monotonic() > give_up:
            process.kill()
            pytest.fail(f"the demo did not come to its second theft:\n{process.communicate()[0]}")
        time.sleep(0.02)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    return Interrupted(out, process.returncode, said, children)


def test_ctrl_c_leaves_nobody_behind(interrupted: Interrupted) -> None:
    """A server and a thief were running; both are gone, and the exit code is that of an interruption."""
    assert interrupted.code == 130, interrupted.said
    assert len(interrupted.children) == 2
    assert not any(child.is_running() for child in interrupted.children)


def test_ctrl_c_keeps_what_is_finished(interrupted: Interrupted) -> None:
    """The first theft is in the table and in the report, the one that was interrupted is not; the way on is said."""
    assert "The same command goes on" in interrupted.said
    assert re.search(r"knockoff-random +open +660 ", interrupted.said)
    assert not re.search(r"knockoff-random +balanced +[0-9]", interrupted.said)
    assert (interrupted.out / "report.html").is_file()


def test_the_same_command_goes_on(interrupted: Interrupted) -> None:
    """The finished theft is kept, the other one is finished with hardly a query asked twice, and the server saw through it."""
    out = interrupted.out
    first = (out / "open" / "knockoff-random" / "campaign" / "run.json").stat().st_mtime_ns
    done = subprocess.run(command(out), capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert (out / "open" / "knockoff-random" / "campaign" / "run.json").stat().st_mtime_ns == first
    seen = {profile: json.loads((out / profile / "knockoff-random" / "seen.json").read_bytes()) for profile in ("open", "balanced")}
    assert seen["open"] == {"queries": 660, "ood": 0, "near_duplicates": 0, "altered": 0, "finished": True}
    assert 660 <= seen["balanced"]["queries"] <= 660 + IN_FLIGHT
    assert seen["balanced"]["ood"] > 330  # photographs' crops are not what the recognizer was made for
    assert seen["balanced"]["altered"] > 1.05 * seen["balanced"]["ood"]  # what the thief's record costs him on top
    assert re.search(r"knockoff-random +balanced +6[0-9][0-9] ", done.stdout)
    html = (out / "report.html").read_text()
    assert html.count('class="plot"') == 2
    assert all((out / link).is_file() for link in re.findall(r'href="([^"]+)"', html))
    assert not list(out.rglob("secret"))
