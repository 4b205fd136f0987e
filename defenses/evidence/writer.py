"""Write evidence behind the answers: who got a watermarked one must not notice it by the time that writing takes."""

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from threading import Event, Thread

from defenses.evidence.trigger import Trigger
from defenses.evidence.vault import Vault
from defenses.relabelling import Relabelling
from defenses.stores.protocol import StoreError
from defenses.vocabulary import Neighbourhood, Query

CONTROLS = 16  # control labels a trigger
MOST_WAITING = 1_000  # answers kept in memory while the vault can't be written
EVERY_SECONDS = 0.25
CLEAR_EVERY_SECONDS = 60.0
AT_ONCE = 64  # answers a transaction

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Marked:
    """A watermarked answer as it left: `told` is its best class of so many `classes`, `relabelling` what altered it."""

    query: Query
    neighbourhood: Neighbourhood
    told: int
    classes: int
    relabelling: Relabelling
    rate: float
    model: str

    def trigger(self) -> Trigger | None:
        """What is committed to; None where the answer was not the keyed wrong class, so that it shows nothing."""
        honest = self.neighbourhood.top_classes[0]
        if self.told == honest or self.told != self.relabelling.told(self.neighbourhood, classes=self.classes):
            return None
        return Trigger(
            client=self.query.client,
            image=self.query.digest.hex(),
            neighbourhood=self.neighbourhood.id.hex(),
            founder=self.neighbourhood.founder,
            honest=honest,
            told=self.told,
            controls=self.relabelling.controls(self.neighbourhood, classes=self.classes, count=CONTROLS),
            rate=self.rate,
            model=self.model,
            request_id=self.query.id,
            time=self.query.received,
        )


class EvidenceWriter:
    """Keep watermarked answers in memory for a quarter of a second, then in the vault; forget what is too old or too much.

    A process that is killed loses that quarter of a second: evidence that is missing accuses nobody. While the vault can't be written,
    answers go on and what is marked waits, up to `MOST_WAITING`; beyond, the oldest is dropped and `on_dropped` is told. `on_kept` is told
    how many new triggers there are. Both are called in the writer's own thread.
    """

    def __init__(
        self, path: Path, *, retention_seconds: float, most_bytes: int, on_kept: Callable[[int], None] = lambda _: None,
        on_dropped: Callable[[int], None] = lambda _: None, clock: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        """Open the vault; this blocks. Raises StoreError."""
        self._vault, self._clock = Vault(path), clock
        self._retention, self._most_bytes = retention_seconds, most_bytes
        self._on_kept, self._on_dropped = on_kept, on_dropped
        self._waiting: deque[Marked] = deque()
        self._next_clearing = 0.0
        self._failure = ""
        self._ended = Event()
        self._thread = Thread(target=self._write_for_ever, name="evidence", daemon=True)
        self._thread.start()

    @property
    def path(self) -> Path:
        """Where the vault is; another connection may read it at any time."""
        return self._vault.path

    @property
    def degraded(self) -> bool:
        """Whether answers wait because the vault can't be written."""
        return bool(self._failure)

    def remember(self, marked: Marked) -> None:
        """Take note of an answer; the rest happens later, elsewhere."""
        self._waiting.append(marked)
        if len(self._waiting) > MOST_WAITING:
            self._waiting.popleft()
            self._on_dropped(1)

    def close(self) -> None:
        """Write what is left and let go of the file; this blocks. A second call does nothing."""
        self._ended.set()
        self._thread.join()
        if self._waiting:
            self._on_dropped(len(self._waiting))
            log.error("%d watermarked answers are not kept as evidence: %s", len(self._waiting), self._failure)
            self._waiting.clear()
        self._vault.close()

    def _write_for_ever(self) -> None:
        ended = False
        while not ended:
            ended = self._ended.wait(EVERY_SECONDS)
            try:
                self._write()
            except StoreError as error:
                if not self._failure:
                    log.error("watermarked answers wait for the evidence vault: %s", error)
                self._failure = str(error)
            else:
                self._failure = ""

    def _write(self) -> None:
        while taken := list(islice(self._waiting, AT_ONCE)):
            triggers = [(trigger, one.query.pixels) for one in taken if (trigger := one.trigger())]
            if triggers and (kept := self._vault.append(triggers)):
                self._on_kept(kept)
            for one in taken:
                if self._waiting and self._waiting[0] is one:  # else it was dropped meanwhile
                    self._waiting.popleft()
        if self._clock() >= self._next_clearing:
            self._next_clearing = self._clock() + CLEAR_EVERY_SECONDS
            self._vault.forget(before=self._clock() - self._retention, most_bytes=self._most_bytes)
