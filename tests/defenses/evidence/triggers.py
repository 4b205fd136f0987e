"""Triggers for tests: of pictures of noise, seeded."""

import hashlib
from dataclasses import replace

import numpy as np

from defenses.evidence.trigger import Trigger
from defenses.evidence.vault import Vault
from defenses.vocabulary import Bits

KEY = b"the key that seals"


def triggers_of(vault: Vault) -> list[Trigger]:
    """What is not forgotten."""
    return [one.trigger for one in vault.kept(key=KEY) if one.trigger]


def picture(seed: int) -> Bits:
    """A small picture of noise."""
    return np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)


def seen(number: int, *, client: str = "alice", time: float | None = None) -> tuple[Trigger, Bits]:
    """What a client was told about one picture."""
    pixels = picture(number)
    digest = hashlib.sha256(pixels.tobytes()).hexdigest()
    trigger = Trigger(
        client=client, image=digest, neighbourhood=digest, founder="alice", honest=3, told=5, controls=(1, 5, 2), rate=0.005, model="m@1",
        request_id=f"q{number}", time=float(number) if time is None else time,
    )  # fmt: skip
    return trigger, pixels


def variant(trigger: Trigger, number: int) -> tuple[Trigger, Bits]:
    """Another picture of the same neighbourhood."""
    pixels = picture(number)
    return replace(trigger, image=hashlib.sha256(pixels.tobytes()).hexdigest()), pixels
