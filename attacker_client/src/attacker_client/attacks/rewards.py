"""What an answer was worth to the thief: the three rewards of adaptive Knockoff nets."""

from collections import deque

import numpy as np
from numpy.typing import NDArray

from attacker_client.students import Student
from attacker_client.transfer_set import TransferSet


class Rewards:
    """Reward answers y by what they teach (Orekondy, Schiele and Fritz 2019), each kind scaled to 0..1 by the last `window` images' range.

    - certainty: y_(1) - y_(2), the margin of the two best scores: images like those the endpoint was made for;
    - diversity: sum_k max(0, y_k - mean of y_k over the last `window` answers): classes that came up seldom of late;
    - loss: -sum_k y_k log s_k(x), s the student: what it can't do yet.

    The reward is the mean of the kinds that can be told: certainty needs two scores of every answer, loss a student.
    """

    def __init__(self, *, window: int) -> None:
        self.kinds: list[str] = []
        self.left_out: list[str] = []
        self._window = window
        self._answers = TransferSet.empty(1)
        self._recent: dict[str, deque[float]] = {}
        self._usual: deque[float] = deque(maxlen=window)

    def of(self, batch: TransferSet, student: Student | None) -> tuple[NDArray[np.float64], float]:
        """The rewards (n,) of a batch's answers, and the mean reward of the last `window` images, these included."""
        raw: dict[str, NDArray[np.float64]] = {}
        if batch.classes >= 2 and np.all((~np.isnan(batch.scores)).sum(axis=1) >= 2):
            best = np.sort(np.nan_to_num(batch.scores.astype(np.float64)), axis=1)
            raw["certainty"] = best[:, -1] - best[:, -2]
        elif "certainty" not in self.left_out:
            self.left_out.append("certainty")
        raw["diversity"] = self._diversity(batch)
        if student is not None:
            classes = max(batch.classes, student.classes)
            known = np.full((len(batch), classes), 1e-6)
            known[:, : student.classes] = np.clip(student.probabilities(batch.images), 1e-6, 1)
            raw["loss"] = -(batch.targets(classes=classes) * np.log(known)).sum(axis=1)
        self.kinds += [kind for kind in raw if kind not in self.kinds]
        rewards = np.mean([self._scaled(kind, values) for kind, values in raw.items()], axis=0)
        self._usual.extend(rewards.tolist())
        return rewards, float(np.mean(self._usual))

    def _diversity(self, batch: TransferSet) -> NDArray[np.float64]:
        pixel = np.zeros((len(batch), 1, 1, 3), np.uint8)  # only the answers are remembered
        answers = TransferSet(pixel, batch.labels, batch.scores, batch.weights)
        before = self._answers if len(self._answers) else answers
        classes = max(before.classes, answers.classes)
        usual = before.targets(classes=classes).mean(axis=0)
        self._answers = TransferSet.joined([self._answers, answers])
        self._answers = self._answers.rows(np.arange(len(self._answers))[-self._window :])
        return np.asarray(np.maximum(0, answers.targets(classes=classes) - usual).sum(axis=1), np.float64)

    def _scaled(self, kind: str, values: NDArray[np.float64]) -> NDArray[np.float64]:
        recent = self._recent.setdefault(kind, deque(maxlen=self._window))
        recent.extend(values.tolist())
        low, high = min(recent), max(recent)
        return np.clip((values - low) / max(high - low, 1e-9), 0, 1)
