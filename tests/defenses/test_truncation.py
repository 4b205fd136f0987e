"""Output truncation tells the same amount to everybody."""

import numpy as np
import pytest

from defenses.truncation import OutputTruncation
from defenses.vocabulary import Mode
from tests.defenses.cases import case_of

pytestmark = pytest.mark.anyio


async def test_off_tells_everything_best_first() -> None:
    """The open profile is the reference: all classes, all digits."""
    case = case_of(20)
    answer = (await OutputTruncation(mode=Mode.OFF, top_k=3, decimals=2, labels_only=True)(case)).answer
    assert answer is not None
    assert answer.scores is not None
    assert answer.class_ids.shape == answer.scores.shape == (20, 10)
    assert (np.diff(answer.scores, axis=1) <= 0).all()
    assert np.array_equal(answer.scores, np.take_along_axis(case.scores, answer.class_ids, axis=1))


@pytest.mark.parametrize(("top_k", "entries"), [(1, 1), (3, 3), (10, 10), (50, 10)])
async def test_top_k_is_the_number_of_entries(top_k: int, entries: int) -> None:
    """Always the same number of entries, at most one a class."""
    answer = (await OutputTruncation(mode=Mode.ENFORCE, top_k=top_k, decimals=None, labels_only=False)(case_of(20))).answer
    assert answer is not None
    assert answer.class_ids.shape == (20, entries)


async def test_scores_are_rounded() -> None:
    """Two digits are two digits."""
    answer = (await OutputTruncation(mode=Mode.ENFORCE, top_k=3, decimals=2, labels_only=False)(case_of(20))).answer
    assert answer is not None
    assert answer.scores is not None
    assert all(len(str(score).partition(".")[2]) <= 2 for score in answer.scores.ravel().tolist())


async def test_labels_only_tells_no_score() -> None:
    """The label and nothing else."""
    answer = (await OutputTruncation(mode=Mode.ENFORCE, top_k=1, decimals=2, labels_only=True)(case_of(20))).answer
    assert answer is not None
    assert answer.scores is None


async def test_shadow_tells_everything_and_says_what_it_would_withhold() -> None:
    """Counted, not applied."""
    case = await OutputTruncation(mode=Mode.SHADOW, top_k=3, decimals=2, labels_only=True)(case_of(20))
    assert case.answer is not None
    assert case.answer.class_ids.shape == (20, 10)
    assert case.findings["truncation"].score.tolist() == [7.0] * 20
