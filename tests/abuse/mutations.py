"""Damaged images: bit flips, truncations at every offset, and files spliced together. The same seed gives the same bytes."""

import random
from collections.abc import Iterator

from tests.abuse.images import MEDIA_TYPES, encode, picture


def originals() -> list[tuple[str, bytes]]:
    """Whole files with their media types: each format twice, once as browsers make them and once with rarer features."""
    usual = [(MEDIA_TYPES[kind], encode(picture(seed), kind)) for seed, kind in enumerate(MEDIA_TYPES)]
    return [
        *usual,
        ("image/jpeg", encode(picture(3), "JPEG", progressive=True, quality=60)),
        ("image/png", encode(picture(4, size=24).quantize(16), "PNG")),
        ("image/webp", encode(picture(5), "WEBP", lossless=True)),
    ]


def small() -> list[tuple[str, bytes]]:
    """Each format as small as it gets, so that every offset can be tried."""
    return [(media_type, encode(picture(seed, size=16), kind)) for seed, (kind, media_type) in enumerate(MEDIA_TYPES.items())]


def mutated(count: int, *, seed: int) -> Iterator[tuple[str, bytes]]:
    """`count` damaged files with their media types: a third of each kind of damage.

    Truncations are spread evenly over all offsets of the small files; 10,000 mutants reach every offset.
    """
    draw = random.Random(seed)
    files = originals()
    cuts = [(media_type, file, at) for media_type, file in small() for at in range(len(file))]
    for number in range(count):
        media_type, file = files[number // 3 % len(files)]
        if number % 3 == 0:
            yield media_type, _flipped(file, draw)
        elif number % 3 == 1:
            media_type, file, at = cuts[number * len(cuts) // count]
            yield media_type, file[:at]
        else:
            yield media_type, _spliced(file, draw.choice(files)[1], draw)


def _flipped(file: bytes, draw: random.Random) -> bytes:
    """Up to 16 flipped bits; half of the files are hit in their first 64 bytes, where sizes and types are."""
    damaged = bytearray(file)
    reach = draw.choice((64, len(damaged)))
    for _ in range(draw.randint(1, 16)):
        damaged[draw.randrange(reach)] ^= 1 << draw.randrange(8)
    return bytes(damaged)


def _spliced(file: bytes, other: bytes, draw: random.Random) -> bytes:
    """A piece of another file in place of, or between, bytes of this one."""
    start, end = sorted(draw.randrange(len(other) + 1) for _ in range(2))
    at = draw.randrange(len(file) + 1)
    return file[:at] + other[start:end] + file[at + draw.choice((0, end - start)) :]
