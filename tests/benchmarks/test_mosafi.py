"""The mentor tells labels only where it says so, and figures are relative to him."""

import json
from pathlib import Path

import pytest

from benchmarks.campaigns import LABEL_ONLY, Plan, run
from benchmarks.seeds.mosafi import ARMS, BUDGETS, figures, plot, table
from tests.benchmarks.small_data import write_data


def test_composite_learns_from_labels_alone(tmp_path: Path) -> None:
    """Behind the label-only server the composite attack gets a label and no score an answer, and spends its budget on mixtures."""
    plan = Plan(victim="cifar10", server=LABEL_ONLY, attack="composite", budget=40, epochs=1, evaluation=10, options=("epochs=1",))
    row = run(plan, data=write_data(tmp_path / "data"), out=tmp_path / "out")
    told = json.loads((tmp_path / "out" / plan.folder / "campaign" / "run.json").read_bytes())["told"]
    assert (told["entries"], told["best_score"], told["decimals"]) == ("", None, None)  # no scores
    assert sum(one["count"] for one in told["labels"]) == told["seen"] == 40
    assert row["queries_answered"] == row["server_counted"]["queries"] == 40


def test_figures_are_relative_to_the_mentor(tmp_path: Path) -> None:
    """A student half as accurate as the mentor is at 50%; seeds are averaged, and every budget has its row for every attack."""
    rows = [
        {
            "title": "", "budget": budget, "attack": attack, "server": list(server), "seed": seed, "seconds": 60,
            "accuracy": share(0.45 + 0.01 * (seed - 1)), "fidelity_on_test": share(0.5), "model": {"accuracy": 0.9},
            "server_counted": {"queries": budget},
        }
        for budget in BUDGETS
        for (attack, _), (server, _, _) in ARMS.items()
        for seed in range(3)
    ]  # fmt: skip
    found = figures(rows)
    assert [(row["budget"], row["attack"], row["told"]) for row in found] == [(budget, *arm) for budget in BUDGETS for arm in ARMS]
    assert all(row["relative"] == pytest.approx(0.5) and row["seeds"] == 3 for row in found)
    assert table(found).row_count == len(found) + len(ARMS)
    plot(found, mentor=0.9).savefig(tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 5_000


def share(value: float) -> dict[str, float]:
    """A share and some interval."""
    return {"value": value, "low": value - 0.1, "high": value + 0.1}
