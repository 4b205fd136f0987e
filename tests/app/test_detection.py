"""Which bank a detection takes, and what it keeps for the run that goes on."""

import hashlib
import json
from pathlib import Path

import pytest

from app.detection import Detection
from app.recognizers import RecognizerError
from defenses.clone_detection import bank as banks
from defenses.clone_detection.bank import Bank, BankError
from tests.app.scripted import Scripted
from tests.defenses.clone_detection.squares import bank
from tests.server import RunningServer

COUNT = 20


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bank of few images that ships for the task cifar10; where its pairs lie says nothing about real recognizers."""
    monkeypatch.setattr(banks, "BANKS", tmp_path / "banks")
    drawn = bank(apart=12)
    Bank("cifar10", {"count": COUNT, "images": "builtin"}, drawn.models, drawn.rows).save(tmp_path / "banks" / "cifar10.json")
    return tmp_path / "banks" / "cifar10.json"


def detection(out: Path, *, owner: str = "cifar10", named: str | None = None) -> Detection:
    return Detection(owner, "cifar10", images="builtin", bank=named, seed=0, by_number=False, out=out)


def run(one: Detection) -> dict[str, int]:
    """Detect, and tell the queries of each side."""
    one.run(owner_key=None, suspect_key=None, rate=1_000)
    page = json.loads((one.out / "detection.json").read_bytes())
    assert page["plan"]["bank"] == hashlib.sha256((one.out.parent / "banks" / "cifar10.json").read_bytes()).hexdigest()
    queries: dict[str, int] = page["queries"]
    return queries


def test_a_bundle_is_judged_by_the_bank_of_its_name(shipped: Path, tmp_path: Path) -> None:
    """Or by one that is named; a file is no other than the shipped one if it holds the same."""
    queries = [run(detection(tmp_path / str(at), named=named)) for at, named in enumerate((None, "cifar10", str(shipped)))]
    assert queries[0] == queries[1] == queries[2]


@pytest.mark.parametrize("route", ["", "/v2/models/cifar10"])
@pytest.mark.usefixtures("shipped")
def test_an_address_is_asked_what_it_serves(server: RunningServer, tmp_path: Path, route: str) -> None:
    """With a query that is asked anyway; the run that goes on asks nothing."""
    before = server.metric("cloneguard_queries_total")
    queries = run(detection(tmp_path / "out", owner=server.url + route))
    assert server.metric("cloneguard_queries_total") - before == queries["owner"] <= COUNT * (3 + 15)
    assert run(detection(tmp_path / "out", owner=server.url + route)) == queries
    assert server.metric("cloneguard_queries_total") - before == queries["owner"]


def test_without_a_bank_those_that_there_are_are_listed(shipped: Path, tmp_path: Path) -> None:
    """What an address is called, or a name on the command line, leads to no file elsewhere."""
    with pytest.raises(BankError, match=r"no bank 'gtsrb' \(there are: cifar10\): give a file of pairs with --bank FILE"):
        detection(tmp_path / "1", owner="gtsrb").run(owner_key=None, suspect_key=None, rate=1_000)
    with pytest.raises(BankError, match="no bank 'nobody'"):
        detection(tmp_path / "2", named="nobody").run(owner_key=None, suspect_key=None, rate=1_000)
    best = {"predictions": [{"label": "cat", "class_id": 0, "score": 0.75}]}
    with Scripted((200, {}, best | {"model": {"name": "../banks/cifar10"}})) as other, pytest.raises(BankError, match="no bank"):
        detection(tmp_path / "3", owner=other.url).run(owner_key=None, suspect_key=None, rate=1_000)
    with Scripted((200, {}, best)) as nameless, pytest.raises(RecognizerError, match="give a bank with --bank"):
        detection(tmp_path / "4", owner=nameless.url).run(owner_key=None, suspect_key=None, rate=1_000)
    shipped.unlink()
    for name in ("empty", "absent"):
        with pytest.raises(BankError, match="there are: none"):
            detection(tmp_path / name).run(owner_key=None, suspect_key=None, rate=1_000)
        if shipped.parent.exists():
            shipped.parent.rmdir()
