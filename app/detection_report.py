"""The report of a detection: one HTML file with plots, with nothing loaded from elsewhere, that an owner can hand on."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from app import data_uris
from app.calibration_plots import FOREIGN, LINE, OWN
from defenses.clone_detection.bank import Bank
from defenses.clone_detection.features import ALL, Features, Interval
from defenses.clone_detection.verdict import Judge, Verdict

TEMPLATE = Path(__file__).with_suffix(".html")
MEANINGS = {
    "alpha": "same label near our decision boundary: large for clones",
    "beta": "we are more confident on random images: small for clones of labels, which are over-confident",
    "gamma": "mean squared difference of confidences near the boundary: small for clones of confidences",
    "delta": "same label on random images: large for clones (ours, not the paper's)",
}
AXES = {"gamma": "gamma: squared difference of confidences", "delta": "delta: same label on random images"}


def page(result: Mapping[str, Any], bank: Bank, *, judge: Judge, features: Features, verdict: Verdict) -> str:
    """Make the page of a finished detection, whose JSON is `result`."""
    clones = bank.clones
    known = bank.features(judge.choice.steps) if judge.strangers is None else bank.relative(judge.choice.steps)
    placed = as_judged(features, judge)
    rows = [
        (
            name,
            MEANINGS[name],
            getattr(features, name),
            getattr(placed, name),
            _range(column[~clones], judge),
            _range(column[clones], judge),
        )
        for name, column in zip(ALL, known.T, strict=True)
    ]
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        result=result, verdict=verdict, features=features, rows=rows, judge=judge,
        counts={"independents": int((~clones).sum()), "clones": int(clones.sum()), "models": len(bank.models)},
        plots={"where": where(known, clones, placed), "each": each(known, clones, placed)},
    )  # fmt: skip


def as_judged(features: Features, judge: Judge) -> Features:
    """The features with their intervals in the judge's units."""
    found = {name: getattr(features, name) for name in ALL}
    ends = [judge.placed(np.array([getattr(one, end) if one else np.nan for one in found.values()])) for end in ("value", "low", "high")]
    intervals: dict[str, Any] = {
        name: one and Interval(*(float(end[place]) for end in ends)) for place, (name, one) in enumerate(found.items())
    }
    return replace(features, **intervals)


def where(known: NDArray[np.float64], clones: NDArray[np.bool_], features: Features) -> str:
    """Alpha against gamma, or delta where there is no gamma: the bank's pairs, and the suspect with its intervals."""
    name, other = ("gamma", features.gamma) if features.gamma else ("delta", features.delta)
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for chosen, colour, label in ((~clones, OWN, "independents of the bank"), (clones, FOREIGN, "clones of the bank")):
        axes.scatter(known[chosen, 0], known[chosen, ALL.index(name)], s=14, color=colour, alpha=0.6, label=label)
    _cross(axes, features.alpha, other)
    axes.set(xlabel="alpha: same label near our boundary", ylabel=AXES[name])
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return data_uris.svg(figure)


def each(known: NDArray[np.float64], clones: NDArray[np.bool_], features: Features) -> dict[str, str]:
    """A plot of every feature that the suspect has: the bank's distributions, and the suspect as a line with its interval."""
    plots = {}
    for name in features.names:
        figure = Figure(figsize=(4.5, 2.6), layout="constrained")
        axes = figure.add_subplot()
        column, suspect = known[:, ALL.index(name)], getattr(features, name)
        edges = np.linspace(min(column.min(), suspect.value), max(column.max(), suspect.value) + 1e-9, 30).tolist()
        for chosen, colour, label in ((~clones, OWN, "independents"), (clones, FOREIGN, "clones")):
            axes.hist(column[chosen], edges, weights=np.full(chosen.sum(), 1 / chosen.sum()), color=colour, alpha=0.6, label=label)
        axes.axvspan(suspect.low, suspect.high, color=LINE, alpha=0.15)
        axes.axvline(suspect.value, color=LINE, label="the suspect")
        axes.set_xlabel(name)
        axes.set_ylabel("share of the bank's pairs", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, frameon=False)
        plots[name] = data_uris.svg(figure)
    return plots


def _cross(axes: Axes, x: Interval, y: Interval) -> None:
    axes.errorbar(
        [x.value], [y.value], xerr=[[x.value - x.low], [x.high - x.value]], yerr=[[y.value - y.low], [y.high - y.value]],
        fmt="D", color=LINE, capsize=3, label="the suspect",
    )  # fmt: skip


def _range(values: NDArray[np.float64], judge: Judge) -> str:
    low, middle, high = np.quantile(values, (0.05, 0.5, 0.95))
    return f"{middle:.3f} ({low:.3f} to {high:.3f})" if judge.strangers is None else f"{middle:+.1f} ({low:+.1f} to {high:+.1f})"
