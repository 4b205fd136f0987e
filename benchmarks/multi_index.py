"""The search that design.md first asked for, as honest evidence: multi-index hashing over plain bucket keys, in one Lua call."""

from pathlib import Path

import numpy as np
from redis.asyncio import Redis

from benchmarks.lookup_traffic import Codes
from defenses.vocabulary import Bits

_PREFIX = b"multi:{index}:"
_FILLED_AT_ONCE = 1000


class MultiIndex:
    """Both channels, one after the other, one sighting a call; digests, records and facts are left out, which flatters it.

    Codes are cut into bands of 16 bits. Each band's bucket, and the 16 that differ from it in one bit, hold every code that differs
    in at most 2 x bands - 1 bits (Norouzi, Punjani and Fleet, 2012). Every key is passed: 69 and 273 of them.
    """

    def __init__(self, redis: Redis, *, radii: tuple[int, int]) -> None:
        self._redis, self._radii = redis, radii
        self._script = redis.register_script(Path(__file__).with_name("multi_index.lua").read_bytes())

    async def fill(self, stored: Codes) -> None:
        """Store founders in both channels."""
        for kind, codes in enumerate((stored.perceptual, stored.embedding)):
            for start in range(0, len(codes), _FILLED_AT_ONCE):
                pipeline = self._redis.pipeline(transaction=False)
                for sequence, code in enumerate(codes[start : start + _FILLED_AT_ONCE], start=start + 1):
                    pipeline.hset(self._founders(kind), str(sequence), code.tobytes())
                    for bucket in self._buckets(kind, code)[: len(code) // 2]:
                        pipeline.append(bucket, sequence.to_bytes(4, "big"))
                await pipeline.execute()

    async def find_or_found(self, perceptual: Bits, embedding: Bits) -> list[int]:
        """Ask both channels; how many candidates each had to compare."""
        return [(await self.ask(kind, code))[2] for kind, code in enumerate((perceptual, embedding))]

    async def ask(self, kind: int, code: Bits) -> tuple[int, int, int]:
        """Ask one channel: sequence number of the founder, distance (-1 for a new one), candidates."""
        keys = [self._founders(kind), *self._buckets(kind, code)]
        sequence, distance, candidates = await self._script(keys=keys, args=[code.tobytes(), self._radii[kind], len(code) // 2])
        return sequence, distance, candidates

    def _founders(self, kind: int) -> bytes:
        return _PREFIX + b"founders:%d" % kind

    def _buckets(self, kind: int, code: Bits) -> list[bytes]:
        bands = code.view(">u2").astype(np.uint16)
        probes = [(number, int(value) ^ flip) for flip in (0, *(1 << bit for bit in range(16))) for number, value in enumerate(bands)]
        return [_PREFIX + b"%d:%d:%d" % (kind, number, value) for number, value in probes]
