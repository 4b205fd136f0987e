"""Accounts over real HTTP: keys from the command line beside a running server, quotas, and what is different for each."""

import base64
import json
import re
import time
from collections.abc import Callable, Iterator

import httpx
import pytest

from tests.abuse import FULL
from tests.accounts import IMAGE, ask, new_account, run_keys, until
from tests.server import RunningServer


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with an account that nobody uses: a key is needed."""
    state = tmp_path_factory.mktemp("accounts") / "state"
    with RunningServer(state, "--set", "suspicion.mode=shadow") as running:
        new_account(state, "first")
        until(lambda: ask(running), 401)
        yield running


def known(server: RunningServer, key: str) -> str:
    """The key, once the server follows: what is wrong with the body is told to those who may ask."""
    until(lambda: httpx.post(f"{server.url}/v2/models/nobody/infer", headers={"x-api-key": key}), 404)
    return key


def infer(server: RunningServer, key: str, *, images: int) -> httpx.Response:
    data = [base64.b64encode(IMAGE).decode()] * images
    body = {"inputs": [{"name": "image", "shape": [images], "datatype": "BYTES", "data": data}]}
    return httpx.post(f"{server.url}/v2/models/cifar10/infer", json=body, headers={"x-api-key": key}, timeout=30)


def left(answer: httpx.Response, window: str = "minute") -> int:
    found = re.search(rf'"{window}";r=(\d+);t=\d+', answer.headers["ratelimit"])
    assert found is not None, answer.headers
    return int(found[1])


def test_the_first_account_closes_the_door_to_those_without_a_key(start: Callable[..., RunningServer]) -> None:
    """From then on the client is the account: in the audit log, the metrics and the list of clients; and its making is recorded once."""
    server = start()
    assert ask(server).status_code == 200
    made = run_keys(server.state, "create", "alice", "--profile", "open")
    assert made.returncode == 0, made.stderr
    key = made.stdout.strip()
    assert key not in made.stderr
    refused = until(lambda: ask(server), 401)
    assert refused.headers["www-authenticate"].startswith("Bearer")
    assert refused.headers["content-type"] == "application/problem+json"
    assert ask(server, key).status_code == 200
    assert ask(server, headers={"x-api-key": key}).status_code == 200
    listed = json.loads(run_keys(server.state, "list", "--json").stdout)
    assert [(row["account"], row["profile"], [one["state"] for one in row["keys"]]) for row in listed] == [("alice", "open", ["live"])]
    clients = {row["client"]: row["account"] for row in server.admin("/admin/v1/clients").json()["clients"]}
    assert clients == {"alice": True, "127.0.0.1": False}
    assert server.metric("cloneguard_client_queries_total", client="alice") == 2
    assert server.metric("cloneguard_queries_total", outcome="unauthorized") >= 1
    records = server.admin("/admin/v1/audit?limit=1000").json()["records"]
    assert [record["client"] for record in records if "client" in record][-1] == "alice"
    assert [(record["what"], record["account"]) for record in records if record.get("event") == "accounts"] == [("created", "alice")]


def test_a_key_is_rotated_and_revoked_beside_a_running_server(guarded: RunningServer) -> None:
    """Both live during the overlap; the revoked one is refused, whatever form it comes in; an account can be closed and opened."""
    first = known(guarded, new_account(guarded.state, "rotating"))
    second = run_keys(guarded.state, "rotate", "rotating", "--overlap", "1").stdout.strip()
    until(lambda: ask(guarded, second), 200)
    assert ask(guarded, first).status_code == 200
    assert run_keys(guarded.state, "revoke", "rotating").returncode == 2  # which one?
    assert run_keys(guarded.state, "revoke", first.split("_")[1]).returncode == 0
    until(lambda: ask(guarded, first), 401)
    assert ask(guarded, headers={"x-api-key": first}).status_code == 401
    assert ask(guarded, second).status_code == 200
    assert run_keys(guarded.state, "suspend", "rotating").returncode == 0
    assert until(lambda: ask(guarded, second), 403).headers["content-type"] == "application/problem+json"
    assert ask(guarded, first).status_code == 401
    assert run_keys(guarded.state, "resume", "rotating").returncode == 0
    until(lambda: ask(guarded, second), 200)


def test_a_quota_ends_with_429_and_says_when_to_come_back(guarded: RunningServer) -> None:
    """Its own limits; what is left is told with every answer of the route, refusals and mistakes included."""
    key = known(guarded, new_account(guarded.state, "limited", per_minute=4, per_day=100))
    answers = [ask(guarded, key) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200] * 3
    assert [left(answer) for answer in answers] == [3, 2, 1]
    assert [left(answer, "day") for answer in answers] == [99, 98, 97]
    assert answers[0].headers["ratelimit-policy"] == '"minute";q=4;w=60, "day";q=100;w=86400'
    mistaken = ask(guarded, key, content=b"no image")
    assert (mistaken.status_code, left(mistaken)) == (422, 0)
    refused = ask(guarded, key)
    assert (refused.status_code, left(refused), left(refused, "day")) == (429, 0, 96)
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert "quota" in refused.json()["detail"]
    assert guarded.metric("cloneguard_queries_total", outcome="quota") >= 1


def test_n_images_are_n_queries_all_or_none(guarded: RunningServer) -> None:
    """A request that doesn't fit takes nothing; who has nothing left is refused before the body is looked at."""
    key = known(guarded, new_account(guarded.state, "many", per_minute=5))
    assert left(infer(guarded, key, images=3)) == 2
    refused = infer(guarded, key, images=3)
    assert (refused.status_code, left(refused)) == (429, 2)
    unreadable = httpx.post(
        f"{guarded.url}/v2/models/cifar10/infer", content=b"{", headers={"content-type": "application/json", "x-api-key": key}
    )
    assert (unreadable.status_code, left(unreadable)) == (400, 2)
    assert left(infer(guarded, key, images=2)) == 0
    assert infer(guarded, key, images=1).status_code == 429
    over = httpx.post(
        f"{guarded.url}/v2/models/cifar10/infer", content=b"{", headers={"content-type": "application/json", "x-api-key": key}
    )
    assert over.status_code == 429


@pytest.mark.skipif(not FULL, reason="waits a minute; the same is tested with a clock that can be moved")
def test_who_waits_as_told_is_answered(guarded: RunningServer) -> None:
    """Retry-After is the truth."""
    key = known(guarded, new_account(guarded.state, "patient", per_minute=2))
    assert [ask(guarded, key).status_code for _ in range(3)] == [200, 200, 429]
    time.sleep(int(ask(guarded, key).headers["retry-after"]))
    assert ask(guarded, key).status_code == 200


def test_an_account_may_have_a_profile_of_its_own(guarded: RunningServer) -> None:
    """One is told every class, the others three, at the same time."""
    partner = known(guarded, new_account(guarded.state, "partner", profile="open"))
    other = known(guarded, new_account(guarded.state, "other"))
    assert len(ask(guarded, partner).json()["predictions"]) == 10
    assert len(ask(guarded, other).json()["predictions"]) == 3
    assert run_keys(guarded.state, "change", "other", "--profile", "open").returncode == 0
    assert run_keys(guarded.state, "change", "partner", "--default", "profile", "--per-minute", "0").returncode == 0
    until(lambda: ask(guarded, partner), 429)
    assert len(ask(guarded, other).json()["predictions"]) == 10
    for arguments in ((), ("--profile", "open", "--default", "profile")):
        assert run_keys(guarded.state, "change", "other", *arguments).returncode == 2


def test_a_server_that_starts_later_knows_the_accounts_and_what_they_have_used(start: Callable[..., RunningServer]) -> None:
    """Keys and counts survive kill -9."""
    server = start("--set", "limits.per_minute=2")
    key = known(server, new_account(server.state, "alice"))
    assert ask(server, key).status_code == 200
    server.kill()
    server.restart()
    assert [ask(server, key).status_code for _ in range(2)] == [200, 429]
    assert ask(server).status_code == 401


def test_the_command_line_says_what_is_wrong_in_one_line(guarded: RunningServer) -> None:
    """And exits with 2."""
    for arguments in (("create", "10.0.0.1"), ("rotate", "nobody"), ("change", "nobody", "--per-day", "1")):
        done = run_keys(guarded.state, *arguments)
        assert done.returncode == 2
        assert done.stdout == ""
        assert len(done.stderr.strip().splitlines()) == 1
