"""The same picture is told from another one, however it was shifted, mirrored or compressed."""

import numpy as np

from defenses.copies import copies_by
from defenses.true_duplicates import ALIKE, aligned_correlation, have_duplicates
from tests.pictures import smooth_noise


def pictures(first: int, n: int, *, size: int = 32) -> np.ndarray:
    """Distinct pictures."""
    return np.stack([np.asarray(smooth_noise(seed=seed, size=size)) for seed in range(first, first + n)])


def test_a_shifted_and_mirrored_copy_is_alike() -> None:
    """And a stranger is not."""
    image, stranger = pictures(0, 2)
    assert aligned_correlation(image, np.roll(image, 3, axis=1)[:, ::-1]) >= ALIKE
    assert aligned_correlation(image, stranger) < ALIKE


def test_duplicates_are_found_by_their_embeddings_and_confirmed_by_their_pixels() -> None:
    """Close embeddings alone do not make two pictures one."""
    images, others = pictures(0, 40, size=48), pictures(100, 60, size=48)
    random = np.random.default_rng(0)
    others[:10] = copies_by("recompress", images[:10], random)
    embeddings = random.normal(size=(40, 16)).astype(np.float32)
    theirs = random.normal(size=(60, 16)).astype(np.float32)
    theirs[:20] = embeddings[:20]
    found = have_duplicates(images, embeddings, others, theirs)
    assert found.tolist() == [True] * 10 + [False] * 30
