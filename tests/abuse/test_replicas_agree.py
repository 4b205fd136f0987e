"""F6: two replicas, one Redis, and near-duplicates that reach both at once."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.abuse import FULL
from tests.abuse.images import near_duplicate
from tests.abuse.race import VARIANTS, accounts, agreement, asked, majority, raced
from tests.cluster import PATIENT, running_cluster
from tests.server import RunningServer

GROUPS = 2000
RATE = 0.3
ALTERING = (
    "--profile", "open", "--set", "near_duplicates.mode=enforce", "--set", "misrecognition.mode=enforce",
    "--set", f"misrecognition.rate={RATE}",
)  # fmt: skip


@pytest.mark.abuse
@pytest.mark.skipif(not FULL, reason="tests/end_to_end/test_cluster.py is the short form")
def test_replicas_agree_and_voting_gains_nothing(tmp_path: Path, start: Callable[..., RunningServer], figure: Callable[..., None]) -> None:
    """All variants of a picture have one neighbourhood and one fate, so that who lets ten accounts vote is told what one is told.

    The thief sends every variant to both replicas, each from an account of its own, and believes the majority. What he gains is the
    share of altered groups less the share of groups whose majority is not what the undefended recognizer's majority is.
    """
    with running_cluster(tmp_path / "cluster", *ALTERING, *PATIENT) as cluster:
        keys = accounts(cluster.replicas, 2 * VARIANTS, store=cluster.redis.url)
        told = raced(cluster.replicas, keys, groups=GROUPS)
        found = agreement(cluster.replicas[0], told)
        assert not any("Redis is away" in replica.log_text() for replica in cluster.replicas)
    figure(f"{GROUPS:,} groups, {len(found.disagreements)} disagreements", met=not found.disagreements)
    reference = start("--profile", "open")
    honest = [asked(reference, (near_duplicate(seed, variant) for seed in range(GROUPS))) for variant in range(VARIANTS)]
    right = [majority(one.label for one in group) for group in zip(*honest, strict=True)]
    voted = [majority(one.label for one in group) for group in told]
    single = [group[0].label for group in told]
    gain = np.array(found.altered, dtype=float) - [one != other for one, other in zip(voted, right, strict=True)]
    mean, error = float(gain.mean()), 1.96 * float(gain.std()) / GROUPS**0.5
    wrong = [sum(one != other for one, other in zip(labels, right, strict=True)) / GROUPS for labels in (single, voted)]
    figure(
        f"altered {np.mean(found.altered):.1%}; wrong by one answer {wrong[0]:.1%}, by the majority of {2 * VARIANTS} {wrong[1]:.1%}: "
        f"voting gains {mean:+.2%} +- {error:.2%}",
        met=mean - error <= 0,
    )
