"""The evidence that a verification rests on: what the vaults of all replicas hold, checked, and what of it may accuse."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from defenses.evidence.trigger import Trigger
from defenses.evidence.vault import Kept, Vault
from defenses.stores.protocol import StoreError
from defenses.vocabulary import Bits
from defenses.watermark import Watermark


@dataclass(frozen=True, slots=True)
class Secrets:
    """What triggers are checked with: the key that seals them, and the secret that marks neighbourhoods."""

    seal: bytes
    marks: bytes


class Evidence:
    """What vaults hold of one model; a context manager, because images are read when they are asked for.

    `triggers` by client are those that may accuse: their image is still there, they were told before a head that was handed out (where one
    is given), and everybody else who was told the same can be asked about it too. A picture that a thief was told about, of whom that can't
    be asked any more, would else be held against whoever asked about it innocently. `left_out` counts the others; `heads` is the newest
    sequence number and link of each vault, and `sealed` says whether there was a secret to check all triggers with.
    """

    def __init__(
        self, vaults: Sequence[Path], *, model: str, secrets: Secrets | None, committed: Collection[bytes] = (), labels: int
    ) -> None:
        """Open and check vaults. Raises StoreError where one is missing, broken or not what was committed to, or nothing may accuse."""
        self._resources = ExitStack()
        try:
            self._vaults = [self._resources.enter_context(_opened(path)) for path in vaults]
            self._read(model, secrets, committed, labels)
        except BaseException:
            self._resources.close()
            raise

    def _read(self, model: str, secrets: Secrets | None, committed: Collection[bytes], labels: int) -> None:
        told: list[tuple[Trigger, bool]] = []
        heads: dict[str, tuple[int, str]] = {}
        for vault in self._vaults:
            chain, images = vault.kept(key=secrets.seal if secrets else None), vault.images()
            heads[vault.path.name] = (len(chain), (chain[-1].link if chain else bytes(32)).hex())
            last = _last(chain, committed)
            own = [(one.trigger, at < last) for at, one in enumerate(chain) if one.trigger and one.trigger.model == model]
            told += [(trigger, early and trigger.image in images) for trigger, early in own]
        known = {one.link for vault in self._vaults for one in vault.kept()} if committed else set()
        if strange := [link.hex() for link in committed if link not in known]:
            raise StoreError(f"no trigger has the link {strange[0]}: the evidence was cut off, or is another deployment's")
        for trigger, _ in told:
            _check(trigger, secrets, labels)
        self.heads: Mapping[str, tuple[int, str]] = heads
        self.sealed = secrets is not None
        self.triggers: Mapping[str, Sequence[Trigger]] = accusing(told)
        self.left_out = len(told) - sum(map(len, self.triggers.values()))
        if not self.triggers:
            names = ", ".join(str(vault.path) for vault in self._vaults)
            raise StoreError(f"{names}: no watermarked answer of {model} that can be asked about ({self.left_out} that can't)")

    def pixels(self, image: str) -> Bits:
        """An image that a trigger names, (height, width, 3). Raises StoreError where it is not the one that was committed to."""
        found = next((pixels for vault in self._vaults if (pixels := vault.pixels(image)) is not None), None)
        if found is None:
            raise StoreError(f"the image {image} was cleared away meanwhile")
        return found

    def digest(self) -> str:
        """SHA-256 of all triggers that may accuse: another digest is other evidence."""
        bodies = sorted(trigger.to_json() for own in self.triggers.values() for trigger in own)
        return hashlib.sha256(b"\n".join(bodies)).hexdigest()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._resources.close()


def copied(vaults: Sequence[Path], folder: Path) -> list[Path]:
    """Copies of vaults as they are now, made once: a run that goes on asks about the evidence that it began with. Raises StoreError."""
    copies = [folder / f"evidence-{number}.db" for number, _ in enumerate(vaults, start=1)]
    for path, copy in zip(vaults, copies, strict=True):
        if not copy.exists():
            with _opened(path) as vault:
                vault.copy_to(copy)
    return copies


def accusing(told: Sequence[tuple[Trigger, bool]]) -> dict[str, list[Trigger]]:
    """By client, the triggers that can be asked about, of neighbourhoods in which those of everybody can; `told` says of each whether.

    Whoever founded a neighbourhood was told too, also where his trigger is gone.
    """
    holders: dict[str, dict[str, bool]] = {}
    for trigger, can in told:
        own = holders.setdefault(trigger.neighbourhood, {})
        own.setdefault(trigger.founder, False)
        own[trigger.client] = own.get(trigger.client, False) or can
    found: dict[str, list[Trigger]] = {}
    for trigger, can in told:
        if can and all(holders[trigger.neighbourhood].values()):
            found.setdefault(trigger.client, []).append(trigger)
    return found


def _opened(path: Path) -> Vault:
    if not path.is_file():
        raise StoreError(f"no evidence in {path}: it is written while the server answers with watermark.mode=enforce")
    return Vault(path)


def _last(chain: Sequence[Kept], committed: Collection[bytes]) -> int:
    """How many links count: all, or those up to the last that was handed out; of a vault of which none was, none accuses."""
    return len(chain) if not committed else max((at for at, one in enumerate(chain, start=1) if one.link in committed), default=0)


def _check(trigger: Trigger, secrets: Secrets | None, labels: int) -> None:
    """Raises StoreError where a trigger is not what the secret marks, or names a class that the recognizer does not have."""
    if not all(0 <= label < labels for label in (trigger.honest, trigger.told, *trigger.controls)):
        raise StoreError(f"the trigger of request {trigger.request_id} names classes that {trigger.model} does not have: another bundle?")
    if secrets is not None:
        watermark = Watermark(secret=secrets.marks, model=trigger.model, rate=trigger.rate)
        if not watermark.chooses(bytes.fromhex(trigger.neighbourhood), founder=trigger.founder):
            raise StoreError(f"the trigger of request {trigger.request_id} is none that our secret marks")
