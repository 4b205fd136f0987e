"""The contract of all attacks: a row of the table is a case here."""

from pathlib import Path

import numpy as np
import pytest

from attacker_client.attacks import ATTACKS, WRAPPERS, build
from attacker_client.attacks.attack import Attack
from attacker_client.errors import Unreachable
from attacker_client.students import Student

from .scenes import Ledger, ScriptedBuyer, ShapesPool, scene

BUDGET = 60
BREAKS_AFTER = 25
SHORT = {  # fewer rounds than by default: each is a training
    "knockoff-adaptive": {"rounds": "2", "batch": "10"},
    "composite": {"epochs": "2"},
    "jacobian": {"rounds": "2"},
    "active": {"rounds": "2"},
}


def attack_of(name: str) -> Attack:
    """The attack of a row; a wrapper's is around `standard`."""
    return build(name, SHORT.get(name, {}))


@pytest.mark.anyio
@pytest.mark.parametrize("name", [*ATTACKS, *WRAPPERS])
async def test_contract(name: str, tmp_path: Path) -> None:
    """Every attack keeps to the budget, does the same for the same seed, and buys nothing twice when it is resumed.

    A run that breaks off and is repeated on its ledger and checkpoints asks, taken together, for the same images in the same order as one
    that never broke, and gives the same student, which answers for all classes; repeated once more it asks for nothing.
    """
    whole = ScriptedBuyer(budget=BUDGET, identities=3)
    student = await attack_of(name)(scene(whole, tmp_path / "whole"))
    assert BREAKS_AFTER < len(whole.fresh) <= BUDGET
    ledger: Ledger = {}
    broken = ScriptedBuyer(budget=BUDGET, identities=3, ledger=ledger, breaks_after=BREAKS_AFTER)
    with pytest.raises(Unreachable):
        await attack_of(name)(scene(broken, tmp_path / "broken"))
    resumed = ScriptedBuyer(budget=BUDGET, identities=3, ledger=ledger)
    same = await attack_of(name)(scene(resumed, tmp_path / "broken"))
    assert broken.fresh + resumed.fresh == whole.fresh
    again = ScriptedBuyer(budget=BUDGET, identities=3, ledger=ledger)
    assert _answers(await attack_of(name)(scene(again, tmp_path / "broken"))) == _answers(same) == _answers(student)
    assert again.fresh == []
    assert (student is None) == (name == "probe")


def test_every_row_has_a_summary_of_one_line() -> None:
    """`attacker-client list` prints them."""
    for attack in (*ATTACKS.values(), *WRAPPERS.values()):
        assert attack.summary and "\n" not in attack.summary


def _answers(student: Student | None) -> list[list[float]] | None:
    """What a student says of images nobody bought; it must know all four classes."""
    if student is None:
        return None
    answers = student.probabilities(ShapesPool(20, seed=99).images)
    assert answers.shape == (20, 4) and np.allclose(answers.sum(axis=1), 1, atol=1e-4)
    rounded: list[list[float]] = answers.round(4).tolist()
    return rounded
