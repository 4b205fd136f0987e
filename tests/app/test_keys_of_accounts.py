"""The text of a key: greppable, checked before it is looked up, and never kept."""

import re

import pytest

from app.accounts.key_text import ALPHABET, digest_of, id_in, new_key

SCANNERS = re.compile(r"cg_[0-9a-z]{10}_[0-9A-Za-z]{43}_[0-9A-Za-z]{6}")  # as the documentation gives it


def test_keys_differ_and_can_be_searched_for() -> None:
    """A pattern finds them in any text; id and secret are drawn anew each time."""
    keys = [new_key() for _ in range(200)]
    assert len({key_id for key_id, _ in keys}) == len({text for _, text in keys}) == 200
    for key_id, text in keys:
        assert SCANNERS.findall(f'export KEY="{text}"; # {key_id}') == [text]
        assert id_in(text) == key_id


def test_a_secret_has_256_bits() -> None:
    """Every letter of the secret but the first takes every value."""
    secrets = [text.split("_")[2] for _, text in (new_key() for _ in range(3000))]
    assert all({secret[place] for secret in secrets} == set(ALPHABET) for place in range(1, 43))


def test_every_typing_error_is_seen_without_a_lookup() -> None:
    """One letter changed, two exchanged, one missing or added: the checksum refuses them all."""
    _, text = new_key()
    wrong = {text[:i] + letter + text[i + 1 :] for i in range(3, len(text)) for letter in "aZ7"}
    wrong |= {text[:i] + text[i + 1] + text[i] + text[i + 2 :] for i in range(3, len(text) - 1)}
    wrong |= {text[:i] + text[i + 1 :] for i in range(len(text))} | {f"{text}x", f" {text}", f"{text}\n", text.upper(), ""}
    assert [one for one in wrong - {text} if id_in(one) is not None] == []


@pytest.mark.parametrize(
    "strange", ["cg_", "cg__", "cg_0123456789_" + "0" * 43 + "_ÿÿÿÿÿÿ", "cg_" + "\uff10" * 10 + "_" + "0" * 43 + "_000000", "x" * 100_000]
)
def test_what_is_no_key_has_no_id(strange: str) -> None:
    """Digits of other scripts and endless texts included."""
    assert id_in(strange) is None


def test_a_digest_needs_the_secret() -> None:
    """Another deployment's digest of the same key is another one, and neither holds the key."""
    _, text = new_key()
    ours, theirs = digest_of(text, pepper=b"a" * 32), digest_of(text, pepper=b"b" * 32)
    assert ours != theirs
    assert len(ours) == 64
    assert text.split("_")[2] not in ours
