"""The report of a verification: one HTML file with a plot and pictures, with nothing loaded from elsewhere, that an owner can hand on."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from matplotlib.figure import Figure

from app import data_uris
from app.calibration_plots import FOREIGN, LINE, OWN
from app.evidence import Evidence
from defenses.clone_detection.features import Interval
from defenses.evidence.attribution import Attribution, one_each

TEMPLATE = Path(__file__).with_suffix(".html")
ACCOUNTS = 30  # shown; verification.json has all
PICTURES = 24  # of a named account


def page(
    result: Mapping[str, Any],
    found: Sequence[Attribution],
    evidence: Evidence,
    *,
    answers: Mapping[str, int],
    labels: Sequence[str],
) -> str:
    """Make the page of a finished verification, whose JSON is `result`; `answers` are by image digest.

    Only who is accused is called by his name: the page is made to be handed on.
    """
    shown = [
        one if one.named or one.alike else replace(one, client=f"another account ({place})")
        for place, one in enumerate(found[:ACCOUNTS], start=1)
    ]
    repeated = {
        one.client: [
            {
                "uri": data_uris.png(evidence.pixels(trigger.image)),
                "honest": labels[trigger.honest],
                "told": labels[trigger.told],
                "time": datetime.fromtimestamp(trigger.time, UTC).strftime("%Y-%m-%d %H:%M UTC"),
            }
            for trigger in one_each(evidence.triggers[one.client])
            if answers.get(trigger.image) == trigger.told
        ][:PICTURES]
        for one in found
        if one.named
    }
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(result=result, shown=shown, hidden=len(found) - len(shown), repeated=repeated, plot=rates(shown))


def rates(shown: Sequence[Attribution]) -> str:
    """Each account's share of repeated labels with its 95% interval, and what is expected of recognizers that know nothing of us."""
    asked = [one for one in shown if one.asked]
    figure = Figure(figsize=(9, 1.2 + 0.28 * len(asked)), layout="constrained")
    axes = figure.add_subplot()
    for place, one in enumerate(asked):
        share = Interval.of_share(np.arange(one.asked) < one.matches)
        colour = FOREIGN if one.named else OWN
        axes.errorbar(
            [share.value],
            [place],
            xerr=[[share.value - share.low], [share.high - share.value]],
            fmt="o",
            color=colour,
            capsize=3,
            markersize=5,
        )
        axes.plot([one.null_rate], [place], marker="|", color=LINE, markersize=12, linestyle="none")
    axes.plot([], [], marker="|", color=LINE, linestyle="none", markersize=12, label="expected of who knows nothing of us")
    axes.set_yticks(range(len(asked)), [one.client for one in asked], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(-0.01, 1.01)
    axes.set_xlabel("share of an account's wrong labels that the suspect repeats (95%)", fontsize=9)
    axes.grid(alpha=0.3, axis="x")
    axes.legend(fontsize=8, loc="lower right")
    return data_uris.svg(figure)
