"""Complementary: learn from answers that may be wrong on purpose, also from what a label says an image is not.

Forward correction: Patrini et al. (2017). Complementary labels: Ishida et al. (2017), Yu et al. (2018).
"""

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attacker_client.attacks.attack import Attack, Draw, Loss, Scene, Trainer
from attacker_client.attacks.denoise import WARM_UP, out_of_sample, widened
from attacker_client.students import Student
from attacker_client.training import soft_cross_entropy
from attacker_client.transfer_set import TransferSet

ANCHORS = 0.2  # the share of each predicted class's images, the most confident ones, whose true class counts as known
CONSISTENT = 0.6  # a relabelling counts as one and the same when this share of the suspicious answers of a class agree
SMOOTHING = 1.0  # imagined answers a class, so that a transition that was never seen is not impossible


@dataclass(frozen=True, slots=True)
class Complementary:
    """Explain each told label as the true one seen through a transition matrix, and train the student on the true one.

    loss(x, s) = -log sum over y of p_y(x) T[y, s], with T = (1 - rho) I + rho C: with probability rho an answer is altered, and C says to
    what. At rho = 1 a label only says what an image is not. Scores work too: the told distribution's cross-entropy against p T.

    rho is estimated at anchors (Patrini et al.), by counting: students trained without an image predict it (`folds`); among the most
    confident fifth of each predicted class, rho is the share whose told label is another one. The students' own errors there count as
    alterations, and above about (classes - 1) / classes nothing can be estimated any more: `rate` above 0 says rho instead.

    C is even over all other classes (`uniform`), or counted at the same anchors (`learned`). With `keyed` it is counted too where each
    class's suspicious answers agree, as they do when one permutation alters all of them. In a training that buys fresh answers every
    epoch, the current student's predictions are the out-of-sample ones, from the third epoch on.
    """

    inner: Attack
    transition: Literal["uniform", "learned"] = "uniform"
    keyed: bool = True
    rate: float = 0.0
    folds: int = 3

    summary: ClassVar[str] = "models wrong answers by a transition matrix and learns what a label is not (wraps another attack)"

    def __post_init__(self) -> None:
        if self.folds < 2 or not 0 <= self.rate < 1:
            raise ValueError("folds is at least 2, and rate is 0 to below 1")

    async def __call__(self, scene: Scene) -> Student | None:
        """Run the inner attack with a trainer that corrects its loss."""
        findings: dict[str, Any] = {"transition": self.transition}
        scene.findings["complementary"] = findings
        return await self.inner(replace(scene, trainer=CorrectingTrainer(scene.trainer, self, seed=scene.seed, findings=findings)))


@dataclass(frozen=True, slots=True, eq=False)
class Transition:
    """How true classes become told ones: the matrix (classes, classes), rows summing to 1, and how it was found."""

    matrix: NDArray[np.float32]
    rate: float  # rho
    consistency: float  # the share of suspicious answers that are the most frequent one of their class
    kind: Literal["uniform", "learned", "keyed"]


@dataclass(slots=True, eq=False, repr=False)
class ForwardLoss:
    """Another loss, applied to what would be told instead of what is true. A training that buys as it goes changes `matrix` on the way.

    Its repr says what it computes, the same in every process: trainers know their checkpoints by it.
    """

    inner: Loss
    matrix: Tensor | None = None  # (classes, classes); None tells the truth

    def __repr__(self) -> str:
        inner = getattr(self.inner, "__qualname__", type(self.inner).__name__)
        return f"ForwardLoss({inner}, {None if self.matrix is None else self.matrix.tolist()})"

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Losses (n,) of logits and targets (n, classes)."""
        if self.matrix is None:
            return self.inner(logits, targets)
        true = logits.float().softmax(dim=1)
        known = self.matrix.to(true)
        if known.shape[0] < true.shape[1]:  # classes met since it was estimated
            wider = torch.eye(true.shape[1]).to(true)
            wider[: known.shape[0], : known.shape[0]] = known
            known = wider
        return self.inner((true @ known).clamp_min(1e-7).log(), targets)


@dataclass(frozen=True, slots=True, eq=False)
class CorrectingTrainer:
    """A trainer with a forward-corrected loss. Implements `Trainer`; `findings` are those of the last fit."""

    inner: Trainer
    options: Complementary
    seed: int = field(kw_only=True)
    findings: dict[str, Any] = field(kw_only=True)
    loss: Loss = soft_cross_entropy

    def epochs_for(self, rows: int) -> int:
        """As the inner trainer's."""
        return self.inner.epochs_for(rows)

    async def fit(self, data: TransferSet | Draw, *, start: Student | None = None, epochs: int | None = None) -> Student:
        """Estimate the transition, then fit through it; a set too small to be split is taken as it is."""
        forward = ForwardLoss(self.loss)
        trainer = self.inner.with_loss(forward)
        if not isinstance(data, TransferSet):
            return await trainer.fit(self._watched(data, forward), start=start, epochs=epochs)
        if (data.weights > 0).sum() >= 2 * self.options.folds and data.classes >= 2:
            plain = self.inner.with_loss(self.loss)
            rows, predicted = await out_of_sample(plain, data, folds=self.options.folds, seed=self.seed)
            forward.matrix = self._estimate(data.labels[rows], predicted)
        return await trainer.fit(data, start=start)

    def with_loss(self, loss: Loss) -> "CorrectingTrainer":
        """The same with another loss, corrected as well."""
        return replace(self, loss=loss)

    def _watched(self, draw: Draw, forward: ForwardLoss) -> Draw:
        async def watched(epoch: int, student: Student) -> TransferSet:
            data = await draw(epoch, student)
            rows = np.flatnonzero(data.weights > 0)
            if epoch >= WARM_UP and len(rows) >= 2 and data.classes >= 2:
                forward.matrix = self._estimate(data.labels[rows], widened(student.probabilities(data.images[rows]), data.classes))
            return data

        return watched

    def _estimate(self, told: NDArray[np.int64], predicted: NDArray[np.float32]) -> Tensor:
        found = estimated(told, predicted, transition=self.options.transition, keyed=self.options.keyed, rate=self.options.rate)
        self.findings.update(estimated_rate=found.rate, consistency=found.consistency, transition=found.kind, rows=len(told))
        return torch.from_numpy(found.matrix)


def estimated(
    told: NDArray[np.int64],
    predicted: NDArray[np.float32],
    *,
    transition: Literal["uniform", "learned"] = "uniform",
    keyed: bool = True,
    rate: float = 0.0,
) -> Transition:
    """Estimate the transition from told labels (n,) and out-of-sample predictions (n, classes); `rate` above 0 is believed."""
    classes = predicted.shape[1]
    counts = np.zeros((classes, classes))
    guesses, confidence = predicted.argmax(axis=1), predicted.max(axis=1)
    for guess in np.unique(guesses):
        rows = np.flatnonzero(guesses == guess)
        anchors = rows[np.argsort(-confidence[rows], kind="stable")[: max(1, round(ANCHORS * len(rows)))]]
        counts[guess] = np.bincount(told[anchors], minlength=classes)
    suspicious = counts * (1 - np.eye(classes))
    rho = rate or float(suspicious.sum() / counts.sum())
    consistency = float(suspicious.max(axis=1).sum() / max(suspicious.sum(), 1))
    uniform = (1 - np.eye(classes)) / (classes - 1)
    learned = suspicious + SMOOTHING * uniform
    learned /= learned.sum(axis=1, keepdims=True)
    # With few suspicious answers a class, some are the most frequent by chance.
    is_keyed = keyed and consistency >= CONSISTENT and suspicious.sum() >= 5 * classes
    other = learned if is_keyed or transition == "learned" else uniform
    matrix = (1 - rho) * np.eye(classes) + rho * other
    return Transition(matrix.astype(np.float32), rho, consistency, "keyed" if is_keyed else transition)
