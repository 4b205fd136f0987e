"""How often distinct images have nearly equal codes: what a near-duplicate radius costs, and the widest that costs little enough."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from defenses.vocabulary import Bits

REFERENCE_CAP = 10_000  # images whose pairs are counted: 50 million
STORED = 50_000  # neighbourhoods that a query is compared with
BIN = 2  # bits; codes with as many ones as zeros lie an even number of bits apart
TAIL, START = 5e-2, 1e-3  # shares of all pairs: the closest ones that say how the rates fall, and those that certainly are distinct
ENOUGH = 5  # pairs expected in a bin, below which it says nothing
HEAVIEST = 1_000  # pairs; a bin with more of them weighs no more, or the far end alone would shape the curve


@dataclass(frozen=True, slots=True, eq=False)
class FalseMerges:
    """The pairs of n distinct images by the Hamming distance of their codes; index r means "within r bits", r = 0..bits.

    `counted` are the shares of all pairs in the sample, true duplicates included. `rates` are those of distinct images: where the
    sample holds too few pairs, or duplicates stand apart from the rest, the counts per 2 bits follow exp(a + b x + c x^2), c <= 0,
    fitted by weighted least squares to the lower tail above. `apart` is how many pairs lie below the tail beyond that curve.
    """

    counted: NDArray[np.float64]
    rates: NDArray[np.float64]
    pairs: int
    apart: int

    @classmethod
    def among(cls, codes: Bits, others: Bits | None = None) -> Self:
        """Count the pairs of packed codes (n, bytes) with `others` (m, bytes), or with each other; of the first 10,000 of each.

        The tail starts with the closest 0.1% to 5% of the pairs and grows downwards, bin by bin, while a bin holds at most twice
        what the curve through the tail says (and three standard errors): true duplicates, which every image set holds, are more.
        """
        within = _pairs_within(codes[:REFERENCE_CAP], others if others is None else others[:REFERENCE_CAP])
        total = int(within[-1])
        edges = np.arange(BIN - 1, len(within), BIN)
        counts = np.diff(within[edges], prepend=0)
        top = max(int(np.searchsorted(within[edges], TAIL * total)), 3)
        low = min(int(np.searchsorted(within[edges], START * total)), top - 3)
        curve = _curve(counts, low, top)
        while low > 0:
            expected = curve[low - 1]
            if expected < ENOUGH or counts[low - 1] > 2 * expected + 3 * np.sqrt(expected):
                break
            low -= 1
            curve = _curve(counts, low, top)
        believed = np.where(np.arange(len(counts)) < low, curve, counts)
        # between two edges a bin counts as a whole: no radius is said to merge less than it does
        rates = np.minimum(np.repeat(believed.cumsum() / total, BIN), 1.0)
        rates = np.concatenate([rates, np.ones(len(within) - len(rates))])
        apart = int(np.maximum(counts[:low] - curve[:low], 0).sum())
        return cls(within / total, rates, total, apart)

    def shares(self, stored: int = STORED) -> NDArray[np.float64]:
        """Expected shares of distinct images within reach of any of `stored` others: 1 - (1 - rate)^stored, for every radius."""
        with np.errstate(divide="ignore"):
            return np.asarray(-np.expm1(stored * np.log1p(-self.rates)))

    def widest_radius(self, false_merges: float, *, most: int) -> int | None:
        """The widest radius up to `most` bits with at most a share `false_merges` merged; None where even equal codes merge more."""
        allowed = np.flatnonzero(self.shares()[: most + 1] <= false_merges)
        return int(allowed[-1]) if len(allowed) else None


def hamming(codes: Bits, others: Bits) -> NDArray[np.int64]:
    """Differing bits of every pair, (n, m), of packed codes (n, bytes) and (m, bytes)."""
    a, b = (np.unpackbits(x, axis=1).astype(np.float32) * 2 - 1 for x in (codes, others))
    return np.asarray((a.shape[1] - np.rint(a @ b.T)) / 2, dtype=np.int64)


def closest_pairs(codes: Bits, *, within: int, most: int) -> list[tuple[int, int, int]]:
    """The `most` closest pairs at most `within` bits apart, as (distance, row, later row), closest first; of the first 10,000."""
    found: list[tuple[int, int, int]] = []
    codes = codes[:REFERENCE_CAP]
    for start in range(0, len(codes), 500):
        distances = hamming(codes[start : start + 500], codes[start:])
        rows, others = np.nonzero(np.triu(distances <= within, 1))
        near = zip(distances[rows, others].tolist(), (rows + start).tolist(), (others + start).tolist(), strict=True)
        found = sorted([*found, *near])[:most]
    return found


def _pairs_within(codes: Bits, others: Bits | None) -> NDArray[np.int64]:
    counts = np.zeros(8 * codes.shape[1] + 1, dtype=np.int64)
    for start in range(0, len(codes), 500):
        distances = hamming(codes[start : start + 500], codes[start:] if others is None else others)
        counted = distances if others is not None else distances[np.triu(np.ones(distances.shape, dtype=np.bool_), 1)]
        counts += np.bincount(counted.ravel(), minlength=len(counts))
    assert counts.any(), "no pair"
    return counts.cumsum()


def _curve(counts: NDArray[np.int64], low: int, top: int) -> NDArray[np.float64]:
    """Pairs expected in each bin up to `top`, then zeros, after bins low..top."""
    bins = np.arange(low, top + 1)
    logs, weights = np.log(np.maximum(counts[bins], 0.5)), np.sqrt(np.clip(counts[bins], 1, HEAVIEST))
    fitted = np.polyfit(bins, logs, 2, w=weights)
    if fitted[0] > 0:  # a rate that falls ever slower never ends: rather a straight line
        fitted = np.polyfit(bins, logs, 1, w=weights)
    curve = np.zeros(len(counts))
    curve[: top + 1] = np.exp(np.polyval(fitted, np.arange(top + 1)))
    return curve
