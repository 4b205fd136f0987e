"""Several campaigns beside each other: what each queries' worth of answers bought."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from attacker_client import plots
from attacker_client.report import amount, duration, interval, render, share

TEMPLATE = Path(__file__).with_suffix(".html")

MEASURES = {
    "fidelity": "agrees with the endpoint",
    "fidelity_on_test": "agrees on the test images",
    "fidelity_to_reference": "agrees with the honest recognizer",
    "fidelity_to_reference_on_test": "agrees with the honest recognizer on the test images",
    "accuracy": "accuracy",
}
TELLING = (
    "target",
    "images",
    "student",
    "recipe",
    "options",
    "identities",
    "hard_labels",
    "size",
    "seed",
)  # may tell runs of one attack apart

Run = Mapping[str, Any]


def page(runs: Sequence[Run]) -> str:
    """Make the page of runs as `report.read_run` reads them, at least one."""
    assert runs
    measured = {measure: words for measure, words in MEASURES.items() if any(run[measure] for run in runs)}
    return render(
        TEMPLATE.read_text(encoding="utf-8"),
        runs=list(zip(names(runs), runs, strict=True)),
        measures=measured,
        curves={measure: plots.over_budgets(curves(runs, measure), measure=words) for measure, words in measured.items()},
        bars={measure: _bars(runs, measure) for measure in measured},
    )


def table(runs: Sequence[Run], *, title: str | None = None) -> Table:
    """The same for a terminal: a row a run."""
    measured = {measure: words for measure, words in MEASURES.items() if any(run[measure] for run in runs)}
    drawn = Table("campaign", "queries", *measured.values(), "refusals", "time", title=title)
    for name, run in zip(names(runs), runs, strict=True):
        shares = [f"{share(run[measure]['value'])} ({interval(run[measure])})" if run[measure] else "" for measure in measured]
        drawn.add_row(escape(name), amount(run["queries_answered"]), *shares, amount(run["refusals"]), duration(run["seconds"]))
    return drawn


def names(runs: Sequence[Run]) -> list[str]:
    """A name for each run: its attack, and of what else may differ between the runs that which does; runs of other budgets share a name."""
    telling = [field for field in TELLING if len({_said(run, field) for run in runs}) > 1]
    return [", ".join([run["attack"], *(_said(run, field) for field in telling if _said(run, field))]) for run in runs]


def curves(runs: Sequence[Run], measure: str) -> dict[str, list[tuple[int, Mapping[str, Any]]]]:
    """For each name the queries that were answered and the measure, in the order of the queries; runs without the measure are left out."""
    found: dict[str, list[tuple[int, Mapping[str, Any]]]] = {}
    for name, run in zip(names(runs), runs, strict=True):
        if run[measure]:
            found.setdefault(name, []).append((run["queries_answered"], run[measure]))
    return {name: sorted(points, key=lambda point: point[0]) for name, points in found.items()}


def _bars(runs: Sequence[Run], measure: str) -> str:
    shown = [(name, run) for name, run in zip(names(runs), runs, strict=True) if run[measure]]
    return plots.side_by_side(
        [f"{name}, {run['queries_answered']:,}" for name, run in shown],
        [run[measure] for _, run in shown],
        kinds=[name for name, _ in shown],
        measure=MEASURES[measure],
    )


def _said(run: Run, field: str) -> str:
    match run[field]:
        case dict() as options:
            return " ".join(f"{name}={value}" for name, value in sorted(options.items()))
        case bool() as hard:
            return "labels only" if hard else ""
        case int() as number:
            return f"{field} {number}"
        case value:
            return str(value or "")
