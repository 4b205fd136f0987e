"""Intentional misrecognition is keyed, per neighbourhood, and a relabelling."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from defenses.companions import Companions, plain_companions
from defenses.misrecognition import IntentionalMisrecognition
from defenses.relabelling import Alteration, Relabelling
from defenses.suspicion import Suspicion
from defenses.vocabulary import Case, ClientRecord, Finding, Mode
from defenses.watermark import Watermark
from tests.defenses.cases import case_of

pytestmark = pytest.mark.anyio
Make = Callable[..., IntentionalMisrecognition]
CHANGES_THE_LABEL = (Alteration.DERANGEMENT, Alteration.SECOND_CLASS, Alteration.WRONG_CLASS, Alteration.IMPERSONATION)


def make(
    *,
    secret: bytes = b"s" * 32,
    model: str = "m@1",
    mode: Mode = Mode.ENFORCE,
    rate: float = 0.0,
    watermark_mode: Mode = Mode.OFF,
    watermark_rate: float = 0.0,
    alteration: Alteration = Alteration.DERANGEMENT,
    companions: Companions | None = None,
    suspicion_mode: Mode = Mode.OFF,
) -> IntentionalMisrecognition:
    return IntentionalMisrecognition(
        secret=secret,
        model=model,
        mode=mode,
        rate=rate,
        watermark_mode=watermark_mode,
        watermark=Watermark(secret=secret, model=model, rate=watermark_rate),
        relabelling=Relabelling(secret=secret, model=model, alteration=alteration, companions=companions),
        suspicion_mode=suspicion_mode,
    )


def learned_companions(classes: int = 10) -> Companions:
    """Of classes that stand in a ring: both neighbours are close, the one before a little closer."""
    random = np.random.default_rng(1)
    best = random.integers(0, classes, 200 * classes)
    logits = random.normal(0, 0.3, (len(best), classes)).astype(np.float32)
    rows = np.arange(len(best))
    for step, height in ((0, 9), (-1, 4), (1, 2)):
        logits[rows, (best + step) % classes] = height + random.normal(0, 0.2, len(best))
    return Companions.fit(logits)


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


@pytest.mark.parametrize("alteration", CHANGES_THE_LABEL)
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


@pytest.mark.parametrize("companions", [None, learned_companions()])
async def test_an_impersonated_class_has_the_company_it_usually_has(companions: Companions | None) -> None:
    """The k-th companion of the founder's best class gives its score to the k-th companion of the class that is told."""
    case = case_of(200)
    altered = await make(rate=1.0, alteration=Alteration.IMPERSONATION, companions=companions)(case)
    orders = (companions or plain_companions(10)).orders
    before, after = case.scores.argmax(axis=1), altered.scores.argmax(axis=1)
    assert not (before == after).any()
    honest, told = (np.take_along_axis(scores, orders[best], axis=1) for scores, best in ((case.scores, before), (altered.scores, after)))
    np.testing.assert_array_equal(told, honest)


async def test_an_impersonation_is_told_by_the_weights() -> None:
    """Each wrong class as often as its weight says, within four standard deviations of 4,000 draws, and every one is possible."""
    companions = learned_companions()
    case = case_of(4000)
    founders = tuple(replace(neighbourhood, top_classes=(3, 4)) for neighbourhood in case.founded())
    case = replace(case, neighbourhoods=founders, scores=np.tile(np.eye(10, dtype=np.float32)[3], (4000, 1)))
    altered = await make(rate=1.0, alteration=Alteration.IMPERSONATION, companions=companions)(case)
    shares, weights = np.bincount(altered.scores.argmax(axis=1), minlength=10) / 4000, companions.weights[3]
    assert (np.abs(shares - weights) < 4 * np.sqrt(weights * (1 - weights) / 4000) + 1e-9).all()
    assert shares[3] == 0
    assert (np.delete(shares, 3) > 0).all()


async def test_the_share_of_altered_neighbourhoods_is_the_rate() -> None:
    """A keyed coin is a fair coin: 30% of 4,000 within four standard deviations."""
    altered = await make(rate=0.3)(case_of(4000))
    assert abs(altered.findings["misrecognition"].flagged.mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / 4000)
    assert set(altered.reasons) == {"", "rate"}


@pytest.mark.parametrize("alteration", list(Alteration))
async def test_the_same_key_gives_the_same_answers_and_another_key_others(alteration: Alteration) -> None:
    """Nothing but secret, model and neighbourhood decides: no state, no coin."""
    case = case_of(300)
    first, again = await make(rate=0.3, alteration=alteration)(case), await make(rate=0.3, alteration=alteration)(case)
    assert np.array_equal(first.scores, again.scores)
    for other in (make(rate=0.3, secret=b"t" * 32), make(rate=0.3, model="m@2")):
        assert (await other(case)).reasons != first.reasons


@pytest.mark.parametrize("alteration", [alteration for alteration in Alteration if alteration is not Alteration.KEEP_TOP])
@pytest.mark.parametrize("companions", [None, learned_companions()])
async def test_members_are_altered_as_their_neighbourhood_is(alteration: Alteration, companions: Companions | None) -> None:
    """One neighbourhood, one answer: variants are relabelled alike, each with its own scores."""
    case = case_of(50)
    founder = case.founded()[0]
    together = replace(case, neighbourhoods=(founder,) * 50)
    altered = await make(rate=1.0, alteration=alteration, companions=companions)(together)
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


SUSPICIOUS, HONEST = ClientRecord(1000, 650), ClientRecord(1000, 10)


def founded_by_a_thief(n: int) -> Case:
    """Unflagged queries of a client beyond doubt, in neighbourhoods of his own."""
    case = flagged(case_of(n, clients=("thief",)), np.zeros(n, np.bool_))
    return replace(case, neighbourhoods=tuple(replace(home, record=SUSPICIOUS) for home in case.founded()), records=(SUSPICIOUS,) * n)


async def test_what_a_suspicious_client_founds_is_altered_for_him_and_his_kind_alone() -> None:
    """So that nobody spoils an honest image by founding a neighbourhood around it; a founder's later record changes nothing."""
    step, founded = make(suspicion_mode=Mode.ENFORCE), founded_by_a_thief(2000)
    altered = np.array((await step(founded)).reasons) == "suspicion"
    rate = Suspicion().rate(SUSPICIOUS, classes=10)
    assert abs(altered.mean() - rate) < 4 * np.sqrt(rate * (1 - rate) / 2000)

    async def told_to(name: str, record: ClientRecord) -> list[bool]:
        queries = tuple(replace(query, client=name) for query in founded.queries)
        return [reason == "suspicion" for reason in (await step(replace(founded, queries=queries, records=(record,) * 2000))).reasons]

    assert await told_to("other thief", SUSPICIOUS) == altered.tolist()
    assert await told_to("thief", HONEST) == altered.tolist()
    assert not any(await told_to("honest", HONEST))
    hardly = await told_to("hardly suspected", ClientRecord(1000, 380))
    assert 0 < sum(hardly) < 0.2 * altered.sum() and all(altered[row] for row in np.flatnonzero(hardly))
    assert set((await step(replace(founded, neighbourhoods=case_of(2000, clients=("thief",)).founded()))).reasons) == {""}


async def test_a_suspicious_client_is_told_any_other_class_alike() -> None:
    """Companions would say something about the right one: the best fixed relabelling must be no better than a guess."""
    founded = founded_by_a_thief(4000)
    altered = await make(suspicion_mode=Mode.ENFORCE, alteration=Alteration.IMPERSONATION, companions=learned_companions())(founded)
    meant, told = founded.scores.argmax(axis=1), altered.scores.argmax(axis=1)
    changed = np.array(altered.reasons) == "suspicion"
    table = np.zeros((10, 10))
    np.add.at(table, (meant[changed], told[changed]), 1)
    assert table.trace() == 0
    assert table.max(axis=0).sum() / table.sum() < 0.2  # a ninth, and what chance adds to the largest of nine


async def test_suspicion_in_shadow_is_counted_and_not_applied() -> None:
    """Its own shadow or the filter's: the finding is there for the metrics, the scores are the honest ones."""
    case = founded_by_a_thief(50)
    unfiltered = flagged(case, np.zeros(50, np.bool_), enforced=False)
    for step, asked in ((make(suspicion_mode=Mode.SHADOW), case), (make(suspicion_mode=Mode.ENFORCE), unfiltered)):
        seen = await step(asked)
        assert seen.findings["suspicion"].flagged.any() and set(seen.reasons) == {""}
        assert np.array_equal(seen.scores, case.scores)


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
