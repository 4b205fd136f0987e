"""What an attack does to the server process, seen from outside."""

import threading
from types import TracebackType
from typing import Self

from tests.server import RunningServer


class PeakMemory:
    """The highest resident size (bytes) while the block runs, and by how much it exceeds the size at its start."""

    def __init__(self, server: RunningServer, *, every_seconds: float = 0.01) -> None:
        self._server, self._every = server, every_seconds
        self._start = self.peak = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    @property
    def growth(self) -> int:
        """Bytes above the start."""
        return self.peak - self._start

    def _watch(self) -> None:
        while not self._done.wait(self._every):
            self.peak = max(self.peak, self._server.memory())

    def __enter__(self) -> Self:
        self._start = self.peak = self._server.memory()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._done.set()
        self._thread.join()
        self.peak = max(self.peak, self._server.memory())
