"""Two replicas, one Redis, nginx in front: what `make cluster` starts, in short."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.abuse.race import VARIANTS, agreement, raced
from tests.abuse.test_rolling_restarts import Loading, rolled
from tests.cluster import PATIENT, Cluster, running_cluster
from tests.nginx import NGINX, needs_nginx
from tests.pictures import jpeg, ship
from tests.server import free_port

ROOT = Path(__file__).parents[2]
JPEG = {"Content-Type": "image/jpeg"}
GROUPS = 20


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster for all tests of this file, behind nginx if there is one; suspicion is in shadow, because nobody is known here."""
    folder = tmp_path_factory.mktemp("cluster")
    with running_cluster(folder, "--set", "suspicion.mode=shadow", *PATIENT, balanced=NGINX is not None) as running:
        yield running


def test_replicas_that_are_asked_at_once_agree(cluster: Cluster) -> None:
    """Five variants of a picture at both replicas at the same time: one neighbourhood, one fate."""
    told = raced(cluster.replicas, [None] * (2 * VARIANTS), groups=GROUPS)
    assert agreement(cluster.replicas[0], told).disagreements == []


def test_redis_may_die_under_load(cluster: Cluster) -> None:
    """kill -9 of Redis: every request is answered, the replicas stay ready and say that they are degraded, until it is back."""
    image = jpeg(ship())
    replica = cluster.replicas[0]
    before = httpx.post(f"{replica.url}/predict", content=image, headers=JPEG, timeout=10).json()["predictions"]
    loading = Loading(replica.port, rate=5.0, piece_seconds=2.0)
    loading.start()
    try:
        cluster.redis.kill()
        until(lambda: replica.metric("cloneguard_degraded", component="store") == 1)
        assert httpx.get(f"{replica.url}/readyz", timeout=10).status_code == 200
        assert httpx.post(f"{replica.url}/predict", content=image, headers=JPEG, timeout=10).json()["predictions"] == before
        cluster.redis.restart()
        until(lambda: replica.metric("cloneguard_degraded", component="store") == 0)
    finally:
        loading.done.set()
        loading.join()
    assert loading.requests > 0
    assert loading.failed == 0


@needs_nginx
def test_a_rolling_restart_behind_nginx_fails_nobody(cluster: Cluster) -> None:
    """SIGTERM and a new start, one replica after the other, under load: every request through nginx is answered."""
    assert cluster.nginx
    loading = Loading(cluster.nginx.port, rate=5.0, piece_seconds=2.0)
    loading.start()
    try:
        rolled(cluster, times=1)
    finally:
        loading.done.set()
        loading.join()
    assert loading.requests > 0
    assert loading.failed == 0


@needs_nginx
def test_nginx_shows_the_public_port_only_and_refuses_as_the_service_does(cluster: Cluster) -> None:
    """No admin route is reachable; what nginx itself refuses is a problem document."""
    for path in ("/metrics", "/admin/ui", "/admin/v1/policy"):
        assert httpx.get(f"{cluster.url}{path}", timeout=10).status_code == 404
    large = httpx.post(f"{cluster.url}/predict", content=bytes(11 * 2**20), headers=JPEG, timeout=10)
    assert large.status_code == 413
    assert large.headers["Content-Type"] == "application/problem+json"
    assert set(large.json()) == {"type", "title", "status", "detail"}


@needs_nginx
def test_the_command_runs_a_cluster_until_it_is_interrupted(tmp_path: Path) -> None:
    """`make cluster` on other ports: it answers through nginx, and an interrupt leaves no process behind."""
    ports = [free_port() for _ in range(6)]
    environment = {**os.environ, "STATE": str(tmp_path / "state"), "PORTS": " ".join(map(str, ports))}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    script = subprocess.Popen([ROOT / "deploy" / "cluster.sh"], env=environment, stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    try:
        assert script.stdout
        said = ""
        while "Ctrl-C" not in said:
            line = script.stdout.readline()
            assert line, f"it ended after {said!r}"
            said += line
        answer = httpx.post(f"http://127.0.0.1:{ports[0]}/predict", content=jpeg(ship()), headers=JPEG, timeout=10)
        assert answer.json()["predictions"][0]["label"] == "ship"
        children = psutil.Process(script.pid).children(recursive=True)
        script.send_signal(signal.SIGINT)
        assert script.wait(timeout=60) == 0
    finally:
        if script.poll() is None:
            script.send_signal(signal.SIGTERM)
            script.wait(timeout=60)
        if script.stdout:
            script.stdout.close()
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    for port in ports:
        with socket.socket() as probe, contextlib.suppress(OSError):
            assert probe.connect_ex(("127.0.0.1", port)) != 0


def until(condition: Callable[[], bool], *, seconds: float = 30.0) -> None:
    """Wait for something that takes a moment."""
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.05)
