"""The command line says what is wrong in one line, and its documents are true."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def cloneguard(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "app", *arguments], capture_output=True, text=True, timeout=60, check=False)


def test_the_settings_page_is_up_to_date() -> None:
    """docs/settings.md is what `cloneguard config --markdown` prints."""
    assert cloneguard("config", "--markdown").stdout == (ROOT / "docs" / "settings.md").read_text()


def test_config_prints_what_is_in_force() -> None:
    """Profile and assignments are applied."""
    settings = json.loads(cloneguard("config", "--profile", "strict", "--set", "truncation.top_k=2").stdout)
    assert settings["profile"] == "strict"
    assert settings["truncation"]["top_k"] == 2
    assert settings["truncation"]["labels_only"] is True


def test_openapi_documents_every_public_route() -> None:
    """With examples, request bodies and error statuses."""
    document = json.loads(cloneguard("openapi").stdout)
    routes = {
        "/predict",
        "/v2",
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/{model}",
        "/v2/models/{model}/infer",
        "/v2/models/{model}/ready",
        "/healthz",
        "/readyz",
    }
    assert set(document["paths"]) == routes
    predict = document["paths"]["/predict"]["post"]
    media = {"image/jpeg", "image/png", "image/webp", "multipart/form-data", "application/json"}
    assert set(predict["requestBody"]["content"]) == media
    assert {"200", "400", "408", "413", "415", "422", "503"} <= set(predict["responses"])


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["serve", "--set", "ood.mod=off"], 2, "ood.mod"),
        (["serve", "--profile", "closed"], 2, "profile"),
        (["serve", "--bundle", "nowhere"], 3, "no bundle 'nowhere'"),
        (["serve", "--store", "mysql://x"], 3, "store URL"),
        (["serve", "--set", "model.device=cuda"], 3, "cuda was asked for"),
        (["bundle", "nowhere.onnx", "--labels", "nowhere.txt", "--out", "x"], 3, "labels"),
        (["calibrate", "--bundle", "nowhere", "--in-distribution", "."], 3, "no bundle"),
    ],
)
def test_what_is_wrong_is_one_line_and_an_exit_code(tmp_path: Path, arguments: list[str], code: int, message: str) -> None:
    """2 for a wrong command, 3 for a world that doesn't fit; no traceback."""
    state = ["--state", str(tmp_path)] if arguments[0] == "serve" else []
    done = cloneguard(*arguments, *state)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_taken_port_is_said_at_once(tmp_path: Path) -> None:
    """Before any model is loaded."""
    import socket  # noqa: PLC0415, this test's only

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = cloneguard("serve", "--port", str(taken.getsockname()[1]), "--admin-port", "0", "--state", str(tmp_path))
    assert done.returncode == 3
    assert "can't listen on" in done.stderr
