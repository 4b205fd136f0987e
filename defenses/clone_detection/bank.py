"""Pairs of recognizers whose truth is known: what a suspect is compared with, since thresholds do not transfer between deployments."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from defenses.clone_detection.features import ALL

BANKS = Path(__file__).parent / "banks"  # a file for every task whose bank ships with the package

Bools = NDArray[np.bool_]
Folds = Sequence[tuple[Bools, Bools]]  # rows to learn from and rows to test, (n,) each
Values = tuple[float, float, float, float]  # alpha, beta, gamma, delta


FEWEST_STRANGERS = 5  # independents that a spread is taken of
SMALLEST_SPREAD = 1e-3  # of a thousand inputs


class BankError(ValueError):
    """A bank is damaged, or too small for what is asked of it."""


@dataclass(frozen=True, slots=True)
class Model:
    """How a recognizer was made: its architecture, the model that it is a clone of or "", and everything that repeats it."""

    architecture: str
    clone_of: str = ""
    recipe: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Row:
    """One ordered pair: names of original and suspect, and the features after each number of bisection steps.

    Beta and delta do not depend on the steps. An independent suspect is one that was trained without the original's answers.
    """

    original: str
    suspect: str
    features: Mapping[int, Values]


@dataclass(frozen=True, slots=True)
class Bank:
    """Measured pairs of one `task`, with the `sampler` (its options and image sources) that they were measured with."""

    task: str
    sampler: Mapping[str, Any]
    models: Mapping[str, Model]
    rows: tuple[Row, ...]

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a bank. Raises BankError where it is damaged."""
        try:
            page = json.loads(path.read_bytes())
            models = {name: Model(**model) for name, model in page["models"].items()}
            rows = tuple(
                Row(row["original"], row["suspect"], {int(steps): _four(values) for steps, values in row["features"].items()})
                for row in page["rows"]
            )
            bank = cls(str(page["task"]), dict(page["sampler"]), models, rows)
            strangers = {name for row in rows for name in (row.original, row.suspect)} - set(models)
        except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise BankError(f"{path} is no bank: {error}") from error
        if strangers:
            raise BankError(f"{path} has rows of models that it does not describe: {', '.join(sorted(strangers))}")
        return bank

    def save(self, path: Path) -> None:
        """Write a bank, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        partial.replace(path)

    @property
    def steps(self) -> tuple[int, ...]:
        """The numbers of steps that all rows were measured after."""
        known = [set(row.features) for row in self.rows]
        return tuple(sorted(set.intersection(*known))) if known else ()

    @property
    def clones(self) -> Bools:
        """(n,), of each row: whether its suspect is a clone of its original."""
        return np.array([self.models[row.suspect].clone_of == row.original for row in self.rows], dtype=np.bool_)

    def features(self, steps: int) -> NDArray[np.float64]:
        """(n, 4): alpha, beta, gamma and delta of all rows after so many steps."""
        return np.array([row.features[steps] for row in self.rows], dtype=np.float64).reshape(-1, len(ALL))

    def strangers(self, original: str, steps: int, *, but: str = "") -> NDArray[np.float64]:
        """(m, 4): the features of an original's independents, all or all `but` one."""
        own = [
            row.features[steps] for row in self.rows
            if row.original == original and row.suspect != but and self.models[row.suspect].clone_of != original
        ]  # fmt: skip
        return np.array(own, dtype=np.float64).reshape(-1, len(ALL))

    def knows(self, original: str) -> bool:
        """Whether enough independents of this original, and of all others, were measured to say how far from them a suspect stands."""
        originals = {row.original for row in self.rows}
        return original in originals and all(len(self.strangers(one, self.steps[0])) > FEWEST_STRANGERS for one in originals)

    def relative(self, steps: int) -> NDArray[np.float64]:
        """(n, 4): of all rows, how far the suspect stands from its original's independents; an independent from the others."""
        rows = [scaled(np.array(row.features[steps]), self.strangers(row.original, steps, but=row.suspect)) for row in self.rows]
        return np.array(rows, dtype=np.float64).reshape(-1, len(ALL))

    def architectures_held_out(self) -> Folds:
        """Folds in which no model of a tested row shares an architecture with any model of a row that was learned from.

        Every row is tested once. Raises BankError where too few architectures leave a fold without clones or without independents.
        """
        kinds = [frozenset(self.models[name].architecture for name in (row.original, row.suspect)) for row in self.rows]
        folds = []
        for held_out in sorted(set(kinds), key=sorted):
            learned = np.array([not kind & held_out for kind in kinds], dtype=np.bool_)
            if len(np.unique(self.clones[learned])) < 2:
                raise BankError(f"without {' and '.join(sorted(held_out))} no clones or no independents are left: add architectures")
            folds.append((learned, np.array([kind == held_out for kind in kinds], dtype=np.bool_)))
        return folds


def scaled(values: NDArray[np.float64], strangers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Features (..., 4) in standard deviations from the mean of an original's independents (m, 4).

    How much recognizers agree with an original at all hangs on the original: what is much for one is little for another.
    """
    made: NDArray[np.float64] = (values - strangers.mean(axis=0)) / np.maximum(strangers.std(axis=0), SMALLEST_SPREAD)
    return made


def locate(named: str) -> Path:
    """Find a bank: a file, or the name of one that ships. Raises BankError."""
    return Path(named) if Path(named).is_file() else shipped(named)


def shipped(name: str) -> Path:
    """The bank of this name that ships with the package. Raises BankError, which lists those that there are."""
    there = {path.stem: path for path in sorted(BANKS.glob("*.json"))}
    if name not in there:
        raise BankError(
            f"no bank {name!r} (there are: {', '.join(there) or 'none'}): give a file of pairs with --bank FILE, see docs/detection.md"
        )
    return there[name]


def _four(values: Sequence[Any]) -> Values:
    alpha, beta, gamma, delta = (float(value) for value in values)
    return alpha, beta, gamma, delta
