"""Who is marked is keyed by the founder, and one client's key shows nothing of another's."""

import hashlib
import hmac

import pytest

from defenses.keyed import client_key, purpose_key
from defenses.vocabulary import Neighbourhood
from defenses.watermark import Watermark


def found(number: int, founder: str) -> Neighbourhood:
    return Neighbourhood(id=hashlib.sha256(b"%d" % number).digest(), founder=founder, flagged=False, top_classes=(0, 1))


def test_the_share_of_marks_is_the_rate() -> None:
    """Within four standard deviations of 4,000 draws."""
    watermark = Watermark(secret=b"s" * 32, model="m@1", rate=0.02)
    assert sum(watermark.marks(found(number, "alice")) for number in range(4_000)) == pytest.approx(80, abs=36)


def test_two_clients_marks_are_independent() -> None:
    """Of the half that alice's key marks, bob's marks half: each client has a list of his own."""
    watermark = Watermark(secret=b"s" * 32, model="m@1", rate=0.5)
    alice, bob = ({n for n in range(2_000) if watermark.marks(found(n, name))} for name in ("alice", "bob"))
    assert len(alice & bob) == pytest.approx(500, abs=80)


def test_one_clients_key_is_enough_to_check_his_marks() -> None:
    """HKDF-Expand (RFC 5869) of the watermark's key: what a court is shown, without the secret."""
    key = client_key(purpose_key(b"s" * 32, "watermark", "m@1"), "alice")
    watermark = Watermark(secret=b"s" * 32, model="m@1", rate=0.3)
    for number in range(50):
        first = hmac.digest(key, found(number, "alice").id, "sha256")[:8]
        assert watermark.marks(found(number, "alice")) == (int.from_bytes(first, "big") < 0.3 * 2**64)


def test_a_client_key_is_hkdf_expand() -> None:
    """The first 32 bytes of RFC 5869, test case 3, whose info is empty."""
    prk3 = bytes.fromhex("19ef24a32c717b167f33a91d6f648bdf96596776afdb6377ac434c1c293ccb04")
    assert client_key(prk3, "").hex() == "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d"
