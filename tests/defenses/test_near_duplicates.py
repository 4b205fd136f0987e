"""Near-duplicates join one neighbourhood and get one answer."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from defenses.near_duplicates import NearDuplicateLookup
from defenses.stores import open_store
from defenses.vocabulary import Case, Mode, Query
from tests.defenses.cases import case_of

pytestmark = pytest.mark.anyio


def brighter(case: Case, *, client: str = "bob") -> Case:
    """The same images, one grey level brighter: near-duplicates with digests of their own."""
    queries = tuple(
        Query(id=f"{q.id}+", client=client, pixels=np.minimum(q.pixels, 254) + 1, digest=bytes(reversed(q.digest)), received=q.received)
        for q in case.queries
    )
    return replace(case, queries=queries)


async def test_copies_join_their_originals_and_strangers_found(tmp_path: Path) -> None:
    """The finding names channel and distance; the neighbourhood is the founder's."""
    store = await open_store(f"sqlite:///{tmp_path}/q.db", index="m", audit_key=b"k" * 32)
    lookup = NearDuplicateLookup(store, code=None, mode=Mode.ENFORCE)
    originals = await lookup(case_of(20))
    assert originals.findings["near_duplicates"].label == ("",) * 20
    copies = await lookup(brighter(case_of(20)))
    assert copies.findings["near_duplicates"].label == ("perceptual",) * 20
    assert (copies.findings["near_duplicates"].score <= 6).all()
    assert [n.id for n in copies.neighbourhoods] == [q.digest for q in case_of(20).queries]
    assert {n.founder for n in copies.neighbourhoods} == {"alice"}
    again = await lookup(case_of(20))
    assert again.findings["near_duplicates"].label == ("digest",) * 20
    assert await store.neighbourhoods() == 20
    await store.close()


async def test_shadow_records_but_nothing_follows(tmp_path: Path) -> None:
    """The finding is counted; scores and neighbourhoods stay the query's own."""
    store = await open_store(f"sqlite:///{tmp_path}/q.db", index="m", audit_key=b"k" * 32)
    lookup = NearDuplicateLookup(store, code=None, mode=Mode.SHADOW)
    await lookup(case_of(5))
    seen = await lookup(brighter(case_of(5)))
    assert seen.findings["near_duplicates"].flagged.all()
    assert not seen.findings["near_duplicates"].enforced
    assert seen.neighbourhoods == ()
    assert np.array_equal(seen.scores, case_of(5).scores)
    await store.close()


@pytest.mark.parametrize(
    ("scores", "client", "best"),
    [
        ((0.40, 0.45, 0.15), "alice", 0),  # a close call falls as it fell for the founder
        ((0.20, 0.45, 0.35), "alice", 0),  # also where the founder's class is third
        ((0.05, 0.85, 0.10), "alice", 1),  # a confident answer stays
        ((0.70, 0.20, 0.10), "alice", 0),  # nothing to do
        ((0.40, 0.45, 0.15), "bob", 1),  # nobody else's calls are the founder's to make
    ],
)
async def test_a_close_call_falls_as_it_fell_for_the_founder(tmp_path: Path, scores: tuple[float, ...], client: str, best: int) -> None:
    """Only where the founder, alice, asks, and her class, 0, is not far below the best, do the two exchange scores; none is lost."""
    store = await open_store(f"sqlite:///{tmp_path}/q.db", index="m", audit_key=b"k" * 32)
    lookup = NearDuplicateLookup(store, code=None, mode=Mode.ENFORCE)
    founder = np.array([[5.0, 1.0, 0.0]], np.float32)
    await lookup(replace(case_of(1, classes=3), logits=founder, scores=founder))
    vector = np.array([scores], np.float32)
    answered = await lookup(replace(brighter(case_of(1, classes=3), client=client), logits=np.log(vector), scores=vector))
    assert answered.scores[0].argmax() == best
    assert sorted(answered.scores[0].tolist()) == sorted(vector[0].tolist())
    await store.close()
