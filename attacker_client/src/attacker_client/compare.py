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
TELLING = (  # may tell runs of one attack apart; runs that older clients wrote lack some
    "target", "images", "student", "pretrained", "recipe", "epochs_asked_for", "options", "identities", "forwarded_for", "hard_labels",
    "size", "test_images", "reference",
)  # fmt: skip
SAID = {"hard_labels": "labels only", "pretrained": "pretrained", "forwarded_for": "by X-Forwarded-For"}
TITLES = {"epochs_asked_for": "epochs", "test_images": "tested on", "reference": "reference"}

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


def kinds(runs: Sequence[Run]) -> list[str]:
    """What each run is one of: its attack, and of what else may differ between the runs that which does, but for budget and seed."""
    telling = [field for field in TELLING if len({_said(run, field) for run in runs}) > 1]
    return [", ".join([run["attack"], *(_said(run, field) for field in telling if _said(run, field))]) for run in runs]


def names(runs: Sequence[Run]) -> list[str]:
    """A name for each run: its kind, and its seed where seeds differ; runs of other budgets share a name."""
    seeded = len({run["seed"] for run in runs}) > 1
    return [f"{kind}, seed {run['seed']}" if seeded else kind for kind, run in zip(kinds(runs), runs, strict=True)]


def curves(runs: Sequence[Run], measure: str) -> dict[str, list[tuple[int, Mapping[str, Any]]]]:
    """For each kind the queries that were answered and the measure, in the order of the queries; runs without the measure are left out.

    Runs of a kind and a budget, which differ by their seeds, are one point: the means, and the lowest and highest value as the bounds.
    """
    found: dict[str, dict[int, list[Run]]] = {}
    for kind, run in zip(kinds(runs), runs, strict=True):
        if run[measure]:
            found.setdefault(kind, {}).setdefault(run["budget"], []).append(run)
    points = {kind: [_point(seeds, measure) for seeds in budgets.values()] for kind, budgets in found.items()}
    return {kind: sorted(of, key=lambda point: point[0]) for kind, of in points.items()}


def _point(seeds: Sequence[Run], measure: str) -> tuple[int, Mapping[str, Any]]:
    queries = round(sum(run["queries_answered"] for run in seeds) / len(seeds))
    if len(seeds) == 1:
        return queries, seeds[0][measure]
    values = [run[measure]["value"] for run in seeds]
    return queries, {"value": sum(values) / len(values), "low": min(values), "high": max(values), "seeds": len(seeds)}


def _bars(runs: Sequence[Run], measure: str) -> str:
    shown = [(name, kind, run) for name, kind, run in zip(names(runs), kinds(runs), runs, strict=True) if run[measure]]
    return plots.side_by_side(
        [f"{name}, {run['queries_answered']:,}" for name, _, run in shown],
        [run[measure] for *_, run in shown],
        kinds=[kind for _, kind, _ in shown],
        measure=MEASURES[measure],
    )


def _said(run: Run, field: str) -> str:
    title = TITLES.get(field, field)
    match run.get(field):
        case dict() as options:
            return " ".join(f"{name}={value}" for name, value in sorted(options.items()))
        case bool() as yes:
            return SAID[field] if yes else ""
        case int() as number:
            return f"{title} {number}"
        case value:
            return f"{title} {value}" if value and field in TITLES else str(value or "")
