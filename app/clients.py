"""Who asks: the account of a key, else an address."""

from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from starlette.requests import HTTPConnection

from app.accounts import Accounts
from app.errors import UnauthorizedError
from app.settings import Anonymous

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address

UNKNOWN = "unknown"  # a peer without an address, as on a Unix socket
FORWARDED_LETTERS = 512  # from the right, where our own proxies write: what is remembered of a header stays small


class Clients:
    """Tell who sends a request, from its head alone: before its body is read."""

    def __init__(self, accounts: Accounts, *, anonymous: Anonymous, trusted_proxies: tuple[Network, ...], ipv6_prefix: int) -> None:
        self._accounts, self._anonymous = accounts, anonymous
        self._proxies, self._ipv6_prefix = trusted_proxies, ipv6_prefix
        self._named = lru_cache(maxsize=4096)(self._name)

    def identify(self, request: HTTPConnection) -> str:
        """The client's name. Raises UnauthorizedError, SuspendedError, or OverloadedError while the accounts can't be read.

        A key that is sent counts, also where none is needed: whoever means to be an account never becomes an address by mistake.
        """
        key = key_in(request.headers.getlist("authorization"), request.headers.getlist("x-api-key"))
        if key is not None:
            return self._accounts.authenticate(key)
        if self._anonymous == "refuse" or (self._anonymous == "auto" and self._accounts.need_keys):
            raise UnauthorizedError
        peer = request.client.host if request.client else UNKNOWN
        return self._named(peer, ",".join(request.headers.getlist("x-forwarded-for"))[-FORWARDED_LETTERS:] if self._proxies else "")

    def _name(self, peer: str, forwarded: str) -> str:
        """An address as a client's name: IPv6 by its network, because a customer has at least that many addresses."""
        address = forwarded_address(peer, forwarded, proxies=self._proxies)
        if address is None:
            return UNKNOWN
        if isinstance(address, IPv6Address):
            return str(ip_network((int(address), self._ipv6_prefix), strict=False))
        return str(address)


def key_in(authorization: list[str], x_api_key: list[str]) -> str | None:
    """The key that a request's headers carry, None where they carry none. Raises UnauthorizedError for anything ambiguous or strange."""
    keys = set(x_api_key)
    for value in authorization:
        scheme, _, credentials = value.partition(" ")
        if scheme.lower() != "bearer":
            raise UnauthorizedError
        keys.add(credentials.strip())
    if len(keys) > 1:
        raise UnauthorizedError
    return keys.pop() if keys else None


def forwarded_address(peer: str, forwarded: str, *, proxies: tuple[Network, ...]) -> Address | None:
    """The right-most address of X-Forwarded-For that no trusted proxy has, if the peer is a trusted proxy; else the peer's.

    What stands left of it, its sender may have made up. If what a proxy forwards is no address, it is the proxy that asks.
    """
    own = last = _address(peer)
    if own is None or not _is_trusted(own, proxies) or not forwarded:
        return own
    for text in reversed(forwarded.split(",")):
        last = _address(text.strip())
        if last is None:
            return own
        if not _is_trusted(last, proxies):
            break
    return last


def _is_trusted(address: Address, proxies: tuple[Network, ...]) -> bool:
    return any(address in network for network in proxies if network.version == address.version)


def _address(text: str) -> Address | None:
    """An address without its zone; IPv4 in IPv6's clothes is IPv4."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        return address.ipv4_mapped or IPv6Address(int(address))
    return address
