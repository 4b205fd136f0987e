"""The Dockerfile, read as a list of instructions: no engine is needed for that."""

import http.server
import json
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import typer

from app.cli import app as command_line

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "Dockerfile"


def instructions() -> list[tuple[str, str]]:
    """Every instruction with its arguments, in order; continued lines are joined."""
    text = DOCKERFILE.read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(maxsplit=1)[0].upper(), line.split(maxsplit=1)[1]) for line in lines]


def arguments(name: str) -> list[str]:
    """What all instructions called `name` say."""
    return [rest for instruction, rest in instructions() if instruction == name]


@contextmanager
def answering(status: int) -> Iterator[int]:
    """A server on a free port that gives `status` to every GET."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/readyz" else 404)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002, the base class's name
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def healthcheck(port: int) -> int:
    """Run the image's health check against another port; its exit status."""
    command = json.loads(arguments("HEALTHCHECK")[0].partition("CMD ")[2])
    assert command[0] == "python"
    assert "8000" in command[2]
    code = command[2].replace("8000", str(port))
    return subprocess.run([sys.executable, *command[1:2], code], check=False, capture_output=True, timeout=30).returncode


def test_base_images_are_versions() -> None:
    """Both stages start from the same named version of Python, never from a moving tag."""
    images = [line.split()[0] for line in arguments("FROM")]
    assert len(images) == 2
    assert len(set(images)) == 1
    assert re.fullmatch(r"python:3\.\d+-slim", images[0])


def test_runs_as_nobody_in_particular() -> None:
    """The last stage switches to a numeric user other than root, after its last RUN."""
    names = [name for name, _ in instructions()]
    user, group = arguments("USER")[-1].split(":")
    assert int(user) > 0
    assert int(group) > 0
    assert len(names) - 1 - names[::-1].index("RUN") < names.index("USER")


def test_installs_the_chosen_extra_with_pinned_versions() -> None:
    """`--build-arg EXTRA` reaches pip, the pins hold, and nothing but the server is installed."""
    assert arguments("ARG") == ["EXTRA=cpu"]
    install = next(line for line in arguments("RUN") if "pip install" in line)
    assert "--no-cache-dir" in shlex.split(install)
    assert shlex.split(install)[-3:] == ["-c", "constraints.txt", ".[${EXTRA}]"]
    assert "torch" not in " ".join(rest for _, rest in instructions())


def test_writes_only_to_state_and_tmp() -> None:
    """The root filesystem may be read-only: bytecode is not written, temporary files go to /tmp, everything else to the volume."""
    environment = dict(pair.split("=", 1) for line in arguments("ENV") for pair in shlex.split(line))
    assert environment["PYTHONDONTWRITEBYTECODE"] == "1"
    assert environment["TMPDIR"] == "/tmp"
    assert arguments("VOLUME") == ["/state"]


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False), (404, False)])
def test_health_check_follows_readiness(status: int, healthy: bool) -> None:  # noqa: FBT001, a table's column
    """The container is healthy exactly while /readyz answers 200."""
    with answering(status) as port:
        assert (healthcheck(port) == 0) is healthy


def test_health_check_fails_without_a_server() -> None:
    """Nobody listening is unhealthy."""
    with answering(200) as port:
        pass
    assert healthcheck(port) != 0


def test_command_is_one_that_the_command_line_knows() -> None:
    """Every option of the image's CMD exists, and the state is the volume."""
    program, name, *options = json.loads(arguments("CMD")[-1])
    assert program == "cloneguard"
    parsed = typer.main.get_command(command_line).commands[name].make_context(name, list(options)).params  # type: ignore[attr-defined]
    assert (parsed["host"], parsed["state"]) == ("0.0.0.0", Path("/state"))
    assert not parsed["assignments"]


def test_build_context_holds_what_is_copied_and_nothing_else() -> None:
    """`.dockerignore` lets through exactly what the Dockerfile copies from the checkout."""
    copied = {source.rstrip("/") for line in arguments("COPY") if "--from" not in line for source in line.split()[:-1]}
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    assert {line.removeprefix("!") for line in lines if line.startswith("!")} == copied
    assert all((ROOT / source).exists() for source in copied)


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="hadolint is not installed")
def test_hadolint_has_no_complaint() -> None:
    """The linter that knows Dockerfiles finds nothing."""
    found = subprocess.run(["hadolint", str(DOCKERFILE)], check=False, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout
