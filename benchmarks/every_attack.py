"""Run every attack to its end against every kind of endpoint: `python -m benchmarks.every_attack --client PATH`.

The client is any installation of attacker-client, such as its wheel's alone in a fresh environment: it runs as a command in an empty folder
outside of the repository. Endpoints: `/predict` of a server without defences, the same server's Open Inference Protocol v2, and one that
tells the label only. A run counts as finished if it ended without an error, bought answers within its budget, and left plots in its report.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from benchmarks.campaigns import LABEL_ONLY, OPEN
from benchmarks.recipe import recipe
from tests.server import RunningServer

ATTACKS = (
    "standard", "knockoff-random", "knockoff-adaptive", "composite", "jacobian", "active", "in-distribution", "probe",
    "voting", "sybil", "denoise", "complementary",
)  # fmt: skip
IDENTITIES = 4  # of sybil
LOG_TAIL = 500  # characters that tell of a failure

Row = dict[str, Any]
console = Console(width=None if sys.stdout.isatty() else 160)  # in a file the table doesn't fit rich's 80 columns


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all, print the table, write the JSON; ends with 1 if anything is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--client", type=Path, default=Path(sys.executable).with_name("attacker-client"), help="the command to try")
    parser.add_argument("--attacks", nargs="+", choices=ATTACKS, default=list(ATTACKS))
    parser.add_argument("--budget", type=int, default=300)
    parser.add_argument("--evaluation", type=int, default=20, help="queries that measure each clone")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "every_attack.json")
    options = parser.parse_args(arguments)
    client = options.client.absolute()  # not resolved: an environment's commands are known by where they lie
    how = recipe() | {"command": "python -m benchmarks.every_attack --client PATH"}
    how |= {"budget": {name: getattr(options, name) for name in ("budget", "evaluation", "epochs")}}
    with tempfile.TemporaryDirectory() as folder:
        missing = unlisted(client, Path(folder))
        how["versions"]["attacker-client"] = run_alone(client, ["version"], Path(folder)).stdout.strip()
        rows = []
        words = ["--budget", str(options.budget), "--evaluation", str(options.evaluation), "--epochs", str(options.epochs)]
        for name, url in endpoints(Path(folder)):
            out = Path(folder) / name
            with ThreadPoolExecutor(options.jobs) as pool:
                for row in pool.map(lambda attack, url=url, out=out: one_run(client, attack, url, words, out / attack), options.attacks):
                    rows.append({"endpoint": name, **row})
                    ended = "finished" if row["finished"] else "FAILED"
                    console.print(f"{name}, {row['attack']}: {ended} in {row['seconds']:.0f} s", highlight=False)
    console.print(table(rows))
    finished = sum(row["finished"] for row in rows)
    console.print(f"{finished} of {len(rows)} finished; not listed by `attacker-client list`: {', '.join(missing) or 'none'}")
    written = {"recipe": how, "finished": finished, "of": len(rows), "not_listed": missing, "runs": rows}
    options.json.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
    console.print(f"written to {options.json}", soft_wrap=True)
    if finished < len(rows) or missing:
        raise SystemExit(1)


def endpoints(folder: Path) -> Iterator[tuple[str, str]]:
    """The kinds of endpoint and their addresses, each while its server runs."""
    with RunningServer(folder / "open", *OPEN) as server:
        yield "open", server.url
        yield "open-inference-v2", f"{server.url}/v2/models/cifar10"
    with RunningServer(folder / "label-only", *LABEL_ONLY) as server:
        yield "label-only", server.url


def unlisted(client: Path, folder: Path) -> list[str]:
    """The attacks that the client's own list doesn't name."""
    listed = set(run_alone(client, ["list"], folder).stdout.split())
    return [attack for attack in ATTACKS if attack not in listed]


def one_run(client: Path, attack: str, url: str, words: Sequence[str], out: Path) -> Row:
    """Run one attack with built-in images, and look at what it left."""
    words = ["run", url, "--attack", attack, "--images", "builtin", *words, "--out", str(out)]
    words += ["--identities", str(IDENTITIES)] if attack == "sybil" else []
    out.parent.mkdir(parents=True, exist_ok=True)
    ended = run_alone(client, words, out.parent)
    run = json.loads((out / "run.json").read_bytes()) if (out / "run.json").exists() else {"budget": 0, "queries_answered": 0, "seconds": 0}
    page = (out / "report.html").read_text(encoding="utf-8") if (out / "report.html").exists() else ""
    row: Row = {"attack": attack, "exit": ended.returncode, "budget": run["budget"], "queries_answered": run["queries_answered"]}
    row |= {"plots": page.count("<svg"), "fidelity": run.get("fidelity"), "seconds": run["seconds"]}
    row["finished"] = ended.returncode == 0 and 0 < row["queries_answered"] <= row["budget"] and row["plots"] > 0
    return row if row["finished"] else row | {"told": (ended.stdout + ended.stderr)[-LOG_TAIL:]}


def run_alone(client: Path, words: Sequence[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run the client in a folder, without what this process adds to Python's path."""
    apart: Mapping[str, str] = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return subprocess.run(
        [str(client), *words], cwd=folder, env={**apart, "COLUMNS": "160"}, capture_output=True, text=True, stdin=subprocess.DEVNULL,
        check=False, start_new_session=True,
    )  # fmt: skip


def table(rows: Sequence[Row]) -> Table:
    """A row a run."""
    made = Table(Column("endpoint", no_wrap=True), "attack", "exit", "queries answered", "agrees with the endpoint", "plots", "seconds", "")
    for row in rows:
        share = row["fidelity"]
        made.add_row(
            row["endpoint"], row["attack"], str(row["exit"]), f"{row['queries_answered']:,} of {row['budget']:,}",
            f"{share['value']:.0%}" if share else "", str(row["plots"]), f"{row['seconds']:.0f}", "" if row["finished"] else "failed",
        )  # fmt: skip
    return made


if __name__ == "__main__":
    main()
