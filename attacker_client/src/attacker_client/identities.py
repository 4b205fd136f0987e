"""Who asks: one thief, looking like several clients."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, ip_address
from urllib.parse import urlsplit

from attacker_client import wire

_CLAIMED = IPv4Network("198.18.0.0/15")  # reserved for benchmarks (RFC 2544): nobody's address is borrowed
_LOOPBACK = IPv4Network("127.0.0.0/8")


@dataclass(frozen=True, slots=True)
class Identity:
    """One client as the endpoint sees it; `name` says which without giving away a key."""

    name: str
    headers: Mapping[str, str]
    local_address: str | None


def identities(count: int, *, api_keys: Sequence[str] = (), url: str, forwarded_for: bool = False) -> list[Identity]:
    """Make `count` identities for the endpoint at `url`, by the first means there is.

    With `forwarded_for` by addresses claimed in X-Forwarded-For, which counts only where the target trusts that header (a key, if there is
    one, goes with them all); with several API keys one a key; on the IPv4 loopback of Linux by source addresses 127.0.0.2, 127.0.0.3, ...,
    which a server that counts clients by address takes for different ones. Raises ValueError where that makes fewer than `count`.
    """
    assert count >= 1
    if forwarded_for:
        if len(api_keys) > 1:
            raise ValueError("identities come from X-Forwarded-For or from API keys: give one key at most with the former")
        key = _authorization(api_keys[0]) if api_keys else {}
        claimed = _addresses(_CLAIMED, first=1, count=count)
        return [Identity(address, {"X-Forwarded-For": address, **key}, None) for address in claimed]
    if api_keys:
        if count > len(api_keys):
            raise ValueError(f"{count} identities need {count} API keys, and {len(api_keys)} {'is' if len(api_keys) == 1 else 'are'} given")
        return [Identity(f"key {row}", _authorization(key), None) for row, key in enumerate(api_keys[:count], start=1)]
    if count == 1:
        return [Identity("self", {}, None)]
    if not _has_many_sources(url):
        raise ValueError(f"{count} identities for {url} need {count} API keys, or X-Forwarded-For where the target trusts it")
    return [Identity(address, {}, address) for address in _addresses(_LOOPBACK, first=2, count=count)]


def _authorization(key: str) -> dict[str, str]:
    if not key.isprintable():
        raise ValueError("an API key is one line of printable characters")
    return {"Authorization": f"Bearer {key}"}


def _addresses(network: IPv4Network, *, first: int, count: int) -> list[str]:
    most = network.num_addresses - 1 - first
    if count > most:
        raise ValueError(f"{count} identities are more than {network} has addresses for ({most})")
    return [str(network.network_address + row) for row in range(first, first + count)]


def _has_many_sources(url: str) -> bool:
    """Linux lets a socket be bound to any address of 127.0.0.0/8."""
    host = urlsplit(url).hostname or ""
    if not sys.platform.startswith("linux") or not wire.is_loopback(url):
        return False
    return host == "localhost" or isinstance(ip_address(host), IPv4Address)
