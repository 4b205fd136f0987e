"""docs/abuse.md: one line a row, from the tests that ran at full length; rows that did not run keep their line."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.abuse.rows import ROWS

PAGE = Path(__file__).parents[2] / "docs" / "abuse.md"
LINE = re.compile(r"^\| ([LFAC]\d+) \|.*\|$", re.MULTILINE)
HEAD = """# Faults, abuse and bad input, measured

`make abuse` runs every row at full length and rewrites its line here; a shortened run of each is part of `make test`, which
asserts behaviour and no times. `make abuse ARGS=tests/abuse/test_overload.py` runs one file and leaves the other lines alone.

All on one machine ({machine}), loopback only, clients and servers together. R0 is the highest
open-loop rate at which the bundled recognizer under `balanced` answers everything with p99 <= 250 ms, measured in the same session where a
row depends on it. "Load" is the machine's load average when the session began: where it is not near 0, something else had a part of the
machine, and times are worse than on an idle one.

| id | what happens | bar | measured | met | when |
|---|---|---|---|---|---|
"""


@dataclass(slots=True)
class Outcome:
    """What the tests of one row said."""

    passed: int = 0
    measured: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    @property
    def met(self) -> str:
        """ "yes", "no", or "not run" where nothing could be tried."""
        if self.missed:
            return "no"
        return "yes" if self.passed else "not run"

    def text(self) -> str:
        """The cell of the table."""
        tests = f"{self.passed} tests passed" if self.passed > 1 else ""
        parts = [*self.measured, *(f"missed: {one}" for one in self.missed), *self.skipped]
        return "; ".join(filter(None, [*parts, tests])) or "as the bar says"


def written(page: str, outcomes: Mapping[str, Outcome], *, recipe: Mapping[str, Any], day: str, capacity: float | None) -> str:
    """The page with the lines of these rows replaced, every other line as it was in `page`."""
    hardware = recipe["hardware"]
    lines = {found[1]: found[0] for found in LINE.finditer(page)}
    when = f"{day}, {recipe['commit'][:7]}{'+' if recipe['uncommitted_changes'] else ''}, load {recipe['load_average_before']}"
    when += f", R0 {capacity:.0f}/s" if capacity else ""
    for name, outcome in outcomes.items():
        cells = (name, ROWS[name].happens, ROWS[name].bar, outcome.text(), outcome.met, when)
        lines[name] = "| " + " | ".join(cell.replace("|", "/").replace("\n", " ") for cell in cells) + " |"
    head = HEAD.format(machine=f"{hardware['cpu']}, {hardware['cores']} cores")
    return head + "\n".join(lines.get(name, f"| {name} | {row.happens} | {row.bar} | | not run | |") for name, row in ROWS.items()) + "\n"
