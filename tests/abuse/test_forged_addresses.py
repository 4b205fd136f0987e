"""A11: forged addresses and names, and control characters."""

import json
import re
from collections.abc import Callable

import httpx
import pytest

from tests.abuse.audit import records_by_request
from tests.accounts import IMAGE, ask
from tests.server import RunningServer

FORGED = {
    "x-forwarded-for": "198.51.100.1", "forwarded": 'for="198.51.100.1"', "x-real-ip": "198.51.100.1", "true-client-ip": "198.51.100.1",
    "cf-connecting-ip": "198.51.100.1", "x-request-id": "forged", "x-client": "forged", "via": "forged",
}  # fmt: skip
CONTROL = bytes(range(1, 9)) + b"\x0b\x0c\x0e\x1b[31mforged\x7f\x80\xff"


def seen_of(server: RunningServer, answer: httpx.Response) -> str:
    """Who the audit log says has asked."""
    assert answer.status_code == 200, answer.text
    return str(records_by_request(server)[answer.json()["id"]]["client"])


@pytest.mark.abuse
def test_no_header_changes_who_asks(server: RunningServer) -> None:
    """Without trusted proxies a client is the address of its connection; its request id is ours, too."""
    answer = ask(server, headers=FORGED)
    assert seen_of(server, answer) == "127.0.0.1"
    assert "forged" not in answer.text
    clients = {row["client"] for row in server.admin("/admin/v1/clients?limit=1000").json()["clients"]}
    assert not clients & {"198.51.100.1", "forged"}


@pytest.mark.abuse
def test_behind_a_trusted_proxy_only_its_own_word_counts(start: Callable[..., RunningServer]) -> None:
    """What stands left of the address that the proxy saw is its client's invention; garbage is nobody's."""
    server = start("--set", "server.trusted_proxies=127.0.0.0/8", "--set", "suspicion.mode=shadow")
    seen = {
        forwarded: seen_of(server, ask(server, headers={"x-forwarded-for": forwarded}))
        for forwarded in (
            "203.0.113.9",
            "198.51.100.1, 203.0.113.9",
            "alice, 203.0.113.9",
            "2001:db8::1, 203.0.113.9, 127.0.0.9",
            "203.0.113.9, x",
            "",
        )
    }
    assert list(seen.values()) == ["203.0.113.9"] * 4 + ["127.0.0.1"] * 2
    assert seen_of(server, ask(server, headers={**FORGED, "x-forwarded-for": "203.0.113.9"})) == "203.0.113.9"


@pytest.mark.abuse
def test_control_characters_reach_neither_logs_nor_records(start: Callable[..., RunningServer]) -> None:
    """In headers, file names, paths and ids: what the server prints has none, and every record is JSON of printable text."""
    server = start("--set", "suspicion.mode=shadow", "--set", "server.trusted_proxies=127.0.0.1")
    form = b'--b\r\nContent-Disposition: form-data; name="file"; filename="' + CONTROL + b'"\r\nContent-Type: image/jpeg\r\n\r\n'
    body = form + IMAGE + b"\r\n--b--\r\n"
    with httpx.Client(base_url=server.url, timeout=30) as client:
        multipart = client.post("/predict", content=body, headers={"content-type": "multipart/form-data; boundary=b"})
        for name in ("x-forwarded-for", "x-request-id", "user-agent", "x-api-key", "authorization"):
            client.post("/predict", content=IMAGE, headers={b"content-type": b"image/jpeg", name.encode(): b"forged\x1b[31m\xff"})
        client.post("/v2/models/%1b%5b31mforged%0a/infer", json={})
        client.get("/%0d%0aforged%1b")
        client.post("/v2/models/cifar10/infer", json={"id": "\x1b[31mforged\n", "inputs": []})
    assert multipart.status_code in {200, 400}
    written = server.log_text()
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]|forged", written)
    records = server.admin("/admin/v1/audit?limit=1000").json()["records"]
    assert records
    assert not re.search(r"[\x00-\x1f\x7f-\x9f]|\\u00[01]|forged", json.dumps(records))
    assert not re.search("forged", httpx.get(f"{server.admin_url}/metrics").text)
