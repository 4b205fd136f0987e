"""A founder as Redis keeps it: one packed binary record, which `founders.lua` reads at the same offsets."""

import hashlib
import struct
from dataclasses import dataclass

from defenses.stores.protocol import Sighting
from defenses.vocabulary import ClientRecord, Neighbourhood

NO_CHECK = bytes(12)
# The check of the record before, its own, perceptual hash, digest, flagged, two classes, the client's queries and flagged ones before,
# time, length of the embedding code.
_HEAD = struct.Struct(">12s12s8s32sBiiIIdB")


@dataclass(frozen=True, slots=True)
class Founder:
    """What a record says. `check` seals it and all before it, against damage, not against forgers."""

    check: bytes
    perceptual: bytes
    embedding: bytes
    time: float
    neighbourhood: Neighbourhood


def pack(sighting: Sighting) -> bytes:
    """The record that this sighting founds with; the script fills in the checks and what the client did before."""
    embedding = sighting.embedding
    first, second = sighting.top_classes
    facts = (sighting.perceptual, sighting.digest, sighting.flagged, first, second, 0, 0, sighting.time, len(embedding))
    head = _HEAD.pack(NO_CHECK, NO_CHECK, *facts)
    return head + embedding + sighting.client.encode()


def check_of(previous: bytes, facts: bytes) -> bytes:
    """The check of a record that says `facts` after one whose check is `previous`."""
    return hashlib.sha1(previous + facts, usedforsecurity=False).hexdigest()[:12].encode()


def unpack(record: bytes | None) -> Founder | None:
    """What the record says, or None where it is missing or nothing that this release wrote."""
    if record is None or len(record) < _HEAD.size:
        return None
    _, check, perceptual, digest, flagged, first, second, queries, flags, time, width = _HEAD.unpack_from(record)
    if check_of(record[:12], record[24:]) != check:
        return None
    embedding, client = record[_HEAD.size : _HEAD.size + width], record[_HEAD.size + width :]
    home = Neighbourhood(digest, client.decode(), bool(flagged), (first, second), ClientRecord(queries, flags))
    return Founder(check, perceptual, embedding, time, home)
