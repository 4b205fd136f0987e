"""Thefts among twenty accounts: nineteen ask as guests do, one or two buy a clone, all over HTTP, and the service watermarks."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.campaigns import LOG_TAIL, OPEN, Victim
from models.folders import image_files
from tests.accounts import new_account

VICTIM = "cifar10"
GUESTS, ASKED = 19, 1_000  # accounts that steal nothing, and pictures of each
ATTACKS = ("standard", "knockoff-random", "composite")
BUDGETS = (5_000, 20_000)
RATES = (0.005, 0.02)
CONNECTIONS = 16

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Theft:
    """Everything that decides a theft. `accounts` share the `budget`; `rate` is the watermark's."""

    rate: float
    attack: str
    budget: int
    recipe: str = "plain"
    accounts: int = 1
    student: str = "vgg8"
    seed: int = 0

    @property
    def name(self) -> str:
        """Names its folder and its row."""
        return f"{self.rate:g}-{self.attack.replace(':', '+')}-{self.budget}-{self.recipe}"

    @property
    def thieves(self) -> tuple[str, ...]:
        """The accounts that should be named."""
        return tuple(f"thief-{number}" for number in range(1, self.accounts + 1))


_EVERY = [Theft(rate, attack, budget) for budget in reversed(BUDGETS) for rate in reversed(RATES) for attack in ATTACKS]
THEFTS = (
    *(theft for theft in _EVERY if theft.budget == max(BUDGETS)),
    Theft(0.02, "sybil:standard", 10_000, accounts=2),
    Theft(0.02, "standard", 5_000, recipe="fast"),
    Theft(0.005, "standard", 20_000, recipe="fast"),
    *(theft for theft in _EVERY if theft.budget < max(BUDGETS)),
)


def watermarking(rate: float) -> tuple[str, ...]:
    """Options of a server that defends by nothing else, so that clones are as good as they get."""
    return (*OPEN, "--set", "near_duplicates.mode=enforce", "--set", "watermark.mode=enforce", "--set", f"watermark.rate={rate:g}")


def with_guests(rate: float, *, data: Path, out: Path) -> Path:
    """The state of a service that nineteen accounts have asked: half test images, half photographs that thieves may ask about too."""
    state = out / f"guests-{rate:g}"
    if not (state / "asked").exists():
        shutil.rmtree(state, ignore_errors=True)
        random = np.random.default_rng(0)
        names = [f"guest-{number:02d}" for number in range(1, GUESTS + 1)]
        tests, others = (image_files(data / folder) for folder in ("cifar10/test", "tiny-imagenet-32/train"))
        with Victim(state, *watermarking(rate)) as server:
            keys = [new_account(state, name) for name in names]
            _wait_for(server.url, keys[-1], tests[0].read_bytes())
            for key in keys:
                half = ASKED // 2
                chosen = [paths[at] for paths in (tests, others) for at in random.permutation(len(paths))[:half]]
                _ask(server.url, key, chosen)
        (state / "asked").touch()
    return state


def stolen(theft: Theft, *, data: Path, out: Path, threads: int) -> tuple[Path, Row]:
    """The folder of a theft, with its `state` and `student.onnx`, and what came of it; a finished one is not repeated, others go on.

    Raises RuntimeError where the client gives up.
    """
    folder = out / theft.name
    campaign, result, state = folder / "campaign", folder / "result.json", folder / "state"
    if not result.exists():
        if not (folder / "keys.json").exists():
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(with_guests(theft.rate, data=data, out=out), state)
            (state / "port").unlink()
            keys = [new_account(state, name) for name in theft.thieves]
            (folder / "keys.json").write_text(json.dumps(keys))
        keys = json.loads((folder / "keys.json").read_bytes())
        with Victim(state, *watermarking(theft.rate)) as server:
            words = ["run", server.url, "--attack", theft.attack, "--images", str(data / "tiny-imagenet-32" / "train")]
            words += ["--budget", str(theft.budget), "--student", theft.student, "--recipe", theft.recipe, "--seed", str(theft.seed)]
            words += ["--evaluation", "200", "--test-images", str(data / VICTIM / "test"), "--out", str(campaign)]
            words += [word for key in keys for word in ("--api-key", key)]
            words += ["--option", "epochs=5"] if theft.attack == "composite" else []
            words += ["--resume"] if (campaign / "ledger.db").exists() else []
            _client(words, folder / "client.log", threads)
            _client(["export", str(campaign), "--to", str(folder / "student.onnx")], folder / "client.log", threads)
        ran = json.loads((campaign / "run.json").read_bytes())
        measured = {name: ran[name] for name in ("accuracy", "fidelity", "queries_answered", "seconds")}
        result.write_text(json.dumps(asdict(theft) | measured) + "\n", encoding="utf-8")
    return folder, json.loads(result.read_bytes())


def _client(words: Sequence[str], log: Path, threads: int) -> None:
    command = [str(Path(sys.executable).with_name("attacker-client")), *words]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    with log.open("ab") as output:
        ended = subprocess.run(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=environment, check=False).returncode
    if ended:
        told = log.read_text(errors="replace")[-LOG_TAIL:]
        raise RuntimeError(f"attacker-client ended with {ended}; the same command goes on where it was. Its log:\n{told}")


def _wait_for(url: str, key: str, image: bytes) -> None:
    """Until the server has heard of the account; it looks every second."""
    transport = httpx.HTTPTransport(retries=5)
    with httpx.Client(transport=transport, timeout=60) as client:
        while client.post(f"{url}/predict", content=image, headers=_headers(key)).status_code != httpx.codes.OK:
            pass


def _ask(url: str, key: str, paths: Sequence[Path]) -> None:
    with httpx.Client(timeout=60, limits=httpx.Limits(max_connections=CONNECTIONS)) as client, ThreadPoolExecutor(CONNECTIONS) as threads:

        def ask(path: Path) -> None:
            client.post(f"{url}/predict", content=path.read_bytes(), headers=_headers(key)).raise_for_status()

        list(threads.map(ask, paths))


def _headers(key: str) -> dict[str, str]:
    return {"content-type": "image/jpeg", "authorization": f"Bearer {key}"}
