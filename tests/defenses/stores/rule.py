"""The rule of one neighbourhood, one answer, said by brute force; and sightings to try it on."""

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from defenses.stores.protocol import Match, Sighting
from defenses.vocabulary import ClientRecord, Neighbourhood


def sighting(
    digest: bytes | int,
    *,
    perceptual: int = 0,
    embedding: int | None = None,
    client: str = "anna",
    flagged: bool = False,
    time: float = 1.0,
) -> Sighting:
    """A sighting with a short name; codes are integers of 64 and 128 bits, and no embedding is an empty code."""
    return Sighting(
        digest=digest if isinstance(digest, bytes) else digest.to_bytes(32, "big"),
        perceptual=perceptual.to_bytes(8, "big"),
        embedding=b"" if embedding is None else embedding.to_bytes(16, "big"),
        flagged=flagged,
        top_classes=(3, 5),
        client=client,
        time=time,
    )


def ones(count: int) -> int:
    """A code that differs from 0 in `count` bits, spread over its bands."""
    return sum(1 << (23 * bit % 64) for bit in range(count))


def crowd(rng: np.random.Generator, *, size: int) -> Iterator[Sighting]:
    """Sightings around few centres, so that all branches of the rule are taken; some come twice, some lack an embedding."""
    perceptual = rng.integers(0, 2, (20, 64), dtype=np.uint8)
    embedding = rng.integers(0, 2, (20, 128), dtype=np.uint8)
    past: list[Sighting] = []
    for _ in range(size):
        if past and rng.random() < 0.15:
            yield past[rng.integers(len(past))]
            continue
        past.append(
            Sighting(
                digest=rng.bytes(32),
                perceptual=_blurred(rng, perceptual[rng.integers(20)], flips=int(rng.integers(0, 8))),
                embedding=b"" if rng.random() < 0.1 else _blurred(rng, embedding[rng.integers(20)], flips=int(rng.integers(0, 14))),
                flagged=bool(rng.random() < 0.3),
                top_classes=(int(rng.integers(10)), int(rng.integers(10))),
                client=f"client-{rng.integers(5)}",
                time=float(rng.integers(1_000_000)),
            )
        )
        yield past[-1]


def _blurred(rng: np.random.Generator, bits: np.ndarray[tuple[int], np.dtype[np.uint8]], *, flips: int) -> bytes:
    changed = bits.copy()
    changed[rng.choice(len(bits), flips, replace=False)] ^= 1
    return np.packbits(changed).tobytes()


class Rule:
    """What `find_or_found` promises, in the fewest words."""

    def __init__(self, *, perceptual_radius: int, embedding_radius: int, most: float = math.inf, seconds: float = math.inf) -> None:
        self._radii = (perceptual_radius, embedding_radius)
        self._most, self._seconds = most, seconds
        self._homes: dict[bytes, Neighbourhood] = {}
        self._records: dict[str, ClientRecord] = {}
        self.founders: list[tuple[Sighting, Neighbourhood]] = []

    def find_or_found(self, new: Sighting) -> Match:
        """Join `new` to a neighbourhood: its digest's, else that of the oldest founder near it, else its own."""
        record = self._records.get(new.client, ClientRecord())
        match = Match(self._homes[new.digest], "digest", 0) if new.digest in self._homes else self._near(new, record)
        self._homes[new.digest] = match.neighbourhood
        if not match.channel or match.neighbourhood.founder != new.client:
            self._records[new.client] = ClientRecord(record.queries + 1, record.flagged + new.flagged)
        return replace(match, record=record)

    def forget(self) -> None:
        """What happens at the end of a call: the oldest go, and with them all that joined them."""
        while len(self.founders) > self._most or (self.founders and self.founders[0][0].time < self.founders[-1][0].time - self._seconds):
            _, gone = self.founders.pop(0)
            self._homes = {digest: home for digest, home in self._homes.items() if home is not gone}

    def _near(self, new: Sighting, record: ClientRecord) -> Match:
        for founder, home in self.founders:
            pairs = (new.perceptual, founder.perceptual), (new.embedding, founder.embedding)
            for channel, radius, (a, b) in zip(("perceptual", "embedding"), self._radii, pairs, strict=True):
                distance = (int.from_bytes(a) ^ int.from_bytes(b)).bit_count()
                if a and b and distance <= radius:
                    return Match(home, channel, distance)
        home = Neighbourhood(new.digest, new.client, new.flagged, new.top_classes, record)
        self.founders.append((new, home))
        return Match(home, "", 0)
