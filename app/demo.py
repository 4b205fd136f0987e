"""`cloneguard demo`: let thieves clone the bundled recognizer, without the defences and with them, and show who got what."""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from app.demo_processes import LOOK_SECONDS, Child, Interruption, Seen, Server, attacker_client, free_port, serving
from app.demo_rows import Row, counted, finished, keep, row_folder, table
from app.profiles import ProfileName
from models import bundle as bundles

RECOGNIZER = "cifar10"
ATTACKS = "knockoff-random,composite,voting:knockoff-random"
EXIT_INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Plan:
    """What every theft of a demo has in common; the port too, because a theft goes on only against the address it began with."""

    budget: int
    evaluation: int
    recipe: str
    epochs: int
    seed: int
    port: int


def demo(
    *,
    out: Annotated[Path, typer.Option(file_okay=False, help="Directory of the report; a demo that was stopped goes on there.")] = Path(
        "reports/demo"
    ),
    budget: Annotated[int, typer.Option(min=50, help="Queries of each thief.")] = 2_000,
    evaluation: Annotated[int, typer.Option(min=20, help="Queries that measure each clone.")] = 500,
    recipe: Annotated[str, typer.Option(help="How each clone is trained; attacker-client list shows them.")] = "atli-scratch",
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of each clone's training.")] = 15,
    attacks: Annotated[str, typer.Option(help="Attacks, with commas between; attacker-client list shows them.")] = ATTACKS,
    profiles: Annotated[str, typer.Option(help="Profiles, with commas between.")] = f"{ProfileName.OPEN},{ProfileName.BALANCED}",
    seed: Annotated[int, typer.Option(min=0, help="Everything random of the thieves hangs on it.")] = 0,
) -> None:
    """Have the bundled recognizer stolen on this machine, without defences and with them: a table here and an HTML report."""
    thief = attacker_client()
    named = [_profile(name) for name in _listed(profiles, "--profiles")]
    thefts = [(attack, profile) for attack in _listed(attacks, "--attacks") for profile in named]
    plan = _plan(out, budget=budget, evaluation=evaluation, recipe=recipe, epochs=epochs, seed=seed)
    rows: list[Row] = []
    try:
        with Interruption() as interruption, _progress() as progress:
            bars = [
                progress.add_task(f"{attack}, {profile}", total=budget + evaluation, start=False, status="") for attack, profile in thefts
            ]
            for bar, (attack, profile) in zip(bars, thefts, strict=True):
                progress.start_task(bar)
                rows.append(Theft(attack, profile, plan, row_folder(out, profile, attack)).run(thief, progress, bar, interruption))
                progress.update(bar, total=rows[-1].seen.queries, completed=rows[-1].seen.queries, status="done")
                progress.stop_task(bar)
    except KeyboardInterrupt:
        typer.echo("Stopped. The same command goes on.", err=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    finally:
        if rows:
            _report(rows, plan, out)


@dataclass(frozen=True, slots=True)
class Theft:
    """One attack on one profile: a server of its own, whose neighbourhoods no other thief has made, and the thief."""

    attack: str
    profile: ProfileName
    plan: Plan
    folder: Path

    def run(self, thief: str, progress: Progress, bar: TaskID, interruption: Interruption) -> Row:
        """Go through with it, or on with it; one that is finished is not run again.

        Raises OSError, or ChildProcessError for a server or a thief that failed, and KeyboardInterrupt.
        """
        if (row := finished(self.folder, attack=self.attack, profile=self.profile)) is not None:
            return row
        self.folder.mkdir(parents=True, exist_ok=True)
        before, _ = counted(self.folder)
        progress.update(bar, status="starting the server")
        state, log = self.folder / "state", self.folder / "server.log"
        with serving(self.profile, bundle=RECOGNIZER, port=self.plan.port, state=state, log=log, interruption=interruption) as server:
            child = Child(self._command(thief, server.url), log=self.folder / "attacker-client.log")
            try:
                while child.code is None:
                    interruption.wait(LOOK_SECONDS)
                    queries = self._count(server, before)
                    progress.update(bar, completed=queries, status=self._doing(queries))
            finally:
                child.stop()
                self._count(server, before)  # what was asked since the last look, which another server won't know
            if child.code:
                raise ChildProcessError(f"{self.attack} against {self.profile} ended with {child.code}: {child.last_line()}")
        keep(self.folder, counted(self.folder)[0], done=True)
        shutil.rmtree(state)  # the secret and the store are of no use to anybody any more
        done = finished(self.folder, attack=self.attack, profile=self.profile)
        assert done is not None
        return done

    def _count(self, server: Server, before: Seen) -> int:
        """Keep what this server and those `before` it have counted; returns the queries."""
        seen = before.plus(server.seen())
        keep(self.folder, seen)
        return seen.queries

    def _command(self, thief: str, url: str) -> list[str]:
        options = {
            "--attack": self.attack,
            "--images": "builtin",
            "--student": "small",
            "--reference": bundles.locate(RECOGNIZER),
            "--budget": self.plan.budget,
            "--evaluation": self.plan.evaluation,
            "--recipe": self.plan.recipe,
            "--epochs": self.plan.epochs,
            "--seed": self.plan.seed,
            "--out": self.folder / "campaign",
        }
        return [thief, "run", url, "--resume", *(str(word) for pair in options.items() for word in pair)]

    def _doing(self, queries: int) -> str:
        if queries < self.plan.budget:
            return "asks and learns" if queries else "starting the thief"
        return "learns" if queries == self.plan.budget else "is measured"


def _plan(out: Path, **options: Any) -> Plan:
    """The plan of a new demo, or of the one that was begun here, which must be the same."""
    path = out / "demo.json"
    if not path.is_file():
        out.mkdir(parents=True, exist_ok=True)
        plan = Plan(**options, port=free_port())
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(plan)))
        partial.replace(path)
        return plan
    begun = Plan(**json.loads(path.read_bytes()))
    different = [f"--{name} {getattr(begun, name)}" for name, value in options.items() if getattr(begun, name) != value]
    if different:
        raise typer.BadParameter(f"{out} holds a demo with {' '.join(different)}: give the same, or another directory", param_hint="--out")
    return begun


def _listed(text: str, option: str) -> list[str]:
    found = list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    if not found:
        raise typer.BadParameter("nothing is listed", param_hint=option)
    return found


def _profile(name: str) -> ProfileName:
    try:
        return ProfileName(name)
    except ValueError:
        raise typer.BadParameter(f"{name!r} is none of {', '.join(ProfileName)}", param_hint="--profiles") from None


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f} queries"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[status]}"),
        console=Console(stderr=True),
    )


def _report(rows: list[Row], plan: Plan, out: Path) -> None:
    from app.demo_report import page  # noqa: PLC0415, matplotlib takes seconds to import, and the other commands need none

    Console().print(table(rows))
    path = out / "report.html"
    path.write_text(page(rows, plan=asdict(plan), out=out), encoding="utf-8")
    typer.echo(f"report: {path}")
