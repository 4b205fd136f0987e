"""What the benchmarks of campaigns have in common besides the campaigns: their options, shares with intervals, and the file of figures."""

import argparse
import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from scipy.stats import t  # type: ignore[import-untyped]  # ships no types

from benchmarks.recipe import recipe

Share = Mapping[str, float]  # value, low, high
console = Console(width=None if sys.stdout.isatty() else 160)  # in a file the tables don't fit rich's 80 columns


def over_seeds(shares: Sequence[Share]) -> Share:
    """A campaign's own interval (of its test images), or the mean over several seeds with Student's t interval of that mean, 95% both."""
    if len(shares) == 1:
        return shares[0]
    values = [share["value"] for share in shares]
    n, mean = len(values), sum(values) / len(values)
    spread = (sum((value - mean) ** 2 for value in values) / (n - 1)) ** 0.5
    half = float(t.ppf(0.975, n - 1)) * spread / n**0.5
    return {"value": mean, "low": max(0.0, mean - half), "high": min(1.0, mean + half)}


def shown(share: Share | None) -> str:
    """A share in percent with its interval."""
    return "not known" if share is None else f"{share['value']:.1%} ({100 * share['low']:.1f} to {100 * share['high']:.1f})"


def parser(description: str | None, *, result: str) -> argparse.ArgumentParser:
    """The options that all of these commands have."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--seeds", type=int, nargs="+", default=[0])
    made.add_argument("--student", default="small", help="architecture of the clone")
    made.add_argument("--recipe", default="fast", help="how it is trained")
    made.add_argument("--epochs", type=int, help="instead of the recipe's number")
    made.add_argument("--evaluation", type=int, default=2_000, help="queries that measure fidelity, on held-out and on test images each")
    made.add_argument("--out", type=Path, default=Path("reports") / "campaigns", help="folder where campaigns are kept")
    made.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / result, help="where the figures go")
    return made


def publish(
    rows: Sequence[Mapping[str, Any]], module: str, made: argparse.ArgumentParser, options: argparse.Namespace, **more: object
) -> None:
    """Write the figures with their recipe."""
    words = ["python", "-m", module]
    for name, value in vars(options).items():
        if value != made.get_default(name) and name not in ("out", "json", "plot"):
            words += [
                f"--{name.replace('_', '-')}",
                *([] if value is True else map(str, value) if isinstance(value, list) else [str(value)]),
            ]
    how = recipe() | {"command": f"CLONEGUARD_DATA=DIR {shlex.join(words)}"}
    how["versions"] |= {name: version(name) for name in ("attacker-client", "torch")}
    options.json.write_text(json.dumps({"recipe": how, **more, "campaigns": list(rows)}, indent=2) + "\n", encoding="utf-8")
    console.print(f"written to {options.json}", soft_wrap=True)


def data_folder() -> Path:
    """Where the images are."""
    return Path(os.environ["CLONEGUARD_DATA"])
