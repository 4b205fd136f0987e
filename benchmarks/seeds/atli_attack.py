"""Reproduce the attack of Atli et al. (2020) on the bundled recognizers: what labels instead of vectors cost it (Table 7), and what a
filter in front of the API does that shuffles the answers to flagged queries (Table 5).

`CLONEGUARD_DATA=DIR python -m benchmarks.seeds.atli_attack`. The thief is `knockoff-random` with Tiny-ImageNet images; by default only
those of classes that the filter did not learn from, on all sides. The filter is the server's own at the threshold of `balanced`; everything
else is off, near-duplicates and truncation too. Beside the paper's shuffling (a permutation that leaves no class in place) is our own
default alteration. Accuracies are on all test images, relative ones to the victim's; fidelity is to the honest recognizer, on test images.

About an hour on 2 cores; what was finished is kept in --out, and what was interrupted goes on with the same command.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Column, Table

from benchmarks.campaigns import LABEL_ONLY, OPEN, Plan, Row, run_all
from benchmarks.publishing import console, data_folder, over_seeds, parser, publish, shown
from benchmarks.seeds.atli_sets import TITLES

ATTACK = "knockoff-random"
BUDGETS = (5_000,)
FULL_BUDGETS = (5_000, 18_000)  # of the signs' recognizer 18,000 images are unlearned and not held out
FULL_SEEDS = (0, 1, 2)
FILTER = (
    *OPEN, "--set", "ood.mode=enforce", "--set", "ood.benign_fpr=0.009", "--set", "ood.hysteresis=0.0175",
    "--set", "misrecognition.mode=enforce", "--set",
)  # fmt: skip
ARMS: Mapping[str, tuple[str, ...]] = {
    "full vector": OPEN,
    "label only": LABEL_ONLY,
    "filter on, shuffled": (*FILTER, "misrecognition.alteration=derangement"),
    "filter on, impersonation (our default)": (*FILTER, "misrecognition.alteration=impersonation"),
}
# percent, with a pretrained ResNet-34 and 100,000 ImageNet images: the victim, then Table 7's two columns, then Table 5's two
PAPER: Mapping[str, Mapping[str, float]] = {
    "cifar10": {
        "victim": 94.6,
        "full vector (Table 7)": 71.1,
        "label only (Table 7)": 53.6,
        "filter off": 88.2,
        "filter on, shuffled": 2.88,
    },
    "gtsrb": {"victim": 98.1, "full vector (Table 7)": 92.4, "label only (Table 7)": 91.6, "filter off": 94.8, "filter on, shuffled": 18.8},
}
PAPER_BASES = {  # what each figure of the paper is compared with
    "full vector (Table 7)": "full vector (Table 7)",
    "label only (Table 7)": "full vector (Table 7)",
    "filter off": "filter off",
    "filter on, shuffled": "filter off",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is not finished, print a table a recognizer, write the JSON."""
    made = parser(__doc__, result="atli_attack.json")
    made.add_argument("--victims", nargs="+", choices=list(PAPER), default=list(PAPER))
    made.add_argument("--budgets", type=int, nargs="+", default=list(BUDGETS))
    made.add_argument("--images", choices=("all", "unlearned"), default="unlearned", help="the Tiny-ImageNet classes that the thief has")
    made.add_argument("--full", action="store_true", help="18,000 queries too and 3 seeds, for a machine with a GPU")
    options = made.parse_args(arguments)
    budgets, seeds = (list(FULL_BUDGETS), list(FULL_SEEDS)) if options.full else (options.budgets, options.seeds)
    plans = {
        f"{TITLES[victim]}, {arm}, {budget:,} queries, seed {seed}": Plan(
            victim=victim, server=server, attack=ATTACK, budget=budget, images=options.images, seed=seed, student=options.student,
            recipe=options.recipe, epochs=options.epochs, evaluation=options.evaluation,
        )
        for victim in options.victims
        for budget in budgets
        for seed in seeds
        for arm, server in ARMS.items()
    }  # fmt: skip
    rows = run_all(plans, data=data_folder(), out=options.out)
    found = figures(rows)
    for victim in options.victims:
        console.print(table(victim, [row for row in found if row["victim"] == victim]))
    publish(rows, "benchmarks.seeds.atli_attack", made, options, paper=PAPER, figures=found)


def figures(rows: Sequence[Row]) -> list[Row]:
    """The seeds of each recognizer, budget and answer together; relative accuracies to the victim's and to the full vector's clone."""
    found: list[dict[str, Any]] = []
    for victim, budget in dict.fromkeys((row["victim"], row["budget"]) for row in rows):
        plain = 0.0
        for arm, server in ARMS.items():
            own = [row for row in rows if (row["victim"], row["budget"], tuple(row["server"])) == (victim, budget, server)]
            accuracy = over_seeds([row["accuracy"] for row in own])
            plain = plain or accuracy["value"]
            queries = sum(row["server_counted"]["queries"] for row in own)
            found.append(
                {
                    "victim": victim,
                    "budget": budget,
                    "arm": arm,
                    "seeds": len(own),
                    "accuracy": accuracy,
                    "relative": accuracy["value"] / own[0]["model"]["accuracy"],
                    "of_full_vector": accuracy["value"] / plain,
                    "fidelity": over_seeds([row["fidelity_to_reference_on_test"] for row in own]),
                    "altered": sum(row["server_counted"]["altered"] for row in own) / queries,
                    "victim_accuracy": own[0]["model"]["accuracy"],
                }
            )
    return found


def table(victim: str, found: Sequence[Row]) -> Table:
    """A section a budget, the paper's row of Tables 5 and 7 at the end."""
    columns = ("queries", "accuracy (95%)", "relative to the victim", "to the full vector's", "fidelity (95%)", "altered answers")
    made = Table(Column("what the thief is told", no_wrap=True), *columns, title=f"{TITLES[victim]}: Tables 5 and 7 of Atli et al. (2020)")
    for at, row in enumerate(found, start=1):
        cells = (shown(row["accuracy"]), f"{row['relative']:.2f}x", f"{row['of_full_vector']:.2f}x", shown(row["fidelity"]))
        made.add_row(row["arm"], f"{row['budget']:,}", *cells, f"{row['altered']:.1%}", end_section=at % len(ARMS) == 0)
    paper = PAPER[victim]
    for title, base in PAPER_BASES.items():
        accuracy = paper[title]
        ratios = (f"{accuracy / paper['victim']:.2f}x", f"{accuracy / paper[base]:.2f}x")
        made.add_row(f"the paper: {title}", "100,000", f"{accuracy:.1f}%", *ratios, "", "", style="dim")
    return made


if __name__ == "__main__":
    main()
