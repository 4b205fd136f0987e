"""What a person sees while a campaign buys; where nobody looks, nothing is shown."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text


class Speed(ProgressColumn):
    """Queries a second."""

    def render(self, task: Task) -> Text:
        """The speed of the last half minute."""
        return Text("" if task.speed is None else f"{task.speed:,.0f}/s")


class BuyingBar:
    """A bar on standard error of how much of the budget is spent; shown within `with`, so that a training's bar can take turns with it."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._spent = 0
        self._console = Console(stderr=True)
        self._progress: Progress | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._progress = Progress(
                TextColumn("buying  "), BarColumn(), MofNCompleteColumn(), TextColumn("queries"), Speed(), TimeElapsedColumn(),
                TimeRemainingColumn(), console=self._console, transient=True,
            )  # fmt: skip
            self._progress.add_task("", total=self._budget, completed=self._spent)
            self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def spent(self, queries: int) -> None:
        """Tell how much of the budget is spent."""
        self._spent = queries
        if self._progress is not None:
            self._progress.update(self._progress.task_ids[0], completed=queries)
