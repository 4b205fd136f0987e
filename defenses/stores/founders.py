"""The founders of one index in memory: what their codes are near to, and which of them were forgotten."""

from array import array
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence

from defenses.stores.channel import Channel
from defenses.stores.protocol import Sighting

CHANNELS = ("perceptual", "embedding")  # a tie goes to the former
AT_ONCE = 128  # founders forgotten in one call; more than a call founds
_DEAD = 0.1  # share of forgotten founders in the search structure that is put up with

# (age, channel, distance): the least is the oldest, and a tie goes to the first channel. Age is a sequence number, or a place in the call.
Kin = tuple[int, int, int]


class Founders:
    """Codes, sequence numbers and times of founding, oldest first. What is forgotten is always the oldest.

    Times are seconds since the epoch; age is the sequence number and not the time, because clocks step back.
    """

    def __init__(self, *, perceptual_radius: int, embedding_radius: int) -> None:
        self._channels = (Channel("perceptual", radius=perceptual_radius, width=8), Channel("embedding", radius=embedding_radius))
        self._sequences, self._times = array("q"), array("d")
        self.first = 0  # sequence numbers below are forgotten

    def __len__(self) -> int:
        return len(self._sequences) - bisect_left(self._sequences, self.first)

    def add(self, sequences: Sequence[int], perceptual: Sequence[bytes], embedding: Sequence[bytes], times: Sequence[float]) -> None:
        """Append founders. Raises StoreError for a code of another width than those before."""
        for channel, codes in zip(self._channels, (perceptual, embedding), strict=True):
            channel.add(codes, sequences)
        self._sequences.extend(sequences)
        self._times.extend(times)

    def kin(self, sightings: Sequence[Sighting]) -> list[Kin | None]:
        """For each sighting the oldest founder within the radius on either channel."""
        found: list[Kin | None] = [None] * len(sightings)
        for kind, channel in enumerate(self._channels):
            for at, near in enumerate(channel.oldest(_codes(sightings, kind), since=self.first)):
                best = found[at]
                if near and (best is None or near[0] < best[0]):
                    found[at] = (near[0], kind, near[1])
        return found

    def siblings(self, sightings: Sequence[Sighting], alone: Sequence[int]) -> dict[int, list[Kin]]:
        """Those of the sightings at places `alone` that are near an earlier one of them: place -> kin, oldest first."""
        near: defaultdict[int, list[Kin]] = defaultdict(list)
        asked = [sightings[at] for at in alone]
        for kind, channel in enumerate(self._channels):
            for later, earlier, distance in channel.pairs(_codes(asked, kind)):
                near[alone[later]].append((alone[earlier], kind, distance))
        return {at: sorted(kin) for at, kin in near.items()}

    def trim(self, *, most: int, seconds: float) -> int:
        """Forget the oldest while they are more than `most` or `seconds` older than the newest, `AT_ONCE` at most; returns `first`."""
        start = at = bisect_left(self._sequences, self.first)
        until = min(at + AT_ONCE, len(self._sequences))
        while at < until and (len(self._sequences) - at > most or self._times[at] < self._times[-1] - seconds):
            at += 1
        if at > start:
            self.forget(self._sequences[at - 1] + 1)
        return self.first

    def forget(self, before: int) -> None:
        """Treat founders with a sequence number below `before` as gone; now and then their memory is given back."""
        self.first = max(self.first, before)
        gone = bisect_left(self._sequences, self.first)
        if gone > _DEAD * len(self._sequences) and (gone >= AT_ONCE or gone == len(self._sequences)):
            for channel in self._channels:
                channel.forget(self.first)
            del self._sequences[:gone]
            del self._times[:gone]


def _codes(sightings: Sequence[Sighting], kind: int) -> list[bytes]:
    return [sighting.embedding if kind else sighting.perceptual for sighting in sightings]
