"""Who was trained on whose answers: exact tails, Holm's steps, and nobody is accused more often than the level says."""

from dataclasses import replace

import numpy as np
import pytest

from defenses.evidence.attribution import Attribution, Count, attribute, binomial_tail, holm, one_each
from defenses.evidence.trigger import Trigger
from tests.defenses.evidence.accounts import CLASSES, account, clone, innocent, pictures


def named(found: tuple[Attribution, ...]) -> list[str]:
    """Who is."""
    return [one.client for one in found if one.named]


def trigger(name: str, *, told: int = 1, controls: tuple[int, ...] = (2, 3, 4), time: float = 0, neighbourhood: str = "") -> Trigger:
    """Of an image with this name, in a neighbourhood of its own unless it is told."""
    return Trigger("a", name, neighbourhood or name, "a", 0, told, controls, 0.01, "m", "r", time)


def test_tails_are_exact() -> None:
    """By hand, also where they are tiny; and DAWN's table: half matched of so many is below 2^-64 (Szyller et al. 2021)."""
    assert binomial_tail(0, 5, 0.3) == binomial_tail(0, 0, 0.3) == 1
    assert binomial_tail(2, 3, 0.5) == pytest.approx(0.5)
    assert binomial_tail(1, 10, 0.1) == pytest.approx(1 - 0.9**10)
    assert binomial_tail(2, 4, 0.1) == pytest.approx(6 * 0.01 * 0.81 + 4 * 0.001 * 0.9 + 0.0001)
    assert binomial_tail(100, 100, 0.1) == pytest.approx(1e-100, rel=1e-6)
    assert binomial_tail(3, 3, 1) == 1
    for trials, classes in ((81, 10), (35, 43), (21, 200)):
        assert binomial_tail((trials + 1) // 2, trials, 1 / classes) < 2**-64 < binomial_tail((trials - 1) // 2, trials - 2, 1 / classes)


def test_holm_by_hand() -> None:
    """0.01 * 4, 0.015 * 3, then 0.02 * 2 which may not be smaller than those before it; at most 1, and more tests cost more."""
    assert holm([0.01, 0.015, 0.02, 0.5], family=4) == pytest.approx([0.04, 0.045, 0.045, 0.5])
    assert holm([0.01, 0.3], family=10) == pytest.approx([0.1, 1])
    assert holm([], family=0) == []


def test_a_count_by_hand() -> None:
    """Of 1 + 3 labels one is named of the first trigger and two of the second: (1/4 + 2/4 + 0) / 3 = 1/4 is this suspect's own rate."""
    triggers = [trigger("x"), trigger("y", controls=(1, 5, 6)), trigger("z")]
    count = Count.of(triggers, {"x": 1, "y": 1, "z": -1}, independents=0.1)
    assert count == Count(3, 2, 1, 9, 0.25, binomial_tail(2, 3, 0.25))
    assert count.p_value == pytest.approx(3 * 0.25**2 * 0.75 + 0.25**3)
    assert Count.of(triggers, {"x": 1, "y": 1, "z": -1}, independents=0.4).null_rate == 0.4
    assert Count.of([], {}, independents=0.1) == Count(0, 0, 0, 0, 0.1, 1)
    single = Count.of([trigger("x", controls=(2,) * 16)], {"x": 1}, independents=0.001)
    assert single.p_value == pytest.approx(1 / 17), "any of 17 keys may have been the one that was matched"
    without = Count.of([trigger("x", controls=())], {"x": 1}, independents=0.1)
    assert without.p_value == 1, "without controls nothing is known about the rate"


def test_variants_of_a_picture_count_once() -> None:
    """The first one that was asked; one that the suspect was not asked about does not stand in the way."""
    variants = [trigger("late", time=2, neighbourhood="n"), trigger("early", time=1, neighbourhood="n"), trigger("x")]
    assert [one.image for one in one_each(variants)] == ["x", "early"]
    (found,) = attribute({"a": variants}, {"early": 0, "late": 1, "x": 0}, independents=0.1)
    assert (found.triggers, found.asked, found.matches) == (2, 2, 0)
    (found,) = attribute({"a": variants}, {"late": 1}, independents=0.1)
    assert (found.triggers, found.asked, found.matches) == (2, 1, 1)


def test_a_clone_names_the_account_it_was_taken_from() -> None:
    """One of 20 at 100 triggers each, of which it repeats 30%; whoever was never asked about has p 1."""
    random = np.random.default_rng(0)
    some = pictures(2_000, random=random)
    triggers = {f"client-{i}": account(f"client-{i}", some[100 * i : 100 * i + 100]) for i in range(20)}
    answers = clone(triggers, ["client-7"], memorised=0.3, random=random)
    found = attribute({**triggers, "late": account("late", pictures(9, random=random))}, answers, independents=0.05, clients=30)
    assert named(found) == ["client-7"] == [found[0].client]
    assert found[0].matches > 25 and found[0].asked == 100
    assert found[0].corrected == pytest.approx(30 * found[0].p_value)
    assert [one.corrected for one in found] == sorted(one.corrected for one in found)
    (late,) = (one for one in found if one.client == "late")
    assert late == Attribution("late", 9, 0, 0, 0, 0, 0.05, 1, 1, named=False, explained=0)


def test_a_clone_of_two_accounts_names_both() -> None:
    """Each on what the other was not told, though they have 40 of 100 pictures in common."""
    random = np.random.default_rng(1)
    some = pictures(2_000, random=random)
    triggers = {f"client-{i}": account(f"client-{i}", some[100 * i : 100 * i + 100]) for i in range(20)}
    triggers["client-4"] = account("client-4", some[360:460])
    answers = clone(triggers, ["client-3", "client-4"], memorised=0.5, random=random)
    found = attribute(triggers, answers, independents=0.05)
    assert sorted(named(found)) == ["client-3", "client-4"]
    assert [one.explained for one in found[:2]] == [40, 40]


@pytest.mark.parametrize("bystanders_pictures", [30, 60])
def test_who_asked_about_the_same_pictures_is_not_accused(bystanders_pictures: int) -> None:
    """Though the suspect repeats every label that a bystander was told and only some of the thief's others: those are explained."""
    random = np.random.default_rng(2)
    some = pictures(2_000, random=random)
    triggers = {f"client-{i}": account(f"client-{i}", some[100 * i : 100 * i + 100]) for i in range(20)}
    shared = some[500 : 500 + bystanders_pictures]
    triggers["bystander"] = account("bystander", shared)
    answers = clone(triggers, ["client-5"], memorised=0.5, random=random) | {one.image: one.told for one in shared}
    found = attribute(triggers, answers, independents=0.05)
    (bystander,) = (one for one in found if one.client == "bystander")
    assert named(found) == ["client-5"]
    assert (bystander.asked, bystander.explained, bystander.p_value) == (0, bystanders_pictures, 1)
    alone = attribute({"bystander": triggers["bystander"]}, answers, independents=0.05)
    assert named(alone) == ["bystander"], "the same answers do accuse, if nobody else explains them"


def test_whom_nothing_tells_apart_is_not_named() -> None:
    """Two accounts that asked about the same pictures are shown beside each other, with the evidence that there is."""
    random = np.random.default_rng(3)
    some = pictures(300, random=random)
    triggers = {"a": account("a", some[:100]), "b": account("b", some[:100]), "c": account("c", some[200:])}
    a, b, c = attribute(triggers, clone(triggers, ["a"], memorised=0.5, random=random), independents=0.05)
    assert not a.named and not b.named and a.alike == ("b",) and b.alike == ("a",)
    assert a.corrected == b.corrected == pytest.approx(3 * a.p_value) and a.corrected < 1e-9
    assert c.alike == () and c.corrected == pytest.approx(min(1, 3 * c.p_value))


def test_innocent_suspects_accuse_nobody_more_often_than_the_level_says() -> None:
    """500 suspects, good and bad ones, who make the mistakes that are popular here too: anybody of 20 clients is named for few of them.

    With 1/m for a null rate they accuse in more than one case of twenty: this test can fail.
    """
    random = np.random.default_rng(4)
    accused, trusting, suspects = {0.01: 0, 0.3: 0}, 0, 500
    for number in range(suspects):
        if number % 5 == 0:
            some = pictures(500, random=random)
            triggers = {str(i): account(str(i), some[25 * i : 25 * i + 25]) for i in range(20)}
        answers = innocent(some, accuracy=random.choice([0.0, 0.3, 0.8]), random=random)
        for level in accused:
            accused[level] += bool(named(attribute(triggers, answers, independents=0.01, level=level)))
        counts = [Count.of(own, answers, independents=0.01) for own in triggers.values()]
        trusting += min(binomial_tail(one.matches, one.asked, 1 / CLASSES) for one in counts) <= 0.01 / 20
    for level, times in accused.items():
        assert times <= suspects * level + 3 * (suspects * level * (1 - level)) ** 0.5, (level, times)
    assert trusting > suspects * 0.05, trusting
    assert accused[0.3] > 0, "a bound that is never met would show nothing"


def test_what_makes_no_test_is_refused() -> None:
    """Rates that are none, and a correction for fewer clients than there are."""
    triggers = {"a": [trigger("x")], "b": [replace(trigger("y"), client="b")]}
    for independents, level, clients in ((0.0, 0.01, 2), (1.0, 0.01, 2), (0.1, 0.0, 2), (0.1, 0.01, 1)):
        with pytest.raises(ValueError, match="no test"):
            attribute(triggers, {"x": 1}, independents=independents, level=level, clients=clients)
    assert attribute({}, {}, independents=0.1) == ()
