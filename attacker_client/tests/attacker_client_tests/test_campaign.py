"""A campaign over real HTTP: what it leaves behind, what it costs, and that an interruption costs nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attacker_client.attacks import ATTACKS, WRAPPERS
from attacker_client.campaign import Campaign, CampaignError, check, run
from attacker_client.errors import LedgerError, OracleError, Refused
from attacker_client.ledger import Ledger
from attacker_client.records import command
from attacker_client.references import UnusableReference
from attacker_client.stopwatch import Stopwatch
from attacker_client.students import StudentError

from .conftest import Handler, Request, Response, answer, problem

pytestmark = pytest.mark.anyio
Serve = Callable[[Handler], str]
NAMES = ("red", "green", "blue")
# What runs in the background of a script ignores SIGINT, and so would its children.
HEARS_CTRL_C = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from attacker_client.cli import main
main()
"""


def colour(body: bytes) -> int:
    """The victim: which colour channel is brightest."""
    with Image.open(BytesIO(body)) as image:
        return int(np.asarray(image, np.float64).mean(axis=(0, 1)).argmax())


class Victim:
    """A handler that tells colours and counts what it was asked."""

    def __init__(self, *, answers: int | None = None, pause: float = 0.0) -> None:
        self.asked: list[bytes] = []
        self._answers = answers
        self._pause = pause

    async def __call__(self, request: Request) -> Response:
        if self._answers is not None and len(self.asked) >= self._answers:
            return problem(403, "Suspended")
        self.asked.append(request.body)
        if self._pause:
            time.sleep(self._pause)  # noqa: ASYNC251 - a victim that is slow for everyone
        best = colour(request.body)
        return answer(*((NAMES[n], n, 0.9 if n == best else 0.05) for n in sorted(range(3), key=lambda n: n != best)))


def campaign(url: str, **changes: object) -> Campaign:
    """A campaign of a few seconds."""
    small = Campaign(target=f"{url}/predict", attack="standard", images="builtin", budget=60, size=16, epochs=1, evaluation=20)
    return replace(small, **changes)  # type: ignore[arg-type]


def kept(folder: Path) -> list[str]:
    """All that is in a folder."""
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*"))


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    """Test images in folders: two of the victim's classes, and one that it doesn't know."""
    for number, name in enumerate(("Red", "Green", "violet")):
        (tmp_path / "test" / name).mkdir(parents=True)
        for row in range(10):
            pixels = np.full((16, 16, 3), 20 + row, np.uint8)
            pixels[:, :, number % 3] = 200
            Image.fromarray(pixels).save(tmp_path / "test" / name / f"{row}.png")
    return tmp_path / "test"


async def test_what_it_leaves(serve: Serve, tmp_path: Path, colours: Path) -> None:
    """The budget is spent to the last query, measures are counted apart, and everything is written down; resumed, it buys nothing new."""
    victim, honest = Victim(), Victim()
    asked = campaign(serve(victim), test_images=str(colours), reference=serve(honest))
    result = await run(asked, out=tmp_path / "out")
    written = json.loads((tmp_path / "out" / "run.json").read_bytes())
    assert (written["attack"], written["budget"], written["queries_answered"]) == ("standard", 60, 60)
    assert (written["queries_sent"], written["refusals"], written["uncertain"]) == (60, 0, 0)
    assert written["evaluation"]["queries_answered"] == 40
    assert len(victim.asked) == 100
    for measure in ("accuracy", "fidelity", "fidelity_on_test", "fidelity_to_reference", "fidelity_to_reference_on_test"):
        assert 0 <= written[measure]["low"] <= written[measure]["value"] <= written[measure]["high"] <= 1, measure
    assert written["fidelity_to_reference"] == written["fidelity"], "the reference is as honest as the endpoint"
    assert {row["name"] for row in written["per_class"]} >= {"Red", "Green"}
    assert "1 of the test images' classes" in written["notes"][0]
    assert written["told"]["entries"] == "3" and written["told"]["decimals"] == 2
    assert len(written["examples"]) == 24
    assert [row["epoch"] for row in written["epochs"]] == [1]
    assert written["seconds"] > 0 and written["bytes_sent"] > 60 * 100 and written["bytes_received"] > 60 * 100
    assert (tmp_path / "out" / "student.pt").stat().st_size > 10_000
    assert "<svg" in result.report.read_text()
    assert "agrees with the honest recognizer" in result.report.read_text()

    again = await run(asked, out=tmp_path / "out", resume=True)
    assert len(victim.asked) == 100, "nothing is bought twice"
    assert len(honest.asked) == 40
    assert again.run["fidelity"] == written["fidelity"] and again.run["queries_answered"] == 60
    assert again.run["seconds"] > written["seconds"], "the time before counts"
    assert again.run["epochs"] == written["epochs"]


async def test_a_finished_campaign_keeps_one_student(serve: Serve, tmp_path: Path) -> None:
    """Of all its trainings a finished campaign keeps the curves and the last student, and is not trained again when it is resumed."""
    asked = campaign(serve(Victim()), attack="active", options={"rounds": "2"})
    result = await run(asked, out=tmp_path / "out")
    assert {row["fit"] for row in result.run["epochs"]} == {1, 2}
    assert kept(tmp_path / "out" / "checkpoints") == ["fit-0001", "fit-0001/history.json", "fit-0002", "fit-0002/history.json"]
    again = await run(asked, out=tmp_path / "out", resume=True)
    assert len(kept(tmp_path / "out" / "checkpoints")) == 4, "nothing was trained"
    assert again.run["fidelity"] == result.run["fidelity"] and again.run["findings"] == result.run["findings"]


async def test_a_reference_may_want_a_key(serve: Serve, tmp_path: Path) -> None:
    """The reference is asked with its own key, which is neither the target's nor written down."""
    keys: list[str | None] = []

    async def honest(request: Request) -> Response:
        keys.append(request.headers.get("authorization"))
        return await Victim()(request)

    asked = campaign(serve(Victim()), reference=serve(honest))
    await run(asked, out=tmp_path / "out", keys=["mine"], reference_key="the secret of the other")
    assert set(keys) == {"Bearer the secret of the other"}
    written = [tmp_path / "out" / name for name in kept(tmp_path / "out")]
    assert not [file for file in written if file.is_file() and b"the secret of the other" in file.read_bytes()]


async def test_what_is_refused_leaves_nothing(serve: Serve, tmp_path: Path) -> None:
    """A campaign that can't be gone on with, or whose reference can't be used, makes no file."""
    url = serve(Victim())
    asked = campaign(url, attack="probe", budget=20)
    await run(asked, out=tmp_path / "out")
    before = kept(tmp_path / "out")
    with pytest.raises(LedgerError, match="reference"):
        await run(replace(asked, reference=url), out=tmp_path / "out", resume=True)
    assert kept(tmp_path / "out") == before
    with pytest.raises(UnusableReference):
        await run(replace(asked, reference=str(tmp_path / "nothing.onnx")), out=tmp_path / "new")
    assert not (tmp_path / "new").exists()


async def test_a_student_learns(serve: Serve, tmp_path: Path) -> None:
    """A simple endpoint is cloned: on images that it never bought the student agrees, where a guess would a third of the time."""
    (tmp_path / "images").mkdir()
    random = np.random.default_rng(0)
    for row in range(300):
        pixels = np.clip(random.integers(0, 256, 3) + random.normal(0, 20, (16, 16, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{row}.png")
    asked = campaign(serve(Victim()), images=str(tmp_path / "images"), budget=250, epochs=12, recipe="atli-scratch")
    result = await run(asked, out=tmp_path / "out")
    assert result.student is not None and result.student.classes == 3
    assert result.run["fidelity"]["value"] > 0.7, result.run["fidelity"]


async def test_reconnaissance(serve: Serve, tmp_path: Path) -> None:
    """The probe trains nothing and measures nothing, and its findings are in the report."""
    result = await run(campaign(serve(Victim()), attack="probe", budget=50), out=tmp_path / "out")
    assert result.student is None
    assert (result.run["student"], result.run["fidelity"], result.run["accuracy"]) == (None, None, None)
    assert result.run["evaluation"]["queries_answered"] == 0
    assert result.run["findings"]["recommended"] in result.report.read_text()


async def test_refused_for_good(serve: Serve, tmp_path: Path) -> None:
    """A suspended thief keeps what was bought, and goes on when he is let in again."""
    victim = Victim(answers=30)
    asked = campaign(serve(victim))
    with pytest.raises(Refused):
        await run(asked, out=tmp_path / "out", concurrency=2)
    victim._answers = None
    result = await run(asked, out=tmp_path / "out", resume=True)
    assert result.run["queries_answered"] == 60
    assert len(set(victim.asked)) == len(victim.asked) == 80


@pytest.mark.parametrize("name", [*ATTACKS, *WRAPPERS])
async def test_nothing_answered(serve: Serve, tmp_path: Path, name: str) -> None:
    """An endpoint that takes none of the images ends every attack soon and in words, for they cost no budget that would run out."""
    asked: list[bytes] = []

    async def handler(request: Request) -> Response:
        asked.append(request.body)
        return problem(422, "Not an image")

    refused = campaign(serve(handler), attack=name, identities=2 if name == "sybil" else 1)
    with pytest.raises((OracleError, StudentError), match=r"Not an image|no image"):
        await run(refused, out=tmp_path / "out", concurrency=4)
    assert len(asked) < 110


async def test_another_campaign(serve: Serve, tmp_path: Path) -> None:
    """A directory belongs to one campaign: it isn't begun twice, nor gone on with as another."""
    asked = campaign(serve(Victim()), attack="probe", budget=20)
    await run(asked, out=tmp_path / "out")
    with pytest.raises(LedgerError, match="--resume"):
        await run(asked, out=tmp_path / "out")
    with pytest.raises(LedgerError, match="seed is 1 and was 0"):
        await run(replace(asked, seed=1), out=tmp_path / "out", resume=True)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"attack": "nothing"}, "nothing"),
        ({"options": {"hue": "1"}}, "hue"),
        ({"recipe": "nothing"}, "fast"),
        ({"attack": "sybil"}, "identities"),
        ({"attack": "voting:composite", "identities": 3}, "--attack sybil:voting:composite"),
        ({"attack": "voting", "options": {"variants": "0"}}, "variants"),
        ({"attack": "voting", "options": {"threshold": "nan"}}, "threshold"),
        ({"attack": "sybil", "identities": 2, "options": {"pace": "-1"}}, "pace"),
        ({"attack": "denoise", "options": {"folds": "1"}}, "folds"),
        ({"attack": "complementary", "options": {"folds": "1"}}, "folds"),
        ({"attack": "complementary", "options": {"rate": "1"}}, "rate"),
        ({"attack": "probe", "options": {"queries": "0"}}, "queries"),
        ({"target": "http://198.51.100.7/predict", "identities": 3}, "API keys"),
    ],
)
def test_what_cant_be_begun(changes: dict[str, object], text: str) -> None:
    """A campaign that can't work is refused in words before anything is bought."""
    with pytest.raises(CampaignError, match=text):
        check(campaign("http://127.0.0.1:1", **changes))


@pytest.mark.parametrize("domain", [".", "photos", "photos/cats"])
@pytest.mark.parametrize("measuring", ["images", "test_images"])
def test_not_trained_on_what_is_measured_with(tmp_path: Path, domain: str, measuring: str) -> None:
    """A thief's domain that has the measuring images in it, or is among them, would flatter his student; one beside them is fine."""
    for folder in ("photos/cats", "photographs"):
        (tmp_path / folder).mkdir(parents=True)
    changes: dict[str, object] = {"attack": "denoise:in-distribution", measuring: str(tmp_path / "photos")}
    with pytest.raises(CampaignError, match=f"--{measuring.replace('_', '-')}"):
        check(campaign("http://127.0.0.1:1", options={"domain": str(tmp_path / domain)}, **changes))
    check(campaign("http://127.0.0.1:1", options={"domain": str(tmp_path / "photographs")}, **changes))


async def test_findings_outlive_the_attack(serve: Serve, tmp_path: Path) -> None:
    """A campaign that ended after its training goes on with what the attack found then, though nothing is trained any more."""
    asked = campaign(serve(Victim()), attack="denoise:composite", budget=120, epochs=4)
    result = await run(asked, out=tmp_path / "out")
    (tmp_path / "out" / "run.json").unlink()
    resumed = await run(asked, out=tmp_path / "out", resume=True)
    assert result.run["findings"]
    assert resumed.run["findings"] == result.run["findings"]


async def test_a_pool_that_ends(serve: Serve, tmp_path: Path) -> None:
    """Where there are fewer images than queries, a note says so; a vote's remainder, that pays for no further image, is none."""
    (tmp_path / "images").mkdir()
    random = np.random.default_rng(0)
    for row in range(50):
        Image.fromarray(random.integers(0, 256, (16, 16, 3), np.uint8)).save(tmp_path / "images" / f"{row}.png")
    url = serve(Victim())
    asked = campaign(url, images=str(tmp_path / "images"))
    assert (await run(asked, out=tmp_path / "short")).run["notes"] == ["The pool ended after 45 of 60 queries."]
    voting = replace(asked, attack="voting", options={"variants": "7"})
    assert (await run(voting, out=tmp_path / "voting")).run["notes"] == []


def test_command_repeats_it() -> None:
    """The command names what differs from the defaults, and a foreign target twice."""
    asked = Campaign("http://198.51.100.7/predict", "voting", "my images", 9, options={"variants": "3"}, hard_labels=True)
    assert command(asked, Path("out")) == (
        "attacker-client run http://198.51.100.7/predict --attack voting --images 'my images' --budget 9 --hard-labels "
        "--option variants=3 --i-own-this http://198.51.100.7/predict --out out"
    )


def test_time_is_remembered(tmp_path: Path) -> None:
    """Seconds add up over processes, and one that is killed loses a few at most."""
    now = 100.0
    with Ledger.open(tmp_path / "ledger.db", {}, resume=False) as ledger:
        stopwatch = Stopwatch(ledger, clock=lambda: now)
        now = 107.0
        stopwatch.tick()
        now = 109.0
        stopwatch.tick()
        assert Stopwatch(ledger, clock=lambda: now).seconds == 7.0
        with Stopwatch(ledger, clock=lambda: now):
            now = 110.0
        assert ledger.fact("seconds") == 8.0


def test_interrupted_and_resumed(serve: Serve, tmp_path: Path) -> None:
    """Ctrl-C says how to go on, with status 130; then each image has been bought once, and the budget is spent exactly."""
    victim = Victim(pause=0.01)
    words = [serve(victim), "--attack", "standard", "--images", "builtin", "--budget", "150", "--size", "16", "--epochs", "1"]
    words += ["--evaluation", "20", "--concurrency", "4", "--out", str(tmp_path / "out")]
    begin = [sys.executable, "-c", HEARS_CTRL_C, "run", *words]
    child = subprocess.Popen(begin, stderr=subprocess.PIPE, text=True, env=os.environ | {"COLUMNS": "200"})
    while len(victim.asked) < 30:
        assert child.poll() is None, "it ended before it was interrupted"
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=300)
    assert child.returncode == 130, said
    assert "--resume" in said and "Traceback" not in said
    assert len(victim.asked) < 150
    subprocess.run([*begin, "--resume"], check=True, timeout=300)
    written = json.loads((tmp_path / "out" / "run.json").read_bytes())
    assert written["queries_answered"] == 150
    assert len(set(victim.asked)) == 170
    assert len(victim.asked) <= written["queries_sent"] + 20
    assert len(victim.asked) - 170 <= 4, "only what was under way may be asked again"
