"""Where sightings belong, once it is known what they are near to: the rule that a store follows in one transaction."""

from collections.abc import Callable, Mapping, Sequence

from defenses.stores.founders import CHANNELS, Kin
from defenses.stores.protocol import FORGETTING, Match, Sighting
from defenses.vocabulary import ClientRecord, Neighbourhood


def decide(
    sightings: Sequence[Sighting],
    *,
    stored: Sequence[Kin | None],
    siblings: Mapping[int, Sequence[Kin]],
    seen: dict[bytes, Neighbourhood],
    records: dict[str, ClientRecord],
    founder: Callable[[int], Neighbourhood],
) -> list[Match]:
    """Join each sighting to the neighbourhood of its digest, else of the oldest founder near it, else of an earlier one in this call.

    `stored` is each sighting's oldest founder, `siblings` those of the call near one another (oldest first), `founder` looks one up
    by its sequence number. `seen` (by digest) and `records` (by client) are brought up to date.
    """
    matches: list[Match] = []
    for at, sighting in enumerate(sightings):
        record = records[sighting.client]
        known, kin = seen.get(sighting.digest), stored[at]
        founding = next((one for one in siblings.get(at, ()) if not matches[one[0]].channel), None)
        if known:
            match = Match(known, "digest", 0, record)
        elif kin:
            match = Match(founder(kin[0]), CHANNELS[kin[1]], kin[2], record)
        elif founding:
            match = Match(matches[founding[0]].neighbourhood, CHANNELS[founding[1]], founding[2], record)
        else:
            home = Neighbourhood(sighting.digest, sighting.client, sighting.flagged, sighting.top_classes, record)
            match = Match(home, "", 0, record)
        seen[sighting.digest] = match.neighbourhood
        matches.append(match)
        records[sighting.client] = after(match, sighting)
    return matches


def after(match: Match, sighting: Sighting) -> ClientRecord:
    """The client's record after this query: only founding, and joining another client's neighbourhood, counts."""
    if match.channel and match.neighbourhood.founder == sighting.client:
        return match.record
    queries, flags = match.record.queries + 1, match.record.flagged + sighting.flagged
    return ClientRecord(queries, flags) if queries < FORGETTING else ClientRecord(queries // 2, flags // 2)
