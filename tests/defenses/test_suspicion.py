"""Suspicion follows from a record, slowly for the honest and soon for a thief, and leaves nothing to learn."""

from itertools import pairwise

import numpy as np
import pytest

from defenses.suspicion import Suspicion
from defenses.vocabulary import ClientRecord

SUSPICION = Suspicion(tolerated=0.35, certain=0.55, patience=50)


@pytest.mark.parametrize("queries", [0, 1, 10, 1000, 100_000])
def test_who_shows_the_right_things_is_never_suspected(queries: int) -> None:
    """Even where a third of the queries is flagged, as photographs of cats and dogs from elsewhere are."""
    assert SUSPICION(ClientRecord(queries, round(0.33 * queries))) == 0
    assert SUSPICION.rate(ClientRecord(queries, round(0.33 * queries)), classes=10) == 0


def test_a_few_flagged_queries_are_no_evidence() -> None:
    """Twenty in a row may happen to anybody who tries the service out."""
    assert SUSPICION(ClientRecord(20, 20)) == 0


def test_a_thief_is_beyond_doubt_after_some_hundred_queries() -> None:
    """Two thirds of a thief's images are flagged; suspicion grows on the way."""
    grown = [SUSPICION(ClientRecord(n, round(0.65 * n))) for n in range(0, 400, 20)]
    assert grown[0] == 0 and grown[5] > 0 and grown[-1] == 1
    assert all(later >= earlier for earlier, later in pairwise(grown))


@pytest.mark.parametrize("classes", [2, 10, 43])
@pytest.mark.parametrize("share", [0.55, 0.65, 0.85, 1.0])
def test_beyond_doubt_as_many_answers_are_right_as_a_guess_would_be(classes: int, share: float) -> None:
    """Flagged ones are all wrong; of the others so many that 1/classes stays right, or none more if the filter took more than that."""
    record = ClientRecord(100_000, round(share * 100_000))
    altered = share + (1 - share) * SUSPICION.rate(record, classes=classes)
    assert np.isclose(altered, max(share, 1 - 1 / classes), atol=1e-3)
