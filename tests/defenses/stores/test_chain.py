"""The audit chain."""

import hashlib
import hmac

import numpy as np
import pytest

from defenses.stores.chain import GENESIS, link, verify
from defenses.stores.protocol import AuditRecord

KEY = b"a key"


def log(size: int) -> list[AuditRecord]:
    records: list[AuditRecord] = []
    previous = GENESIS
    for sequence in range(1, size + 1):
        previous = link(KEY, previous, b"body %d" % sequence)
        records.append(AuditRecord(sequence, b"body %d" % sequence, previous))
    return records


def test_a_link_is_the_hmac_of_the_previous_link_and_the_body() -> None:
    """The formula is the published one: HMAC-SHA256(key, previous || body), from 32 zero bytes."""
    assert link(KEY, bytes(32), b"body") == hmac.new(KEY, bytes(32) + b"body", hashlib.sha256).digest()


def test_an_untouched_log_verifies_whole_and_in_pages() -> None:
    """A page verifies from the link and the sequence number before it."""
    records = log(20)
    assert verify(KEY, records) is None
    assert verify(KEY, records[7:], records[6].link, after=7) is None
    assert verify(KEY, []) is None


def test_a_page_out_of_place_is_found() -> None:
    """Without what comes before it, a page is bad from the start."""
    assert verify(KEY, log(20)[7:]) == 1


def test_another_key_verifies_nothing() -> None:
    """The first record is bad under a key that did not write it."""
    assert verify(b"another key", log(3)) == 1


def edited(records: list[AuditRecord], at: int, how: str, rng: np.random.Generator) -> list[AuditRecord]:
    old = records[at]
    bit = int(rng.integers(0, 8))
    match how:
        case "body":
            place = int(rng.integers(len(old.body)))
            body = old.body[:place] + bytes([old.body[place] ^ 1 << bit]) + old.body[place + 1 :]
            return [*records[:at], AuditRecord(old.sequence, body, old.link), *records[at + 1 :]]
        case "link":
            place = int(rng.integers(32))
            changed = old.link[:place] + bytes([old.link[place] ^ 1 << bit]) + old.link[place + 1 :]
            return [*records[:at], AuditRecord(old.sequence, old.body, changed), *records[at + 1 :]]
        case "drop":
            return records[:at] + records[at + 1 :]
        case "drop and renumber":
            rest = [AuditRecord(record.sequence - 1, record.body, record.link) for record in records[at + 1 :]]
            return records[:at] + rest
        case "swap":
            return [*records[:at], records[at + 1], old, *records[at + 2 :]]
        case "insert":
            return [*records[:at], AuditRecord(old.sequence, b"forged", rng.bytes(32)), *records[at:]]
    raise AssertionError(how)


@pytest.mark.parametrize("how", ["body", "link", "drop", "drop and renumber", "swap", "insert"])
def test_every_edit_is_found_and_the_first_bad_record_named(how: str) -> None:
    """A changed, dropped, swapped or inserted record shows at its own sequence number, at any place in the log."""
    rng = np.random.default_rng(13)
    records = log(60)
    for at in rng.integers(0, 59, 170).tolist():
        assert verify(KEY, edited(records, at, how, rng)) == at + 1
