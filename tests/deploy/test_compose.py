"""docker-compose.yml and the Prometheus configuration, read as data and held against the server's own settings."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from app.cli import app as command_line
from app.settings import Settings, read_settings

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus" / "prometheus.yml"


@pytest.fixture
def services() -> dict[str, Any]:
    """The services of the compose file, by name."""
    found: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    return found


@pytest.fixture
def settings(services: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Settings:
    """What `cloneguard serve` makes of the options in the compose file."""
    monkeypatch.delenv("CLONEGUARD_ADMIN__HOST", raising=False)
    program, name, *options = services["server"]["command"]
    assert program == "cloneguard"
    parsed = typer.main.get_command(command_line).commands[name].make_context(name, list(options)).params  # type: ignore[attr-defined]
    return read_settings(assignments=parsed["assignments"], state=parsed["state"], server={"host": parsed["host"]})


@pytest.mark.parametrize("name", ["server", "prometheus"])
def test_every_service_is_hardened(services: dict[str, Any], name: str) -> None:
    """No capability, no new privilege, no writable root filesystem, in each service."""
    service = services[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service


def test_images_are_versions(services: dict[str, Any]) -> None:
    """Every image names a version, and the server's is the distribution's."""
    for service in services.values():
        assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+", service["image"])
    assert f'version = "{services["server"]["image"].partition(":")[2]}"' in (ROOT / "pyproject.toml").read_text()


def test_only_the_public_port_is_published(services: dict[str, Any], settings: Settings) -> None:
    """Every other port of the compose file is published on 127.0.0.1 only."""
    assert services["server"]["ports"] == [f"{settings.server.port}:8000", f"127.0.0.1:{settings.admin.port}:{settings.admin.port}"]
    assert all(port.startswith("127.0.0.1:") for port in services["prometheus"]["ports"])


def test_state_outlives_the_container(services: dict[str, Any], settings: Settings) -> None:
    """The secret, the token and the store lie in a named volume; temporary files in memory."""
    assert f"state:{settings.state}" in services["server"]["volumes"]
    assert [mount.partition(":")[0] for mount in services["server"]["tmpfs"]] == ["/tmp"]


def test_stops_later_than_the_server_drains(services: dict[str, Any], settings: Settings) -> None:
    """The engine waits longer than the server needs for what is open, so that no answer is cut off."""
    grace = float(services["server"]["stop_grace_period"].removesuffix("s"))
    assert grace > settings.server.shutdown_seconds
    assert grace > settings.server.deadline_seconds


def test_health_check_is_that_of_the_image(services: dict[str, Any]) -> None:
    """Compose and image ask the same question."""
    command = yaml.safe_dump(services["server"]["healthcheck"]["test"][1:], default_flow_style=True, width=10_000)
    image = next(line for line in (ROOT / "Dockerfile").read_text().splitlines() if line.startswith("HEALTHCHECK"))
    assert yaml.safe_load(command) == yaml.safe_load(image.partition("CMD ")[2])


def test_prometheus_scrapes_the_admin_port(services: dict[str, Any], settings: Settings) -> None:
    """The scrape target is the server's admin port, on an address that other containers reach, and Prometheus reads this file."""
    (job,) = yaml.safe_load(PROMETHEUS.read_text())["scrape_configs"]
    assert job["metrics_path"] == "/metrics"
    (target,) = job["static_configs"][0]["targets"]
    assert target == f"server:{settings.admin.port}"
    assert settings.admin.host == "0.0.0.0"
    mounted = services["prometheus"]["volumes"][0].split(":")
    assert (ROOT / mounted[0]).resolve() == PROMETHEUS
    assert mounted[2] == "ro"


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_accepts_the_configuration() -> None:
    """Prometheus' own checker finds the file valid."""
    found = subprocess.run(["promtool", "check", "config", str(PROMETHEUS)], check=False, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
