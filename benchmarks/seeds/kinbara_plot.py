"""Draw what `benchmarks.seeds.kinbara` measured: `python -m benchmarks.seeds.kinbara_plot` reads its JSON and writes a picture."""

import argparse
import json
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.seeds.fingerprints import CHANNELS

HOUSE = Path(__file__).parents[2]
COLOURS = ("#9aa5b1", "#5b8def", "#1f3a68")
STAGES = {"without the stage": "#c0392b", "perceptual hash only": "#9aa5b1", "both channels": "#1f3a68"}


def main() -> None:
    """Read the figures and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=HOUSE / "benchmarks" / "results" / "kinbara.json")
    parser.add_argument("--out", type=Path, default=HOUSE / "docs" / "images" / "kinbara.png")
    options = parser.parse_args()
    measured = json.loads(options.results.read_text(encoding="utf-8"))
    figure = Figure(figsize=(11, 4.2), layout="constrained", dpi=130)
    recalled, voted = figure.subplots(1, 2, width_ratios=(3, 2))
    draw_recall(recalled, measured["tables"]["cifar10"]["CIFAR-10"]["recall"])
    draw_voting(voted, measured["voting"])
    figure.savefig(options.out)


def draw_recall(axes: Axes, recall: dict[str, dict[str, float]]) -> None:
    """Bars of the share of copies recognised (%), a group a transform, a bar a channel."""
    names = [name for name in recall if name not in ("two copies of one image", "single transforms")]
    width = 0.8 / len(CHANNELS)
    for place, (channel, colour) in enumerate(zip(CHANNELS, COLOURS, strict=True)):
        at = [row + (place - 1) * width for row in range(len(names))]
        axes.bar(at, [100 * recall[name][channel] for name in names], width, color=colour, label=channel)
    axes.axhline(95, color="#c0392b", linewidth=0.8, linestyle="--")
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right")
    axes.set_ylabel("copies recognised (%)")
    axes.set_title("CIFAR-10: recall per transform")
    axes.legend(loc="lower left", fontsize=8)


def draw_voting(axes: Axes, votes: list[dict[str, Any]]) -> None:
    """Curves of the share of wrong majority labels (%) over the number of variants, at the larger rate; dotted: the paper's arithmetic."""
    rate = max(row["rate"] for row in votes)
    for stage in dict.fromkeys(row["stage"] for row in votes):
        rows = [row for row in votes if row["stage"] == stage and row["rate"] == rate]
        axes.plot([row["n"] for row in rows], [100 * row["wrong"] for row in rows], marker="o", color=STAGES.get(stage), label=stage)
    axes.plot(
        [row["n"] for row in rows], [100 * row["independent"] for row in rows], ":", color="#444444", label="if each were altered by itself"
    )
    axes.set_ylim(bottom=0)
    axes.set_xlabel("variants of each image")
    axes.set_ylabel("wrong majority labels (%)")
    axes.set_title(f"Voting against a rate of {rate:.0%}")
    axes.legend(fontsize=8)


if __name__ == "__main__":
    main()
