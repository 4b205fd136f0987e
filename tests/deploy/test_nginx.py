"""The nginx configuration that we ship: valid, and in agreement with the server's own limits."""

import re
import subprocess
from pathlib import Path

import pytest

from app.settings import Settings
from tests.nginx import SHIPPED, command, configured, needs_nginx

SECONDS = {"client_header_timeout": "header_seconds", "client_body_timeout": "body_seconds", "keepalive_timeout": "keep_alive_seconds"}


@pytest.fixture
def directives() -> dict[str, list[str]]:
    """Every directive of cloneguard.conf and its values, one for each time that it is there."""
    text = re.sub(r"(?m)(?:^|\s)#.*$", "", (SHIPPED / "cloneguard.conf").read_text())
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r"(?m)^\s*([a-z_]+)\s+([^;{}]+);", text):
        found.setdefault(name, []).append(value)
    return found


@needs_nginx
def test_nginx_accepts_it(tmp_path: Path) -> None:
    """nginx's own check finds no fault in it, and gives no warning."""
    configured(tmp_path, port=8000, replicas=[8010, 8020])
    found = subprocess.run(command(tmp_path, "-t"), check=False, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert "[warn]" not in found.stderr


def test_limits_are_those_of_the_server(directives: dict[str, list[str]]) -> None:
    """Nobody is refused by nginx whom the server would serve, and nobody waits for nginx longer than the server would let him."""
    server = Settings().server
    assert directives["client_max_body_size"] == [f"{server.max_body_bytes // 2**20}m"]
    for directive, setting in SECONDS.items():
        assert float(directives[directive][-1].removesuffix("s")) == getattr(server, setting), directive
    upstream, _ = directives["keepalive_timeout"]
    assert float(upstream.removesuffix("s")) < server.keep_alive_seconds  # nginx closes first: no request meets a closing connection
    assert float(directives["proxy_read_timeout"][0].removesuffix("s")) > server.deadline_seconds + server.shutdown_seconds


def test_only_public_ports_are_reachable(directives: dict[str, list[str]]) -> None:
    """No upstream is an admin port, and requests go to the upstream only."""
    assert [value.split()[0] for value in directives["server"]] == ["127.0.0.1:8010", "127.0.0.1:8020"]
    assert directives["proxy_pass"] == ["http://cloneguard"]


def test_claims_about_addresses_are_overwritten(directives: dict[str, list[str]]) -> None:
    """X-Forwarded-For is what nginx saw, never what a client sent."""
    assert "X-Forwarded-For $remote_addr" in directives["proxy_set_header"]
