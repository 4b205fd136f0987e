"""Records of founders as bytes."""

import struct
from dataclasses import replace

import pytest

from defenses.stores.packing import NO_CHECK, Founder, check_of, pack, unpack
from defenses.vocabulary import ClientRecord, Neighbourhood
from tests.defenses.stores.rule import sighting


def sealed(record: bytes) -> bytes:
    """The record as the script completes it, for a client that nobody knew."""
    return NO_CHECK + check_of(NO_CHECK, record[24:]) + record[24:]


@pytest.mark.parametrize("embedding", [None, 2**127 + 5])
def test_a_record_says_what_was_founded(embedding: int | None) -> None:
    """Codes, facts, time and a client of any alphabet come back as they were; no code stays no code."""
    new = replace(sighting(7, perceptual=3, embedding=embedding, client="2001:db8::7 Łódź", flagged=True, time=1.25), top_classes=(42, 3))
    home = Neighbourhood(new.digest, new.client, flagged=True, top_classes=(42, 3), record=ClientRecord())
    record = sealed(pack(new))
    assert unpack(record) == Founder(record[12:24], new.perceptual, new.embedding, 1.25, home)


def test_no_changed_bit_goes_unnoticed() -> None:
    """A record with any bit changed, a shorter and a longer one are none."""
    record = sealed(pack(sighting(7, embedding=9)))
    for at in range(len(record)):
        assert unpack(record[:at] + bytes([record[at] ^ 1]) + record[at + 1 :]) is None
    assert [unpack(other) for other in (None, b"", record[:-1], record + b"!", b"\xff" * len(record))] == [None] * 5


def test_the_offsets_are_the_scripts() -> None:
    """What `founders.lua` reads at fixed places stands there: digest, flag, counts, time, width of the code."""
    record = pack(sighting(7, embedding=9, flagged=True, time=2.5))
    assert record[24:32] == bytes(8)
    assert record[32:64] == (7).to_bytes(32, "big")
    assert (record[64], record[89]) == (1, 16)
    assert struct.unpack(">IId", record[73:89]) == (0, 0, 2.5)
