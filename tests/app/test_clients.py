"""Who asks is told from a request's head, and nobody chooses to be somebody else."""

from ipaddress import ip_network

import pytest
from starlette.requests import Request

from app.accounts import Account, Accounts, Book
from app.accounts.book import Act
from app.accounts.live import NAME
from app.clients import Clients, Network
from app.documents import Document
from app.errors import SuspendedError, UnauthorizedError
from app.settings import Anonymous, SettingsError, read_settings

PEPPER = b"p" * 32
PROXY = "10.0.0.1"
PROXIES = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))


def clients(
    book: Book | None = None, *, anonymous: Anonymous = "auto", proxies: tuple[Network, ...] = PROXIES, ipv6_prefix: int = 64
) -> Clients:
    accounts = Accounts(pepper=PEPPER)
    accounts.follow(Document(NAME, 1, (book or Book()).body()))
    return Clients(accounts, anonymous=anonymous, trusted_proxies=proxies, ipv6_prefix=ipv6_prefix)


def request(peer: str | None = "192.0.2.7", *headers: tuple[str, str]) -> Request:
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    return Request({"type": "http", "headers": raw, "client": (peer, 50000) if peer is not None else None})


def forwarded(*values: str, peer: str = PROXY) -> Request:
    return request(peer, *(("x-forwarded-for", value) for value in values))


@pytest.fixture(scope="module")
def alice() -> tuple[Book, str]:
    return Book().create("alice", Account(created=0.0), pepper=PEPPER, act=Act(by="root", time=0.0))


def test_a_client_without_a_key_is_its_address() -> None:
    """As long as there is no account."""
    assert clients().identify(request("192.0.2.7")) == "192.0.2.7"


@pytest.mark.parametrize("form", ["Authorization: Bearer {}", "Authorization: bearer {}", "authorization: BEARER  {} ", "X-API-Key: {}"])
def test_a_key_says_which_account_asks(alice: tuple[Book, str], form: str) -> None:
    """In either header; schemes don't mind case."""
    book, text = alice
    name, _, value = form.format(text).partition(": ")
    assert clients(book).identify(request("192.0.2.7", (name.lower(), value))) == "alice"


def test_the_same_key_twice_is_no_contradiction(alice: tuple[Book, str]) -> None:
    """Two different ones are, even if one of them is right."""
    book, text = alice
    both = (("authorization", f"Bearer {text}"), ("x-api-key", text))
    assert clients(book).identify(request("192.0.2.7", *both)) == "alice"
    for headers in (
        (("authorization", f"Bearer {text}"), ("x-api-key", "other")),
        (("x-api-key", text), ("x-api-key", "other")),
        (("authorization", f"Bearer {text}"), ("authorization", "Bearer other")),
        (("authorization", f"Bearer {text}"), ("authorization", "Basic eDp5")),
    ):
        with pytest.raises(UnauthorizedError):
            clients(book).identify(request("192.0.2.7", *headers))


@pytest.mark.parametrize(
    ("anonymous", "there_are_accounts", "is_let_in"),
    [
        ("auto", False, True),
        ("auto", True, False),
        ("allow", False, True),
        ("allow", True, True),
        ("refuse", False, False),
        ("refuse", True, False),
    ],
)
def test_who_may_ask_without_a_key(alice: tuple[Book, str], anonymous: Anonymous, there_are_accounts: bool, is_let_in: bool) -> None:  # noqa: FBT001
    """The setting's table."""
    asked = clients(alice[0] if there_are_accounts else None, anonymous=anonymous)
    if is_let_in:
        assert asked.identify(request("192.0.2.7")) == "192.0.2.7"
    else:
        with pytest.raises(UnauthorizedError):
            asked.identify(request("192.0.2.7"))


@pytest.mark.parametrize("anonymous", ["auto", "allow"])
@pytest.mark.parametrize("value", ["", "Bearer", "Bearer ", "Bearer x y", "Basic eDp5", "\xff\xfe", "Bearer cg_0123456789_x_y"])
def test_a_wrong_key_is_never_an_address(anonymous: Anonymous, value: str) -> None:
    """Also where no key is needed: whoever means to be an account doesn't spend an address's quota by mistake."""
    with pytest.raises(UnauthorizedError):
        clients(anonymous=anonymous).identify(request("192.0.2.7", ("authorization", value)))
    with pytest.raises(UnauthorizedError):
        clients(anonymous=anonymous).identify(request("192.0.2.7", ("x-api-key", value.removeprefix("Bearer"))))


def test_a_suspended_account_is_told_so(alice: tuple[Book, str]) -> None:
    """403, not 401: its key is right."""
    book, text = alice
    with pytest.raises(SuspendedError):
        clients(book.suspend("alice", suspended=True, act=Act(by="root", time=1.0))).identify(request("192.0.2.7", ("x-api-key", text)))


@pytest.mark.parametrize("value", ["198.51.100.1", "127.0.0.1", "alice", "10.0.0.1, 198.51.100.1", "::1"])
def test_nobody_but_a_trusted_proxy_is_believed(value: str) -> None:
    """A11: by default there is none."""
    assert clients(proxies=()).identify(forwarded(value)) == PROXY
    assert clients().identify(forwarded(value, peer="192.0.2.7")) == "192.0.2.7"


@pytest.mark.parametrize(
    ("values", "client"),
    [
        (["198.51.100.1"], "198.51.100.1"),
        (["203.0.113.9, 198.51.100.1"], "198.51.100.1"),  # the left one is what the client claims
        (["203.0.113.9", "198.51.100.1"], "198.51.100.1"),  # two header lines are one list
        (["198.51.100.1, 10.2.2.2, 10.3.3.3"], "198.51.100.1"),  # a chain of our own proxies
        (["198.51.100.1,fd00::5 ,10.3.3.3"], "198.51.100.1"),
        (["10.2.2.2"], "10.2.2.2"),  # our own machines may ask too
        (["2001:db8:1:2:3:4:5:6"], "2001:db8:1:2::/64"),
        (["::ffff:198.51.100.1"], "198.51.100.1"),
        (["198.51.100.1, garbage"], PROXY),
        (["garbage, 198.51.100.1"], "198.51.100.1"),
        (["198.51.100.1, "], PROXY),
        ([""], PROXY),
        (["198.51.100.1\x00"], PROXY),
        (["198.51.100.1:443"], PROXY),
        (["unknown"], PROXY),
        (["," * 10_000], PROXY),
        (["203.0.113.9, " * 1000 + "198.51.100.1"], "198.51.100.1"),
        ([], PROXY),
    ],
)
def test_a_trusted_proxy_says_who_asked_it(values: list[str], client: str) -> None:
    """The right-most address that is none of ours; if there is garbage before it, it is the proxy that asks."""
    assert clients().identify(forwarded(*values)) == client


@pytest.mark.parametrize(
    ("peer", "client"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::9", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("fe80::1%eth0\n{forged}", "fe80::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("not an address", "unknown"),
        (None, "unknown"),
    ],
)
def test_ipv6_clients_are_networks(peer: str | None, client: str) -> None:
    """A /64 belongs to one customer, who would be 2**64 clients otherwise; no zone, and nothing odd, reaches a log."""
    assert clients(proxies=()).identify(request(peer)) == client


def test_the_prefix_can_be_set() -> None:
    """A /56 is what many providers give a household."""
    assert clients(proxies=(), ipv6_prefix=56).identify(request("2001:db8:1:2ff::1")) == "2001:db8:1:200::/56"


def test_no_name_of_an_account_can_be_an_address(alice: tuple[Book, str]) -> None:
    """Identities of both kinds are apart: what an address did is never an account's."""
    book, _ = alice
    assert set(book.accounts).isdisjoint(clients(proxies=()).identify(request(peer)) for peer in ("192.0.2.7", "::1", None))


def test_proxies_are_given_as_one_text_or_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the command line and in the environment separated by commas; host bits are a mistake."""
    assert read_settings(assignments=["server.trusted_proxies=10.0.0.0/8, ::1"]).server.trusted_proxies == (
        ip_network("10.0.0.0/8"),
        ip_network("::1/128"),
    )
    with pytest.raises(SettingsError, match="trusted_proxies"):
        read_settings(assignments=["server.trusted_proxies=10.0.0.1/8"])
    monkeypatch.setenv("CLONEGUARD_SERVER__TRUSTED_PROXIES", "fd00::/8")
    assert read_settings().server.trusted_proxies == (ip_network("fd00::/8"),)
