"""Campaigns stand beside each other under names that tell them apart."""

import re

import pytest
from rich.console import Console

from attacker_client.compare import curves, names, page, table

from .runs import a_run, measured


def test_names_say_what_differs() -> None:
    """Of what may differ, only what does is in a name."""
    assert names([a_run(), a_run(attack="composite", budget=900)]) == ["standard", "composite"]
    assert names([a_run(), a_run(seed=2)]) == ["standard, seed 0", "standard, seed 2"]
    hard = names([a_run(), a_run(hard_labels=True, options={"rounds": "3"})])
    assert hard == ["standard", "standard, rounds=3, labels only"]
    more = names([a_run(), a_run(pretrained=True, epochs_asked_for=5, test_images="tests", reference="b.onnx", forwarded_for=True)])
    assert more == ["standard", "standard, pretrained, epochs 5, by X-Forwarded-For, tested on tests, reference b.onnx"]


def test_runs_of_older_clients() -> None:
    """What an older client didn't write is as if it had not been asked for."""
    old = {name: value for name, value in a_run().items() if name not in ("epochs_asked_for", "reference", "forwarded_for", "test_images")}
    assert names([old, a_run()]) == ["standard", "standard"]
    assert page([old])


def test_curves_join_budgets() -> None:
    """Runs that differ by the budget alone are one line in the order of their queries; a run without the measure is not on it."""
    runs = [
        a_run(budget=900, queries_answered=900, fidelity=measured(0.8)),
        a_run(queries_answered=100, fidelity=measured(0.4)),
        a_run(fidelity=None),
    ]
    assert {name: [(queries, one["value"]) for queries, one in points] for name, points in curves(runs, "fidelity").items()} == {
        "standard": [(100, 0.4), (900, 0.8)]
    }


def test_seeds_are_one_curve() -> None:
    """Runs that differ by their seed alone are a point: their mean, and bounds that are the lowest and the highest."""
    runs = [a_run(seed=n, queries_answered=480 + n, fidelity=measured(value)) for n, value in enumerate((0.5, 0.8, 0.6))]
    drawn = curves([*runs, a_run(budget=900, queries_answered=900, fidelity=measured(0.9))], "fidelity")
    assert list(drawn) == ["standard"]
    (queries, mean), (most, alone) = drawn["standard"]
    assert (queries, most) == (481, 900)
    assert mean == {"value": pytest.approx(19 / 30), "low": 0.5, "high": 0.8, "seeds": 3}
    assert alone == measured(0.9)


@pytest.mark.parametrize("count", [1, 3])
def test_page(count: int) -> None:
    """Each measure that a run has gets a curve and bars, and each run a row."""
    runs = [a_run(budget=100 * n + 100, queries_answered=100 * n + 100, fidelity=measured(0.3 * n + 0.1)) for n in range(count)]
    html = page(runs)
    assert len(re.findall(r"<svg", html)) == 4, "fidelity and accuracy"
    assert html.count("<tr><td>standard") == count
    assert "Agrees with the endpoint" in html and "honest" not in html


def test_every_measure_is_shown() -> None:
    """What run.json measures is in the page and in the terminal's table, both agreements with the honest recognizer too."""
    run = a_run(fidelity_on_test=measured(0.61), fidelity_to_reference=measured(0.52), fidelity_to_reference_on_test=measured(0.43))
    console = Console(width=250)
    with console.capture() as captured:
        console.print(table([run]))
    for shown in (page([run]), captured.get()):
        assert all(share in shown for share in ("71.2%", "65.4%", "61.0%", "52.0%", "43.0%"))
        assert "agrees with the honest recognizer on the test images" in shown


def test_table() -> None:
    """The terminal shows each run with its figures and intervals."""
    console = Console(width=160, record=True, quiet=False)
    with console.capture() as captured:
        console.print(table([a_run(), a_run(attack="voting:composite", accuracy=None)]))
    shown = captured.get()
    assert "71.2% (65.2 to 77.2%)" in shown
    assert "voting:composite" in shown
