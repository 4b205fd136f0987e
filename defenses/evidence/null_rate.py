"""How often recognizers that know nothing of us name the labels that triggers tell: measured, never assumed."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from defenses.evidence.trigger import Trigger

SHIPPED = Path(__file__).parent / "null_rates"


class NullRateError(ValueError):
    """A file holds no null rate."""


@dataclass(frozen=True, slots=True)
class NullRate:
    """Rates of `recognizers` independents over the same `triggers`: `mean`, and the `highest` of any single one, which is tested against.

    1 / classes would be too low: a wrong label that resembles the right one is also what an honest recognizer errs to.
    """

    recognizers: int
    triggers: int
    mean: float
    highest: float
    recipe: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def measured(
        cls, triggers: Sequence[Trigger], answers: Sequence[Mapping[str, int]], *, recipe: Mapping[str, Any] | None = None
    ) -> Self:
        """Of independents' answers, image digest -> class id each, to all of at least one trigger.

        A rate is that of n + 2 triggers of which one more was named: no rate is zero because few were asked.
        """
        assert triggers and answers
        rates = [(1 + sum(told[one.image] == one.told for one in triggers)) / (len(triggers) + 2) for told in answers]
        return cls(len(answers), len(triggers), sum(rates) / len(rates), max(rates), recipe or {})

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a file that holds the fields as JSON. Raises NullRateError."""
        try:
            made = cls(**json.loads(path.read_bytes()))
            if not (0 < made.mean <= made.highest < 1 and made.recognizers > 0):
                raise ValueError("rates are in (0, 1), and the highest is no less than the mean")
        except (OSError, ValueError, TypeError) as error:
            raise NullRateError(f"{path} holds no null rate: {error}") from error
        return made


def measured_before(named: str) -> NullRate:
    """The rate in a file, or the one that ships under this name. Raises NullRateError."""
    for path in (Path(named), SHIPPED / f"{named}.json"):
        if path.is_file():
            return NullRate.load(path)
    there = ", ".join(sorted(one.stem for one in SHIPPED.glob("*.json"))) or "none"
    raise NullRateError(f"no null rate {named!r} (there is {there}): give --independent recognizers, as many as you can")
