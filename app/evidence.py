"""The evidence that a verification rests on: what the vaults of all replicas hold, checked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from defenses.evidence.trigger import Trigger
from defenses.evidence.vault import Vault
from defenses.stores.protocol import StoreError
from defenses.vocabulary import Bits
from defenses.watermark import Watermark


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the vaults hold of one model: triggers by client, and pixels by digest, of those whose image is still there.

    `heads` is the newest sequence number and link of each vault, `without_image` how many triggers can't be asked about any more, and
    `keyed` says whether there was a secret to check that it marks all of them.
    """

    triggers: Mapping[str, Sequence[Trigger]]
    pixels: Mapping[str, Bits]
    heads: Mapping[str, tuple[int, str]]
    without_image: int
    keyed: bool

    @classmethod
    def read(cls, vaults: Sequence[Path], *, model: str, secret: bytes | None, until: bytes | None) -> Self:
        """Read and check vaults. Raises StoreError where one is missing, broken or not what was committed to, or there is no trigger."""
        triggers: dict[str, list[Trigger]] = {}
        pixels: dict[str, Bits] = {}
        heads: dict[str, tuple[int, str]] = {}
        without_image = 0
        for path in vaults:
            if not path.is_file():
                raise StoreError(f"no evidence in {path}: it is written while the server answers with watermark.mode=enforce")
            with Vault(path, read_only=True) as vault:
                sequence, link = vault.head()
                heads[str(path)] = (sequence, link.hex())
                own = [trigger for trigger in vault.triggers(until=until) if trigger.model == model]
                if secret is not None:
                    _check(own, secret, path)
                for trigger in own:
                    if (image := vault.pixels(trigger)) is None:
                        without_image += 1
                    else:
                        pixels[trigger.image] = image
                        triggers.setdefault(trigger.client, []).append(trigger)
        if not triggers:
            raise StoreError(f"{', '.join(map(str, vaults))}: no watermarked answer of {model} whose image is still there")
        return cls(triggers, pixels, heads, without_image, keyed=secret is not None)


def _check(triggers: Sequence[Trigger], secret: bytes, path: Path) -> None:
    """Raises StoreError where a trigger is not what the secret marks."""
    strange = 0
    for trigger in triggers:
        watermark = Watermark(secret=secret, model=trigger.model, rate=trigger.rate)
        strange += not watermark.chooses(bytes.fromhex(trigger.neighbourhood), founder=trigger.founder)
    if strange:
        raise StoreError(
            f"{path}: {strange} of {len(triggers)} triggers are not what our secret marks: they were invented, or the secret is another "
            "deployment's"
        )
