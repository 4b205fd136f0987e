"""The admin port: metrics for all, the rest for the token's owner, and audit records that chain."""

import base64
import sqlite3
import subprocess
import sys
from collections.abc import Callable

import httpx
import orjson
import pytest

from app.keys import derive
from defenses.stores.chain import verify
from defenses.stores.protocol import AuditRecord
from tests.pictures import jpeg, ship
from tests.server import RunningServer

ROUTES = ("/admin/v1/clients", "/admin/v1/policy", "/admin/v1/audit", "/admin/ui")


@pytest.mark.parametrize("route", ROUTES)
def test_the_token_opens_and_nothing_else_does(server: RunningServer, route: str) -> None:
    """Bearer or Basic with the token: 200; without, with garbage, or as another user: 401."""
    url, token = f"{server.admin_url}{route}", server.admin_token
    assert server.admin(route).status_code == 200
    assert httpx.get(url, auth=("admin", token)).status_code == 200
    garbage = base64.b64encode(b"\xff\xfe").decode()
    for headers in ({}, {"authorization": "Bearer x"}, {"authorization": f"Basic {garbage}"}, {"authorization": token}):
        refused = httpx.get(url, headers=headers)
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"].startswith("Basic")
    assert httpx.get(url, auth=("root", token)).status_code == 401


@pytest.mark.parametrize("route", ROUTES)
def test_another_host_name_is_refused(server: RunningServer, route: str) -> None:
    """A page whose name was rebound to this machine can't read the admin port."""
    headers = {"host": "evil.example", "authorization": f"Bearer {server.admin_token}"}
    assert httpx.get(f"{server.admin_url}{route}", headers=headers).status_code == 400


def test_metrics_need_no_token(server: RunningServer) -> None:
    """Prometheus scrapes under any host name."""
    answer = httpx.get(f"{server.admin_url}/metrics", headers={"host": "server:8001"})
    assert answer.status_code == 200
    assert "cloneguard_build_info" in answer.text


def test_an_answered_query_is_in_the_audit_log(server: RunningServer) -> None:
    """Who, when, which request, what was found and done; never pixels or scores."""
    asked = httpx.post(f"{server.url}/predict", content=jpeg(ship(seed=8)), headers={"content-type": "image/jpeg"}).json()
    newest = server.admin("/admin/v1/audit?limit=1&order=newest").json()["records"][0]
    assert newest["request_id"] == asked["id"]
    assert newest["client"] == "127.0.0.1"
    assert {"time", "query", "neighbourhood", "findings", "action", "answer", "link"} <= set(newest)


def test_the_audit_log_chains_and_pages(server: RunningServer) -> None:
    """Every record links to the one before it under a key that only this deployment has."""
    for seed in range(20, 25):
        httpx.post(f"{server.url}/predict", content=jpeg(ship(seed=seed)), headers={"content-type": "image/jpeg"})
    records: list[AuditRecord] = []
    after = 0
    while page := server.admin(f"/admin/v1/audit?after={after}&limit=3").json()["records"]:
        for record in page:
            link, sequence = bytes.fromhex(record.pop("link")), record.pop("sequence")
            records.append(AuditRecord(sequence, orjson.dumps(record, option=orjson.OPT_SORT_KEYS), link))
        after = records[-1].sequence
    assert len(records) >= 5
    key = derive((server.state / "secret").read_bytes().strip(), "audit")
    assert verify(key, records) is None
    broken = [*records]
    broken[2] = AuditRecord(broken[2].sequence, broken[2].body.replace(b"127.0.0.1", b"127.0.0.9"), broken[2].link)
    assert verify(key, broken) == broken[2].sequence


def test_the_chain_is_checked_from_the_command_line(start: Callable[..., RunningServer]) -> None:
    """Intact after a stop; a record that somebody rewrote in the file is named; a running service is left alone."""
    server = start()
    for seed in range(3):
        httpx.post(f"{server.url}/predict", content=jpeg(ship(seed=seed)), headers={"content-type": "image/jpeg"})
    command = [sys.executable, "-m", "app", "audit", "--state", str(server.state)]
    assert subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 3  # in use
    server.terminate()
    checked = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (checked.returncode, checked.stdout) == (0, "3 records, each fits the one before it\n")
    with sqlite3.connect(server.state / "cloneguard.db") as file:
        file.execute("UPDATE audit SET body = replace(body, '127.0.0.1', '127.0.0.9') WHERE sequence = 2")
    file.close()
    checked = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert checked.returncode == 1
    assert checked.stderr.startswith("record 2 ")


def test_clients_are_summed_up(server: RunningServer) -> None:
    """What each client asked, and what was found."""
    before = {row["client"]: row["queries"] for row in server.admin("/admin/v1/clients").json()["clients"]}
    httpx.post(f"{server.url}/predict", content=jpeg(ship(seed=9)), headers={"content-type": "image/jpeg"})
    after = {row["client"]: row["queries"] for row in server.admin("/admin/v1/clients").json()["clients"]}
    assert after["127.0.0.1"] == before.get("127.0.0.1", 0) + 1


def test_the_policy_tells_everything_but_secrets(server: RunningServer) -> None:
    """Profile, model and settings as they are in force."""
    answer = server.admin("/admin/v1/policy")
    assert answer.json()["profile"] == "balanced"
    assert answer.json()["settings"]["ood"]["mode"] == "enforce"
    secrets = [(server.state / name).read_text().strip() for name in ("secret", "admin-token")]
    assert not any(secret in answer.text for secret in secrets)


def test_the_page_allows_no_other_origin(server: RunningServer) -> None:
    """One file under a strict policy, with a fresh nonce each time."""
    first, second = server.admin("/admin/ui"), server.admin("/admin/ui")
    policy = first.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert policy != second.headers["content-security-policy"]
    assert "{{nonce}}" not in first.text
    assert "http://" not in first.text.replace("http://www.w3.org", "")
