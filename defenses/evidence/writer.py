"""Write evidence behind the answers: who got a watermarked one must not notice it by the time that writing takes."""

import logging
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from threading import Event, Lock, Thread

from defenses.evidence.trigger import Trigger
from defenses.evidence.vault import Vault
from defenses.relabelling import Relabelling
from defenses.stores.protocol import StoreError
from defenses.vocabulary import Neighbourhood, Query

CONTROLS = 16  # control labels a trigger
MOST_WAITING = 1_000  # answers kept in memory while the vault can't be written
MOST_REMEMBERED = 10_000  # of what was told, so that the same is not written again
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

    @property
    def key(self) -> tuple[str, bytes, int]:
        """Who was told what about which neighbourhood."""
        return self.query.client, self.neighbourhood.id, self.told

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

    A process that is killed loses that quarter of a second. While the vault can't be written, answers go on and what is marked waits, up to
    `MOST_WAITING`; beyond, the oldest is dropped and `on_dropped` is told. `on_kept` is told how many new triggers there are. What a
    client was told again costs nothing, or who asks a thousand times could tell by the time it takes.
    """

    def __init__(
        self, path: Path, *, key: bytes, retention_seconds: float, most_bytes: int, on_kept: Callable[[int], None] = lambda _: None,
        on_dropped: Callable[[int], None] = lambda _: None, clock: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        """Open the vault; this blocks. Raises StoreError."""
        self._vault, self._clock = Vault(path, key=key), clock
        self._retention, self._most_bytes = retention_seconds, most_bytes
        self._on_kept, self._on_dropped = on_kept, on_dropped
        self._lock, self._waiting = Lock(), deque[Marked]()
        self._remembered: OrderedDict[tuple[str, bytes, int], None] = OrderedDict()
        self._next_clearing = 0.0
        self._failure = ""
        self._ended = Event()
        self._thread = Thread(target=self._write_for_ever, name="evidence", daemon=True)
        self._thread.start()

    @property
    def degraded(self) -> bool:
        """Whether answers wait because the vault can't be written."""
        return bool(self._failure) or not self._thread.is_alive()

    def remember(self, marked: Marked) -> None:
        """Take note of an answer; the rest happens later, elsewhere."""
        if marked.key in self._remembered:
            return
        self._remembered[marked.key] = None
        if len(self._remembered) > MOST_REMEMBERED:
            self._remembered.popitem(last=False)
        with self._lock:
            self._waiting.append(marked)
            dropped = self._waiting.popleft() if len(self._waiting) > MOST_WAITING else None
        if dropped:
            self._remembered.pop(dropped.key, None)
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
            except Exception as error:  # whatever it is, later answers must find somebody who writes
                if not self._failure:
                    log.error("watermarked answers wait for the evidence vault: %s", error, exc_info=not isinstance(error, StoreError))
                self._failure = str(error) or repr(error)
            else:
                self._failure = ""

    def _write(self) -> None:
        while taken := self._next():
            triggers = [(trigger, one.query.pixels) for one in taken if (trigger := one.trigger())]
            if triggers and (kept := self._vault.append(triggers)):
                self._on_kept(kept)
            with self._lock:
                for one in taken:
                    if self._waiting and self._waiting[0] is one:  # else it was dropped meanwhile
                        self._waiting.popleft()
        if self._clock() >= self._next_clearing:
            self._next_clearing = self._clock() + CLEAR_EVERY_SECONDS
            self._vault.forget(before=self._clock() - self._retention, most_bytes=self._most_bytes)

    def _next(self) -> list[Marked]:
        with self._lock:
            return list(islice(self._waiting, AT_ONCE))
