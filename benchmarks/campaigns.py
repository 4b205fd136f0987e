"""Campaigns of the attacker client against configurations of the server, each of the two in a process of its own, and what came of them.

A finished campaign is kept in a folder named by what was asked for and by the bundle's files, and is not repeated; its row says at which
commit it ran. An unfinished one goes on where it was, against a server on the same state and the same port.
"""

import hashlib
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.image_sets import tiny_imagenet_classes
from benchmarks.publishing import console, shown
from benchmarks.recipe import recipe
from models import manifest
from models.bundle import BUNDLED
from models.tiny_imagenet import unseen_classes
from tests.server import RunningServer

OPEN = ("--profile", "open")
LABEL_ONLY = (
    *OPEN, "--set", "truncation.mode=enforce", "--set", "truncation.top_k=1", "--set", "truncation.labels_only=true",
)  # fmt: skip
PAGE = 1_000  # audit records read at once
LOG_TAIL = 3_000  # characters of the client's log that an error shows
MEASURES = ("accuracy", "fidelity", "fidelity_on_test", "fidelity_to_reference", "fidelity_to_reference_on_test")
COSTS = ("queries_answered", "queries_sent", "refusals", "seconds", "device")

Row = dict[str, Any]
Images = Literal["all", "unlearned"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that decides the outcome of a campaign; no place on the disk.

    `server` are options of `cloneguard serve`, `options` those of the attack. `images` are Tiny-ImageNet's: of all classes, or of those
    that the victim's filter did not learn from.
    """

    victim: str
    server: tuple[str, ...]
    attack: str
    budget: int
    images: Images = "all"
    seed: int = 0
    student: str = "small"
    recipe: str = "fast"
    epochs: int | None = None
    evaluation: int = 2_000
    options: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        """A name that people can read, and that no other plan has."""
        decisive = asdict(self) | {"files": manifest.load(BUNDLED / self.victim).files}
        digest = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
        return f"{self.victim}-{self.attack.replace(':', '+')}-{self.budget}-{self.seed}-{digest[:12]}"

    def client(self, url: str, *, data: Path, out: Path, resume: bool) -> list[str]:
        """The client's command line; its images are in `data` and beside `out`."""
        pool = pool_of(self.images, self.victim, data, out.parent.parent / "pools")
        words = [str(Path(sys.executable).with_name("attacker-client")), "run", url, "--attack", self.attack, "--images", str(pool)]
        words += ["--budget", str(self.budget), "--student", self.student, "--recipe", self.recipe, "--seed", str(self.seed)]
        words += ["--test-images", str(data / self.victim / "test"), "--evaluation", str(self.evaluation)]
        words += ["--reference", str(BUNDLED / self.victim), "--out", str(out)]
        words += [] if self.epochs is None else ["--epochs", str(self.epochs)]
        words += [word for option in self.options for word in ("--option", option)]
        return [*words, "--resume"] if resume else words


class Victim(RunningServer):
    """A server that comes back on the port it had: to the client another port is another target."""

    def _start(self) -> None:
        kept = self.state / "port"
        if kept.exists():
            self.port = int(kept.read_text())
        kept.write_text(str(self.port))
        super()._start()


def run_all(plans: Mapping[str, Plan], *, data: Path, out: Path) -> list[Row]:
    """Run the campaigns that are not finished, one after the other; `plans` by what they are called."""
    rows = []
    for number, (title, plan) in enumerate(plans.items(), start=1):
        console.print(f"{number} of {len(plans)}: {title}, log in {out / plan.folder / 'client.log'}", highlight=False, soft_wrap=True)
        rows.append({"title": title, **run(plan, data=data, out=out)})
        accuracy, seconds = shown(rows[-1].get("accuracy")), rows[-1]["seconds"]
        console.print(f"  accuracy {accuracy}, {seconds:,.0f} s", highlight=False)
    return rows


def run(plan: Plan, *, data: Path, out: Path) -> Row:
    """Run a campaign, or go on with it, or read what came of it. Raises RuntimeError where the client gives up."""
    folder = out / plan.folder
    result, campaign = folder / "result.json", folder / "campaign"
    if result.exists():
        return _read(result)
    folder.mkdir(parents=True, exist_ok=True)
    with Victim(folder / "state", *plan.server, "--bundle", str(BUNDLED / plan.victim)) as server:
        if not (campaign / "run.json").exists():
            _attack(plan.client(server.url, data=data, out=campaign, resume=(campaign / "ledger.db").exists()), folder / "client.log")
        ran = json.loads((campaign / "run.json").read_bytes())
        model = server.admin("/admin/v1/policy").raise_for_status().json()["model"]
        seen = counted(server, evaluation=ran["evaluation"]["queries_answered"])
    row = asdict(plan) | {"model": model | {"accuracy": victim_accuracy(plan.victim, model["precision"])}}
    row |= {name: ran[name] for name in (*MEASURES, *COSTS)} | {"server_counted": seen}
    row["ran_with"] = {name: value for name, value in recipe().items() if name != "load_average_before"}
    partial = result.with_suffix(".partial")
    partial.write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")
    partial.replace(result)
    return _read(result)  # the same now as later: JSON knows no tuples


def _read(result: Path) -> Row:
    row: Row = json.loads(result.read_bytes())
    return row


def _attack(command: Sequence[str], log: Path) -> None:
    with log.open("ab") as output:
        ended = subprocess.run(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, check=False).returncode
    if ended:
        told = log.read_text(errors="replace")[-LOG_TAIL:]
        raise RuntimeError(f"attacker-client ended with {ended}; the same command goes on where it was. Its log:\n{told}")


def counted(server: RunningServer, *, evaluation: int) -> dict[str, int]:
    """What the server's own audit log says of the attack's queries, over all its starts: the last `evaluation` ones measured the clone."""
    clients = server.admin("/admin/v1/clients?limit=1000").raise_for_status().json()["clients"]
    queries = sum(client["queries"] for client in clients) - evaluation
    counts: Counter[str] = Counter(queries=queries, ood=0, near_duplicates=0, altered=0)
    for after in range(0, queries, PAGE):  # records are numbered from 1, without gaps
        page = server.admin(f"/admin/v1/audit?after={after}&limit={min(PAGE, queries - after)}").raise_for_status().json()
        for record in page["records"]:
            counts["ood"] += "ood" in record["findings"]
            counts["near_duplicates"] += "near_duplicates" in record["findings"]
            counts["altered"] += record["action"] == "misrecognized"
    return dict(counts)


def victim_accuracy(victim: str, precision: manifest.Precision) -> float:
    """What the recognizer itself gets right of the same test images, as its bundle says."""
    accuracy: float = manifest.load(BUNDLED / victim).measured["test_top1"][precision]
    return accuracy


def pool_of(images: Images, victim: str, data: Path, out: Path) -> Path:
    """The folder of the thief's images; a part of the classes becomes a folder of links in `out`."""
    from benchmarks.calibrate_bundles import SUBJECTS  # noqa: PLC0415, torch takes seconds

    everything = data / "tiny-imagenet-32" / "train"
    if images == "all":
        return everything
    names = tiny_imagenet_classes(data)
    pool = out / f"unlearned-{victim}"
    pool.mkdir(parents=True, exist_ok=True)
    for name in {*unseen_classes(names), *(SUBJECTS[victim] & set(names))}:
        if not (pool / name).exists():
            (pool / name).symlink_to((everything / name).resolve(), target_is_directory=True)
    return pool
