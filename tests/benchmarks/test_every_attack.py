"""What counts as a finished run of the client, and that the real one is run as a stranger to the repository."""

import sys
from pathlib import Path

import pytest

from benchmarks.every_attack import ATTACKS, endpoints, one_run, run_alone, table, unlisted

CLIENT = """#!{python}
import json, os, sys
from pathlib import Path
words = sys.argv[1:]
if words == ["list"]:
    print("| standard | probe |")
elif words == ["where"]:
    print(os.getcwd(), os.environ.get("PYTHONPATH"))
else:
    out, attack = Path(words[words.index("--out") + 1]), words[words.index("--attack") + 1]
    out.mkdir()
    answered = {{"probe": 0, "voting": 11}}.get(attack, 10)
    (out / "run.json").write_text(json.dumps({{"budget": 10, "queries_answered": answered, "seconds": 1.0, "fidelity": None}}))
    (out / "report.html").write_text("<p>" if attack == "active" else "<svg><svg>")
    print(words, file=sys.stderr)
    sys.exit(3 if attack == "denoise" else 0)
"""


@pytest.fixture
def client(tmp_path: Path) -> Path:
    """A client that leaves what it would, well or badly by its attack."""
    path = tmp_path / "client"
    path.write_text(CLIENT.format(python=sys.executable))
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("attack", "finished"), [("standard", True), ("probe", False), ("voting", False), ("active", False), ("denoise", False)]
)
def test_what_is_finished(client: Path, tmp_path: Path, attack: str, finished: bool) -> None:  # noqa: FBT001 - a table's column
    """An exit status, no answers, more answers than the budget and a report without plots each count as a failure."""
    row = one_run(client, attack, "http://127.0.0.1:1", ["--budget", "10"], tmp_path / "out")
    assert row["finished"] is finished
    assert ("told" in row) is not finished
    assert table([{"endpoint": "open", **row}]).row_count == 1


def test_the_client_is_alone(client: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs where it is told to, without this process's path to the repository, and its own list is what counts."""
    monkeypatch.setenv("PYTHONPATH", "/the/repository")
    assert run_alone(client, ["where"], tmp_path).stdout.split() == [str(tmp_path), "None"]
    assert unlisted(client, tmp_path) == [attack for attack in ATTACKS if attack not in ("standard", "probe")]


def test_a_real_client_against_real_servers(tmp_path: Path) -> None:
    """The installed client's probe comes to its end at each kind of endpoint."""
    real = Path(sys.executable).with_name("attacker-client")
    for name, url in endpoints(tmp_path):
        row = one_run(real, "probe", url, ["--budget", "30", "--evaluation", "5"], tmp_path / name / "probe")
        assert row["finished"], row
