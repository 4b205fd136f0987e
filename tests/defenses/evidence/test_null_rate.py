"""The null rate is measured on independents, and the highest counts."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from defenses.evidence.null_rate import NullRate, NullRateError
from tests.defenses.evidence.triggers import seen


def test_the_highest_of_the_independents_counts() -> None:
    """By hand: none, and three of eight triggers named, each with one more of two more."""
    triggers = [replace(seen(number)[0], told=number % 4) for number in range(8)]
    answers = [{one.image: 9 for one in triggers}, {one.image: 1 if at < 6 else 2 for at, one in enumerate(triggers)}]
    rate = NullRate.measured(triggers, answers, recipe={"seed": 0})
    assert (rate.recognizers, rate.triggers) == (2, 8)
    assert rate.highest == pytest.approx(4 / 10) and rate.mean == pytest.approx((1 / 10 + 4 / 10) / 2)


def test_a_file_comes_back(tmp_path: Path) -> None:
    """What was measured is read again with its recipe."""
    rate = NullRate(50, 800, 0.06, 0.09, {"commit": "abc"})
    (tmp_path / "rate.json").write_text(json.dumps(asdict(rate)))
    assert NullRate.load(tmp_path / "rate.json") == rate


@pytest.mark.parametrize(
    "page",
    [
        "",
        "[]",
        "{}",
        '{"recognizers": 3, "triggers": 9, "mean": 0.2, "highest": 0.1}',
        '{"recognizers": 0, "triggers": 9, "mean": 0.1, "highest": 0.1}',
    ],
)
def test_what_is_no_rate_is_said_in_one_line(tmp_path: Path, page: str) -> None:
    """A NullRateError that names the file."""
    (tmp_path / "rate.json").write_text(page)
    with pytest.raises(NullRateError, match=r"rate\.json holds no null rate"):
        NullRate.load(tmp_path / "rate.json")
