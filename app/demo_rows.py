"""One theft of the demo: what the thief measured and what the server saw, in words and as the table of a terminal."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from app.demo_processes import Seen
from app.profiles import PROFILES, ProfileName

OFF = "off"
SAW = {"ood": "out of distribution", "near_duplicates": "near-duplicates", "altered": "altered answers"}  # fields of Seen
WORTH_SAYING = 0.05  # difference between two shares


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """A finished theft: run.json of the thief, and what the server counted, the queries to measure with included."""

    attack: str
    profile: ProfileName
    run: Mapping[str, Any]
    seen: Seen
    folder: Path

    @property
    def believed(self) -> Mapping[str, Any] | None:
        """Agreement with the endpoint's own answers, lies included: all that a thief can measure."""
        measured: Mapping[str, Any] | None = self.run["fidelity"]
        return measured

    @property
    def honest(self) -> Mapping[str, Any] | None:
        """Agreement with the recognizer behind the endpoint: what was stolen."""
        measured: Mapping[str, Any] | None = self.run["fidelity_to_reference"]
        return measured

    def saw(self, what: str) -> float | None:
        """The share of its queries that the server found to be `what` (a field of Seen); None where the profile does not look."""
        looks = {"ood": ("ood",), "near_duplicates": ("near_duplicates",), "altered": ("misrecognition", "suspicion", "watermark")}[what]
        if not self.seen.queries or not any(section in PROFILES[self.profile] for section in looks):
            return None
        return float(getattr(self.seen, what) / self.seen.queries)


def row_folder(out: Path, profile: str, attack: str) -> Path:
    """Where a theft is kept; an attack's options and wrappers do not make a path."""
    return out / profile / attack.replace(":", "-")


def finished(folder: Path, *, attack: str, profile: ProfileName) -> Row | None:
    """The theft of a folder; None where it is not finished."""
    seen, done = counted(folder)
    return Row(attack, profile, json.loads((folder / "campaign" / "run.json").read_bytes()), seen, folder) if done else None


def counted(folder: Path) -> tuple[Seen, bool]:
    """What the servers of a theft have counted so far, and whether it is finished."""
    try:
        kept = json.loads((folder / "seen.json").read_bytes())
    except FileNotFoundError:
        return Seen(), False
    done: bool = kept.pop("finished")
    return Seen(**kept), done


def keep(folder: Path, seen: Seen, *, done: bool = False) -> None:
    """Remember what was counted, all of it or nothing: the demo may be killed at any moment."""
    partial = folder / "seen.json.partial"
    partial.write_text(json.dumps({**asdict(seen), "finished": done}))
    partial.replace(folder / "seen.json")


def table(rows: Sequence[Row]) -> Table:
    """A row a theft: queries, fidelity, and what the server saw."""
    names = ("attack", "profile", "queries", "fidelity\n(told)", "fidelity\n(honest)", "OOD", "near-\ndup.", "altered")
    drawn = Table(*names, box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, collapse_padding=True)
    drawn.columns[0].no_wrap = True
    for column in drawn.columns[2:]:
        column.justify = "right"
    for place, row in enumerate(rows):
        drawn.add_row(
            escape(row.attack.replace(":", ":\n")), row.profile, f"{row.seen.queries:,}", said(row.believed), said(row.honest),
            *(share(row.saw(what)) for what in SAW), end_section=place + 1 < len(rows) and rows[place + 1].attack != row.attack,
        )  # fmt: skip
    return drawn


def story(rows: Sequence[Row]) -> list[str]:
    """What the rows say, in sentences."""
    sentences = []
    for profile in dict.fromkeys(row.profile for row in rows):
        own = [row for row in rows if row.profile == profile]
        if stolen := {row.attack: _value(row.honest) for row in own if row.honest}:
            best = max(stolen, key=lambda attack: stolen[attack])
            sentences.append(
                f"Under {profile} the best clone, by {best}, agrees with the honest recognizer on {share(stolen[best])} of new images."
            )
        if gaps := {row.attack: _value(row.believed) - _value(row.honest) for row in own if row.honest and row.believed}:
            worst = max(gaps, key=lambda attack: gaps[attack])
            if gaps[worst] >= WORTH_SAYING:
                sentences.append(
                    f"Under {profile} a thief who trusts the answers is fooled about his clone too: {worst} seems better than it is by "
                    f"{100 * gaps[worst]:.0f} points, because what he measures with is altered as well."
                )
        queries = sum(row.seen.queries for row in own)
        found = [
            f"{sum(getattr(row.seen, what) for row in own) / queries:.1%} {words}"
            for what, words in SAW.items()
            if own[0].saw(what) is not None
        ]
        sentences.append(
            f"Of {queries:,} queries the server under {profile} saw " + (", ".join(found) if found else "nothing: it does not look") + "."
        )
    return sentences


def said(measured: Mapping[str, Any] | None) -> str:
    """A measure in percent."""
    return "not known" if measured is None else share(measured["value"])


def interval(measured: Mapping[str, Any] | None) -> str:
    """A measure with its 95% interval."""
    return said(measured) if measured is None else f"{said(measured)} ({100 * measured['low']:.0f}-{100 * measured['high']:.0f})"


def share(value: float | None) -> str:
    """A share in percent; None is what was not looked for."""
    return OFF if value is None else f"{100 * value:.1f}%"


def _value(measured: Mapping[str, Any] | None) -> float:
    assert measured is not None
    return float(measured["value"])
