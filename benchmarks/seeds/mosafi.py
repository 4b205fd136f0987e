"""Reproduce Table 4 of Mosafi et al. (2019), the composite attack on a service that tells labels only: does it steal?

`CLONEGUARD_DATA=DIR python -m benchmarks.seeds.mosafi`. The mentor is the bundled CIFAR-10 recognizer behind HTTP, the images are
Tiny-ImageNet's, and every attack gets the same number of queries, as the server counted them, and about as many passes over what it
bought; the paper gave composite 10^8 queries and standard 1.2 * 10^6. The epoch is chosen on held-out answers, never on the test images.

About an hour on 2 cores; what was finished is kept in --out, and what was interrupted goes on with the same command.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.table import Column, Table

from attacker_client.recipes import RECIPES
from benchmarks.campaigns import LABEL_ONLY, OPEN, Plan, Row, run_all
from benchmarks.publishing import console, data_folder, over_seeds, parser, publish, shown

VICTIM = "cifar10"
BUDGETS = (2_000, 5_000, 20_000)
FULL_BUDGETS = (*BUDGETS, 50_000, 99_000)  # at last every image but the 2,000 that fidelity is measured on
FULL_SEEDS = (0, 1, 2)
PAPERS_RECIPES = {"standard": "standard-paper", "composite": "composite-paper"}
# attack, what the mentor answers: the server's options, and the paper's accuracy and accuracy relative to the mentor's 90.48%
ARMS: Mapping[tuple[str, str], tuple[tuple[str, ...], float, float]] = {
    ("standard", "probabilities"): (OPEN, 0.8910, 0.9847),
    ("standard", "label only"): (LABEL_ONLY, 0.8746, 0.9666),
    ("composite", "label only"): (LABEL_ONLY, 0.8959, 0.9901),
}
REACH = {20_000: 0.7, 50_000: 0.8}  # fidelity on CIFAR-10's test images of the best attack


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is not finished, print the table, draw the curves, write the JSON."""
    made = parser(__doc__, result="mosafi.json")
    made.add_argument("--budgets", type=int, nargs="+", default=list(BUDGETS))
    made.add_argument("--full", action="store_true", help="budgets to 99,000 and 3 seeds, for a machine with a GPU")
    made.add_argument("--papers-recipes", action="store_true", help="train as the paper did, its network too unless --student names one")
    made.add_argument("--plot", type=Path, help="draw the curves here; a full run draws them in docs/images/mosafi.png")
    options = made.parse_args(arguments)
    if options.full and (options.budgets != list(BUDGETS) or options.seeds != [0]):
        made.error("--full has budgets and seeds of its own: give neither --budgets nor --seeds with it")
    if options.papers_recipes and options.student == made.get_default("student"):
        options.student = "composite-vgg16"
    budgets, seeds = (list(FULL_BUDGETS), list(FULL_SEEDS)) if options.full else (options.budgets, options.seeds)
    plans: dict[str, Plan] = {}
    for budget in budgets:
        for seed in seeds:
            for (attack, told), (server, _, _) in ARMS.items():
                recipe = PAPERS_RECIPES[attack] if options.papers_recipes else options.recipe
                epochs = options.epochs or RECIPES[recipe].epochs_for(budget)
                drawn: tuple[str, ...] = ()
                if attack == "composite":  # it buys in the first epochs, and passes over all that it bought in the others
                    buying = min(10, epochs)
                    epochs, drawn = epochs + (buying - 1) // 2, (f"epochs={buying}",)
                plans[f"{attack}, {told}, {budget:,} queries, seed {seed}"] = Plan(
                    victim=VICTIM, server=server, attack=attack, budget=budget, seed=seed, student=options.student, recipe=recipe,
                    epochs=epochs, evaluation=options.evaluation, options=drawn,
                )  # fmt: skip
    rows = run_all(plans, data=data_folder(), out=options.out)
    found = figures(rows)
    console.print(table(found))
    show_reach(found)
    picture = options.plot or (Path(__file__).parents[2] / "docs" / "images" / "mosafi.png" if options.full else None)
    if picture:
        plot(found, mentor=rows[0]["model"]["accuracy"]).savefig(picture, dpi=110)
    paper = [{"attack": attack, "told": told, "accuracy": known[1], "relative": known[2]} for (attack, told), known in ARMS.items()]
    publish(rows, "benchmarks.seeds.mosafi", made, options, paper=paper, figures=found)


def figures(rows: Sequence[Row]) -> list[Row]:
    """The seeds of each attack and budget together."""
    found = []
    for budget in sorted({row["budget"] for row in rows}):
        for (attack, told), (server, _, _) in ARMS.items():
            own = [row for row in rows if (row["budget"], row["attack"], tuple(row["server"])) == (budget, attack, server)]
            accuracy = over_seeds([row["accuracy"] for row in own])
            found.append(
                {
                    "budget": budget,
                    "attack": attack,
                    "told": told,
                    "seeds": len(own),
                    "accuracy": accuracy,
                    "relative": accuracy["value"] / own[0]["model"]["accuracy"],
                    "fidelity": over_seeds([row["fidelity_on_test"] for row in own]),
                    "server_counted": [row["server_counted"]["queries"] for row in own],
                    "seconds": sum(row["seconds"] for row in own) / len(own),
                }
            )
    return found


def table(found: Sequence[Row]) -> Table:
    """A section a budget, the paper's figures at its own budgets at the end."""
    columns = ("mentor answers", "queries, as the server counted", "accuracy (95%)", "relative", "fidelity on test images (95%)", "minutes")
    made = Table(Column("attack", no_wrap=True), *columns, title="Table 4 of Mosafi et al. (2019), at equal budgets; CIFAR-10")
    for at, row in enumerate(found, start=1):
        counts = " / ".join(f"{count:,}" for count in row["server_counted"])
        cells = (shown(row["accuracy"]), f"{row['relative']:.1%}", shown(row["fidelity"]), f"{row['seconds'] / 60:.1f}")
        made.add_row(row["attack"], row["told"], counts, *cells, end_section=at % len(ARMS) == 0)
    for (attack, told), (_, accuracy, relative) in ARMS.items():
        queries = "100,000,000" if attack == "composite" else "1,200,000"
        made.add_row(f"the paper: {attack}", told, queries, f"{accuracy:.1%}", f"{relative:.1%}", "", "", style="dim")
    return made


def show_reach(found: Sequence[Row]) -> None:
    """What the best attack was to reach, and what it did."""
    for budget, reach in REACH.items():
        if at := [row for row in found if row["budget"] == budget]:
            best = max(at, key=lambda row: row["fidelity"]["value"])
            named = f"{best['attack']}, {best['told']}"
            console.print(f"reach at {budget:,} queries: fidelity of at least {reach:.0%}; the best is {shown(best['fidelity'])}: {named}")


def plot(found: Sequence[Mapping[str, Any]], *, mentor: float) -> Figure:
    """Accuracy and fidelity over budgets, with their intervals."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    titles = {"accuracy": "accuracy on CIFAR-10's test images", "fidelity": "fidelity on CIFAR-10's test images"}
    for panel, (measure, title) in zip(figure.subplots(1, 2, sharey=True), titles.items(), strict=True):
        for attack, told in ARMS:
            own = [row for row in found if (row["attack"], row["told"]) == (attack, told)]
            values = [row[measure]["value"] for row in own]
            below = [row[measure]["value"] - row[measure]["low"] for row in own]
            above = [row[measure]["high"] - row[measure]["value"] for row in own]
            panel.errorbar([row["budget"] for row in own], values, (below, above), marker="o", capsize=3, label=f"{attack}, {told}")
        budgets = sorted({row["budget"] for row in found})
        panel.set(xscale="log", ylim=(0, 1), xlabel="queries", ylabel="share of the images (95% intervals)", title=title)
        panel.set_xticks(budgets, [f"{budget:,}" for budget in budgets])
        panel.minorticks_off()
        panel.grid(alpha=0.3)
        panel.axhline(mentor if measure == "accuracy" else 1, color="black", linewidth=1, linestyle=":", label="the mentor itself")
        panel.axhline(0.1, color="grey", linewidth=1, linestyle=":", label="chance")
        panel.legend(fontsize="small", loc="lower right")
    return figure


if __name__ == "__main__":
    main()
