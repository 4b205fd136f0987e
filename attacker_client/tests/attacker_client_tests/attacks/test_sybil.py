"""One thief as many clients."""

from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pytest

from attacker_client.attacks.attack import Scene
from attacker_client.attacks.sybil import Sybil, SybilBuyer
from attacker_client.attacks.voting import Voting
from attacker_client_tests.attacks.scenes import ScriptedBuyer, ShapesPool, scene

pytestmark = pytest.mark.anyio


class Ask:
    """An attack that only buys: the pool's first images, in two purchases."""

    summary: ClassVar[str] = ""

    def __init__(self, n: int) -> None:
        self.n = n

    async def __call__(self, scene: Scene) -> None:
        for rows in np.array_split(np.arange(self.n), 2):
            await scene.buyer.buy(scene.pool[rows])


async def test_round_robin_asks_as_everyone_in_turn(tmp_path: Path) -> None:
    """The turn goes on over purchases, and the findings count it."""
    buyer = ScriptedBuyer(budget=100, identities=3)
    stage = scene(buyer, tmp_path)
    await Sybil(Ask(10))(stage)
    assert buyer.asked_as == [i % 3 for i in range(10)]
    assert stage.findings["sybil"]["queries_per_identity"] == [4, 3, 3]


async def test_random_asks_as_all_of_them(tmp_path: Path) -> None:
    """Everyone asks about a fair share."""
    buyer = ScriptedBuyer(budget=300, identities=4)
    await Sybil(Ask(200), by="random")(scene(buyer, tmp_path))
    assert np.bincount(buyer.asked_as, minlength=4).min() > 25


async def test_near_duplicates_are_asked_about_by_different_clients(tmp_path: Path) -> None:
    """By neighbourhood, no client sees two of an image's variants, and the client of the image itself changes."""
    buyer = ScriptedBuyer(budget=300, identities=6)
    await Sybil(Voting(Ask(40), variants=5), by="neighbourhood")(scene(buyer, tmp_path))
    groups = np.array(buyer.asked_as).reshape(40, 5)
    assert all(len(set(group)) == 5 for group in groups.tolist())
    assert len(set(groups[:, 0].tolist())) == 6


async def test_the_budget_stays_what_it_was(tmp_path: Path) -> None:
    """Ten clients buy no more than one."""
    buyer = ScriptedBuyer(budget=7, identities=10)
    stage = scene(buyer, tmp_path)
    await Sybil(Ask(20))(stage)
    assert buyer.left == 0 and sum(stage.findings["sybil"]["queries_per_identity"]) == 7


async def test_one_identity_is_an_error(tmp_path: Path) -> None:
    """There is nobody to spread over, and the message says what to do."""
    with pytest.raises(ValueError, match="--identities"):
        await Sybil(Ask(4))(scene(ScriptedBuyer(budget=10), tmp_path))


@pytest.mark.parametrize("by", ["round-robin", "random"])
async def test_pacing_keeps_every_client_below_its_rate(by: Literal["round-robin", "random"]) -> None:
    """At 2 queries a second and client, at least half a second lies between two of one client's, and the rows come in their order."""
    now = 0.0
    times: dict[int, list[float]] = {}

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    class Watched(ScriptedBuyer):
        async def buy(self, images, *, identities=None):  # type: ignore[no-untyped-def]
            for who in identities.tolist():
                times.setdefault(who, []).append(now)
            return await super().buy(images, identities=identities)

    images = ShapesPool(30).images
    buyer = SybilBuyer(Watched(budget=25, identities=3), by=by, seed=0, pace=2.0, clock=lambda: now, sleep=sleep)
    bought = await buyer.buy(images)
    assert (bought.images == images[:25]).all() and len(bought) == 25
    assert all(np.diff(asked).min() >= 0.5 - 1e-9 for asked in times.values())
    assert by == "random" or now == pytest.approx(4.0)  # 25 queries of 3 clients: 9 each, the first at once


async def test_answers_from_the_ledger_are_not_waited_for() -> None:
    """Buying again what is known takes no time."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    images = ShapesPool(12).images
    buyer = SybilBuyer(
        ScriptedBuyer(budget=25, identities=3), by="round-robin", seed=0, pace=0.1, clock=lambda: 1e6 * len(slept), sleep=sleep
    )
    await buyer.buy(images)
    first = len(slept)
    await buyer.buy(images)
    assert len(slept) <= first + 1
