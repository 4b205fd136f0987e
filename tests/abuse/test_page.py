"""The page that `make abuse` writes."""

from typing import Any

from tests.abuse.page import Outcome, written
from tests.abuse.rows import ROWS, row_named

RECIPE: dict[str, Any] = {
    "commit": "0123456789", "uncommitted_changes": False, "load_average_before": 0.1, "hardware": {"cpu": "a processor", "cores": 2},
}  # fmt: skip


def test_a_run_rewrites_its_rows_and_leaves_the_others() -> None:
    """Lines come in the table's order, whenever they were written; the head is written anew."""
    first = {"F1": Outcome(passed=1, measured=["p99 30 ms"]), "A1": Outcome(passed=2)}
    page = written("", first, recipe=RECIPE, day="2026-11-20", capacity=700.0)
    again = written(page, {"A1": Outcome(missed=["slow"])}, recipe=RECIPE, day="2026-11-21", capacity=None)
    lines = {line.split("|")[1].strip(): line for line in again.splitlines() if line.startswith(("| F", "| A"))}
    assert list(lines) == [name for name in ROWS if name[0] in "FA"]
    assert lines["F2"].endswith("| | not run | |")
    assert "| p99 30 ms | yes | 2026-11-20, 0123456, load 0.1, R0 700/s |" in lines["F1"]
    assert "| missed: slow | no | 2026-11-21, 0123456, load 0.1 |" in lines["A1"]


def test_a_row_that_could_not_run_is_neither_met_nor_missed() -> None:
    """Where all tests were skipped the page says why, and that nothing was tried."""
    page = written("", {"F5": Outcome(skipped=["nginx is not installed"])}, recipe=RECIPE, day="2026-11-21", capacity=None)
    assert "| nginx is not installed | not run |" in page


def test_rows_are_named_by_docstrings() -> None:
    """The function's docstring first, then the module's; text that only looks like a row is none."""
    assert row_named("F2: one thing", "F1: another") == "F2"
    assert row_named("Something else", "A10: the module") == "A10"
    assert row_named("A99: no such row", None) is None
    assert all(row_named(f"{name}: text") == name for name in ROWS)
