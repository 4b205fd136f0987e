"""Train students from what was bought, the same from the same data, and go on after an interruption."""

from __future__ import annotations

import asyncio
import copy
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from attacker_client import students
from attacker_client.recipes import Recipe
from attacker_client.students import Student, StudentError, batched_tensor, mixed_precision
from attacker_client.transfer_set import TransferSet

if TYPE_CHECKING:  # the table of attacks imports attacks that import this module
    from attacker_client.attacks.attack import Draw, Loss

HOLDOUT = 0.05  # share of the transfer set that chooses the epoch
FEWEST = 40  # rows, below which nothing is held out
MOST_HELD_OUT = 2000  # rows: more would not choose better

Row = dict[str, float]
"""What is known of an epoch: its number (from 1), `epochs`, `loss`, and on held-out rows `holdout_fidelity` and `holdout_overlap`."""


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """-sum_c target_c log softmax(logits)_c, for logits and targets (n, classes): losses (n,)."""
    return -(targets * functional.log_softmax(logits, dim=1)).sum(dim=1)


@dataclass(eq=False, slots=True)
class _Run:
    """One call of `fit` under way."""

    network: Student
    averaged: AveragedModel | None
    optimizer: torch.optim.Optimizer
    held_out: TransferSet
    history: list[Row]

    @property
    def judged(self) -> Student:
        """The weights that are measured and kept."""
        return self.network if self.averaged is None else cast(Student, self.averaged.module)


class StudentTrainer:
    """Make students by a recipe; a folder of `checkpoints` a call, in the order of the calls.

    The epoch is chosen on held-out transfer data, never on a test set: the one whose answers overlap most with the targets, the mean of
    sum_c min(p_c, t_c), which is 1 less their total variation distance. `hard` learns the labels even where scores were told. `epochs`
    replaces the recipe's number. `on_epoch` gets a row an epoch once the epoch is safe on disk; an exception from it stops the
    training, and the same call goes on there. Students are the same for the same seed on one machine.
    """

    def __init__(
        self,
        student: str,
        recipe: Recipe,
        *,
        size: int,
        checkpoints: Path,
        seed: int,
        hard: bool = False,
        pretrained: bool = False,
        epochs: int | None = None,
        loss: Loss = soft_cross_entropy,
        on_epoch: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self.student, self.recipe, self.size, self.seed, self.hard, self.pretrained = student, recipe, size, seed, hard, pretrained
        self.checkpoints, self.epochs, self.loss, self.on_epoch = checkpoints, epochs, loss, on_epoch
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._calls = itertools.count(1)

    def with_loss(self, loss: Loss) -> StudentTrainer:
        """The same trainer with another loss than cross-entropy; the two number their calls together."""
        other = copy.copy(self)
        other.loss = loss
        return other

    async def fit(self, data: TransferSet | Draw, *, start: Student | None = None) -> Student:
        """Train a student on a transfer set, or on a fresh one an epoch; `start` is one to go on from instead of fresh weights.

        Rows of weight 0 are left out. Returns the student in evaluation mode. Raises StudentError where there is nothing to learn from.
        """
        assert start is None or (start.name, start.size, start.pretrained) == (self.student, self.size, self.pretrained), start
        folder = self.checkpoints / f"fit-{next(self._calls):04d}"
        folder.mkdir(parents=True, exist_ok=True)
        key = self._key(data, start)
        finished = _read(folder / "student.pt", key)
        if finished is not None:
            return self._restored(finished["student"]).eval()
        draw = data if callable(data) else None
        fitting = TransferSet.empty(self.size)
        state = _read(folder / "last.pt", key)
        if isinstance(data, TransferSet):
            fitting, held_out = self._split(data.rows(data.weights > 0))
            epochs = self.epochs or self.recipe.epochs_for(len(data))
            if len(fitting) == 0:
                raise StudentError("nothing to learn from: no image got an answer that counts")
        else:
            held_out, epochs = TransferSet.empty(self.size), self.epochs or self.recipe.epochs
        run = (
            self._begin(start, classes=fitting.classes, held_out=held_out) if state is None else self._resume(state, folder, key, held_out)
        )
        with Progress(
            TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("epochs"), TimeElapsedColumn(), TimeRemainingColumn(),
            console=(console := Console(stderr=True)), disable=not console.is_terminal,
        ) as progress:  # fmt: skip
            bar = progress.add_task("", total=epochs, completed=len(run.history))
            for epoch in range(len(run.history), epochs):
                await asyncio.sleep(0)  # training blocks; here Ctrl-C gets through
                if draw is not None:
                    progress.stop()  # what is drawn may show a bar of its own
                    drawn = await draw(epoch, run.judged.eval())
                    progress.start()
                    if len(drawn) == 0:
                        break
                    fitting = self._without_held_out(run, drawn.rows(drawn.weights > 0), folder, key)
                if fitting.classes > run.network.classes:
                    self._widen(run, fitting.classes, fresh=start is None and not run.history)
                row = {"epoch": epoch + 1, "epochs": epochs, **self._epoch(run, fitting, epoch, epochs), **self._measure(run)}
                run.history.append(row)
                self._keep(run, folder, key)
                progress.update(bar, completed=epoch + 1)
                if self.on_epoch is not None:
                    self.on_epoch(row)
        best = _read(folder / "best.pt", key)
        if best is None:
            if start is None:
                raise StudentError("nothing to learn from: the first draw was empty")
            best = {"student": _state(run.judged)}
        _write(folder / "student.pt", key, student=best["student"])
        for name in ("last.pt", "best.pt", "held-out.pt"):
            (folder / name).unlink(missing_ok=True)
        return self._restored(best["student"]).eval()

    def _key(self, data: TransferSet | Draw, start: Student | None) -> str:
        """A digest of all that decides the outcome, as far as it is known beforehand: a drawn set is not."""
        loss = getattr(self.loss, "__qualname__", None) or repr(self.loss)  # a function's repr holds its address
        digest = hashlib.sha256(
            repr((self.student, self.recipe, self.size, self.seed, self.hard, self.pretrained, self.epochs, loss)).encode()
        )
        if isinstance(data, TransferSet):
            for array in (data.images, data.labels, data.scores, data.weights):
                digest.update(repr(array.shape).encode() + np.ascontiguousarray(array).tobytes())
        if start is not None:
            for name, weights in start.state_dict().items():
                digest.update(name.encode() + weights.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def _split(self, data: TransferSet) -> tuple[TransferSet, TransferSet]:
        """What to fit and what to hold out; all of the copies of an image fall on the same side."""
        if len(data) < FEWEST:
            return data, data.rows(np.zeros(0, np.int64))
        codes = _codes(data, salt=self.seed)
        chosen = np.unique(codes)[: max(1, min(round(HOLDOUT * len(np.unique(codes))), MOST_HELD_OUT))]
        out = np.isin(codes, chosen)
        return (data, data.rows(np.zeros(0, np.int64))) if out.all() else (data.rows(~out), data.rows(out))

    def _without_held_out(self, run: _Run, drawn: TransferSet, folder: Path, key: str) -> TransferSet:
        """Hold out a share of the first draw; images among it that come again later are not learned either."""
        if not run.history:
            drawn, run.held_out = self._split(drawn)
            _write(folder / "held-out.pt", key, held_out=_tensors(run.held_out))
        return drawn.rows(~_among(drawn, run.held_out))

    def _begin(self, start: Student | None, *, classes: int, held_out: TransferSet) -> _Run:
        if start is None:
            network = students.build(self.student, classes=max(classes, 1), size=self.size, seed=self.seed, pretrained=self.pretrained)
        else:
            network = start.widened(max(classes, start.classes))
        return self._assembled(network, held_out)

    def _assembled(self, network: Student, held_out: TransferSet) -> _Run:
        network = network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        for layer in network.modules():
            if isinstance(layer, torch.nn.Dropout):
                layer.p = self.recipe.dropout
        averaged = None
        if self.recipe.average is not None:
            averaged = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(self.recipe.average), use_buffers=True)  # type: ignore[no-untyped-call]
        return _Run(network, averaged, self.recipe.optimizer_for(network), held_out, [])

    def _widen(self, run: _Run, classes: int, *, fresh: bool) -> None:
        """Go on with more classes; the optimizer's momentum starts anew. Before the first draw nobody knew how many there are."""
        wider = self._begin(None if fresh else run.network, classes=classes, held_out=run.held_out)
        if not fresh and run.averaged is not None and wider.averaged is not None:
            wider.averaged.module = run.judged.widened(classes)
            wider.averaged.n_averaged = run.averaged.n_averaged
        run.network, run.averaged, run.optimizer = wider.network, wider.averaged, wider.optimizer

    def _epoch(self, run: _Run, data: TransferSet, epoch: int, epochs: int) -> Row:
        """One pass over all rows; its randomness is the seed's and the epoch's alone, so that a resumed one is the same."""
        if len(data) == 0:
            return {}
        random = np.random.default_rng((self.seed, epoch))
        targets = torch.from_numpy(data.targets(classes=run.network.classes, hard=self.hard))
        weights = torch.from_numpy(data.weights / data.weights.mean())
        batches = list(_batches(len(data), self.recipe.batch, random))
        cuda = [self.device.index or 0] if self.device.type == "cuda" else []
        losses = []
        run.network.train()
        with torch.random.fork_rng(devices=cuda), torch.backends.cudnn.flags(deterministic=True, benchmark=False):
            torch.manual_seed(int(random.integers(2**62)))  # dropout has no generator of its own
            for step, rows in enumerate(batches):
                for group in run.optimizer.param_groups:
                    group["lr"] = self.recipe.lr * self.recipe.schedule.at(epoch + step / len(batches), epochs)
                pixels = self.recipe.augmentation(batched_tensor(data.images[rows]).to(self.device), random)
                target, weight = targets[rows].to(self.device), weights[rows].to(self.device)
                if self.recipe.mixup:
                    share = float(random.beta(self.recipe.mixup, self.recipe.mixup))
                    pixels, target, weight = (share * x + (1 - share) * x.roll(1, dims=0) for x in (pixels, target, weight))
                with mixed_precision(self.device):
                    logits = run.network(pixels.contiguous(memory_format=torch.channels_last))
                loss = (weight * self.loss(logits.float(), target)).mean()
                run.optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                run.optimizer.step()
                if run.averaged is not None:
                    run.averaged.update_parameters(run.network)
                losses.append(loss.item())
        return {"loss": float(np.mean(losses))}

    def _measure(self, run: _Run) -> Row:
        if len(run.held_out) == 0:
            return {}
        targets = run.held_out.targets(classes=max(run.network.classes, run.held_out.classes), hard=self.hard)
        found = run.judged.probabilities(run.held_out.images)
        overlap = np.minimum(found, targets[:, : found.shape[1]]).sum(axis=1)
        return {
            "holdout_fidelity": float(np.average(found.argmax(axis=1) == run.held_out.labels, weights=run.held_out.weights)),
            "holdout_overlap": float(np.average(overlap, weights=run.held_out.weights)),
        }

    def _keep(self, run: _Run, folder: Path, key: str) -> None:
        """The best before the last: what is lost between the two is made again the same."""
        ranks = [row.get("holdout_overlap", 0.0) for row in run.history]
        if ranks[-1] >= max(ranks):
            _write(folder / "best.pt", key, student=_state(run.judged))
        (folder / "history.json").write_text(json.dumps(run.history, indent=1) + "\n", encoding="utf-8")
        _write(
            folder / "last.pt", key, student=_state(run.network), averaged=None if run.averaged is None else run.averaged.state_dict(),
            optimizer=run.optimizer.state_dict(), history=run.history,
        )  # fmt: skip

    def _resume(self, state: dict[str, Any], folder: Path, key: str, held_out: TransferSet) -> _Run:
        drawn = _read(folder / "held-out.pt", key)
        if drawn is not None:
            held_out = TransferSet(*(tensor.numpy() for tensor in drawn["held_out"]))
        run = self._assembled(self._restored(state["student"]), held_out)
        if run.averaged is not None:
            run.averaged.load_state_dict(state["averaged"])
        run.optimizer.load_state_dict(state["optimizer"])
        run.history = state["history"]
        return run

    def _restored(self, state: dict[str, Any]) -> Student:
        classes = state["classifier.bias"].shape[0]
        student = students.build(self.student, classes=classes, size=self.size, seed=self.seed, pretrained=self.pretrained, download=False)
        student.load_state_dict(state)
        return student.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def _batches(n: int, batch: int, random: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """All rows in a random order, in batches of nearly equal size; never one row alone, of which batch norm can't learn."""
    order = random.permutation(n)
    if n == 1:
        order = np.zeros(2, np.int64)
    yield from np.array_split(order, -(-len(order) // max(batch, 2)))


def _codes(data: TransferSet, *, salt: int) -> NDArray[np.uint64]:
    """A random number for each image that only its pixels and the salt decide."""
    key = salt.to_bytes(8, "big", signed=True)
    return np.array(
        [int.from_bytes(hashlib.blake2b(image.tobytes(), digest_size=8, key=key).digest(), "big") for image in data.images], np.uint64
    )


def _among(data: TransferSet, others: TransferSet) -> NDArray[np.bool_]:
    """Which images (n,) are also among the others."""
    return np.isin(_codes(data, salt=0), _codes(others, salt=0))


def _tensors(data: TransferSet) -> list[Tensor]:
    return [torch.from_numpy(np.ascontiguousarray(array)) for array in (data.images, data.labels, data.scores, data.weights)]


def _state(student: Student) -> dict[str, Tensor]:
    return {name: weights.detach().cpu() for name, weights in student.state_dict().items()}


def _write(path: Path, key: str, **state: object) -> None:
    """Write beside and rename, so that an interrupted save never leaves half a checkpoint."""
    partial = path.with_name(path.name + ".partial")
    torch.save({"key": key, **state}, partial)
    partial.replace(path)


def _read(path: Path, key: str) -> dict[str, Any] | None:
    """The state in the file, or None if there is none or another call's."""
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    return state if state["key"] == key else None
