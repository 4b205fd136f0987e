"""Suspicion follows from a record, slowly for the honest and quickly for a thief, and leaves nothing to learn."""

from itertools import pairwise

import numpy as np
import pytest

from defenses.suspicion import Suspicion
from defenses.vocabulary import ClientRecord

SUSPICION = Suspicion(tolerated=0.1, certain=0.3, patience=50)


@pytest.mark.parametrize("queries", [0, 1, 10, 1000, 100_000])
def test_honest_clients_are_never_suspected(queries: int) -> None:
    """Even where a tenth of the queries is flagged, ten times the filter's rate."""
    assert SUSPICION(ClientRecord(queries, round(0.1 * queries))) == 0
    assert SUSPICION.rate(ClientRecord(queries, round(0.1 * queries)), classes=10) == 0


def test_a_few_flagged_queries_are_no_evidence() -> None:
    """Five in a row may happen to anybody who tries the service out."""
    assert SUSPICION(ClientRecord(5, 5)) == 0


def test_a_thief_is_beyond_doubt_within_fifty_queries() -> None:
    """Two thirds of a thief's images are flagged; suspicion only grows on the way."""
    grown = [SUSPICION(ClientRecord(n, round(0.65 * n))) for n in range(60)]
    assert grown[0] == 0 and grown[50] == 1
    assert all(later >= earlier - 0.02 for earlier, later in pairwise(grown))


@pytest.mark.parametrize("classes", [2, 10, 43])
@pytest.mark.parametrize("share", [0.3, 0.65, 0.85, 1.0])
def test_beyond_doubt_as_many_answers_are_right_as_a_guess_would_be(classes: int, share: float) -> None:
    """Flagged ones are all wrong; of the others so many that 1/classes stays right, or none more if the filter took more than that."""
    record = ClientRecord(100_000, round(share * 100_000))
    altered = share + (1 - share) * SUSPICION.rate(record, classes=classes)
    assert np.isclose(altered, max(share, 1 - 1 / classes), atol=1e-3)
