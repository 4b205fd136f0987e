"""The secrets of a deployment: given by the environment, or made on first start and kept under the state directory."""

import hmac
import os
import secrets
from pathlib import Path

from pydantic import SecretStr


class SecretError(Exception):
    """A secret is unreadable, or too short to be one."""


def load_or_create(state: Path, name: str, given: SecretStr | None) -> bytes:
    """The secret `name` as bytes: `given`, or the content of STATE/NAME, which is made with mode 0600 when absent.

    Two processes that start at once agree: whoever links the file first wins. Raises SecretError.
    """
    if given is not None:
        secret = given.get_secret_value().encode()
    else:
        path = state / name
        try:
            state.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not path.exists():
                create_once(path, secrets.token_urlsafe(32))
            secret = path.read_bytes().strip()
        except OSError as error:
            raise SecretError(f"can't keep the secret {path}: {error.strerror}") from error
    if len(secret) < 16:
        raise SecretError(f"the secret {name!r} has {len(secret)} bytes; at least 16 are needed")
    return secret


def derive(secret: bytes, purpose: str) -> bytes:
    """A key of its own for each purpose, so that knowing one tells nothing about the others."""
    return hmac.digest(secret, b"cloneguard:" + purpose.encode(), "sha256")


def create_once(path: Path, text: str) -> bool:
    """Make a private file, or return False where there is one already: another process was first, and its text counts.

    Written beside, then linked: the file appears complete, and never over another's. Raises OSError.
    """
    partial = path.with_name(f"{path.name}.{secrets.token_hex(8)}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(partial, path)
    except FileExistsError:
        return False
    finally:
        partial.unlink()
    return True
