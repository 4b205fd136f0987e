"""What a thief gets out of each profile: `CLONEGUARD_DATA=DIR python -m benchmarks.theft`.

Every attack buys the same number of answers about Tiny-ImageNet images from a server of its own under each profile and trains a clone. A
plain thief believes what he is told; an aware one knows that answers may be altered and drops, corrects or turns them around. A profile is
worth what the best thief gets. Accuracy is on all CIFAR-10 test images, fidelity is to the recognizer without defences on a sample of
them. The OOD filter learned from a part of Tiny-ImageNet; `--images unlearned` leaves the thief those classes that it did not.

About three minutes a campaign on 2 cores, of an aware thief ten; what was finished is kept in --out, and what was interrupted goes on with
the same command.
"""

from collections.abc import Sequence

from rich.table import Column, Table

from app.profiles import ProfileName
from benchmarks.campaigns import Plan, Row, run_all
from benchmarks.publishing import console, data_folder, over_seeds, parser, publish, shown

VICTIM = "cifar10"
PLAIN = "knockoff-random"
ATTACKS = (PLAIN, f"denoise:{PLAIN}", f"complementary:{PLAIN}")
PROFILES = (ProfileName.OPEN, ProfileName.BALANCED, ProfileName.STRICT)
REACH = {"open_accuracy": 0.45, "open_seconds": 1_200, "balanced_best_to_open": 1 / 2, "balanced_plain_to_open": 1 / 3}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is not finished, print the table, write the JSON."""
    made = parser(__doc__, result="theft.json")
    made.add_argument("--budget", type=int, default=5_000, help="queries of each campaign")
    made.add_argument("--profiles", nargs="+", default=[profile.value for profile in PROFILES], metavar="NAME")
    made.add_argument("--attacks", nargs="+", default=list(ATTACKS), metavar="NAME[:INNER]")
    made.add_argument("--images", choices=("all", "unlearned"), default="all", help="the Tiny-ImageNet classes that the thief has")
    options = made.parse_args(arguments)
    plans = {
        f"{profile}, {attack}, seed {seed}": Plan(
            victim=VICTIM, server=("--profile", profile), attack=attack, budget=options.budget, images=options.images, seed=seed,
            student=options.student, recipe=options.recipe, epochs=options.epochs, evaluation=options.evaluation,
        )
        for profile in options.profiles
        for attack in options.attacks
        for seed in options.seeds
    }  # fmt: skip
    rows = run_all(plans, data=data_folder(), out=options.out)
    found = figures(rows)
    console.print(table(found, budget=options.budget))
    reached = reach(found)
    for what, (value, wanted, met) in reached.items():
        console.print(f"reach, {what}: {value:.3g}, wanted {wanted}: {'met' if met else 'not met'}", highlight=False)
    publish(rows, "benchmarks.theft", made, options, reach=reached, figures=found)


def figures(rows: Sequence[Row]) -> list[Row]:
    """The seeds of each profile and attack together; `worst` marks the thief who gets most out of a profile."""
    found: list[Row] = []
    for profile, attack in dict.fromkeys((row["server"][-1], row["attack"]) for row in rows):
        own = [row for row in rows if (row["server"][-1], row["attack"]) == (profile, attack)]
        accuracy = over_seeds([row["accuracy"] for row in own])
        queries = sum(row["server_counted"]["queries"] for row in own)
        found.append(
            {
                "profile": profile,
                "attack": attack,
                "seeds": len(own),
                "accuracy": accuracy,
                "relative": accuracy["value"] / own[0]["model"]["accuracy"],
                "fidelity": over_seeds([row["fidelity_to_reference_on_test"] for row in own]),
                "server_counted": {"queries": queries / len(own)}
                | {kind: sum(row["server_counted"][kind] for row in own) / queries for kind in ("ood", "near_duplicates", "altered")},
                "seconds": sum(row["seconds"] for row in own) / len(own),
            }
        )
    for row in found:
        row["worst"] = row is max(
            (other for other in found if other["profile"] == row["profile"]), key=lambda other: other["accuracy"]["value"]
        )
    return found


def table(found: Sequence[Row], *, budget: int) -> Table:
    """A section a profile, the best thief in bold."""
    columns = ("attack", "accuracy (95%)", "relative", "fidelity (95%)", "server: queries", "OOD", "near-duplicates", "altered", "minutes")
    made = Table(
        Column("profile", no_wrap=True), *columns, title=f"clones of the CIFAR-10 recognizer for {budget:,} queries; the best thief in bold"
    )
    for at, row in enumerate(found):
        counts = row["server_counted"]
        shares = (f"{counts[kind]:.1%}" for kind in ("ood", "near_duplicates", "altered"))
        made.add_row(
            row["profile"], row["attack"], shown(row["accuracy"]), f"{row['relative']:.2f}x", shown(row["fidelity"]),
            f"{counts['queries']:,.0f}", *shares, f"{row['seconds'] / 60:.1f}", style="bold" if row["worst"] else "",
            end_section=at + 1 == len(found) or found[at + 1]["profile"] != row["profile"],
        )  # fmt: skip
    return made


def reach(found: Sequence[Row]) -> dict[str, tuple[float, str, bool]]:
    """What was to be reached: the figure, what is wanted, and whether it is so; only what was measured."""
    of = {(row["profile"], row["attack"]): row for row in found}
    made: dict[str, tuple[float, str, bool]] = {}
    if plain := of.get(("open", PLAIN)):
        base = plain["accuracy"]["value"]
        least, most = REACH["open_accuracy"], REACH["open_seconds"]
        made["open: the plain clone's accuracy"] = (base, f">= {least}", base >= least)
        made["open: seconds of the plain campaign"] = (plain["seconds"], f"<= {most}", plain["seconds"] <= most)
        for what, rows, most in (
            ("balanced: the best thief's accuracy to the plain one's under open", found, REACH["balanced_best_to_open"]),
            ("balanced: the plain thief's", [row for row in found if row["attack"] == PLAIN], REACH["balanced_plain_to_open"]),
        ):
            if base and (there := [row["accuracy"]["value"] for row in rows if row["profile"] == "balanced"]):
                made[what] = (max(there) / base, f"<= {most:.3g}", max(there) / base <= most)
    return made


if __name__ == "__main__":
    main()
