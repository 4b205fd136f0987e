"""The policy changes on running servers: at once, for everybody, without a failed request, and on the record."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.pictures import jpeg, ship, smooth_noise
from tests.redis_server import RunningRedis
from tests.server import RunningServer

PICTURE = jpeg(ship(seed=1))
POLICY = "/admin/v1/policy"


def tell(server: RunningServer, method: str, path: str = POLICY, *, json: Any = None, **headers: str) -> httpx.Response:
    """Say something to the admin port."""
    authorization = {"authorization": f"Bearer {server.admin_token}"}
    return httpx.request(method, f"{server.admin_url}{path}", json=json, headers=authorization | headers, timeout=30)


def change(server: RunningServer, **said: Any) -> dict[str, Any]:
    """Change the policy; returns what is in force then."""
    answer = tell(server, "PUT", json=said)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def ask(server: RunningServer, image: bytes = PICTURE, *, key: str | None = None) -> list[dict[str, Any]]:
    """The predictions for a picture."""
    headers = {"content-type": "image/jpeg"} | ({"authorization": f"Bearer {key}"} if key else {})
    answer = httpx.post(f"{server.url}/predict", content=image, headers=headers, timeout=30)
    assert answer.status_code == 200, answer.text
    predictions: list[dict[str, Any]] = answer.json()["predictions"]
    return predictions


@contextmanager
def asked_all_the_while(server: RunningServer, *, clients: int = 4) -> Iterator[list[int]]:
    """Ask from several threads until the block ends; the statuses of all answers."""
    statuses: list[int] = []
    over = threading.Event()
    images = [jpeg(smooth_noise(seed=seed)) for seed in range(4)] + [PICTURE]

    def keep_asking(place: int) -> None:
        with httpx.Client(timeout=60) as client:
            while not over.is_set():
                image = images[(place + len(statuses)) % len(images)]
                statuses.append(client.post(f"{server.url}/predict", content=image, headers={"content-type": "image/jpeg"}).status_code)

    with ThreadPoolExecutor(clients) as threads:
        asking = [threads.submit(keep_asking, place) for place in range(clients)]
        try:
            yield statuses
        finally:
            over.set()
        for each in asking:
            each.result()


def events(server: RunningServer) -> list[dict[str, Any]]:
    """What operators did, from the audit log, oldest first."""
    records = server.admin("/admin/v1/audit?limit=1000").json()["records"]
    return [record for record in records if record.get("event") == "policy"]


def test_changes_count_at_once_and_no_request_fails(start: Callable[..., RunningServer]) -> None:
    """Under load, from all defences to none and back, and to another number of classes, without a restart."""
    server = start("--set", "suspicion.mode=off")
    assert len(ask(server)) == 3
    changes: list[tuple[dict[str, Any], int]] = [
        ({"settings": {"truncation": {"top_k": 1}}}, 1),
        ({"profile": "open"}, 10),
        ({"profile": "balanced", "settings": {"truncation": {"top_k": 5}}}, 5),
        ({"profile": "strict", "shadow": True}, 5),
        ({"profile": "truncate"}, 3),
    ]
    with asked_all_the_while(server) as statuses:
        for version, (said, entries) in enumerate(changes, start=1):
            told = change(server, **said)
            assert told["version"] == version
            assert len(ask(server)) == entries
            enough = len(statuses) + 10
            while len(statuses) < enough:
                time.sleep(0.01)
    assert set(statuses) == {200}
    assert server.metric("cloneguard_policy_version") == 5
    assert server.metric("cloneguard_build_info", profile="truncate") == 1


def test_a_candidate_is_counted_promoted_taken_back_and_survives_a_restart(start: Callable[..., RunningServer]) -> None:
    """Each step is a version, in the history and once in the audit log, whose chain holds."""
    server = start("--set", "suspicion.mode=off")
    images = [jpeg(smooth_noise(seed=seed)) for seed in range(6)]
    before = [ask(server, image) for image in images]
    told = change(server, settings={"truncation": {"labels_only": True}}, shadow=True, comment="do they need scores?")
    assert (told["stage"], told["live_version"], told["candidate"]["version"]) == ("shadow", 0, 1)
    assert told["settings"]["truncation"]["labels_only"] is False
    assert [ask(server, image) for image in images] == before
    assert server.metric("cloneguard_candidate_answers_total", outcome="other_scores") == 6
    assert server.admin(POLICY).json()["candidate"]["answers"] == {"same": 0, "other_label": 0, "other_scores": 6}
    assert server.metric("cloneguard_store_neighbourhoods") == 6

    assert tell(server, "POST", f"{POLICY}/promote", origin=server.admin_url).json()["live_version"] == 2
    assert "score" not in ask(server)[0]
    server.restart()
    give_up = time.monotonic() + 10
    while "policy   version 2 in force" not in server.log_text():  # said right after it is ready
        assert time.monotonic() < give_up
        time.sleep(0.05)
    assert "score" not in ask(server)[0]
    told = tell(server, "POST", f"{POLICY}/rollback", json={"comment": "they do"}).json()
    assert (told["version"], told["settings"]["truncation"]["labels_only"]) == (3, False)
    assert [ask(server, image) for image in images] == before

    history = server.admin(f"{POLICY}/history").json()["versions"]
    assert [version["version"] for version in history] == [3, 2, 1]
    assert [version["comment"] for version in history] == ["they do", "", "do they need scores?"]
    assert [(event["version"], event["stage"], event["by"]) for event in events(server)] == [
        (1, "shadow", "admin"), (2, "live", "admin"), (3, "live", "admin"),
    ]  # fmt: skip
    assert events(server)[1]["change"] == {"truncation.labels_only": [False, True]}
    assert {row["client"] for row in server.admin("/admin/v1/clients").json()["clients"]} == {"127.0.0.1"}
    server.terminate()
    command = [sys.executable, "-m", "app", "audit", "--state", str(server.state)]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (checked.returncode, checked.stdout) == (0, "23 records, each fits the one before it\n")


def test_what_makes_no_sense_or_comes_from_elsewhere_is_refused(server: RunningServer) -> None:
    """One line each, without a new version: a bad value, a stale version, no token, another site's page, a form."""
    refused = tell(server, "PUT", json={"settings": {"truncation": {"top_k": 0}}})
    assert refused.status_code == 422
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.json()["detail"] == "truncation.top_k: Input should be greater than or equal to 1"
    senseless: list[Any] = [{"settings": {"admin": {"token": "x"}}}, {"setings": {}}, {"profile": "fortress"}, [], {"settings": {"ood": 1}}]
    for body in senseless:
        assert tell(server, "PUT", json=body).status_code == 422
    said = {"settings": {"truncation": {"top_k": 1}}}
    assert tell(server, "PUT", json={**said, "expected": 3}).status_code == 409
    assert tell(server, "POST", f"{POLICY}/promote").status_code == 409
    assert tell(server, "POST", f"{POLICY}/rollback").status_code == 409
    assert httpx.put(f"{server.admin_url}{POLICY}", json=said).status_code == 401
    for origin in ("http://evil.example", "null", f"http://127.0.0.1:{server.port}"):
        for method, path in (("PUT", POLICY), ("POST", f"{POLICY}/promote"), ("POST", f"{POLICY}/rollback")):
            assert tell(server, method, path, json={}, origin=origin).status_code == 403
    form = {"authorization": f"Bearer {server.admin_token}", "content-type": "text/plain"}
    assert httpx.put(f"{server.admin_url}{POLICY}", content=b"{}", headers=form).status_code == 415
    assert tell(server, "PUT", json={"comment": "x" * 70_000}).status_code == 413
    assert server.admin(POLICY).json()["version"] == 0


def test_two_servers_on_one_redis_follow_each_other(start: Callable[..., RunningServer], tmp_path: Path) -> None:
    """Within two seconds of idle machine, each version recorded once for both."""
    with RunningRedis(tmp_path / "redis") as redis:
        one, other = (start("--profile", "truncate", "--store", redis.url, state=tmp_path / "state") for _ in range(2))
        for top_k, (changing, following) in enumerate([(one, other), (other, one)], start=1):
            change(changing, settings={"truncation": {"top_k": top_k}})
            give_up = time.monotonic() + 60
            while following.metric("cloneguard_policy_version") != top_k and time.monotonic() < give_up:
                time.sleep(0.05)
            assert len(ask(following)) == len(ask(changing)) == top_k
            told = httpx.get(f"{following.url}/v2/models/cifar10").json()
            assert [tensor["shape"] for tensor in told["outputs"]] == [[-1, top_k]] * 3
        assert tell(one, "PUT", json={"expected": 1}).status_code == 409
        for server in (one, other):
            assert [event["version"] for event in events(server)] == [1, 2]
            server.terminate()


def test_accounts_are_answered_under_their_own_profiles(start: Callable[..., RunningServer]) -> None:
    """Whatever the policy for everyone is, and in one micro-batch with everyone."""
    server = start("--profile", "truncate", "--set", "accounts.anonymous=allow")
    command = [sys.executable, "-m", "app", "keys", "create", "--state", str(server.state), "--profile"]
    keys: list[str | None] = [
        subprocess.run([*command, profile, profile], capture_output=True, text=True, timeout=120, check=True).stdout.strip()
        for profile in ("open", "strict")
    ]
    give_up = time.monotonic() + 60
    while server.metric("cloneguard_audit_records_total") < 2 and time.monotonic() < give_up:
        time.sleep(0.05)
    change(server, settings={"truncation": {"top_k": 2}})
    with ThreadPoolExecutor(12) as threads:
        asked = list(threads.map(lambda key: len(ask(server, key=key)), [*keys, None] * 4))
    assert asked == [10, 1, 2] * 4
    change(server, settings={"limits": {"per_minute": 0}})
    assert httpx.post(f"{server.url}/predict", content=PICTURE, headers={"content-type": "image/jpeg"}, timeout=30).status_code == 429
