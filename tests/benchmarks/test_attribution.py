"""The theft among guests in small: a real server, a real campaign, and what `cloneguard verify` says of the clone."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks import attribution_thefts
from benchmarks.attribution import accusations, table, verified
from benchmarks.attribution_thefts import THEFTS, Theft, stolen
from defenses.evidence.null_rate import NullRate
from tests.benchmarks.small_data import write_data
from tests.defenses.evidence.triggers import seen


def test_a_thief_among_guests_is_asked_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of all answers are marked; the second time nobody steals again, and the thief's figures are his own account's."""
    monkeypatch.setattr(attribution_thefts, "GUESTS", 2)
    monkeypatch.setattr(attribution_thefts, "ASKED", 10)
    data, null = write_data(tmp_path / "data"), tmp_path / "null.json"
    null.write_text(json.dumps(asdict(NullRate(3, 100, 0.1, 0.15))))
    theft = Theft(0.5, "standard", 60, student="lenet")
    folder, row = stolen(theft, data=data, out=tmp_path / "out", threads=2)
    assert stolen(theft, data=data, out=tmp_path / "out", threads=2) == (folder, row)
    found = row | verified(theft, folder, null=null)
    (thief,) = found["thieves"]
    assert thief["client"] == "thief-1" and thief["asked"] == thief["triggers"] >= 10
    assert found["right"] == (found["named"] == ["thief-1"]) == thief["named"]
    assert found["closest_other"]["client"].startswith("guest-") and not found["closest_other"]["named"]
    assert table([found]).row_count == 1


def test_every_attack_is_tried_at_every_budget_and_rate() -> None:
    """Two accounts share one theft, and a thief who trains on changed views is there: each has a folder of its own."""
    names = {theft.name for theft in THEFTS}
    assert len(names) == len(THEFTS) == 2 * 3 * 2 + 1 + 2
    assert {theft.thieves for theft in THEFTS} == {("thief-1",), ("thief-1", "thief-2")}


def test_an_independent_is_judged_by_the_rate_of_the_others() -> None:
    """Or it would excuse itself: one that names every told label is accused, the others are not."""
    triggers = [seen(number)[0] for number in range(40)]
    honest, clone = ({one.image: label for one in triggers} for label in (3, 5))
    assert accusations({"alice": triggers}, [honest, honest, clone], 2) == ["alice"]
    assert accusations({"alice": triggers}, [honest, honest, clone], 0) == []
