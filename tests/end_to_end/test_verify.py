"""`cloneguard verify` over real HTTP: the account whose answers a clone learned by heart is named, and nobody for an honest recognizer."""

import io
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from defenses.evidence.null_rate import NullRate
from tests.accounts import ask, new_account, until
from tests.pictures import png, smooth_noise
from tests.server import RunningServer

ACCOUNTS = ("alice", "bob", "carol", "dave")
ASKED = 150  # pictures an account
WATERMARK = (
    "--profile", "open", "--set", "near_duplicates.mode=enforce", "--set", "watermark.mode=enforce", "--set", "watermark.rate=0.2",
)  # fmt: skip

Learned = dict[bytes, dict[str, Any]]


class Theft:
    """A server whose accounts were all told something, and what each of them was told."""

    def __init__(self, server: RunningServer) -> None:
        self.server = server
        keys = {name: new_account(server.state, name) for name in ACCOUNTS}
        for key in keys.values():
            until(lambda key=key: ask(server, key), 200)  # type: ignore[misc]
        self.told = {name: self._answers(place, keys[name]) for place, name in enumerate(ACCOUNTS)}

    def _answers(self, place: int, key: str) -> Learned:
        pictures = [png(smooth_noise(seed=1_000 * place + number)) for number in range(ASKED)]
        with ThreadPoolExecutor(4) as threads:
            answers = list(threads.map(lambda picture: self._ask(picture, key), pictures))
        return {_pixels(picture).tobytes(): answer for picture, answer in zip(pictures, answers, strict=True)}

    def _ask(self, picture: bytes, key: str) -> dict[str, Any]:
        response = ask(self.server, key, content=picture, headers={"content-type": "image/png"}).raise_for_status()
        best: dict[str, Any] = response.json()["predictions"][0]
        return best


@pytest.fixture(scope="module")
def theft(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Theft]:
    """Four accounts, a fifth of whose neighbourhoods are watermarked."""
    with RunningServer(tmp_path_factory.mktemp("verify") / "state", *WATERMARK) as server:
        yield Theft(server)


@contextmanager
def clone_of(*answers: Learned) -> Iterator[str]:
    """The address of a recognizer that answers as the closest picture was answered that it has learned: one nearest neighbour."""
    learned = {pixels: answer for one in answers for pixels, answer in one.items()}
    points = np.stack([np.frombuffer(pixels, np.uint8) for pixels in learned]).astype(np.float32)
    told = list(learned.values())

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            image = _pixels(self.rfile.read(int(self.headers["content-length"]))).ravel().astype(np.float32)
            body = json.dumps({"predictions": [told[int(((points - image) ** 2).sum(axis=1).argmin())]]}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _pixels(picture: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))


def verify(theft: Theft, out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    null = out.parent / "null.json"
    null.write_text(json.dumps(asdict(NullRate(recognizers=3, triggers=100, mean=0.1, highest=0.15))))
    words = ["verify", "--state", str(theft.server.state), "--out", str(out), "--rate", "1000", "--null-rate", str(null), *arguments]
    return subprocess.run([sys.executable, "-m", "app", *words], capture_output=True, text=True, timeout=300, check=False)


def figures(out: Path) -> dict[str, Any]:
    page: dict[str, Any] = json.loads((out / "verification.json").read_bytes())
    return page


def test_the_thiefs_account_is_named(theft: Theft, tmp_path: Path) -> None:
    """And no other; again it asks nothing; the report shows the pictures; the server goes on meanwhile."""
    with clone_of(theft.told["carol"]) as suspect:
        done = verify(theft, tmp_path / "out", "--suspect", suspect)
        assert done.returncode == 0, done.stderr
        page = figures(tmp_path / "out")
        assert page["named"] == ["carol"] and done.stdout.startswith("carol is named")
        carol = page["clients"][0]
        assert carol["matches"] == carol["asked"] >= 10 and carol["corrected"] < 1e-6
        assert page["queries"] <= 1_000 and page["evidence"]["sealed"]
    report = (tmp_path / "out" / "report.html").read_text()
    assert report.count("data:image/png;base64,") == min(24, carol["matches"]) and 'src="http' not in report
    again = verify(theft, tmp_path / "out", "--suspect", suspect)  # the clone is gone: every answer is on the disk
    assert again.stdout == done.stdout
    other = verify(theft, tmp_path / "out", "--suspect", suspect, "--level", "0.05")
    assert other.returncode == 3 and "another verification: level differ" in other.stderr


def test_a_clone_of_two_accounts_names_both(theft: Theft, tmp_path: Path) -> None:
    with clone_of(theft.told["alice"], theft.told["dave"]) as suspect:
        done = verify(theft, tmp_path / "out", "--suspect", suspect)
    assert sorted(figures(tmp_path / "out")["named"]) == ["alice", "dave"], done.stdout


def test_nobody_is_named_for_a_recognizer_that_only_errs(theft: Theft, tmp_path: Path) -> None:
    """One that names wrong classes as often as a clone does, but others; with few queries accounts are screened first."""
    random = np.random.default_rng(5)
    labels = sorted({answer["label"] for learned in theft.told.values() for answer in learned.values()})
    told = {
        pixels: answer | {"label": labels[random.integers(len(labels))]} for one in theft.told.values() for pixels, answer in one.items()
    }
    with clone_of(told) as suspect:
        done = verify(theft, tmp_path / "out", "--suspect", suspect)
        assert done.returncode == 0, done.stderr
        page = figures(tmp_path / "out")
        assert page["named"] == [] and "nobody is named" in done.stdout
        assert sum(one["matches"] for one in page["clients"]) > 0
        few = verify(
            theft, tmp_path / "few", "--suspect", suspect, "--queries", "40", "--independent", "cifar10", "--suspect-key", "cg_key"
        )
        assert few.returncode == 0, few.stderr
        page = figures(tmp_path / "few")
        assert 0 < page["screened"] < page["queries"] <= 40 and page["named"] == [] and page["null_rate"]["recognizers"] == 1


def test_classes_that_are_none_of_ours_are_an_error(theft: Theft, tmp_path: Path) -> None:
    """Nobody named would be a wrong answer to a question that was not understood."""
    told = {pixels: answer | {"label": f"class {answer['class_id']}"} for pixels, answer in theft.told["bob"].items()}
    with clone_of(told) as suspect:
        done = verify(theft, tmp_path / "out", "--suspect", suspect)
        assert done.returncode == 3 and "--by-number" in done.stderr
        done = verify(theft, tmp_path / "numbered", "--suspect", suspect, "--by-number")
        assert figures(tmp_path / "numbered")["named"] == ["bob"], done.stderr


def test_what_was_told_after_a_head_was_handed_out_does_not_count(theft: Theft, tmp_path: Path) -> None:
    """The admin port tells the head; up to it everything is there, and of a stranger's head it is said that it is none of ours."""
    told = theft.server.admin("/admin/v1/evidence").raise_for_status().json()
    assert told["triggers"] == told["head"]["sequence"] == sum(told["clients"].values()) and set(told["clients"]) <= {
        *ACCOUNTS,
        "127.0.0.1",
    }
    assert theft.server.metric("cloneguard_evidence_triggers_total") == told["triggers"]
    with clone_of(theft.told["bob"]) as suspect:
        assert verify(theft, tmp_path / "out", "--suspect", suspect, "--committed", told["head"]["link"]).returncode == 0
        assert figures(tmp_path / "out")["named"] == ["bob"]
        strange = verify(theft, tmp_path / "strange", "--suspect", suspect, "--committed", "ab" * 32)
        assert strange.returncode == 3 and "no trigger has the link" in strange.stderr
        assert verify(theft, tmp_path / "short", "--suspect", suspect, "--committed", "ab").returncode == 2


def test_what_is_missing_is_said_in_one_line(theft: Theft, start: Callable[..., RunningServer], tmp_path: Path) -> None:
    """No evidence, another deployment's secret, no null rate: exit code 3, and what to do."""
    empty, foreign = start("--profile", "open"), tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "secret").write_text("the secret of somebody else's deployment")
    theirs = ["--state", str(foreign), "--evidence", str(theft.server.state / "evidence.db")]
    for number, (arguments, expected) in enumerate(
        (
            (["--state", str(tmp_path / "nowhere")], "no evidence in"),
            (["--state", str(empty.state)], "no watermarked answer of cifar10"),
            (theirs, "is not sealed with our secret"),
            (["--null-rate", "nowhere"], "give --independent"),
            (["--bundle", "gtsrb"], "no watermarked answer of gtsrb"),
        )
    ):
        told = verify(theft, tmp_path / str(number), "--suspect", "cifar10", *arguments)
        assert told.returncode == 3 and expected in told.stderr and len(told.stderr.strip().splitlines()) == 1, told.stderr
    other = verify(theft, tmp_path / "1", "--suspect", "cifar10")
    assert other.returncode == 3 and "another verification: vaults differ" in other.stderr


def test_the_evidence_survives_the_server(theft: Theft) -> None:
    """Killed a second after it answered: what was told is there."""
    key = new_account(theft.server.state, "erin")
    until(lambda: ask(theft.server, key), 200)
    for number in range(60):
        ask(theft.server, key, content=png(smooth_noise(seed=90_000 + number)), headers={"content-type": "image/png"}).raise_for_status()
    until(lambda: httpx.Response(200 if _told(theft.server).get("erin", 0) >= 3 else 503), 200)
    before = _told(theft.server)
    theft.server.kill()
    theft.server.restart()
    assert _told(theft.server) == before


def _told(server: RunningServer) -> dict[str, int]:
    clients: dict[str, int] = server.admin("/admin/v1/evidence").raise_for_status().json()["clients"]
    return clients
