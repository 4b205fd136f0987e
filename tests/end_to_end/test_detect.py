"""`cloneguard detect` over real HTTP: the served recognizer is recognised, another one is not, and nothing is asked twice."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from app.recognizers import alone_in
from attacker_client import students
from attacker_client.export import export
from defenses.clone_detection.bank import Bank
from tests.defenses.clone_detection.squares import bank
from tests.server import RunningServer

COUNT = 40
LABELS_ONLY = ("--set", "truncation.mode=enforce", "--set", "truncation.top_k=1", "--set", "truncation.labels_only=true")


@pytest.fixture
def small_bank(tmp_path: Path) -> Path:
    """A bank that asks for few images; where its pairs lie says nothing about real recognizers."""
    drawn = bank(apart=12)
    path = tmp_path / "bank.json"
    Bank(drawn.task, {"count": COUNT, "images": "builtin"}, drawn.models, drawn.rows).save(path)
    return path


def detect(out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "app", "detect", "--out", str(out), "--owner", "cifar10", "--rate", "1000", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def test_the_served_recognizer_is_consistent_with_being_a_clone(
    start: Callable[..., RunningServer], small_bank: Path, tmp_path: Path
) -> None:
    """In both wire formats; a second run asks nothing, and another plan is refused in the same folder."""
    server = start("--profile", "open")
    for name, address in (("predict", server.url), ("infer", f"{server.url}/v2/models/cifar10")):
        out = tmp_path / name
        done = detect(out, "--suspect", address, "--bank", str(small_bank))
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("consistent with being a clone")
        page = json.loads((out / "detection.json").read_bytes())
        assert page["features"]["alpha"]["value"] > 0.9  # a PNG file loses nothing
        assert page["queries"]["suspect"] <= 2 * COUNT
        assert 'src="data:image/svg+xml' in (out / "report.html").read_text()
    queries = server.metric("cloneguard_queries_total")
    again = detect(out, "--suspect", address, "--bank", str(small_bank))
    assert again.stdout == done.stdout
    assert server.metric("cloneguard_queries_total") == queries
    other = detect(out, "--suspect", server.url, "--bank", str(small_bank))
    assert other.returncode == 3
    assert "another detection: suspect differ" in other.stderr


def test_labels_alone_are_judged_by_alpha_and_delta(start: Callable[..., RunningServer], small_bank: Path, tmp_path: Path) -> None:
    """At the price of the same queries."""
    server = start("--profile", "open", *LABELS_ONLY)
    done = detect(tmp_path / "out", "--suspect", server.url, "--bank", str(small_bank))
    assert done.returncode == 0, done.stderr
    assert "labels only" in done.stdout
    page = json.loads((tmp_path / "out" / "detection.json").read_bytes())
    assert page["features"]["beta"] is None and page["features"]["delta"]["value"] == 1
    assert page["features"]["suspect_queries"] == 2 * COUNT


def test_a_recognizer_of_something_else_is_not_consistent(small_bank: Path, tmp_path: Path) -> None:
    done = detect(tmp_path / "out", "--suspect", "gtsrb", "--bank", str(small_bank))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("not consistent with being a clone")
    for told in (done.stdout, (tmp_path / "out" / "report.html").read_text()):
        assert "give --by-number" in told  # not one of its classes is called as ours


def test_a_file_is_asked_as_it_is(start: Callable[..., RunningServer], small_bank: Path, tmp_path: Path) -> None:
    """A network that has learned nothing, as an ONNX file: its classes are called as our bundle's, or numbered as our address's."""
    export(students.build("small", classes=10, size=32, seed=0), tmp_path / "student.onnx")
    suspect = ("--suspect", str(tmp_path / "student.onnx"), "--bank", str(small_bank))
    done = detect(tmp_path / "out", *suspect)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("not consistent with being a clone")
    numbered = detect(tmp_path / "numbered", *suspect, "--owner", start("--profile", "open").url)
    assert numbered.returncode == 0, numbered.stderr
    deltas = [json.loads((tmp_path / name / "detection.json").read_bytes())["features"]["delta"] for name in ("out", "numbered")]
    assert deltas[0] == deltas[1]  # the same images at random, the same classes
    export(students.build("small", classes=10, size=32, seed=1), tmp_path / "student.onnx")
    other = detect(tmp_path / "out", *suspect)  # what was kept are the answers of the file that was there before
    assert other.returncode == 3 and "another detection: content differ" in other.stderr


def test_a_folder_is_one_runs(small_bank: Path, tmp_path: Path) -> None:
    """Two would write the same files; and what somebody damaged there is named."""
    out, suspect = tmp_path / "out", ("--suspect", "cifar10", "--bank", str(small_bank))
    with alone_in(out):
        second = detect(out, *suspect)
    assert second.returncode == 3
    assert "in use by another run" in second.stderr
    (out / "owner.jsonl").write_text("no answer\n")
    damaged = detect(out, *suspect)
    assert damaged.returncode == 3
    assert "owner.jsonl, line 1 is damaged" in damaged.stderr
    for done in (second, damaged):
        assert len(done.stderr.strip().splitlines()) == 1


def test_what_is_wrong_is_said_in_one_line(small_bank: Path, tmp_path: Path) -> None:
    uncounted = tmp_path / "uncounted.json"
    uncounted.write_text(json.dumps(json.loads(small_bank.read_bytes()) | {"sampler": {}}))
    for arguments, says in (
        (("--suspect", "cifar10", "--bank", str(uncounted)), "does not say how many inputs"),
        (("--suspect", "cifar10", "--bank", "nowhere.json"), "no bank 'nowhere.json'"),
        (("--suspect", "nobody", "--bank", str(small_bank)), "no bundle 'nobody'"),
        (("--suspect", "http://127.0.0.1:1", "--bank", str(small_bank), "--images", str(tmp_path)), "0 images"),
    ):
        done = detect(tmp_path / says, *arguments)
        assert done.returncode in {2, 3}
        assert says in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
