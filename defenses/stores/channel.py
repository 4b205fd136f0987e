"""One channel of the fingerprint: the founders' codes in it, and which of them a code is near to."""

from array import array
from bisect import bisect_left
from collections.abc import Sequence

import numpy as np

from defenses.stores.hamming import HammingIndex, widest_exact_radius
from defenses.stores.protocol import StoreError
from defenses.vocabulary import Bits


class Channel:
    """The founders' codes in one channel, oldest first. An empty code stands for none and is near nothing.

    `radius` is in bits, inclusive. `width`, in bytes, is that of the first code unless it is given. A code of another
    width raises StoreError, and so does a radius that can't be searched exactly in codes of that width.
    """

    def __init__(self, name: str, *, radius: int, width: int | None = None) -> None:
        self._name = name
        self._radius = radius
        self._index: HammingIndex | None = None if width is None else self._new_index(width)
        self._sequences = array("q")  # the founder's row at each position of the index

    def oldest(self, codes: Sequence[bytes], *, since: int = 0) -> list[tuple[int, int] | None]:
        """For each code the founder within the radius that came first from `since` on, as (its row's sequence number, distance)."""
        oldest: list[tuple[int, int] | None] = [None] * len(codes)
        asked = [at for at, code in enumerate(codes) if code]
        if asked:
            start = bisect_left(self._sequences, since)
            positions, distances = self._index_for(codes).oldest_within(_stack(codes), self._radius, start=start)
            for at, position, distance in zip(asked, positions.tolist(), distances.tolist(), strict=True):
                if position >= 0:
                    oldest[at] = (self._sequences[position], distance)
        return oldest

    def pairs(self, codes: Sequence[bytes]) -> list[tuple[int, int, int]]:
        """Those of `codes` within the radius of one another, as (later, earlier, distance)."""
        asked = [at for at, code in enumerate(codes) if code]
        if len(asked) < 2:
            return []
        words = _stack(codes).view(np.uint16)
        distances = np.bitwise_count(words[:, None] ^ words[None]).sum(axis=2, dtype=np.int64)
        later, earlier = np.nonzero(np.tril(distances <= self._radius, -1))
        return [(asked[i], asked[j], int(distances[i, j])) for i, j in zip(later.tolist(), earlier.tolist(), strict=True)]

    def add(self, codes: Sequence[bytes], sequences: Sequence[int]) -> None:
        """Append founders' codes, and the sequence numbers of their rows."""
        if any(codes):
            self._index_for(codes).add(_stack(codes))
            self._sequences.extend(sequence for code, sequence in zip(codes, sequences, strict=True) if code)

    def forget(self, before: int) -> None:
        """Drop the founders whose sequence number is below `before`."""
        count = bisect_left(self._sequences, before)
        if count and self._index:
            self._index.drop_oldest(count)
            del self._sequences[:count]

    def _index_for(self, codes: Sequence[bytes]) -> HammingIndex:
        width = self._index.width if self._index else max(map(len, codes))
        if not {len(code) for code in codes} <= {0, width}:
            raise StoreError(f"the {self._name} codes of this index have {8 * width} bits, and one of these does not")
        self._index = self._index or self._new_index(width)
        return self._index

    def _new_index(self, width: int) -> HammingIndex:
        exact = widest_exact_radius(width)
        if width % 2 or not 0 <= self._radius <= exact:
            raise StoreError(f"{self._name} radius {self._radius}: codes of {8 * width} bits are searched exactly up to {exact}")
        return HammingIndex(width)


def _stack(codes: Sequence[bytes]) -> Bits:
    return np.frombuffer(b"".join(codes), dtype=np.uint8).reshape(sum(map(bool, codes)), -1)
