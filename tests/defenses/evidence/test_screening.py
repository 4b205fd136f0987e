"""Who is asked about when not everything can be: the budget holds, what chose does not decide, and the thief is found."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from defenses.evidence.attribution import attribute, one_each
from defenses.evidence.screening import Plan, confirm, screen
from defenses.evidence.trigger import Trigger
from tests.defenses.evidence.accounts import account, clone, innocent, pictures


def both(
    triggers: Mapping[str, Sequence[Trigger]], answers: Mapping[str, int], *, queries: int, seed: int = 0
) -> tuple[Plan, Plan, dict[str, int]]:
    """The two plans, and the suspect's answers that decide, as `verify` goes about it."""
    random = np.random.default_rng(seed)
    first = screen(triggers, queries=queries, random=random)
    said = {image: answers[image] for image in first.images}
    second = confirm(first, triggers, said, independents=0.05, random=random)
    return first, second, {image: answers[image] for image in second.images}


def test_everything_is_asked_if_it_fits() -> None:
    """Shared images once and variants not at all: then the first plan decides, and the second is the same."""
    some = pictures(100, random=np.random.default_rng(0))
    triggers = {"a": account("a", some[:60]), "b": account("b", some[40:])}
    first, second, _ = both(triggers, {one.image: -1 for one in some}, queries=100)
    assert first.decisive and first.left == 0 and first == second
    assert first.images == tuple(sorted(one.image for one in some))
    assert not screen(triggers, queries=99, random=np.random.default_rng(0)).decisive
    assert screen({}, random=np.random.default_rng(0)) == Plan((), 1_000, decisive=True)


@given(
    owned=st.lists(st.lists(st.integers(0, 119), max_size=60), max_size=15),
    queries=st.integers(0, 120),
    seed=st.integers(0, 9),
)
@settings(max_examples=60, deadline=None)
def test_the_budget_is_never_exceeded(owned: list[list[int]], queries: int, seed: int) -> None:
    """Nor is an image asked twice; what decides is of neighbourhoods that nobody was screened in; and the same seed asks the same."""
    random = np.random.default_rng(seed)
    some = pictures(120, random=random)
    # 20 neighbourhoods have two images, and who has which is up to chance.
    images = some[:100] + [replace(one, image=one.image[::-1]) for one in some[:20]]
    triggers = {str(client): account(str(client), (images[place] for place in own)) for client, own in enumerate(owned)}
    answers = innocent(images, accuracy=0.5, random=random)
    first, second, _ = both(triggers, answers, queries=queries, seed=seed)
    assert (first, second) == both(triggers, answers, queries=queries, seed=seed)[:2]
    assert second.decisive and second.left >= 0
    if first.decisive:
        assert len(first.images) + first.left == queries and second is first
        return
    assert len(first.images) <= 0.4 * queries
    assert len(first.images) + len(second.images) + second.left == queries
    assert len({*first.images, *second.images}) == len(first.images) + len(second.images)
    of = {one.image: one.neighbourhood for own in triggers.values() for one in own}
    assert not {of[image] for image in first.images} & {of[image] for image in second.images}


def test_screening_is_shared_out() -> None:
    """20 each if that fits in 40%, fewer down to 5 if there are many, then those with most triggers; never more than half of anybody's."""
    some = pictures(4_000, random=np.random.default_rng(1))

    def asked(sizes: Sequence[int], queries: int) -> list[int]:
        starts = np.cumsum([0, *sizes])
        triggers = {f"{i:03}": account(f"{i:03}", some[starts[i] : starts[i + 1]]) for i in range(len(sizes))}
        images = set(screen(triggers, queries=queries, random=np.random.default_rng(0)).images)
        return [len(images & {one.image for one in own}) for own in triggers.values()]

    assert asked([300] * 10, 1_000) == [20] * 10
    assert asked([100] * 40, 1_000) == [10] * 40
    assert asked([19] * 99 + [20], 1_000) == [5] * 79 + [0] * 20 + [5]
    assert asked([8, 1, 600], 500) == [4, 0, 20]


def test_the_thief_is_found_among_200_clients() -> None:
    """In 1,000 queries of 8,060, nobody else is named, and the deciding triggers are none of those that chose."""
    found = 0
    for seed in range(5):
        random = np.random.default_rng(seed)
        some = pictures(8_060, random=random)
        triggers = {f"client-{i}": account(f"client-{i}", some[40 * i : 40 * i + 40]) for i in range(200)}
        triggers["client-77"] += account("client-77", some[8_000:])
        answers = clone(triggers, ["client-77"], memorised=0.7, random=random)
        _, _, said = both(triggers, answers, queries=1_000, seed=seed)
        names = [one.client for one in attribute(triggers, said, independents=0.05) if one.named]
        assert names in ([], ["client-77"])
        found += bool(names)
    assert found >= 4


def test_being_chosen_accuses_nobody() -> None:
    """An innocent suspect's most suspicious client has a deciding p-value like anybody's; with the matches that chose it, it has not."""
    decided: list[float] = []
    mixed: list[float] = []
    for seed in range(60):
        random = np.random.default_rng(seed)
        some = pictures(600, random=random)
        triggers = {str(i): account(str(i), some[30 * i : 30 * i + 30]) for i in range(20)}
        answers = innocent(some, accuracy=0.3, random=random)
        first, second, said = both(triggers, answers, queries=500, seed=seed)
        assert not first.decisive and second.images
        screened = {image: answers[image] for image in first.images}
        chosen = min(attribute(triggers, screened, independents=0.01), key=lambda one: (one.p_value, one.client)).client
        for values, some_answers in ((decided, said), (mixed, said | screened)):
            values += [one.p_value for one in attribute(triggers, some_answers, independents=0.01) if one.client == chosen]
    assert np.mean(np.array(decided) <= 0.1) <= 0.15
    assert np.mean(mixed) < np.mean(decided) - 0.1


def test_somebody_is_always_confirmed() -> None:
    """The least innocent first, though nobody is suspicious; what the suspicious do not use up goes to the others."""
    some = pictures(200, random=np.random.default_rng(2))
    triggers = {"a": account("a", some[:100]), "b": account("b", some[100:])}
    first, second, said = both(triggers, {one.image: one.honest for one in some}, queries=150)
    assert len(first.images) == 40 and len(second.images) == 110 and second.left == 0
    asked = {client: sum(one.image in said for one in one_each(own)) for client, own in triggers.items()}
    assert sorted(asked.values()) == [30, 80]


@pytest.mark.parametrize("queries", [0, 1, 2])
def test_few_queries_are_no_error(queries: int) -> None:
    """They screen nobody, and confirm whoever has most triggers."""
    some = pictures(30, random=np.random.default_rng(3))
    triggers = {"a": account("a", some[:10]), "b": account("b", some[10:])}
    first, second, _ = both(triggers, {one.image: -1 for one in some}, queries=queries)
    assert first == Plan((), queries, decisive=False)
    assert len(second.images) == queries and set(second.images) <= {one.image for one in triggers["b"]}
