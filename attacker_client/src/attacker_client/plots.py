"""The reports' plots, as SVG that takes its text's colour from the page: nothing global, nothing loaded from elsewhere."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, ORANGE = "#2f6db3", "#d1642c"
SERIES = (BLUE, ORANGE, "#3a8f5c", "#8a5cb8", "#b8902f", "#c2477f", "#4aa3b5", "#7a7a7a")
INK = "#012345"  # stands for the page's own colour of text until the SVG is written
WIDTH = 6.4  # inches
MOST_BARS, MOST_TICKS = 40, 7

Measured = Mapping[str, Any]  # value, low, high, in 0..1


def training(epochs: Sequence[Mapping[str, Any]]) -> Markup:
    """Loss and agreement with held-out answers over the epochs; where there were several trainings they stand one after the other."""
    figure, axes = _figure(2.6)
    x = range(1, len(epochs) + 1)
    (loss,) = axes.plot(x, [row.get("loss", float("nan")) for row in epochs], color=BLUE, linewidth=1.6, label="training loss (left)")
    axes.set(xlabel="epoch", ylabel="loss")
    lines = [loss]
    if any("holdout_fidelity" in row for row in epochs):
        right = axes.twinx()
        shares = [100 * row["holdout_fidelity"] if "holdout_fidelity" in row else float("nan") for row in epochs]
        lines += right.plot(x, shares, color=ORANGE, linewidth=1.6, label="held-out answers matched, % (right)")
        right.set(ylim=(0, 101))
        _plain(right)
        right.spines["right"].set_visible(True)
    for place, row in enumerate(epochs):
        if place and row["epoch"] == 1:
            axes.axvline(place + 0.5, color=INK, linewidth=0.5, linestyle=":")
    figure.legend(handles=lines, loc="outside upper left", ncols=2, fontsize=9, frameon=False)
    return _svg(figure, "Loss and agreement over the epochs", "training")


def per_class(rows: Sequence[Mapping[str, Any]]) -> Markup:
    """Accuracy of each class with its interval; of many classes, those with most images."""
    shown = sorted(rows, key=lambda row: -row["accuracy"]["n"])[:MOST_BARS]
    shown = sorted(shown, key=lambda row: row["accuracy"]["value"])
    figure, axes = _figure(0.9 + 0.24 * len(shown))
    _bars(axes, [str(row["name"]) for row in shown], [row["accuracy"] for row in shown], [BLUE] * len(shown))
    axes.set_xlabel("accuracy, %")
    return _svg(figure, "Accuracy by class", "per-class")


def labels(counts: Sequence[Mapping[str, Any]]) -> Markup:
    """How often the endpoint gave each label, the most frequent on top."""
    shown = list(reversed(counts[:MOST_BARS]))
    figure, axes = _figure(0.9 + 0.24 * len(shown))
    axes.barh([str(row["label"]) for row in shown], [row["count"] for row in shown], color=BLUE, height=0.7)
    axes.set_xlabel("answers")
    return _svg(figure, "How often the endpoint gave each label", "labels")


def over_budgets(curves: Mapping[str, Sequence[tuple[int, Measured]]], *, measure: str) -> Markup:
    """One line for each kind of campaign: a measure against the queries that were answered, with 95% intervals."""
    figure, axes = _figure(3.4)
    for place, (name, points) in enumerate(curves.items()):
        colour = SERIES[place % len(SERIES)]
        x, y = [queries for queries, _ in points], [100 * measured["value"] for _, measured in points]
        axes.errorbar(
            x, y, yerr=_errors([measured for _, measured in points]), color=colour, marker="o", markersize=4, capsize=3, label=name
        )
    if any(len(points) > 1 for points in curves.values()) and all(queries > 0 for points in curves.values() for queries, _ in points):
        budgets = sorted({queries for points in curves.values() for queries, _ in points})
        axes.set_xscale("log")
        ticks = budgets[:: -(-len(budgets) // MOST_TICKS)]
        axes.set_xticks(ticks, [f"{queries:,}" for queries in ticks])
        axes.minorticks_off()
    axes.set(xlabel="queries answered", ylabel=f"{measure}, %", ylim=(0, 101))
    axes.grid(alpha=0.25)
    figure.legend(loc="outside upper left", ncols=2, fontsize=9, frameon=False)
    return _svg(figure, f"{measure} over the budget", f"budgets-{measure}")


def side_by_side(names: Sequence[str], measured: Sequence[Measured], *, kinds: Sequence[str], measure: str) -> Markup:
    """A bar a run with its 95% interval, in the order given; runs of a kind share a colour, that of their line in `over_budgets`."""
    figure, axes = _figure(0.9 + 0.3 * len(names))
    each = list(dict.fromkeys(kinds))
    colours = [SERIES[each.index(kind) % len(SERIES)] for kind in kinds]
    _bars(axes, list(reversed(names)), list(reversed(measured)), list(reversed(colours)))
    axes.set_xlabel(f"{measure}, %")
    return _svg(figure, f"{measure} of each run", f"bars-{measure}")


def _bars(axes: Axes, names: Sequence[str], measured: Sequence[Measured], colours: Sequence[str]) -> None:
    places = list(range(len(names)))  # names may repeat
    values = [100 * one["value"] for one in measured]
    axes.barh(places, values, xerr=_errors(measured), color=colours, height=0.7, error_kw={"elinewidth": 1, "capsize": 2, "ecolor": INK})
    axes.set_yticks(places, names)
    axes.set_xlim(0, 101)


def _errors(measured: Sequence[Measured]) -> list[list[float]]:
    """Distances from the value down and up, in percent."""
    down = [max(0.0, 100 * (one["value"] - one["low"])) for one in measured]
    return [down, [max(0.0, 100 * (one["high"] - one["value"])) for one in measured]]


def _figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    _plain(axes)
    return figure, axes


def _plain(axes: Axes) -> None:
    """No box, no background."""
    axes.patch.set_alpha(0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)


def _svg(figure: Figure, title: str, salt: str) -> Markup:
    """The figure as an element of the page: text stays text, and the same numbers give the same bytes."""
    for axes in figure.axes:
        axes.tick_params(colors=INK)
        axes.spines[:].set_color(INK)
        for text in (axes.xaxis.label, axes.yaxis.label):
            text.set_color(INK)
            text.set_fontsize(9)
    for legend in figure.legends:
        for text in legend.get_texts():
            text.set_color(INK)
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    drawn = buffer.getvalue()
    drawn = drawn[drawn.index("<svg") :].replace(INK, "currentColor")
    opening, rest = drawn.split(">", 1)
    # Made by matplotlib, which escapes the texts that it was given.
    return Markup(f'{opening} role="img" class="plot"><title>{title}</title>{rest}')  # noqa: S704
