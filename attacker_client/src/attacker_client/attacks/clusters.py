"""Groups of images that look alike: what a thief sorts his pool by when no folder names tell what it shows."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from attacker_client.attacks.attack import Pool
from attacker_client.transfer_set import Images

_GRID: Final = 4  # the image is described in 4x4 cells
_BINS: Final = 8  # directions of the gradient
_ITERATIONS: Final = 25
_TRIES: Final = 5  # Lloyd's iterations end in a local minimum: the best of some is taken
_SAMPLE: Final = 10_000  # images that the centers are found on
_AT_A_TIME: Final = 2048


def describe(images: Images) -> NDArray[np.float32]:
    """Describe images (n, S, S, 3) by where which colour and which edges are: (n, 16 * (3 + 8)), float32.

    For each of 4x4 cells the mean colour, in 0..1, and the histogram of the directions of the grey value's gradient, weighted by its
    length, as in HOG (Dalal and Triggs 2005): the square root of the mean length a pixel, so that few strong edges don't outweigh all else.
    """
    n, side = images.shape[:2]
    edges = np.linspace(0, side, _GRID + 1).astype(np.int64)[:-1]
    pixels = images.astype(np.float32) / 255
    area = (side / _GRID) ** 2
    down, right = np.gradient(pixels.mean(axis=3), axis=(1, 2))
    length = np.hypot(down, right)
    direction = ((np.arctan2(down, right) / (2 * np.pi) % 1) * _BINS).astype(np.int64) % _BINS
    by_direction = length[..., None] * (direction[..., None] == np.arange(_BINS))
    colours = np.add.reduceat(np.add.reduceat(pixels, edges, axis=1), edges, axis=2) / area
    histograms = np.add.reduceat(np.add.reduceat(by_direction, edges, axis=1), edges, axis=2).reshape(n, -1)
    return np.concatenate([colours.reshape(n, -1), np.sqrt(histograms / area)], axis=1).astype(np.float32)


def clusters_of(pool: Pool, rows: NDArray[np.int64], *, clusters: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Sort a pool's `rows` (n,) into at most `clusters` groups by k-means on `describe`: the number of its group for each (n,).

    The centers (k-means++, then Lloyd's iterations) are found on a sample of the rows; the others go to the nearest.
    """
    parts = np.array_split(rows, max(1, -(-len(rows) // _AT_A_TIME)))
    described: NDArray[np.float32] = np.concatenate([describe(pool[part]) for part in parts])
    some = described[np.sort(rng.permutation(len(described))[:_SAMPLE])]
    tries = [_k_means(some, min(clusters, len(some)), rng) for _ in range(_TRIES)]
    return _nearest(described, min(tries, key=lambda centers: float(_nearest(some, centers)[1].sum())))[0]


def _k_means(points: NDArray[np.float32], k: int, rng: np.random.Generator) -> NDArray[np.float32]:
    centers: NDArray[np.float32] = points[rng.integers(len(points))][None]
    while len(centers) < k:
        distances = _nearest(points, centers)[1]
        if distances.sum() <= 0:
            break  # fewer different points than clusters
        centers = np.concatenate([centers, points[rng.choice(len(points), p=distances / distances.sum())][None]])
    for _ in range(_ITERATIONS):
        owner = _nearest(points, centers)[0]
        owned = owner[:, None] == np.arange(len(centers))
        sums = owned.astype(np.float32).T @ points
        counts = owned.sum(axis=0)[:, None]
        centers = np.where(counts > 0, sums / np.maximum(counts, 1), centers).astype(np.float32)
    return centers


def _nearest(points: NDArray[np.float32], centers: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The nearest center of each point and the squared distance to it."""
    squares: NDArray[np.float32] = (points**2).sum(axis=1)[:, None] - 2 * points @ centers.T + (centers**2).sum(axis=1)
    owner = squares.argmin(axis=1)
    return owner.astype(np.int64), np.clip(squares[np.arange(len(points)), owner], 0, None).astype(np.float64)
