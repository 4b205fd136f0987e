"""Active learning: ask about the images that the student of the last round would learn most from."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from attacker_client.attacks.attack import Scene
from attacker_client.attacks.standard import buy_rows
from attacker_client.students import Student
from attacker_client.transfer_set import TransferSet

_AT_A_TIME = 2048  # embeddings compared at a time


@dataclass(frozen=True, slots=True)
class Active:
    """Buy in `rounds` equal parts, the first at random, each later one chosen with the student trained so far.

    Of at most `candidates` random images not yet asked about, `strategy` takes
    - uncertainty: those the student is least sure of, by entropy -sum_k p_k log p_k or by the margin p_(1) - p_(2) (`measure`);
    - k-center: greedily the one furthest from all that were bought or chosen, in the student's embedding (Sener and Savarese 2018);
    - both: k-center among the `shortlist` times as many most uncertain ones (ActiveThief's combination, Pal et al. 2020).
    """

    summary: ClassVar[str] = "rounds of the images the student is least sure of and that cover its embedding (ActiveThief, Pal et al. 2020)"
    strategy: Literal["uncertainty", "k-center", "both"] = "both"
    measure: Literal["entropy", "margin"] = "entropy"
    rounds: int = 5
    candidates: int = 10_000
    shortlist: int = 3

    def __post_init__(self) -> None:
        if min(self.rounds, self.candidates, self.shortlist) < 1:
            raise ValueError("rounds, candidates and shortlist are at least 1")

    async def __call__(self, scene: Scene) -> Student:
        """Fit after each round but the last, going on from the student before; then once from fresh weights."""
        rng = np.random.default_rng((scene.seed, 5))
        rest = rng.permutation(len(scene.pool))
        bought = TransferSet.empty(scene.pool.size)
        student: Student | None = None
        for number in range(self.rounds):
            share = -(-scene.buyer.left // (self.rounds - number))
            if not share or not len(rest):
                break
            if len(bought):
                student = await scene.trainer.fit(bought, start=student)
                seen = rng.permutation(rest)[: max(self.candidates, share)]
                chosen = seen[self._choose(student, scene.pool[seen], bought, share)]
            else:
                chosen = rest[:share]
            bought = TransferSet.joined([bought, await buy_rows(scene, chosen)])
            rest = rest[~np.isin(rest, chosen)]
        return await scene.trainer.fit(bought)

    def _choose(self, student: Student, images: NDArray[np.uint8], bought: TransferSet, k: int) -> NDArray[np.int64]:
        """Which k of the candidate images to buy."""
        rows = np.arange(len(images))
        if self.strategy != "k-center":
            sureness = -uncertainty(student.probabilities(images), self.measure)
            rows = np.argsort(sureness, kind="stable")[: k * (self.shortlist if self.strategy == "both" else 1)]
        if self.strategy == "uncertainty":
            return rows
        return rows[k_center(student.embeddings(images[rows]), student.embeddings(bought.images), k)]


def uncertainty(probabilities: NDArray[np.float32], measure: Literal["entropy", "margin"]) -> NDArray[np.float64]:
    """How unsure answers (n, classes) are: (n,), higher is less sure."""
    if measure == "entropy":
        p = np.clip(probabilities.astype(np.float64), 1e-12, 1)
        return np.asarray(-(p * np.log(p)).sum(axis=1))
    best = np.sort(probabilities, axis=1)[:, ::-1].astype(np.float64)
    return 1 - (best[:, 0] - (best[:, 1] if best.shape[1] > 1 else 0))


def k_center(points: NDArray[np.float32], centers: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Choose k of `points` (n, d) greedily: each time the one whose nearest among `centers` (m, d) and the chosen is furthest.

    A 2-approximation of the cover with the smallest radius. Fewer than k where there are no more points.
    """
    norms, others = _norms(points), _norms(centers)
    nearest = np.full(len(points), np.inf, np.float32)
    for start in range(0, len(centers), _AT_A_TIME):
        some = slice(start, start + _AT_A_TIME)
        nearest = np.minimum(nearest, _squares(points, norms, centers[some], others[some]).min(axis=1))
    chosen: list[int] = []
    for _ in range(min(k, len(points))):
        last = int(nearest.argmax())
        chosen.append(last)
        nearest = np.minimum(nearest, _squares(points, norms, points[last : last + 1], norms[last : last + 1])[:, 0])
        nearest[last] = -1
    return np.array(chosen, np.int64)


def _norms(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Squared lengths (n,), taken once: every point that is chosen is compared with all others."""
    return np.asarray(np.einsum("nd,nd->n", points, points))


def _squares(
    a: NDArray[np.float32], a_norms: NDArray[np.float32], b: NDArray[np.float32], b_norms: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Squared distances of a (n, d) to b (m, d): (n, m)."""
    return np.asarray(np.clip(a_norms[:, None] - 2 * a @ b.T + b_norms, 0, None))
