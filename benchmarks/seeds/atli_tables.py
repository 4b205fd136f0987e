"""How the filter's figures are shown: tables beside the paper's, and ROC curves."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Column, Table

from benchmarks.seeds.atli_sets import TITLES, UNSEEN, WITH
from benchmarks.seeds.filter_metrics import Curve

# Table 4 of the paper in percent: the filter's TPR and TNR, then the rivals' TPR at the filter's TNR and at a TNR of 95%; ImageNet queries
PAPER: Mapping[str, Mapping[str, tuple[int, ...]]] = {
    "cifar10": {"filter": (96, 96), "at_filter_tnr": (28, 54, 89), "at_tnr_95": (33, 60, 91)},
    "gtsrb": {"filter": (99, 99), "at_filter_tnr": (42, 56, 71), "at_tnr_95": (77, 94, 89)},
}
PAPER_RIVALS = ("msp", "odin", "mahalanobis")
RIVALS = (*PAPER_RIVALS, "energy", "knn")
REACH = {"cifar10": 96, "gtsrb": 99}  # percent, TPR and TNR on the unseen classes

Page = Mapping[str, Any]


def show(pages: Mapping[str, Page], console: Console) -> None:
    """Print everything that was measured."""
    for name, page in pages.items():
        console.print(f"\n[bold]{page['bundle']}[/bold], {page['precision']}; the filters learned from", highlight=False)
        for filter_name, source in page["sources"].items():
            console.print(f"  {filter_name}: {source}", highlight=False)
        console.print(paper_table(name, page))
        console.print(f"reach: TPR / TNR {REACH[name]} / {REACH[name]} on {UNSEEN}", highlight=False)
        for filter_name in page["sources"]:
            console.print(filter_table(filter_name, page))
        console.print(scorer_table(page))
        console.print(codec_table(page))


def paper_table(name: str, page: Page) -> Table:
    """The paper's layout: the filter, and its rivals' TPR at its TNR and at a TNR of 95%, beside the paper's row."""
    columns: tuple[Column | str, ...] = (
        Column("queries", no_wrap=True),
        "TPR / TNR",
        *(f"{rival}\nat its TNR / at 95%" for rival in RIVALS),
    )
    table = Table(*columns, title=f"{TITLES[name]}: Table 4 of Atli et al. (2020), %")
    for query, found in page["scorers"][WITH].items():
        rivals = (page["scorers"][rival][query] for rival in RIVALS)
        cells = (f"{_percent(rival['at_filter_tnr']['tpr'])} / {_percent(rival['at_rates'][0]['tpr'])}" for rival in rivals)
        table.add_row(query, f"{_percent(found['tpr'])} / {_percent(found['tnr'])}", *cells)
    paper = PAPER[name]
    pairs = zip(paper["at_filter_tnr"], paper["at_tnr_95"], strict=True)
    cells = (f"{at_tnr} / {at_95}" for at_tnr, at_95 in pairs)
    table.add_section()
    table.add_row("the paper: ImageNet", "{} / {}".format(*paper["filter"]), *cells, *("-" for _ in RIVALS[len(PAPER_RIVALS) :]))
    return table


def filter_table(name: str, page: Page) -> Table:
    """One filter on every query set."""
    columns = (Column("queries", no_wrap=True), "images", "TPR / TNR\nat even odds", "TPR = TNR", "TPR at FPR 5%", "1%", "0.1%", "AUROC")
    table = Table(*columns, title=f"{name}, % (in brackets the FPR found)")
    for query, found in page["scorers"][name].items():
        rates = (f"{_percent(at['tpr'])} ({100 * at['fpr']:.2f})" for at in found["at_rates"])
        natural = f"{_percent(found['tpr'])} / {_percent(found['tnr'])}"
        table.add_row(query, f"{found['queries']:,}", natural, _percent(found["equal_error"]), *rates, f"{found['auroc']:.4f}")
    return table


def scorer_table(page: Page) -> Table:
    """Every scorer on the unseen classes."""
    columns = (Column("scorer", no_wrap=True), "TPR = TNR", "TPR at FPR 5%", "1%", "0.1%", "AUROC")
    table = Table(*columns, title=f"{UNSEEN}, %")
    for name, queries in page["scorers"].items():
        found = queries[UNSEEN]
        table.add_row(name, _percent(found["equal_error"]), *(_percent(at["tpr"]) for at in found["at_rates"]), f"{found['auroc']:.4f}")
    return table


def codec_table(page: Page) -> Table:
    """What each filter flags at even odds as the test images change their codec."""
    variants = list(next(iter(page["codec"].values())))
    table = Table(
        Column("flagged at even odds", no_wrap=True), *variants, title="re-encoding the test images, %; AUROC of benign and unseen"
    )
    for name, shares in page["codec"].items():
        for title in shares[variants[0]]:
            form = "{:.4f}".format if title == "auroc" else _percent
            table.add_row(f"{name}: {title}", *(form(shares[variant][title]) for variant in variants))
    return table


def plot(curves: Mapping[str, Mapping[str, Curve]]) -> Figure:
    """ROC curves on the unseen classes, one panel a recognizer; the FPR is logarithmic, because only low ones are of use."""
    figure = Figure(figsize=(6 * len(curves), 4.5), layout="constrained")
    for panel, (name, scorers) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True):
        for scorer, (fpr, tpr) in scorers.items():
            panel.plot(np.maximum(fpr, 1e-5), tpr, label=scorer, linewidth=2 if scorer == WITH else 1, drawstyle="steps-post")
        panel.set(xscale="log", xlim=(1e-4, 1), ylim=(0, 1), title=f"{TITLES[name]}: {UNSEEN}")
        panel.set(xlabel="benign images flagged (FPR)", ylabel="foreign images flagged (TPR)")
        panel.grid(alpha=0.3)
        panel.legend(fontsize="small", loc="lower right" if name == "gtsrb" else "upper left")
    return figure


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
