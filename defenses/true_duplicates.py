"""Which images of a set have the same picture in another: image sets hold them, and merging those is right."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from defenses.vocabulary import Bits, Flags, Floats

SIDE = 32  # pixels that pictures are compared at
REACH = 4  # of them, by which one picture may be shifted against the other
ALIKE = 0.9  # correlation from which a pair is most likely the same picture: found by looking at pairs of CIFAR-10
NEAREST = 3  # images that are compared with each


def have_duplicates(images: Bits, embeddings: Floats, others: Bits, other_embeddings: Floats) -> Flags:
    """Whether each image (n, H, W, 3) shows the picture of one of the others (m, H, W, 3), told by embeddings (n, e) and (m, e).

    The three others with the most similar embeddings are aligned with it, pixel by pixel.
    """
    mean = other_embeddings.mean(axis=0)
    known = _unit(other_embeddings - mean)
    found = np.zeros(len(images), dtype=np.bool_)
    for start in range(0, len(images), 500):
        cosines = _unit(embeddings[start : start + 500] - mean) @ known.T
        nearest = np.argpartition(-cosines, min(NEAREST, len(others)) - 1, axis=1)[:, :NEAREST]
        for row, candidates in enumerate(nearest, start):
            found[row] = any(aligned_correlation(images[row], others[i]) >= ALIKE for i in candidates)
    return found


def aligned_correlation(one: Bits, other: Bits) -> float:
    """The best correlation of one image's middle (grey, (H, W, 3) each) with the other's, shifted by an eighth at most, mirrored or not."""
    middle = _standardised(_grey(one)[None, REACH:-REACH, REACH:-REACH])
    grey = _grey(other)
    best = -1.0
    for view in (grey, grey[:, ::-1]):
        windows = np.lib.stride_tricks.sliding_window_view(view, middle.shape[1:]).reshape(-1, *middle.shape[1:])
        best = max(best, float((_standardised(windows) * middle).mean(axis=(1, 2)).max()))
    return best


def _grey(pixels: Bits) -> NDArray[np.float64]:
    grey = Image.fromarray(pixels).convert("L")
    return np.asarray(grey if grey.size == (SIDE, SIDE) else grey.resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float64)


def _standardised(images: NDArray[np.float64]) -> NDArray[np.float64]:
    centred = images - images.mean(axis=(1, 2), keepdims=True)
    return np.asarray(centred / np.maximum(centred.std(axis=(1, 2), keepdims=True), 1e-6))


def _unit(vectors: Floats) -> Floats:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12), dtype=np.float32)
