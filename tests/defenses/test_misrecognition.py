"""Intentional misrecognition is keyed, per neighbourhood, and a relabelling."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from defenses.misrecognition import Alteration, IntentionalMisrecognition
from defenses.vocabulary import Case, Finding, Mode
from tests.defenses.cases import case_of

pytestmark = pytest.mark.anyio
Make = Callable[..., IntentionalMisrecognition]


def make(
    *,
    secret: bytes = b"s" * 32,
    model: str = "m@1",
    mode: Mode = Mode.ENFORCE,
    rate: float = 0.0,
    watermark_mode: Mode = Mode.OFF,
    watermark_rate: float = 0.0,
    alteration: Alteration = Alteration.DERANGEMENT,
) -> IntentionalMisrecognition:
    return IntentionalMisrecognition(
        secret=secret,
        model=model,
        mode=mode,
        rate=rate,
        watermark_mode=watermark_mode,
        watermark_rate=watermark_rate,
        alteration=alteration,
    )


def flagged(case: Case, flags: np.ndarray, doubtful: np.ndarray | None = None, *, enforced: bool = True) -> Case:
    doubtful = flags if doubtful is None else doubtful
    finding = Finding(flagged=flags, score=flags.astype(np.float32), label=("",) * len(flags), doubtful=doubtful, enforced=enforced)
    return case.with_finding("ood", finding)


@pytest.mark.parametrize("alteration", list(Alteration))
async def test_an_alteration_only_exchanges_classes(alteration: Alteration) -> None:
    """Every altered vector has exactly the honest vector's values."""
    case = case_of(200)
    altered = await make(rate=1.0, alteration=alteration)(case)
    assert np.array_equal(np.sort(altered.scores, axis=1), np.sort(case.scores, axis=1))


@pytest.mark.parametrize("alteration", [Alteration.DERANGEMENT, Alteration.SECOND_CLASS, Alteration.WRONG_CLASS])
@pytest.mark.parametrize("classes", [2, 3, 10, 1000])
async def test_these_alterations_always_change_the_top_label(alteration: Alteration, classes: int) -> None:
    """No altered answer is right by chance."""
    case = case_of(100, classes=classes)
    altered = await make(rate=1.0, alteration=alteration)(case)
    assert not (altered.scores.argmax(axis=1) == case.scores.argmax(axis=1)).any()


async def test_a_derangement_leaves_no_class_in_place() -> None:
    """All classes move, not only the best one."""
    case = case_of(100)
    altered = await make(rate=1.0)(case)
    assert not (altered.scores == case.scores).any()


async def test_keep_top_keeps_the_top_and_moves_the_rest() -> None:
    """The label stays right; the soft information is what a thief loses."""
    case = case_of(100)
    altered = await make(rate=1.0, alteration=Alteration.KEEP_TOP)(case)
    assert np.array_equal(altered.scores.argmax(axis=1), case.scores.argmax(axis=1))
    assert (altered.scores == case.scores).sum(axis=1).tolist() == [1] * 100


async def test_second_class_answers_the_second_best() -> None:
    """The founder's two best classes change places."""
    case = case_of(100)
    altered = await make(rate=1.0, alteration=Alteration.SECOND_CLASS)(case)
    assert np.array_equal(altered.scores.argmax(axis=1), np.argsort(-case.scores, axis=1)[:, 1])


async def test_the_share_of_altered_neighbourhoods_is_the_rate() -> None:
    """A keyed coin is a fair coin: 30% of 4,000 within four standard deviations."""
    altered = await make(rate=0.3)(case_of(4000))
    assert abs(altered.findings["misrecognition"].flagged.mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / 4000)
    assert set(altered.reasons) == {"", "rate"}


async def test_the_same_key_gives_the_same_answers_and_another_key_others() -> None:
    """Nothing but secret, model and neighbourhood decides: no state, no coin."""
    case = case_of(300)
    first, again = await make(rate=0.3)(case), await make(rate=0.3)(case)
    assert np.array_equal(first.scores, again.scores)
    for other in (make(rate=0.3, secret=b"t" * 32), make(rate=0.3, model="m@2")):
        assert (await other(case)).reasons != first.reasons


async def test_members_are_altered_as_their_neighbourhood_is() -> None:
    """One neighbourhood, one answer: variants are relabelled alike, each with its own scores."""
    case = case_of(50)
    founder = case.founded()[0]
    together = replace(case, neighbourhoods=(founder,) * 50)
    altered = await make(rate=1.0)(together)
    moved = np.array([[row.tolist().index(value) for value in before] for row, before in zip(altered.scores, case.scores, strict=True)])
    assert (moved == moved[0]).all()


async def test_a_flagged_founder_alters_only_members_that_are_doubtful_themselves() -> None:
    """Nobody spoils an honest image by founding a flagged neighbourhood around it."""
    case = case_of(4)
    founder = replace(case.founded()[0], flagged=True)
    case = replace(case, neighbourhoods=(founder,) * 4)
    case = flagged(case, np.array([True, False, False, False]), np.array([True, True, False, False]))
    assert (await make()(case)).reasons == ("ood", "ood", "", "")


async def test_an_unflagged_founder_keeps_its_members_honest() -> None:
    """The founder's facts decide: a later doubtful member changes nothing."""
    case = case_of(2)
    case = replace(case, neighbourhoods=(case.founded()[0],) * 2)
    assert (await make()(flagged(case, np.array([True, True])))).reasons == ("", "")


async def test_an_out_of_distribution_finding_in_shadow_alters_nothing() -> None:
    """Shadow means counted, not applied."""
    case = flagged(case_of(3), np.array([True, True, True]), enforced=False)
    assert (await make()(case)).reasons == ("", "", "")


async def test_shadow_mode_finds_but_does_not_alter() -> None:
    """The finding is there for the metrics; the scores are the honest ones."""
    case = case_of(50)
    seen = await make(mode=Mode.SHADOW, rate=1.0)(case)
    assert seen.findings["misrecognition"].flagged.all()
    assert seen.reasons == ("",) * 50
    assert np.array_equal(seen.scores, case.scores)


async def test_what_is_off_finds_nothing() -> None:
    """Rates and watermarks each have a mode of their own."""
    case = await make(mode=Mode.ENFORCE, rate=1.0, watermark_mode=Mode.OFF, watermark_rate=1.0)(case_of(3))
    assert "watermark" not in case.findings
    case = await make(mode=Mode.OFF, rate=1.0, watermark_mode=Mode.ENFORCE, watermark_rate=1.0)(case_of(3))
    assert "misrecognition" not in case.findings
    assert case.reasons == ("watermark",) * 3


async def test_the_watermark_depends_on_who_founded() -> None:
    """Two accounts' watermarks differ, so that a clone tells whose answers it was trained on."""
    mark = make(mode=Mode.OFF, watermark_mode=Mode.ENFORCE, watermark_rate=0.5)
    alice, bob = [(await mark(case_of(200, clients=(name,)))).reasons for name in ("alice", "bob")]
    assert set(alice) == {"", "watermark"}
    assert alice != bob
