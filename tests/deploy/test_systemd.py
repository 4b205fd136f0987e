"""The systemd unit that we ship: valid, hardened, and in agreement with the server's times and exit codes."""

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest

from app.cli import EXIT_UNUSABLE, EXIT_USAGE
from app.settings import Settings

UNIT = Path(__file__).parents[2] / "deploy" / "systemd" / "cloneguard@.service"


@pytest.fixture
def service() -> configparser.SectionProxy:
    """The section [Service]; of keys that come twice, the last."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # systemd's names have capitals
    parser.read(UNIT)
    return parser["Service"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_accepts_it(tmp_path: Path) -> None:
    """systemd's own check finds nothing to complain about."""
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/cloneguard/bin/cloneguard", "/bin/true"))
    found = subprocess.run(["systemd-analyze", "verify", str(unit)], check=False, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert UNIT.name not in found.stderr


def test_stops_later_than_the_server_drains(service: configparser.SectionProxy) -> None:
    """systemd waits longer than the server needs for what is open."""
    server = Settings().server
    assert float(service["TimeoutStopSec"]) > server.drain_seconds + server.shutdown_seconds + server.deadline_seconds


def test_is_not_started_again_where_that_would_not_help(service: configparser.SectionProxy) -> None:
    """Wrong settings and unusable models stay down; crashes come back."""
    assert service["Restart"] == "on-failure"
    assert service["RestartPreventExitStatus"].split() == [str(EXIT_USAGE), str(EXIT_UNUSABLE)]


def test_is_hardened(service: configparser.SectionProxy) -> None:
    """A user of its own, no privileges, and one writable folder that nobody else reads."""
    wanted = {"DynamicUser": "yes", "NoNewPrivileges": "yes", "ProtectSystem": "strict", "ProtectHome": "yes", "PrivateTmp": "yes"}
    wanted |= {"CapabilityBoundingSet": "", "StateDirectory": "cloneguard/%i", "StateDirectoryMode": "0700"}
    assert {key: service[key] for key in wanted} == wanted
    assert f"--state /var/lib/{service['StateDirectory']}" in service["ExecStart"]
