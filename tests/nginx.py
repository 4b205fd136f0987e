"""A real nginx with the configuration that we ship, on a free port and as whoever runs the tests."""

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tests.server import free_port

SHIPPED = Path(__file__).parents[1] / "deploy" / "nginx"
NGINX = shutil.which("nginx", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]))
READY_SECONDS = 20.0

needs_nginx = pytest.mark.skipif(NGINX is None, reason="nginx is not installed (Debian: apt-get install nginx-light)")


def configured(folder: Path, *, port: int, replicas: Sequence[int]) -> None:
    """Write the shipped files into a folder, for these ports."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(SHIPPED / "nginx.conf", folder)
    text = (SHIPPED / "cloneguard.conf").read_text().replace("listen 8000;", f"listen 127.0.0.1:{port};")
    waiting = list(replicas)
    (folder / "cloneguard.conf").write_text(re.sub(r"(?<=server 127\.0\.0\.1:)\d+", lambda _: str(waiting.pop(0)), text))
    assert not waiting, "the shipped file has as many replicas"


def command(folder: Path, *options: str) -> list[str]:
    """nginx on the files of a folder. Root has to say that its workers stay root, or they could not use the folder."""
    assert NGINX is not None, "tests that need it are marked with needs_nginx"
    as_root = ["-g", "user root;"] if os.getuid() == 0 else []
    return [NGINX, "-p", str(folder), "-c", "nginx.conf", "-e", "stderr", *as_root, *options]


class RunningNginx:
    """nginx in front of replicas; ends with the `with` block at the latest."""

    def __init__(self, folder: Path, *, replicas: Sequence[int]) -> None:
        self.port = free_port()
        configured(folder, port=self.port, replicas=replicas)
        self.log = folder / "nginx.log"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command(folder), stdout=log, stderr=log)
        give_up = time.monotonic() + READY_SECONDS
        while not self._listens():
            if self._process.poll() is not None or time.monotonic() > give_up:
                self.terminate()
                raise RuntimeError(f"nginx did not get ready:\n{self.log.read_text()}")
            time.sleep(0.02)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def terminate(self) -> None:
        """End it and its workers."""
        self._process.terminate()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.terminate()
