"""The checkpoints of one training run: what a crash may cost is the epoch under way."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attacker_client.students import Student
from attacker_client.transfer_set import TransferSet

_STUDENT, _LAST, _BEST, _HELD_OUT = "student.pt", "last.pt", "best.pt", "held-out.pt"

State = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """A folder that holds one training run's state; what was kept under another `key` is another run's, and is not read.

    `history.json` is for people and reports. All else is written beside and renamed, so that an interrupted save leaves no half file.
    """

    folder: Path
    key: str

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def finished(self) -> State | None:
        """The weights of a training that came to its end."""
        return self._weights(_STUDENT)

    @property
    def best(self) -> State | None:
        """The weights of the best epoch so far."""
        return self._weights(_BEST)

    @property
    def last(self) -> State | None:
        """Everything that the next epoch needs."""
        return self._read(_LAST)

    @property
    def held_out(self) -> TransferSet | None:
        """The rows that were held out of the draws so far."""
        state = self._read(_HELD_OUT)
        return None if state is None else TransferSet(*(tensor.numpy() for tensor in state["held_out"]))

    def hold_out(self, data: TransferSet) -> None:
        """Keep the rows that were held out of the draws so far."""
        arrays = (data.images, data.labels, data.scores, data.weights)
        self._write(_HELD_OUT, held_out=[torch.from_numpy(np.ascontiguousarray(array)) for array in arrays])

    def keep(self, *, best: Student | None, history: Sequence[dict[str, float]], **last: object) -> None:
        """Keep an epoch: the `best` student if this is it, and what the next epoch needs.

        The best before the last: what is lost between the two is made again the same.
        """
        if best is not None:
            self._write(_BEST, student=weights_of(best))
        (self.folder / "history.json").write_text(json.dumps(list(history), indent=1) + "\n", encoding="utf-8")
        self._write(_LAST, history=list(history), **last)

    def finish(self, weights: State) -> None:
        """Keep the weights that the training ends with, and nothing else."""
        self._write(_STUDENT, student=weights)
        for name in (_LAST, _BEST, _HELD_OUT):
            (self.folder / name).unlink(missing_ok=True)

    def _weights(self, name: str) -> State | None:
        state = self._read(name)
        return None if state is None else state["student"]

    def _write(self, name: str, **state: object) -> None:
        partial = self.folder / f"{name}.partial"
        torch.save({"key": self.key, **state}, partial)
        partial.replace(self.folder / name)

    def _read(self, name: str) -> State | None:
        path = self.folder / name
        if not path.exists():
            return None
        state: State = torch.load(path, weights_only=True, map_location="cpu")
        return state if state["key"] == self.key else None


def forget(folder: Path) -> None:
    """Delete the weights of all trainings in a folder, of which nobody needs any more than their histories."""
    for file in folder.glob("fit-*/*.pt"):
        file.unlink()


def weights_of(student: Student) -> dict[str, Tensor]:
    """A student's weights by their names, on the CPU."""
    return {name: weights.detach().cpu() for name, weights in student.state_dict().items()}


def key_of(options: object, data: TransferSet | None, start: Student | None) -> str:
    """A digest of what decides the outcome of a training: its options by their repr, the data, and the weights it starts from."""
    digest = hashlib.sha256(repr(options).encode())
    if data is not None:
        for array in (data.images, data.labels, data.scores, data.weights):
            digest.update(repr(array.shape).encode() + np.ascontiguousarray(array).tobytes())
    if start is not None:
        for name, weights in weights_of(start).items():
            digest.update(name.encode() + weights.contiguous().numpy().tobytes())
    return digest.hexdigest()
