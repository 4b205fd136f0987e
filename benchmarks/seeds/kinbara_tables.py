"""Kinbara's tables as they are printed, the reach beside each figure."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.seeds.fingerprints import CHANNELS
from benchmarks.seeds.near_duplicate_recall import CHAINS, KINDS, MOST_PAIRS, TWO_COPIES
from defenses.true_duplicates import ALIKE

EACH, MEAN = 0.95, 0.99  # recall of every single transform, and their mean
MERGED = 10.0  # distinct images per 10,000
KEPT = 0.95  # of the rate, as wrong majorities of 9
HIDDEN = 0.55  # AUC
POISONED = 0.01  # of the targets
GRIDS = {
    "wrong": "wrong majorities, against the same stage with nothing altered (the headline)",
    "wrong_against_undefended_majority": "wrong majorities, against the undefended majority of the same variants",
    "wrong_against_original": "wrong majorities, against the undefended label of the original",
    "auc_of_disagreement": "was the original's answer altered? best AUC of comparing the n answers, without the classifier",
    "auc": "was the original's answer altered? best AUC of all ways to tell",
}


def show_recall(console: Console, recognizer: str, found: Mapping[str, Any]) -> None:
    """Copies within the radii: perceptual / embedding / either."""
    table = Table("transform", *found, "reach (either)", title=f"{recognizer}: copies recognised, perceptual / embedding / either")
    for title in next(iter(found.values()))["recall"]:
        reach = "" if title in CHAINS or title == TWO_COPIES else f"{MEAN if title == 'single transforms' else EACH:.0%}"
        shares = [entry["recall"][title] for entry in found.values()]
        cells = [" / ".join(f"{share[channel]:.1%}" for channel in CHANNELS) for share in shares]
        table.add_row(title, *cells, reach, end_section=title == TWO_COPIES)
    console.print(table)


def show_merges(console: Console, recognizer: str, found: Mapping[str, Any]) -> None:
    """Merged images per 10,000, by what the two have in common."""
    table = Table(
        "set", "asked", "stored", "channel", *KINDS, "different groups", f"with a pair not alike (below {ALIKE})", "reach",
        title=f"{recognizer}: images merged with a stored one, per 10,000 asked",
    )  # fmt: skip
    for title, entry in found.items():
        figures, pairs = entry["merges"], entry["pairs"]
        unlike = 10_000 * len({pair["asked"] for pair in pairs if pair["correlation"] < ALIKE}) / figures["asked"]
        all_listed = len(pairs) < MOST_PAIRS / 2  # a pair may have come by both channels
        note = f"{unlike:.1f} ({len(pairs)} pairs listed)" if all_listed else f"at least {unlike:.1f}"
        for channel in CHANNELS:
            cells = (f"{figures[channel][kind]:.1f}" for kind in (*KINDS, "different groups"))
            last = channel == CHANNELS[-1]
            counts = (f"{figures['asked']:,}", f"{figures['stored']:,}") if channel == CHANNELS[0] else ("", "")
            heading = title if channel == CHANNELS[0] else ""
            ends = (note, f"<= {MERGED:.0f}") if last else ("", "")
            table.add_row(heading, *counts, channel, *cells, *ends, end_section=last)
    console.print(table)


def show_voting(console: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    """Wrong majorities by three yardsticks, and how well altered answers are told: one grid each."""
    for figure, title in GRIDS.items():
        counts = sorted({row["n"] for row in rows})
        table = Table("stage", "rate", *(f"n = {n}" for n in counts), "reach", title=f"voting: {title}")
        for rate in sorted({row["rate"] for row in rows}):
            for stage in dict.fromkeys(row["stage"] for row in rows):
                own = {row["n"]: row for row in rows if (row["stage"], row["rate"]) == (stage, rate)}
                reach = {
                    "wrong": f"n = {counts[-1]}: >= {KEPT * rate:.1%}",
                    "auc": f"<= {HIDDEN}",
                    "auc_of_disagreement": f"<= {HIDDEN}",
                }.get(figure, "")
                cells = (f"{own[n][figure]:.3f}" if figure.startswith("auc") else f"{own[n][figure]:.2%}" for n in counts)
                table.add_row(stage, f"{rate:g}", *cells, reach if stage == "both channels" else "")
            if figure == "wrong":
                arithmetic = (f"{row['independent']:.2%}" for row in own.values())
                table.add_row("arithmetic, altered independently", f"{rate:g}", *arithmetic, "", style="dim")
            table.add_section()
        console.print(table)


def show_poisoning(console: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    """Honest answers altered with and without a poisoner, and labels that moved though nothing was altered."""
    table = Table(
        "rate", "thief", "queries", "altered, nobody poisons", "altered, poisoned", "beyond (95%)", "reach", "moved in a close call",
        "at most (doubtful, not flagged)", title="poisoning: honest answers at the targets",
    )  # fmt: skip
    for row in rows:
        low, high = row["beyond_95"]
        table.add_row(
            f"{row['rate']:g}", row["thief"], str(row["queries"]), f"{row['altered_unpoisoned']:.2%}", f"{row['altered_poisoned']:.2%}",
            f"{row['beyond']:.2%} ({low:.2%} to {high:.2%})", f"<= {POISONED:.0%}", f"{row['label_moved_unaltered']:.2%}",
            f"{row['exposed']:.2%}",
        )  # fmt: skip
    console.print(table)
