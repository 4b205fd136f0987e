"""The demo's report: one HTML file with plots, with nothing loaded from elsewhere; it links to the thieves' own."""

import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from matplotlib.figure import Figure

from app import __version__, data_uris
from app.calibration_plots import FOREIGN, LINE, OWN
from app.demo_rows import SAW, Row, interval, share, story

TEMPLATE = Path(__file__).with_suffix(".html")
COLOURS = (FOREIGN, OWN, "#3a8f5c", "#8a5cb8")  # of the profiles, in the demo's order
SHOWN = 16  # pictures that were asked of more than one profile


def page(rows: Sequence[Row], *, plan: Mapping[str, Any], out: Path) -> str:
    """Make the page of a demo's finished thefts, at least one; `out` is where it will lie."""
    assert rows
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        rows=[(row, (row.folder / "campaign" / "report.html").relative_to(out).as_posix()) for row in rows],
        version=__version__,
        plan=plan,
        machine=f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        minutes=sum(row.run["seconds"] for row in rows) / 60,
        sentences=story(rows),
        guess=rows[0].run["told"],
        plots={"stolen": stolen(rows), "seen": seen(rows)},
        pictures=pictures(rows),
        saw=SAW,
        interval=interval,
        share=share,
    )


def stolen(rows: Sequence[Row]) -> str:
    """Agreement with the honest recognizer, and paler the agreement with the endpoint's answers, which is what the thief can see."""
    attacks, profiles = _named(rows)
    figure = Figure(figsize=(10, 4), layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / len(profiles)
    for place, profile in enumerate(profiles):
        own = [row for row in rows if row.profile == profile]
        at = [attacks.index(row.attack) + (place - (len(profiles) - 1) / 2) * width for row in own]
        for measured, pale in (([row.believed for row in own], True), ([row.honest for row in own], False)):
            known = [(x, one) for x, one in zip(at, measured, strict=True) if one]
            values = [100 * one["value"] for _, one in known]
            errors = [[100 * (one["value"] - one["low"]) for _, one in known], [100 * (one["high"] - one["value"]) for _, one in known]]
            axes.bar(
                [x + (0.2 if pale else -0.2) * width for x, _ in known], values, 0.38 * width, color=COLOURS[place % len(COLOURS)],
                alpha=0.35 if pale else 1, yerr=errors, error_kw={"elinewidth": 1, "capsize": 2, "ecolor": LINE},
                label=f"{profile}: with " + ("its own answers" if pale else "the honest recognizer"),
            )  # fmt: skip
    axes.set_xticks(range(len(attacks)), attacks)
    axes.set(ylabel="the clone agrees, % of images", ylim=(0, 101))
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize=8)
    return data_uris.svg(figure)


def seen(rows: Sequence[Row]) -> str:
    """Of each theft that was looked at, the shares of its queries that the server flagged; empty where no profile looks."""
    looked = [row for row in rows if any(row.saw(what) is not None for what in SAW)]
    if not looked:
        return ""
    figure = Figure(figsize=(10, 1.2 + 0.75 * len(looked)), layout="constrained")
    axes = figure.add_subplot()
    for place, (what, words) in enumerate(SAW.items()):
        shares = [100 * (row.saw(what) or 0) for row in looked]
        bars = axes.barh([y + (place - 1) * 0.27 for y in range(len(looked))], shares, 0.25, color=COLOURS[place], label=words)
        axes.bar_label(bars, fmt="%.1f%%", padding=3, fontsize=8)
    axes.set_yticks(range(len(looked)), [f"{row.attack}\n{row.profile}" for row in looked])
    axes.invert_yaxis()
    axes.set(xlabel="% of the queries", xlim=(0, 110))
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize=8)
    return data_uris.svg(figure)


def pictures(rows: Sequence[Row]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Pictures that a thief asked of several profiles: each as a data URI, with every profile and its answer. Same seed, same pictures."""
    told: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for row in rows:
        for example in row.run["examples"]:
            score = "" if example["score"] is None else f" {example['score']:.2f}"
            told.setdefault((row.attack, example["png"]), []).append((row.profile, example["label"] + score))
    several = [(f"data:image/png;base64,{png}", answers) for (_, png), answers in told.items() if len(answers) > 1]
    return several[:SHOWN]


def _named(rows: Sequence[Row]) -> tuple[list[str], list[str]]:
    return list(dict.fromkeys(row.attack for row in rows)), list(dict.fromkeys(row.profile for row in rows))
