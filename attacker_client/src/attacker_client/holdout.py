"""What a training holds out to choose its epoch by: rows of the transfer set, never a test set."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from attacker_client.students import Student
from attacker_client.transfer_set import TransferSet

if TYPE_CHECKING:  # the table of attacks imports attacks that import the training
    from attacker_client.attacks.attack import Loss

SHARE = 0.05  # of the transfer set
FEWEST = 40  # rows, below which nothing is held out
MOST = 2000  # rows: more would not choose better


def split(data: TransferSet, *, seed: int) -> tuple[TransferSet, TransferSet]:
    """What to fit and what to hold out; all of the copies of an image fall on the same side."""
    nothing = data.rows(np.zeros(0, np.int64))
    if len(data) < FEWEST:
        return data, nothing
    codes = _codes(data, salt=seed)
    different = np.unique(codes)
    out = np.isin(codes, different[: max(1, min(round(SHARE * len(different)), MOST))])
    return (data, nothing) if out.all() else (data.rows(~out), data.rows(out))


def more(drawn: TransferSet, held_out: TransferSet, *, seed: int) -> tuple[TransferSet, TransferSet]:
    """What to fit of a draw, and what is held out of this draw and those before it.

    A share of the images of every draw is held out, until there are enough. Their pixels decide, so that one which comes again is held
    out again. Of a draw with few rows nothing is.
    """
    codes, before = _codes(drawn, salt=seed), _codes(held_out, salt=seed)
    if len(drawn) >= FEWEST:
        mine = np.unique(codes[codes < np.uint64(SHARE * 2**64)])
        if not len(mine) and not len(before):
            mine = codes.min(keepdims=True)
        mine = mine[~np.isin(mine, before)][: max(0, MOST - len(np.unique(before)))]
        new = np.isin(codes, mine)
        if not new.all():
            held_out = TransferSet.joined([held_out, drawn.rows(new)])
            before = np.concatenate([before, mine])
    return drawn.rows(~np.isin(codes, before)), held_out


def measured(student: Student, held_out: TransferSet, *, hard: bool, loss: Loss | None) -> dict[str, float]:
    """How a student does on held-out rows, `holdout_rows` of them.

    `holdout_fidelity`, and `holdout_overlap`, or `holdout_loss` where the training has a `loss` of its own.
    The overlap with the targets, the mean of sum_c min(p_c, t_c), is 1 less their total variation distance. Under a loss of its own the
    student is not meant to answer as the targets say, so that loss itself is taken.
    """
    if len(held_out) == 0:
        return {}
    targets = held_out.targets(classes=student.classes, hard=hard)
    found = student.probabilities(held_out.images)
    shares = {"holdout_fidelity": found.argmax(axis=1) == held_out.labels}
    if loss is None:
        shares["holdout_overlap"] = np.minimum(found, targets).sum(axis=1)
    else:
        shares["holdout_loss"] = loss(torch.from_numpy(found).clamp_min(1e-12).log(), torch.from_numpy(targets)).numpy()
    return {"holdout_rows": len(held_out), **{name: float(np.average(of, weights=held_out.weights)) for name, of in shares.items()}}


def is_best(history: Sequence[Mapping[str, float]]) -> bool:
    """Whether the last epoch is as good as any before it, by what `measured` said of them; all are alike where nothing was held out.

    A training that draws holds out more and more: epochs that were judged by less than half as many rows are no rivals.
    """
    last = history[-1]
    rivals = [row for row in history[:-1] if 2 * row.get("holdout_rows", 0) >= last.get("holdout_rows", 0)]
    return all(_merit(last) >= _merit(row) for row in rivals)


def _merit(row: Mapping[str, float]) -> float:
    return row.get("holdout_overlap", -row.get("holdout_loss", 0.0))


def _codes(data: TransferSet, *, salt: int) -> NDArray[np.uint64]:
    """A random number for each image that only its pixels and the salt decide."""
    key = salt.to_bytes(8, "big", signed=True)
    return np.array(
        [int.from_bytes(hashlib.blake2b(image.tobytes(), digest_size=8, key=key).digest(), "big") for image in data.images], np.uint64
    )
