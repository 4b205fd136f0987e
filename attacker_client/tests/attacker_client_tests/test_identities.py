"""Identities are what the endpoint can tell apart, or an error that says what is missing."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from attacker_client.identities import identities
from attacker_client.oracle import Oracle

from .conftest import Message, answer, serving

LOOPBACK = "http://127.0.0.1:8000"


class Sources:
    """An endpoint that remembers who asked: source address, and the headers that claim one."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str | None, str | None]] = []

    async def __call__(self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]) -> None:
        while (await receive()).get("more_body", False):
            pass
        headers: dict[bytes, Any] = dict(scope["headers"])
        self.seen.append(
            (scope["client"][0], *(headers.get(name, b"").decode() or None for name in (b"authorization", b"x-forwarded-for")))
        )
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": answer(("cat", 3, 1.0)).body})


@pytest.mark.anyio
async def test_the_server_sees_them() -> None:
    """Keys and source addresses arrive as they were made, and claimed ones where they are trusted: uvicorn believes 127.0.0.1."""
    endpoint = Sources()
    with serving(endpoint) as url:
        for who in (
            identities(2, url=url, api_keys=["k-1", "k-2"]),
            identities(2, url=url, forwarded_for=True),
            identities(2, url=url),
            identities(1, url=url),
        ):
            for identity in who:
                async with Oracle(url, headers=identity.headers, local_address=identity.local_address) as oracle:
                    await oracle.ask(b"image")
    assert endpoint.seen == [
        ("127.0.0.1", "Bearer k-1", None),
        ("127.0.0.1", "Bearer k-2", None),
        ("198.18.0.1", None, "198.18.0.1"),
        ("198.18.0.2", None, "198.18.0.2"),
        ("127.0.0.2", None, None),
        ("127.0.0.3", None, None),
        ("127.0.0.1", None, None),
    ]


def test_names_differ_and_keep_keys() -> None:
    """Every identity has its own name, which doesn't tell its key."""
    names = [identity.name for identity in identities(3, url=LOOPBACK, api_keys=["secret-a", "secret-b", "secret-c"])]
    assert len(set(names)) == 3
    assert "secret" not in "".join(names)
    assert len({identity.name for identity in identities(1000, url=LOOPBACK)}) == 1000


def test_one_key_goes_with_claimed_addresses() -> None:
    """Where a key is needed, all claimed addresses use it."""
    assert [dict(i.headers) for i in identities(2, url=LOOPBACK, api_keys=["k"], forwarded_for=True)] == [
        {"X-Forwarded-For": f"198.18.0.{n}", "Authorization": "Bearer k"} for n in (1, 2)
    ]


@pytest.mark.parametrize(
    ("count", "options", "text"),
    [
        (3, {"url": LOOPBACK, "api_keys": ["a", "b"]}, "3 identities need 3 API keys, and 2 are given"),
        (2, {"url": LOOPBACK, "api_keys": ["a"]}, "1 is given"),
        (2, {"url": "http://10.0.0.1"}, "need 2 API keys"),
        (2, {"url": "http://[::1]:80"}, "need 2 API keys"),
        (2, {"url": LOOPBACK, "api_keys": ["a", "b"], "forwarded_for": True}, "one key at most"),
        (200_000, {"url": LOOPBACK, "forwarded_for": True}, "more than"),
    ],
)
def test_more_than_can_be_made(count: int, options: dict[str, Any], text: str) -> None:
    """Too many identities are refused, with what is missing."""
    with pytest.raises(ValueError, match=text):
        identities(count, **options)


def test_a_key_is_one_line() -> None:
    """A line break in a key, as a file may end with, would begin another header."""
    with pytest.raises(ValueError, match="one line"):
        identities(1, url=LOOPBACK, api_keys=["secret\n"])
