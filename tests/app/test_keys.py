"""Secrets are made once, kept private, and derived apart."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from app.keys import SecretError, derive, load_or_create


def test_the_first_start_makes_a_private_secret_and_later_starts_read_it(tmp_path: Path) -> None:
    """Mode 0600, and the same bytes for ever."""
    first = load_or_create(tmp_path / "state", "secret", None)
    assert load_or_create(tmp_path / "state", "secret", None) == first
    assert len(first) >= 32
    assert (tmp_path / "state" / "secret").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["secret"]


def test_two_deployments_have_different_secrets(tmp_path: Path) -> None:
    """Made by the system's random generator."""
    assert load_or_create(tmp_path / "a", "secret", None) != load_or_create(tmp_path / "b", "secret", None)


def test_a_given_secret_wins_and_nothing_is_written(tmp_path: Path) -> None:
    """The environment is for deployments that keep secrets elsewhere."""
    assert load_or_create(tmp_path, "secret", SecretStr("x" * 16)) == b"x" * 16
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("weak", ["", "short"])
def test_a_weak_secret_is_refused(tmp_path: Path, weak: str) -> None:
    """Sixteen bytes are the least."""
    with pytest.raises(SecretError, match="at least 16"):
        load_or_create(tmp_path, "secret", SecretStr(weak))


def test_an_unwritable_state_is_one_clear_error(tmp_path: Path) -> None:
    """The message names the file and the reason."""
    (tmp_path / "state").write_text("a file where a directory should be")
    with pytest.raises(SecretError, match="can't keep the secret"):
        load_or_create(tmp_path / "state", "secret", None)


def test_purposes_have_keys_of_their_own() -> None:
    """Knowing the audit key tells nothing about the misrecognition key."""
    assert derive(b"s" * 32, "audit") != derive(b"s" * 32, "misrecognition")
    assert derive(b"s" * 32, "audit") == derive(b"s" * 32, "audit")
