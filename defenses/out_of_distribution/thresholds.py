"""From scores to a decision: a threshold at a stated share of benign queries."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray


def threshold(benign_scores: NDArray[np.floating[Any]], fpr: float) -> float:
    """Find the lowest of the scores with at most a share `fpr` of them strictly above it.

    `benign_scores` (n,) must be of images that the scorer has not learned from. Raises ValueError without scores or for an
    `fpr` outside 0..1.
    """
    if not len(benign_scores) or not 0 <= fpr <= 1:
        raise ValueError(f"needs benign scores (got {len(benign_scores)}) and a false-positive rate between 0 and 1 (got {fpr})")
    ordered = np.sort(benign_scores)
    allowed = min(math.floor(fpr * len(ordered) + 1e-9), len(ordered) - 1)
    return float(ordered[len(ordered) - 1 - allowed])
