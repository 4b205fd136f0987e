"""Denoise: find the answers that are wrong, and learn without them.

Confident learning: Northcutt, Jiang, Chuang (2021). Small-loss trick, for training on fresh answers every epoch: Han et al. (2018).
"""

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from attacker_client.attacks.attack import Attack, Draw, Loss, Scene, Trainer
from attacker_client.students import Student
from attacker_client.transfer_set import TransferSet

WARM_UP = 2  # epochs of a draw before its answers are judged: a network learns what most answers agree on first
Policy = Literal["drop", "relabel", "small-loss"]


@dataclass(frozen=True, slots=True)
class Denoise:
    """Judge every answer by students that were trained without it, then train on what is left.

    With p(x) the prediction of a student trained on the other of `folds` parts and s the told label: t_j, the mean of p_j over the images
    told j, is class j's threshold; an image counts as j* = argmax of p_j over the classes with p_j >= t_j. The counts of (s, j*) are the
    confident joint; what is off its diagonal are the label errors, and their share of all counted is the noise rate. `drop` gives the label
    errors weight 0, `relabel` tells them j* instead, `small-loss` gives weight 0 to the share of all images, as large as the noise rate,
    with the highest cross-entropy. The students of the folds are trained as the final one is: `folds` + 1 trainings a fit.

    In a training that buys fresh answers every epoch the current student judges each epoch's after the first two, always by small loss.
    """

    inner: Attack
    folds: int = 3
    policy: Policy = "drop"

    summary: ClassVar[str] = "drops or corrects answers that students trained without them contradict (wraps another attack)"

    def __post_init__(self) -> None:
        if self.folds < 2:
            raise ValueError("folds is at least 2")

    async def __call__(self, scene: Scene) -> Student | None:
        """Run the inner attack with a trainer that cleans its answers."""
        findings: dict[str, Any] = {"policy": self.policy}
        scene.findings["denoise"] = findings
        return await self.inner(replace(scene, trainer=CleaningTrainer(scene.trainer, self, seed=scene.seed, findings=findings)))


@dataclass(frozen=True, slots=True, eq=False)
class CleaningTrainer:
    """A trainer that cleans its data first. Implements `Trainer`; `findings` are those of the last fit."""

    inner: Trainer
    options: Denoise
    seed: int = field(kw_only=True)
    findings: dict[str, Any] = field(kw_only=True)

    def epochs_for(self, rows: int) -> int:
        """As the inner trainer's."""
        return self.inner.epochs_for(rows)

    async def fit(self, data: TransferSet | Draw, *, start: Student | None = None, epochs: int | None = None) -> Student:
        """Clean, then fit; a set too small to be split is taken as it is."""
        if not isinstance(data, TransferSet):
            return await self.inner.fit(self._judged(data), start=start, epochs=epochs)
        if (data.weights > 0).sum() >= 2 * self.options.folds:
            rows, predicted = await out_of_sample(self.inner, data, folds=self.options.folds, seed=self.seed)
            data = self._cleaned(data, rows, predicted)
        return await self.inner.fit(data, start=start)

    def with_loss(self, loss: Loss) -> "CleaningTrainer":
        """The same with another loss, in the folds too."""
        return replace(self, inner=self.inner.with_loss(loss))

    def _judged(self, draw: Draw) -> Draw:
        async def judged(epoch: int, student: Student) -> TransferSet:
            data = await draw(epoch, student)
            rows = np.flatnonzero(data.weights > 0)
            if epoch < WARM_UP or len(rows) < 2:
                return data
            predicted = widened(student.probabilities(data.images[rows]), data.classes)
            return self._cleaned(data, rows, predicted, policy="small-loss")

        return judged

    def _cleaned(
        self, data: TransferSet, rows: NDArray[np.int64], predicted: NDArray[np.float32], *, policy: Policy | None = None
    ) -> TransferSet:
        policy = policy or self.options.policy
        told = data.labels[rows]
        joint, likely = confident_joint(told, predicted)
        rate = noise_rate(joint)
        errors = (likely >= 0) & (likely != told)
        if errors.all():  # the predictions are worth nothing, and something must be left to learn from
            errors[:] = False
        labels, scores, weights = data.labels.copy(), data.scores.copy(), data.weights.copy()
        match policy:
            case "drop":
                weights[rows[errors]] = 0
            case "relabel":
                labels[rows[errors]] = likely[errors]
                scores[rows[errors]] = np.nan
            case "small-loss":
                losses = -(data.rows(rows).targets(classes=predicted.shape[1]) * np.log(predicted.clip(1e-7))).sum(axis=1)
                worst = np.argsort(-losses, kind="stable")[: min(int(rate * len(rows)), len(rows) - 1)]
                weights[rows[worst]] = 0
        self.findings.update(
            estimated_noise_rate=rate,
            rows=len(rows),
            dropped=int((data.weights > 0).sum() - (weights > 0).sum()),
            relabelled=int((labels != data.labels).sum()),
        )
        return replace(data, labels=labels, scores=scores, weights=weights)


async def out_of_sample(trainer: Trainer, data: TransferSet, *, folds: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Predict every row that counts by a student that was trained without it: the rows (n,) and probabilities (n, classes).

    From fresh weights always: a student to go on from may have learned the row before.
    """
    rows = np.flatnonzero(data.weights > 0)
    fold_of = np.random.default_rng([seed, len(rows)]).permutation(len(rows)) % folds
    predicted = np.zeros((len(rows), data.classes), np.float32)
    for fold in range(folds):
        student = await trainer.fit(data.rows(rows[fold_of != fold]))
        predicted[fold_of == fold] = widened(student.probabilities(data.images[rows[fold_of == fold]]), data.classes)
    return rows, predicted


def confident_joint(told: NDArray[np.int64], predicted: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count told labels (n,) against confident predictions: the joint (classes, classes), and j* of each row (n,), -1 where none."""
    classes = predicted.shape[1]
    thresholds = np.full(classes, np.inf)
    for label in np.unique(told):
        thresholds[label] = predicted[told == label, label].mean()
    confident = np.where(predicted >= thresholds, predicted, -1)
    likely = np.where((confident >= 0).any(axis=1), confident.argmax(axis=1), -1)
    joint = np.zeros((classes, classes), np.int64)
    np.add.at(joint, (told[likely >= 0], likely[likely >= 0]), 1)
    return joint, likely


def noise_rate(joint: NDArray[np.int64]) -> float:
    """The share of what was counted that is off the diagonal."""
    return float(1 - joint.trace() / joint.sum()) if joint.sum() else 0.0


def widened(predicted: NDArray[np.float32], classes: int) -> NDArray[np.float32]:
    """The same with zeros for the classes that a student has not met."""
    return np.pad(predicted, ((0, 0), (0, max(0, classes - predicted.shape[1]))))
