"""run.json: what a campaign measured and cost, and how to repeat it."""

from __future__ import annotations

import json
import platform
import shlex
from dataclasses import asdict, fields
from datetime import UTC, datetime
from importlib.metadata import version as version_of
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from attacker_client.costs import Counts
from attacker_client.evaluation import Evaluation
from attacker_client.wire import is_loopback

if TYPE_CHECKING:  # the page imports this
    from attacker_client.campaign import Campaign


def as_run(
    campaign: Campaign, found: Evaluation, *, bought: Counts, measured: Counts, told: dict[str, Any], findings: dict[str, Any],
    epochs: list[dict[str, Any]], trained: bool, seconds: float, command: str,
) -> dict[str, Any]:  # fmt: skip
    """The file's content. Its `epochs` are those that were trained, `epochs_asked_for` the campaign's own number."""
    asked_for = {name: value for name, value in asdict(campaign).items() if name not in ("attack", "budget", "epochs", "evaluation")}
    return {
        "attack": campaign.attack,
        "budget": campaign.budget,
        "queries_answered": bought.queries_answered,
        "seconds": round(seconds, 1),
        **asdict(found),
        "evaluation": {"queries_answered": measured.queries_answered, "queries_sent": measured.queries_sent},
        "queries_sent": bought.queries_sent,
        "refusals": bought.refused,
        "bad_images": bought.bad_images,
        "seconds_waiting": round(bought.seconds_waiting, 1),
        "bytes_sent": bought.bytes_sent,
        "bytes_received": bought.bytes_received,
        "uncertain": bought.uncertain,
        **asked_for,
        "epochs_asked_for": campaign.epochs,
        "student": campaign.student if trained else None,
        "epochs": epochs,
        "findings": findings,
        "versions": {"attacker-client": version_of("attacker-client"), "torch": torch.__version__, "python": platform.python_version()},
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads",
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "told": {name: value for name, value in told.items() if name != "examples"},
        "examples": told["examples"],
    }


def unspent(budget: int, bought: Counts, *, pool: int, together: int) -> list[str]:
    """A note where the attack ended before the budget; `together` is the queries an image of the pool takes."""
    if bought.queries_answered >= budget:
        return []
    asked = bought.queries_answered + bought.bad_images
    ended = "pool" if asked <= pool * together < budget + bought.bad_images else "attack"
    return [f"The {ended} ended after {bought.queries_answered:,} of {budget:,} queries."]


def command(campaign: Campaign, out: Path) -> str:
    """The command line that repeats a campaign, without keys."""
    words = ["attacker-client", "run", campaign.target]
    for each in fields(campaign):
        value = getattr(campaign, each.name)
        if each.name in ("target", "options") or value == each.default:
            continue
        words += [f"--{each.name.replace('_', '-')}", *([] if value is True else [str(value)])]
    for name, value in campaign.options.items():
        words += ["--option", f"{name}={value}"]
    for url in (campaign.target, campaign.reference or ""):
        if "://" in url and not is_loopback(url):
            words += ["--i-own-this", url]
    return shlex.join([*words, "--out", str(out)])


def history(checkpoints: Path) -> list[dict[str, Any]]:
    """What is known of each epoch of each training, in their order; `fit` numbers the trainings."""
    files = sorted(checkpoints.glob("fit-*/history.json"))
    return [{"fit": int(file.parent.name.removeprefix("fit-")), **row} for file in files for row in json.loads(file.read_bytes())]


def plain(value: object) -> object:
    """What attacks find may be numpy's or a path."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return str(value)
