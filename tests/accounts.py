"""Accounts for tests: made by the command line as operators do, or quickly."""

import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx

from app.accounts import Account
from app.accounts.command import changed, pepper_of
from app.settings import read_settings
from tests.pictures import jpeg, ship
from tests.server import RunningServer

IMAGE = jpeg(ship(seed=1))
FOLLOWED_SECONDS = 30.0  # servers follow within about one; a busy machine may need more


def run_keys(state: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`cloneguard keys ...` beside a running server."""
    command = [sys.executable, "-m", "app", "keys", *arguments, "--state", str(state)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def new_account(state: Path, name: str, *, store: str = "", **different: Any) -> str:
    """An account's first key, made in this process."""
    settings = read_settings(state=state, store={"url": store})
    pepper, account = pepper_of(settings), Account(created=time.time(), **different)
    return changed(settings, lambda book, act: book.create(name, account, pepper=pepper, act=act))


def ask(
    server: RunningServer, key: str | None = None, *, content: bytes = IMAGE, headers: Mapping[str, str] | None = None
) -> httpx.Response:
    """Ask about the ship, with a key or without."""
    given = {"content-type": "image/jpeg", **(headers or {}), **({"authorization": f"Bearer {key}"} if key else {})}
    return httpx.post(f"{server.url}/predict", content=content, headers=given, timeout=30)


def until(asked: Callable[[], httpx.Response], status: int) -> httpx.Response:
    """Ask until the server follows: the first answer with this status."""
    give_up = time.monotonic() + FOLLOWED_SECONDS
    while (answer := asked()).status_code != status:
        assert time.monotonic() < give_up, f"{answer.status_code} instead of {status}: {answer.text}"
        time.sleep(0.1)
    return answer
