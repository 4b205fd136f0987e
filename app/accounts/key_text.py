"""The text of a key: `cg_<key id>_<256 random bits>_<checksum>`, as `grep -E 'cg_[0-9a-z]{10}_[0-9A-Za-z]{43}_[0-9A-Za-z]{6}'` finds it.

The checksum refuses typing errors and guesses before anything is looked up, and lets a scanner of leaked keys tell ours from noise.
"""

import hmac
import re
import secrets
import string
import zlib
from typing import Final

ALPHABET: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase
SECRET_LETTERS: Final = 43  # 62**43 > 2**256
CHECKSUM_LETTERS: Final = 6  # 62**6 > 2**32
PATTERN: Final = re.compile(r"cg_([0-9a-z]{10})_[0-9A-Za-z]{43}_[0-9A-Za-z]{6}", re.ASCII)


def new_key() -> tuple[str, str]:
    """A key's id and its text, from the system's random generator."""
    key_id = "".join(secrets.choice(string.digits + string.ascii_lowercase) for _ in range(10))
    body = f"cg_{key_id}_{_letters(secrets.randbits(256), SECRET_LETTERS)}"
    return key_id, f"{body}_{checksum_of(body)}"


def id_in(text: str) -> str | None:
    """The id of a well-formed key, or None."""
    found = PATTERN.fullmatch(text)
    if found is None:
        return None
    body, _, checksum = text.rpartition("_")
    return found[1] if checksum == checksum_of(body) else None


def checksum_of(body: str) -> str:
    """The last part of a key, which anybody can compute from the others."""
    return _letters(zlib.crc32(body.encode()), CHECKSUM_LETTERS)


def digest_of(text: str, *, pepper: bytes) -> str:
    """What is kept of a key: HMAC-SHA256 in hexadecimal, worthless without the deployment's secret."""
    return hmac.digest(pepper, text.encode(), "sha256").hex()


def _letters(number: int, length: int) -> str:
    letters = []
    for _ in range(length):
        number, digit = divmod(number, len(ALPHABET))
        letters.append(ALPHABET[digit])
    assert number == 0
    return "".join(reversed(letters))
