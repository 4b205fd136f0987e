"""How many copies are recognised, transform by transform, and how many distinct images are merged by mistake."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.image_sets import Pixels
from benchmarks.seeds.fingerprints import CHANNELS, Eyes, Fingerprints
from benchmarks.seeds.scenes import Scene
from defenses.copies import TRANSFORMS, copies_by, random_copies

KINDS = ("same group", "same class", "other class")
TWO_COPIES = "two copies of one image"
MOST_PAIRS = 1_000
CHAINS = {"two in a row": 2, "three in a row": 3}


def copies(images: Pixels, random: np.random.Generator) -> dict[str, tuple[Pixels, Pixels]]:
    """Pairs of near-duplicates by title: one side is the image itself but in the last, where both are copies."""
    made = {name: (images, copies_by(name, images, random)) for name in TRANSFORMS}
    made |= {title: (images, random_copies(images, random, length=length)) for title, length in CHAINS.items()}
    return made | {TWO_COPIES: (random_copies(images, random), random_copies(images, random))}


def recall(eyes: Eyes, pairs: Mapping[str, tuple[Pixels, Pixels]]) -> dict[str, dict[str, float]]:
    """Share of the pairs within the radii, by title and channel; "single transforms" is the mean over them."""
    original: Fingerprints | None = None
    found: dict[str, dict[str, float]] = {}
    for title, (one, other) in pairs.items():
        if title == TWO_COPIES:
            mine = eyes(one)
        else:
            mine = original = original or eyes(one)
        found[title] = dict(zip(CHANNELS, eyes.near(mine, eyes(other)).mean(axis=0).tolist(), strict=True))
    mean = {channel: float(np.mean([found[name][channel] for name in TRANSFORMS])) for channel in CHANNELS}
    return found | {"single transforms": mean}


def merges(eyes: Eyes, scene: Scene) -> tuple[dict[str, Any], list[tuple[int, int, str]]]:
    """Asked images within reach of any stored image, per 10,000, by channel and by what the two share.

    Also the merged pairs of different groups (asked row, stored row, channels), each asked image with every stored one that it meets,
    up to `MOST_PAIRS` of them.
    """
    stored = eyes(scene.stored.pixels)
    asked = stored.rows(np.arange(len(scene.asked.pixels))) if scene.same else eyes(scene.asked.pixels)
    rows, others, channels = eyes.pairs(asked, stored)
    if scene.same:
        apart = rows != others
        rows, others, channels = rows[apart], others[apart], channels[apart]
    kinds = np.where(
        scene.asked.groups[rows] == scene.stored.groups[others], 0,
        np.where(scene.asked.classes[rows] == scene.stored.classes[others], 1, 2),
    )  # fmt: skip

    def per_10_000(chosen: NDArray[np.bool_]) -> float:
        return round(10_000 * len(np.unique(rows[chosen])) / len(scene.asked.pixels), 2)

    figures: dict[str, Any] = {"asked": len(scene.asked.pixels), "stored": len(scene.stored.pixels)}
    for channel, title in enumerate(CHANNELS):
        mine = (channels == channel) | (title == "either")
        figures[title] = {kind: per_10_000(mine & (kinds == k)) for k, kind in enumerate(KINDS)}
        figures[title]["different groups"] = per_10_000(mine & (kinds > 0))
    met: dict[tuple[int, int], list[str]] = {}
    apart = np.flatnonzero(kinds > 0)
    apart = apart[np.argsort(rows[apart], kind="stable")][:MOST_PAIRS]
    for row, other, channel in zip(rows[apart].tolist(), others[apart].tolist(), channels[apart].tolist(), strict=True):
        met.setdefault((row, other), []).append(CHANNELS[channel])
    return figures, [(row, other, "+".join(names)) for (row, other), names in met.items()]
