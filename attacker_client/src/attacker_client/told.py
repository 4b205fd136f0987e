"""What the endpoint told: seen on the way, kept for the report."""

import base64
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attacker_client.attacks.attack import Buyer
from attacker_client.display import BuyingBar
from attacker_client.ledger import Ledger
from attacker_client.transfer_set import Images, TransferSet, rounding

EXAMPLES = 24
LARGEST = 96  # pixels a side of an example


class Witness:
    """A buyer that looks at what passes: implements `attacks.attack.Buyer`.

    It counts labels and entries, finds the rounding, and keeps an even sample of 24 images. A campaign that goes on with a student that was
    finished before may see no answer again: the ledger remembers what was seen then, which counts where it is more.
    """

    def __init__(self, buyer: Buyer, ledger: Ledger, bar: BuyingBar) -> None:
        self._buyer = buyer
        self._ledger = ledger
        self._bar = bar
        self._random = np.random.default_rng(0)
        self._seen = 0
        self._labels: dict[int, int] = {}
        self._entries: set[int] = set()
        self._decimals: int | None = None
        self._best: list[float] = []
        self._examples: list[tuple[NDArray[np.uint8], int, float | None]] = []

    @property
    def left(self) -> int:
        """As the inner buyer's."""
        return self._buyer.left

    @property
    def identities(self) -> int:
        """As the inner buyer's."""
        return self._buyer.identities

    async def buy(self, images: Images, *, identities: NDArray[np.int64] | None = None) -> TransferSet:
        """Buy, and look at the answers."""
        with self._bar:
            bought = await self._buyer.buy(images, identities=identities)
        self._look(bought.rows(bought.weights > 0))
        return bought

    def summary(self, names: Mapping[int, str]) -> dict[str, Any]:
        """The answers in numbers and a sample of them, and keep both; labels come with the endpoint's names."""
        counts = sorted(self._labels.items(), key=lambda item: -item[1])
        labels = {label: names.get(label, str(label)) for label in self._labels}
        few, many = min(self._entries, default=0), max(self._entries, default=0)
        summary: dict[str, Any] = {
            "seen": self._seen,
            "classes": len(names),
            "entries": "" if many == 0 else str(many) if few == many else f"{few} to {many}",
            "decimals": self._decimals,
            "best_score": float(np.median(self._best)) if self._best else None,
            "most_frequent": counts[0][1] / self._seen if counts else None,
            "labels": [{"label": labels[label], "count": count} for label, count in counts],
            "examples": [],
        }
        for pixels, label, score in self._examples:
            summary["examples"].append({"png": _png(pixels), "label": labels[label], "score": score})
        before: dict[str, Any] | None = self._ledger.fact("told")
        if before is not None and before["seen"] > self._seen:
            return before
        self._ledger.remember("told", summary)
        return summary

    def _look(self, bought: TransferSet) -> None:
        for label, count in zip(*np.unique(bought.labels, return_counts=True), strict=True):
            self._labels[int(label)] = self._labels.get(int(label), 0) + int(count)
        heard = ~np.isnan(bought.scores)
        self._entries.update(np.unique(heard.sum(axis=1)).tolist())
        scores = bought.scores[heard]
        if len(scores):
            self._decimals = max(self._decimals or 0, rounding(scores))
            self._best += np.nanmax(bought.scores[heard.any(axis=1)], axis=1).tolist()
        for row in range(len(bought)):
            self._seen += 1
            place = len(self._examples) if len(self._examples) < EXAMPLES else int(self._random.integers(self._seen))
            if place < EXAMPLES:
                label = int(bought.labels[row])
                score = float(bought.scores[row, label])
                self._examples[place : place + 1] = [(bought.images[row].copy(), label, None if np.isnan(score) else score)]


def _png(pixels: NDArray[np.uint8]) -> str:
    image = Image.fromarray(pixels)
    image.thumbnail((LARGEST, LARGEST))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
