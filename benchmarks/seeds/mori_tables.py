"""Mori's tables as they are printed: ours beside the paper's."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from rich.table import Table

from benchmarks.seeds.mori_divisions import PAPER, Division, Figures
from benchmarks.seeds.mori_pairs import TABLE_I, Pair, Triple
from defenses.clone_detection.features import NAMES

TITLES = ("(i), (ii) unrelated: SVM, random forest", "(i), (iii) clone (a): SVM, k-NN", "(i), (iv) clone (b): SVM, random forest")
PAPER_I: tuple[Triple, ...] = ((0.580, 0.217, 0.342), (0.866, 0.050, 0.172), (0.752, 0.118, 0.026))
PATTERN: Mapping[str, Callable[[Triple, Triple, Triple], bool]] = {
    "alpha of both clones above the unrelated one's": lambda u, a, b: min(a[0], b[0]) > u[0],
    "beta smallest for the clone of labels": lambda u, a, b: a[1] < min(u[1], b[1]),
    "gamma smallest for the clone of confidences": lambda u, a, b: b[2] < min(u[2], a[2]),
}
WORST = 10  # rows
RATES = ("precision", "recall", "accuracy", "balanced_accuracy", "false_positive_rate", "auc")


def pattern(pairs: Sequence[Pair], *, steps: int) -> dict[str, bool]:
    """Which parts of Table I's pattern one seed's three pairs show."""
    rows = [next(pair.features[steps] for pair in pairs if pair.which == which) for which in TABLE_I]
    return {claim: bool(holds(*rows)) for claim, holds in PATTERN.items()}


def table_i(pairs: Sequence[Pair], steps: Sequence[int]) -> Table:
    """The three pairs on MNIST, the mean over seeds and, where there are several, the range; by number of bisection steps."""
    seeds = sorted({pair.seed for pair in pairs})
    made = Table("pair", "steps", *NAMES, title=f"Table I of Mori et al.: MNIST, {len(seeds)} seed{'s' * (len(seeds) > 1)}")
    for which, title, paper in zip(TABLE_I, TITLES, PAPER_I, strict=True):
        own = [pair for pair in pairs if pair.which == which]
        made.add_row(f"the paper: {title}", "?", *(f"{value:.3f}" for value in paper), style="dim")
        for k in steps:
            values = np.array([pair.features[k] for pair in own])
            made.add_row(title, str(k), *(_spread(column) for column in values.T), end_section=k == steps[-1])
    return made


def steps_table(pairs: Sequence[Pair]) -> Table:
    """What the number of bisection steps does to the features: means over all pairs of a kind."""
    made = Table("set", "steps", title="features by bisection steps: means over pairs and seeds")
    kinds: Mapping[str, str | None] = {"unrelated": None, "clone (a)": "a", "clone (b)": "b"}
    for name in ("alpha", "gamma"):
        for kind in kinds:
            made.add_column(f"{name}, {kind}", justify="right")
    for data in dict.fromkeys(pair.set for pair in pairs):
        own = [pair for pair in pairs if pair.set == data]
        for k in own[0].features:
            means = [
                float(np.mean([pair.features[k][NAMES.index(name)] for pair in own if pair.which.strategy == strategy]))
                for name in ("alpha", "gamma")
                for strategy in kinds.values()
            ]
            made.add_row(data, str(k), *(f"{mean:.3f}" for mean in means), end_section=k == max(own[0].features))
    return made


def table_ii(found: Sequence[Figures], *, seeds: int, title: str) -> Table:
    """The three divisions; `found` has a row for every division and seed, of which the mean and the range are shown."""
    made = Table(
        "division", "", "precision", "recall", "accuracy", "balanced accuracy", "false-positive rate", "AUC", "steps chosen (folds)",
        title=f"Table II of Mori et al.: {title}, {seeds} seed{'s' * (seeds > 1)}",
    )  # fmt: skip
    for division, paper in PAPER.items():
        own = [one for one in found if one.division == division]
        cells = [_percent([getattr(one, rate) for one in own]) for rate in RATES]
        steps: dict[int, int] = {}
        for one in own:
            steps = {k: steps.get(k, 0) + one.steps.get(k, 0) for k in sorted({*steps, *one.steps})}
        made.add_row(f"({division})", "ours", *cells, ", ".join(f"{k} ({times})" for k, times in steps.items()))
        known = (f"{paper[rate]:.1%}" if rate in paper else "" for rate in RATES)
        made.add_row("", "the paper", *known, "?", style="dim", end_section=True)
    made.add_row("", '"always clone"', "66.7%", "100.0%", "66.7%", "50.0%", "100.0%", "50.0%", "", style="dim")
    return made


def fixed_table(found: Mapping[int, Sequence[Figures]]) -> Table:
    """Accuracy of every division where the number of steps is not chosen but given."""
    divisions: tuple[Division, ...] = tuple(PAPER)
    made = Table(
        "steps", *(f"({name}) {what}" for name in divisions for what in ("accuracy", "AUC")), title="Table II at a given number of steps"
    )
    for k, rows in found.items():
        cells: list[str] = []
        for division in divisions:
            own = [one for one in rows if one.division == division]
            cells += [_percent([one.accuracy for one in own]), _percent([one.auc for one in own])]
        made.add_row(str(k), *cells)
    return made


def wrong_table(found: Sequence[Figures]) -> Table:
    """The pairs that are judged wrongly most often: shares of the decisions on each, means over seeds."""
    divisions: tuple[Division, ...] = tuple(PAPER)
    made = Table("pair", *(f"({division})" for division in divisions), title="judged wrongly most often")
    shares = {
        name: [float(np.mean([one.wrong.get(name, 0.0) for one in found if one.division == division])) for division in divisions]
        for name in sorted({name for one in found for name in one.wrong})
    }
    for name in sorted(shares, key=lambda name: -sum(shares[name]))[:WORST]:
        made.add_row(name, *(f"{share:.0%}" for share in shares[name]))
    return made


def reach(found: Sequence[Figures], patterns: Mapping[int, Mapping[str, bool]]) -> dict[str, Any]:
    """What was to be reached, and whether it was: on every seed for Table I, by the mean over seeds for Table II."""
    divisions = {
        division: {"wanted": paper["accuracy"], "reached": float(np.mean([one.accuracy for one in found if one.division == division]))}
        for division, paper in PAPER.items()
    }
    return {
        "table I's pattern on every seed": all(all(claims.values()) for claims in patterns.values()),
        "table II's accuracy": {name: row | {"met": row["reached"] >= row["wanted"]} for name, row in divisions.items()},
    }


def _spread(values: Any) -> str:
    mean = f"{np.mean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.3f} to {max(values):.3f})"


def _percent(values: Sequence[float]) -> str:
    mean = f"{np.mean(values):.1%}"
    return mean if len(values) == 1 else f"{mean} ({100 * min(values):.1f} to {100 * max(values):.1f})"
