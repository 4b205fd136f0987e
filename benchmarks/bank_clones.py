"""Clones of the bank's recognizers, stolen over HTTP by the attacker client: 4 originals, 3 attacks, scores or labels alone."""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

from attacker_client import students
from attacker_client.students import Student
from benchmarks.bank_recognizers import ARCHITECTURES, TASK, Independent
from benchmarks.campaigns import LABEL_ONLY, LOG_TAIL, OPEN, Victim

ATTACKS = ("standard", "composite", "knockoff-random")
TOLD: Mapping[str, tuple[str, ...]] = {"scores": OPEN, "labels": LABEL_ONLY}
BUDGET, EPOCHS = 10_000, 12


@dataclass(frozen=True, slots=True)
class Theft:
    """Everything that decides a clone, besides the recognizer that it is one of."""

    original: Independent
    attack: str
    told: str
    student: str
    seed: int
    budget: int = BUDGET
    epochs: int = EPOCHS
    recipe: str = "fast"

    @property
    def name(self) -> str:
        """Names its folder and its row of the bank."""
        return f"{self.original.name}-by-{self.attack}-{self.told}-{self.student}"


def planned(originals: tuple[Independent, ...]) -> tuple[Theft, ...]:
    """Six thefts of each original; the students take turns, so that every original is stolen with every architecture."""
    return tuple(
        Theft(one, attack, told, student=ARCHITECTURES[(at + turn) % len(ARCHITECTURES)], seed=at)
        for at, one in enumerate(originals)
        for turn, (attack, told) in enumerate(product(ATTACKS, TOLD))
    )


def stolen(theft: Theft, bundle: Path, *, data: Path, out: Path) -> Student:
    """Steal over HTTP, or go on with it, or read what was stolen. Raises RuntimeError where the client gives up."""
    folder = out / "clones" / theft.name
    campaign, recipe = folder / "campaign", folder / "recipe.json"
    if not recipe.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with Victim(folder / "state", *TOLD[theft.told], "--bundle", str(bundle)) as server:
            words = [str(Path(sys.executable).with_name("attacker-client")), "run", server.url, "--attack", theft.attack]
            words += ["--images", str(data / "tiny-imagenet-32" / "train"), "--budget", str(theft.budget), "--student", theft.student]
            words += ["--recipe", theft.recipe, "--epochs", str(theft.epochs), "--seed", str(theft.seed), "--evaluation", "200"]
            words += ["--test-images", str(data / TASK / "test"), "--out", str(campaign)]
            # composite buys in a few epochs and passes over what it bought in the others
            words += ["--option", "epochs=5"] if theft.attack == "composite" else []
            words += ["--resume"] if (campaign / "ledger.db").exists() else []
            with (folder / "client.log").open("ab") as log:
                ended = subprocess.run(words, stdout=log, stderr=log, stdin=subprocess.DEVNULL, check=False).returncode
        if ended:
            told = (folder / "client.log").read_text(errors="replace")[-LOG_TAIL:]
            raise RuntimeError(f"attacker-client ended with {ended}; the same command goes on where it was. Its log:\n{told}")
        ran = json.loads((campaign / "run.json").read_bytes())
        page = asdict(theft) | {name: ran[name] for name in ("accuracy", "fidelity", "queries_answered", "seconds")}
        recipe.write_text(json.dumps(page) + "\n", encoding="utf-8")
    return students.load(campaign / "student.pt")
