"""Train students from what was bought, the same from the same data, and go on after an interruption."""

from __future__ import annotations

import asyncio
import copy
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor
from torch.nn import functional

from attacker_client import holdout, students
from attacker_client.checkpoints import Checkpoints, key_of, weights_of
from attacker_client.epochs import one_epoch
from attacker_client.recipes import Recipe
from attacker_client.students import Student, StudentError
from attacker_client.transfer_set import TransferSet

if TYPE_CHECKING:  # the table of attacks imports attacks that import this module
    from attacker_client.attacks.attack import Draw, Loss

Row = dict[str, float]
"""What is known of an epoch: its number (from 1), `epochs`, `loss` where there was anything to learn, and on held-out rows
`holdout_rows`, `holdout_fidelity`, and `holdout_overlap` or, where the loss is not cross-entropy, `holdout_loss`."""


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """-sum_c target_c log softmax(logits)_c, for logits and targets (n, classes): losses (n,)."""
    return -(targets * functional.log_softmax(logits, dim=1)).sum(dim=1)


@dataclass(eq=False, slots=True)
class _Run:
    """One call of `fit` under way."""

    network: Student
    optimizer: torch.optim.Optimizer
    held_out: TransferSet
    history: list[Row]


class StudentTrainer:
    """Make students by a recipe; a folder of `checkpoints` a call, in the order of the calls.

    The epoch is chosen on held-out transfer data, never on a test set: the one whose answers overlap most with the targets, the mean of
    sum_c min(p_c, t_c), which is 1 less their total variation distance; under another loss than cross-entropy, by which answers are not
    what the student should say, the one of the lowest held-out loss. Of a training on a draw rows of every draw are held out until there
    are enough, and an epoch is compared with those that were judged by at least half as many.

    `hard` learns the labels even where scores were told. `epochs` replaces the recipe's number. `on_epoch` gets a row an epoch once the
    epoch is safe on disk; an exception from it stops the training, and the same call goes on there. Students are the same for the same
    seed on one machine.
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

    def epochs_for(self, rows: int) -> int:
        """How many epochs a training on so many rows has."""
        return self.epochs or self.recipe.epochs_for(rows)

    def with_loss(self, loss: Loss) -> StudentTrainer:
        """The same trainer with another loss than cross-entropy; the two number their calls together."""
        other = copy.copy(self)
        other.loss = loss
        return other

    async def fit(self, data: TransferSet | Draw, *, start: Student | None = None, epochs: int | None = None) -> Student:
        """Train a student on a transfer set, or on a fresh one an epoch; `start` is one to go on from instead of fresh weights.

        A draw ends after `epochs`, or after the trainer's own number if that is smaller. Rows of weight 0 are left out. Returns the student
        in evaluation mode. Raises StudentError where there is nothing to learn from.
        """
        assert start is None or (start.name, start.size, start.pretrained) == (self.student, self.size, self.pretrained), start
        checkpoints = Checkpoints(self.checkpoints / f"fit-{next(self._calls):04d}", self._key(data, start, epochs))
        if (finished := checkpoints.finished) is not None:
            return self._restored(finished).eval()
        if isinstance(data, TransferSet):
            fitting, held_out = holdout.split(data.rows(data.weights > 0), seed=self.seed)
            draw, epochs = None, self.epochs_for(len(data))
            if len(fitting) == 0:
                raise StudentError("nothing to learn from: no image got an answer that counts")
        else:
            fitting, held_out = TransferSet.empty(self.size), checkpoints.held_out or TransferSet.empty(self.size)
            draw, epochs = data, min(epochs or self.recipe.epochs, self.epochs or epochs or self.recipe.epochs)
        last = checkpoints.last
        run = self._begin(start, classes=fitting.classes, held_out=held_out) if last is None else self._resume(last, held_out)
        with Progress(
            TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("epochs"), TimeElapsedColumn(), TimeRemainingColumn(),
            console=(console := Console(stderr=True)), disable=not console.is_terminal,
        ) as progress:  # fmt: skip
            bar = progress.add_task("", total=epochs, completed=len(run.history))
            for epoch in range(len(run.history), epochs):
                await asyncio.sleep(0)  # training blocks; here Ctrl-C gets through
                if draw is not None:
                    progress.stop()  # what is drawn may show a bar of its own
                    drawn = await draw(epoch, run.network.eval())
                    progress.start()
                    if len(drawn) == 0:
                        break
                    fitting, held_out = holdout.more(drawn.rows(drawn.weights > 0), run.held_out, seed=self.seed)
                    if len(held_out) > len(run.held_out):
                        run.held_out = held_out
                        checkpoints.hold_out(held_out)
                if fitting.classes > run.network.classes:
                    self._widen(run, fitting.classes, fresh=start is None and not run.history)
                row: Row = {"epoch": epoch + 1, "epochs": epochs}
                if len(fitting):
                    row["loss"] = one_epoch(
                        run.network, run.optimizer, fitting, recipe=self.recipe, loss=self.loss, hard=self.hard, epoch=epoch, epochs=epochs,
                        seed=self.seed, device=self.device,
                    )  # fmt: skip
                loss = None if self.loss is soft_cross_entropy else self.loss
                row |= holdout.measured(run.network, run.held_out, hard=self.hard, loss=loss)
                run.history.append(row)
                self._keep(run, checkpoints)
                progress.update(bar, completed=epoch + 1)
                if self.on_epoch is not None:
                    self.on_epoch(row)
        if start is None and not any("loss" in row for row in run.history):
            raise StudentError("nothing to learn from: no image of any draw got an answer that counts")
        best = run.network if checkpoints.best is None else self._restored(checkpoints.best)
        student = best.widened(run.network.classes)  # the best epoch may have been one before all classes were met
        checkpoints.finish(weights_of(student))
        return student.eval()

    def _key(self, data: TransferSet | Draw, start: Student | None, epochs: int | None) -> str:
        """A digest of all that decides the outcome, as far as it is known beforehand: a drawn set is not."""
        loss = getattr(self.loss, "__qualname__", None) or repr(self.loss)  # a function's repr holds its address
        options = (self.student, self.recipe, self.size, self.seed, self.hard, self.pretrained, self.epochs, epochs, loss)
        return key_of(options, data if isinstance(data, TransferSet) else None, start)

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
        return _Run(network, self.recipe.optimizer_for(network), held_out, [])

    def _widen(self, run: _Run, classes: int, *, fresh: bool) -> None:
        """Go on with more classes; the optimizer's momentum starts anew. Before the first draw nobody knew how many there are."""
        wider = self._begin(None if fresh else run.network, classes=classes, held_out=run.held_out)
        run.network, run.optimizer = wider.network, wider.optimizer

    def _keep(self, run: _Run, checkpoints: Checkpoints) -> None:
        checkpoints.keep(
            best=run.network if holdout.is_best(run.history) else None, history=run.history, student=weights_of(run.network),
            optimizer=run.optimizer.state_dict(),
        )  # fmt: skip

    def _resume(self, last: dict[str, Any], held_out: TransferSet) -> _Run:
        run = self._assembled(self._restored(last["student"]), held_out)
        run.optimizer.load_state_dict(last["optimizer"])
        run.history = last["history"]
        return run

    def _restored(self, state: dict[str, Any]) -> Student:
        classes = state["classifier.bias"].shape[0]
        student = students.build(self.student, classes=classes, size=self.size, seed=self.seed, pretrained=self.pretrained, download=False)
        student.load_state_dict(state)
        return student.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]
