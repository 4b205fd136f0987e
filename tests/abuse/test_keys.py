"""A7: keys that are missing, wrong, over or another's."""

import hmac
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from app.accounts import Account, Accounts, Book
from app.accounts.book import Act
from app.accounts.command import changed, pepper_of
from app.accounts.key_text import new_key
from app.accounts.live import NAME
from app.documents import Document
from app.errors import UnauthorizedError
from app.settings import read_settings
from tests.abuse.audit import records_by_request
from tests.abuse.raw_http import connect, statuses
from tests.accounts import IMAGE, ask, new_account, until
from tests.server import RunningServer

OPEN_ROUTES = (
    "/healthz",
    "/readyz",
    "/v2",
    "/v2/health/live",
    "/v2/health/ready",
    "/v2/models/cifar10",
    "/v2/models/cifar10/ready",
    "/openapi.json",
)
GUARDED_ROUTES = ("/predict", "/v2/models/cifar10/infer", "/v2/models/unknown/infer")
GUARDED_ANSWERS = (400, 415, 404)  # to an empty body: who gets this far is let in
ADMIN_ROUTES = ("/admin/v1/clients", "/admin/v1/policy", "/admin/v1/audit", "/admin/ui")

Keys = dict[str, str]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningServer, Keys]]:
    """A server, and keys in every state."""
    state = tmp_path_factory.mktemp("keys") / "state"
    settings = read_settings(state=state)
    with RunningServer(state, "--set", "suspicion.mode=shadow") as running:
        keys = {name: new_account(state, name) for name in ("alice", "bob", "revoked", "suspended", "rotated", "last")}
        changed(settings, lambda book, act: (book.revoke("revoked", every=True, act=act), None))
        changed(settings, lambda book, act: (book.suspend("suspended", suspended=True, act=act), None))
        new = changed(settings, lambda book, act: book.rotate("rotated", overlap_seconds=1e-3, pepper=pepper_of(settings), act=act))
        until(lambda: ask(running, new), 200)
        keys["garbage"], keys["never made"] = "cg_garbage", new_key()[1]
        keys["admin token"] = running.admin_token
        keys["bob's secret under alice's id"] = "_".join((*keys["alice"].split("_")[:2], *keys["bob"].split("_")[2:]))
        yield running, keys


TABLE = {
    "alice": None, "bob": None, "none": 401, "garbage": 401, "never made": 401, "revoked": 401, "rotated": 401, "suspended": 403,
    "admin token": 401, "bob's secret under alice's id": 401,
}  # fmt: skip


@pytest.mark.abuse
@pytest.mark.parametrize("who", TABLE)
@pytest.mark.parametrize("form", ["Authorization", "X-API-Key"])
def test_every_route_answers_every_key_as_the_table_says(guarded: tuple[RunningServer, Keys], who: str, form: str) -> None:
    """Queries need a live key of an open account; what tells nothing about queries is open; no key opens the operators' port."""
    server, keys = guarded
    value = keys.get(who, "")
    headers = {} if who == "none" else {form: f"Bearer {value}" if form == "Authorization" else value}
    with httpx.Client(headers=headers) as client:
        assert {route: client.get(server.url + route).status_code for route in OPEN_ROUTES} == dict.fromkeys(OPEN_ROUTES, 200)
        refused = TABLE[who]
        for route, let_in in zip(GUARDED_ROUTES, GUARDED_ANSWERS, strict=True):
            content_type = "image/jpeg" if route == "/predict" else "text/plain"
            answer = client.post(server.url + route, headers={"content-type": content_type})
            assert answer.status_code == (refused or let_in), route
            assert answer.headers["content-type"] == "application/problem+json"
            assert ("www-authenticate" in answer.headers) == (answer.status_code == 401)
        if not (who == "admin token" and form == "Authorization"):
            assert {client.get(server.admin_url + route).status_code for route in ADMIN_ROUTES} == {401}


@pytest.mark.abuse
def test_another_s_key_is_another_s_account(guarded: tuple[RunningServer, Keys]) -> None:
    """Who asks with bob's key is bob, whatever else the request says."""
    server, keys = guarded
    answer = ask(
        server, keys["bob"], headers={"x-account": "alice", "x-forwarded-user": "alice", "x-forwarded-for": "alice", "from": "alice"}
    )
    assert records_by_request(server)[answer.json()["id"]]["client"] == "bob"


@pytest.mark.abuse
def test_refusals_tell_nothing_about_what_is_wrong(guarded: tuple[RunningServer, Keys]) -> None:
    """Missing, malformed, unknown, revoked or over: the same answer, byte by byte."""
    server, keys = guarded
    answers = [ask(server)] + [ask(server, keys[who]) for who, status in TABLE.items() if status == 401 and who != "none"]
    assert {(answer.status_code, answer.content) for answer in answers} == {(401, answers[0].content)}


@pytest.mark.abuse
def test_the_key_is_looked_at_before_the_body(guarded: tuple[RunningServer, Keys]) -> None:
    """Who has none is refused while its body is still on the way: nothing of it is waited for."""
    server, _ = guarded
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nConnection: close\r\nContent-Length: 1000000\r\n\r\n"
    with connect(server.port, timeout=10) as connection:  # the server would wait 15 s for the body
        connection.sendall(head + IMAGE[:100])
        assert statuses(connection.recv(65536)) == [401]


@pytest.mark.abuse
def test_comparing_takes_as_long_for_ids_that_do_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    """One HMAC and one comparison in constant time, whether the id exists or not and whatever the secret begins with."""
    compared: list[tuple[int, int]] = []
    constant_time = hmac.compare_digest

    def counted(one: Any, other: Any) -> bool:
        compared.append((len(one), len(other)))
        return constant_time(one, other)

    monkeypatch.setattr("app.accounts.live.hmac.compare_digest", counted)
    book, text = Book().create("alice", Account(created=0.0), pepper=b"p" * 32, act=Act(by="", time=0.0))
    accounts = Accounts(pepper=b"p" * 32)
    accounts.follow(Document(NAME, 1, book.body()))
    with pytest.raises(UnauthorizedError):
        accounts.authenticate(new_key()[1])
    assert accounts.authenticate(text) == "alice"
    assert compared == [(64, 64)] * 2
