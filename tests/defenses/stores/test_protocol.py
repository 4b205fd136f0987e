"""The contract of a QueryStore: the same claims on every backend. A new backend is one more row of BACKENDS."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from defenses.stores import open_store
from defenses.stores.chain import verify
from defenses.stores.protocol import FORGETTING, AuditEntry, ClientSummary, QueryStore, StoreError
from defenses.vocabulary import ClientRecord
from tests.defenses.stores.replicas import KEY, PATIENT
from tests.defenses.stores.rule import Rule, crowd, ones, sighting

Opener = Callable[..., AbstractAsyncContextManager[QueryStore]]

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["embedded", "redis"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Opener:
    """Open the backend's store, always the same one within a test, and close it after the `async with`."""
    url = f"sqlite:///{tmp_path}/store.db" if request.param == "embedded" else request.getfixturevalue("empty_redis").url

    @asynccontextmanager
    async def open_one(*, index: str = "cifar10@1", **options: Any) -> AsyncIterator[QueryStore]:
        store = await open_store(url, index=index, audit_key=KEY, timeout_seconds=PATIENT, **{"embedding_radius": 12, **options})
        try:
            yield store
        finally:
            await store.close()

    return open_one


def entry(client: str, number: int, *, flagged: bool = False, near_duplicate: bool = False, altered: bool = False) -> AuditEntry:
    return AuditEntry(client, float(number), flagged, near_duplicate, altered, body=b'{"n":%d}' % number)


async def test_a_lonely_sighting_founds_a_neighbourhood_with_its_own_facts(opened: Opener) -> None:
    """The founder's facts are the neighbourhood's, and later members don't change them."""
    async with opened() as store:
        (founded,) = await store.find_or_found([sighting(1, client="anna", flagged=True)])
        (joined,) = await store.find_or_found([sighting(2, perceptual=ones(1), client="ben")])
        assert (founded.channel, founded.distance) == ("", 0)
        assert founded.neighbourhood.id == (1).to_bytes(32, "big")
        assert (founded.neighbourhood.founder, founded.neighbourhood.flagged, founded.neighbourhood.top_classes) == ("anna", True, (3, 5))
        assert joined.neighbourhood == founded.neighbourhood
        assert await store.neighbourhoods() == 1


async def test_a_match_comes_with_the_clients_record_and_a_founder_keeps_his(opened: Opener) -> None:
    """As it was before the query, within a call too; later queries change the client's record, never the neighbourhood's."""
    async with opened() as store:
        apart = [sighting(n, perceptual=0x0F0F << 16 * n, client="anna", flagged=n < 2) for n in range(3)]
        founded = await store.find_or_found(apart)
        assert [match.record for match in founded] == [ClientRecord(0, 0), ClientRecord(1, 1), ClientRecord(2, 2)]
        assert [match.neighbourhood.record for match in founded] == [match.record for match in founded]
        (joined,) = await store.find_or_found([sighting(9, perceptual=0x0F0F << 16, client="ben")])
        assert (joined.channel, joined.neighbourhood, joined.record) == ("perceptual", founded[1].neighbourhood, ClientRecord(0, 0))
    async with opened() as store:
        (again,) = await store.find_or_found([sighting(8, perceptual=0xFFFF << 48, client="ben")])
        assert (again.channel, again.record) == ("", ClientRecord(1, 0))
    async with opened(index="other@1") as store:
        (elsewhere,) = await store.find_or_found([sighting(8, client="anna")])
        assert elsewhere.record == ClientRecord()


async def test_asking_again_about_ones_own_picture_is_not_held_against_anybody(opened: Opener) -> None:
    """A monitor may poll with a foreign image for ever, and a thief gains nothing by repeating a harmless one."""
    async with opened() as store:
        for _ in range(5):
            (match,) = await store.find_or_found([sighting(1, client="anna", flagged=True)])
        assert match.record == ClientRecord(1, 1)


async def test_old_queries_count_less(opened: Opener) -> None:
    """At a thousand queries both counts are halved, so a record follows what its client does now."""
    async with opened(embedding_radius=0) as store:
        codes = np.random.default_rng(0).integers(0, 2**63, 1200)
        images = [sighting(n, perceptual=int(code), client="anna", flagged=True) for n, code in enumerate(codes)]
        queries = [match.record for match in await store.find_or_found(images)]
        assert max(record.queries for record in queries) == FORGETTING - 1
        assert queries[-1].queries < FORGETTING and all(record.flagged == record.queries for record in queries)


async def test_the_same_digest_wins_over_an_older_founder(opened: Opener) -> None:
    """A digest that was seen before goes where it went then, even when its codes now lie at an older founder."""
    async with opened() as store:
        await store.find_or_found([sighting(1), sighting(2, perceptual=ones(40))])
        (match,) = await store.find_or_found([sighting(2, perceptual=0)])
        assert (match.neighbourhood.id, match.channel, match.distance) == ((2).to_bytes(32, "big"), "digest", 0)


async def test_a_members_digest_leads_to_its_founder(opened: Opener) -> None:
    """A member is no founder: its digest answers with the neighbourhood that it joined, and its codes attract no one."""
    async with opened() as store:
        await store.find_or_found([sighting(1), sighting(2, perceptual=ones(6))])
        again, beyond = await store.find_or_found([sighting(2, perceptual=ones(6)), sighting(3, perceptual=ones(9))])
        assert (again.neighbourhood.id, again.channel) == ((1).to_bytes(32, "big"), "digest")
        assert beyond.channel == ""


async def test_the_oldest_founder_wins_over_a_nearer_one(opened: Opener) -> None:
    """Age decides, by order of founding, whatever the distance, the channel and the clock say."""
    async with opened() as store:
        await store.find_or_found([sighting(1, perceptual=0, embedding=0, time=900.0)])
        await store.find_or_found([sighting(2, perceptual=ones(8), embedding=ones(40), time=100.0)])
        perceptual, embedding = await store.find_or_found(
            [sighting(3, perceptual=ones(6), embedding=ones(25)), sighting(4, perceptual=ones(8), embedding=ones(9))]
        )
        assert (perceptual.neighbourhood.id[-1], perceptual.channel, perceptual.distance) == (1, "perceptual", 6)
        assert (embedding.neighbourhood.id[-1], embedding.channel, embedding.distance) == (1, "embedding", 9)


async def test_a_tie_goes_to_the_perceptual_channel(opened: Opener) -> None:
    """One founder that is near on both channels is near perceptually."""
    async with opened() as store:
        await store.find_or_found([sighting(1, embedding=0)])
        (match,) = await store.find_or_found([sighting(2, perceptual=ones(5), embedding=ones(1))])
        assert (match.channel, match.distance) == ("perceptual", 5)


@pytest.mark.parametrize(("bits", "channel"), [(6, "perceptual"), (7, "")])
async def test_radii_are_inclusive(opened: Opener, bits: int, channel: str) -> None:
    """A distance equal to the radius joins, one bit more founds."""
    async with opened() as store:
        *_, match = await store.find_or_found([sighting(1), sighting(2, perceptual=ones(bits))])
        assert match.channel == channel
        *_, stored = await store.find_or_found([sighting(3, perceptual=ones(64)), sighting(4, perceptual=ones(64) ^ ones(bits))])
        assert stored.channel == channel


async def test_a_call_sees_its_own_earlier_members(opened: Opener) -> None:
    """In one call a second digest, a near-duplicate on either channel and a lonely one find what came before them."""
    async with opened() as store:
        matches = await store.find_or_found(
            [
                sighting(1, perceptual=0, embedding=0),
                sighting(1, perceptual=0, embedding=0),
                sighting(2, perceptual=ones(2), embedding=ones(60)),
                sighting(3, perceptual=ones(50), embedding=ones(12)),
                sighting(4, perceptual=ones(30), embedding=ones(35)),
                sighting(2, perceptual=ones(2), embedding=ones(60)),
            ]
        )
        assert [match.channel for match in matches] == ["", "digest", "perceptual", "embedding", "", "digest"]
        assert [match.neighbourhood.id[-1] for match in matches] == [1, 1, 1, 1, 4, 1]
        assert await store.neighbourhoods() == 2


async def test_without_embeddings_the_perceptual_channel_serves_alone(opened: Opener) -> None:
    """Empty codes are near nothing, not even each other, and may be mixed with codes."""
    async with opened() as store:
        matches = await store.find_or_found([sighting(1), sighting(2, perceptual=ones(30)), sighting(3, perceptual=ones(3))])
        assert [match.channel for match in matches] == ["", "", "perceptual"]
        later = await store.find_or_found([sighting(4, perceptual=ones(50), embedding=0), sighting(5, perceptual=ones(2))])
        assert [match.channel for match in later] == ["", "perceptual"]


async def test_codes_of_another_width_are_refused_and_leave_nothing(opened: Opener) -> None:
    """One index has one code; a call with another is an error, and none of its sightings is stored."""
    async with opened() as store:
        await store.find_or_found([sighting(1, embedding=0)])
        odd = replace(sighting(2, perceptual=ones(30)), embedding=bytes(8))
        with pytest.raises(StoreError, match="128 bits"):
            await store.find_or_found([sighting(3, perceptual=ones(50)), odd])
        assert await store.neighbourhoods() == 1
        (match,) = await store.find_or_found([sighting(3, perceptual=ones(50))])
        assert match.channel == ""


async def test_an_empty_call_answers_nothing(opened: Opener) -> None:
    """No sightings, no matches; no entries, no records."""
    async with opened() as store:
        assert await store.find_or_found([]) == []
        await store.append_audit([])
        assert await store.audit() == []


async def test_it_survives_reopening(opened: Opener) -> None:
    """A reopened store gives each sighting the neighbourhood of before, and knows as many."""
    sightings = list(crowd(np.random.default_rng(5), size=200))
    async with opened() as store:
        before = [match.neighbourhood for match in await store.find_or_found(sightings)]
        founded = await store.neighbourhoods()
    async with opened() as store:
        assert await store.neighbourhoods() == founded
        after = await store.find_or_found(sightings)
        assert [match.neighbourhood for match in after] == before
        assert {match.channel for match in after} == {"digest"}


async def test_an_index_does_not_see_another_ones_sightings(opened: Opener) -> None:
    """Two models in one place share nothing, and the first one's sightings are kept meanwhile."""
    async with opened(index="cifar10@1") as store:
        await store.find_or_found([sighting(1)])
    async with opened(index="gtsrb@1") as store:
        assert await store.neighbourhoods() == 0
        near, same = await store.find_or_found([sighting(2, perceptual=ones(3)), sighting(1, perceptual=ones(1))])
        assert (near.channel, same.neighbourhood.id) == ("", near.neighbourhood.id)
    async with opened(index="cifar10@1") as store:
        assert await store.neighbourhoods() == 1
        (match,) = await store.find_or_found([sighting(2, perceptual=ones(3))])
        assert match.neighbourhood.id == (1).to_bytes(32, "big")


LIMITS = [{}, {"most": 12}, {"seconds": 300_000.0}, {"most": 30, "seconds": 800_000.0}]


@pytest.mark.parametrize(("seed", "limits"), [*((seed, {}) for seed in range(4)), *enumerate(LIMITS[1:])])
async def test_it_follows_the_rule_on_random_crowds(opened: Opener, seed: int, limits: dict[str, Any]) -> None:
    """Over calls of 1 to 64 sightings and a restart, every match is the brute-force rule's, distance included; so is what is forgotten."""
    options = {"most_neighbourhoods": limits.get("most", 10**6), "retention_seconds": limits.get("seconds", 10**9)}
    rng = np.random.default_rng(seed)
    sightings = list(crowd(rng, size=600))
    rule = Rule(perceptual_radius=6, embedding_radius=12, **limits)
    taken: list[str] = []
    for half in (sightings[:300], sightings[300:]):
        async with opened(**options) as store:
            while half:
                size = int(rng.integers(1, 65))
                matches = await store.find_or_found(half[:size])
                assert matches == [rule.find_or_found(new) for new in half[:size]]
                rule.forget()
                taken += [match.channel for match in matches]
                half = half[size:]  # noqa: PLW2901
            assert await store.neighbourhoods() == len(rule.founders)
    assert set(taken) == {"digest", "perceptual", "embedding", ""}


async def test_the_oldest_are_forgotten_a_bounded_number_a_call(opened: Opener) -> None:
    """A limit that is lowered is reached by and by, the oldest first; who joined a forgotten neighbourhood is new again."""
    codes = np.random.default_rng(0).integers(0, 2**63, 400)
    images = [sighting(n, perceptual=int(code)) for n, code in enumerate(codes)]
    async with opened() as store:
        await store.find_or_found([*images, sighting(1000, perceptual=int(codes[0]) ^ 1)])
    async with opened(most_neighbourhoods=50) as store:
        for at in range(4):
            (last,) = await store.find_or_found([images[-1 - at]])
            assert last.channel == "digest"
        assert await store.neighbourhoods() == 50
        joiner, oldest, kept = await store.find_or_found([sighting(1000, perceptual=int(codes[0]) ^ 1), images[0], images[-50]])
        assert (joiner.channel, oldest.channel, kept.channel) == ("", "perceptual", "digest")
        assert oldest.neighbourhood == joiner.neighbourhood


async def test_what_is_much_older_than_the_newest_is_forgotten(opened: Opener) -> None:
    """The age that counts is that of founding, and only founding moves it."""
    async with opened(retention_seconds=500.0) as store:
        await store.find_or_found([sighting(1, time=0.0), sighting(2, perceptual=ones(20), time=400.0)])
        (joined,) = await store.find_or_found([sighting(3, perceptual=ones(1), time=900.0)])
        assert joined.neighbourhood.id[-1] == 1
        await store.find_or_found([sighting(4, perceptual=ones(40), time=600.0)])
        assert await store.neighbourhoods() == 2
        again, kept = await store.find_or_found([sighting(1, time=600.0), sighting(2, perceptual=ones(20), time=600.0)])
        assert (again.channel, kept.channel) == ("", "digest")


async def test_the_audit_log_is_one_chain_across_restarts(opened: Opener) -> None:
    """Records count from 1 without a gap, verify from the first to the last, and can be read in pages from either end."""
    async with opened() as store:
        await store.append_audit([entry("anna", 1), entry("ben", 2)])
    async with opened(index="gtsrb@1") as store:
        await store.append_audit([entry("anna", 3)])
        records = await store.audit()
        assert [(record.sequence, record.body) for record in records] == [(n, b'{"n":%d}' % n) for n in (1, 2, 3)]
        assert verify(KEY, records) is None
        assert await store.audit(after=1, limit=1) == records[1:2]
        assert await store.audit(limit=2, newest=True) == [records[2], records[1]]


async def test_summaries_add_up_and_come_busiest_first(opened: Opener) -> None:
    """A client's counts grow with each entry, over calls and restarts; times are the first and the last."""
    async with opened() as store:
        await store.append_audit([entry("ben", 4, flagged=True), entry("anna", 5, altered=True), entry("anna", 3, near_duplicate=True)])
    async with opened() as store:
        await store.append_audit([entry("anna", 9, flagged=True)])
        assert await store.clients() == [
            ClientSummary("anna", queries=3, flagged=1, near_duplicates=1, altered=1, first_seen=3.0, last_seen=9.0),
            ClientSummary("ben", queries=1, flagged=1, near_duplicates=0, altered=0, first_seen=4.0, last_seen=4.0),
        ]
        assert [summary.client for summary in await store.clients(limit=1)] == ["anna"]


async def test_an_operators_event_is_chained_and_nobodys(opened: Opener) -> None:
    """An entry without a client is a record like any other, and no client's query."""
    async with opened() as store:
        await store.append_audit([entry("", 1), entry("anna", 2)])
        records = await store.audit()
        assert (len(records), verify(KEY, records)) == (2, None)
        assert [(summary.client, summary.queries) for summary in await store.clients()] == [("anna", 1)]


async def test_a_closed_store_says_so(opened: Opener) -> None:
    """Closing twice is fine; asking after that is a StoreError."""
    async with opened() as store:
        await store.close()
        with pytest.raises(StoreError, match="closed"):
            await store.neighbourhoods()
