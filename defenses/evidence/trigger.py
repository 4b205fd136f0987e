"""A trigger: an image about which one client was told a keyed wrong label, so that a clone trained on the answer may repeat it."""

import json
from dataclasses import asdict, dataclass, fields
from typing import Any, Self


class TriggerError(ValueError):
    """A record holds no trigger."""


@dataclass(frozen=True, slots=True)
class Trigger:
    """One watermarked answer, as it is committed to.

    `image` and `neighbourhood` are hex digests: SHA-256 of the pixels that the recognizer saw, and the neighbourhood's id. `told` is the
    class that left, `honest` the founder's best one. `controls` are classes that other keys would have told, drawn as `told` was: whoever
    was not trained on the answer names one of these as often as `told`. `rate` is the watermark's share of neighbourhoods at that `time`
    (seconds since the epoch).
    """

    client: str
    image: str
    neighbourhood: str
    founder: str
    honest: int
    told: int
    controls: tuple[int, ...]
    rate: float
    model: str
    request_id: str
    time: float

    def to_json(self) -> bytes:
        """The bytes that are committed to: the same trigger has the same ones."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, body: bytes) -> Self:
        """Undo `to_json`. Raises TriggerError."""
        try:
            page: dict[str, Any] = json.loads(body)
            made = cls(**{**page, "controls": tuple(int(label) for label in page["controls"])})
        except (ValueError, TypeError, KeyError) as error:
            raise TriggerError(f"no trigger: {error}") from error
        for field in fields(cls):
            if field.type in (int, float, str) and not isinstance(
                getattr(made, field.name), (int, float) if field.type is float else field.type
            ):
                raise TriggerError(f"no trigger: {field.name} is {getattr(made, field.name)!r}")
        return made
