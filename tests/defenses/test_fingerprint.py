"""The fingerprint: imagehash's hash, bit for bit, and a code that copies keep."""

from collections.abc import Callable

import imagehash
import numpy as np
import pytest
from PIL import Image

from defenses.copies import TRANSFORMS, random_copies
from defenses.false_merges import hamming
from defenses.fingerprint import DIRECTIONS, EmbeddingCode, perceptual_hashes, perceptual_radius
from defenses.vocabulary import Bits, Floats


def oracle(images: Bits) -> Bits:
    return np.stack([np.packbits(imagehash.phash(Image.fromarray(image)).hash.reshape(-1)) for image in images])


def noise(n: int, side: int, *, seed: int) -> Bits:
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


def scenes(n: int, side: int, *, seed: int) -> Bits:
    """Smooth colour pictures, as photographs are: enlarged noise."""
    small = noise(n, 6, seed=seed)
    return np.stack([np.asarray(Image.fromarray(x).resize((side, side), Image.Resampling.BICUBIC)) for x in small])


def flat(n: int, side: int, *, seed: int) -> Bits:
    """One colour, or two halves: coefficients that are zero but for rounding."""
    colours = np.random.default_rng(seed).integers(0, 256, (n, 1, 2, 3), dtype=np.uint8)
    colours[::2, :, 1] = colours[::2, :, 0]
    return np.repeat(np.repeat(colours, side, axis=1), side // 2, axis=2)


@pytest.mark.parametrize("kind", [noise, scenes, flat])
@pytest.mark.parametrize(("side", "n"), [(32, 2000), (48, 100), (224, 10)])
def test_the_hash_is_imagehash_bit_for_bit(kind: Callable[..., Bits], side: int, n: int) -> None:
    """At the size that needs no reduction and at others, on noise, smooth pictures and degenerate ones."""
    images = kind(n, side, seed=side)
    np.testing.assert_array_equal(perceptual_hashes(images), oracle(images))


def test_photographs_hash_as_imagehash_says() -> None:
    """On crops of the photographs that ship inside scikit-image."""
    data = pytest.importorskip("skimage.data")
    random = np.random.default_rng(0)
    crops = []
    for photo in (data.astronaut(), data.coffee(), data.chelsea()):
        for _ in range(200):
            top, left = random.integers(0, photo.shape[0] - 128), random.integers(0, photo.shape[1] - 128)
            crops.append(np.asarray(Image.fromarray(photo[top : top + 128, left : left + 128]).resize((32, 32))))
    np.testing.assert_array_equal(perceptual_hashes(np.stack(crops)), oracle(np.stack(crops)))


@pytest.mark.parametrize("batch", [1, 2, 3, 7, 32])
def test_a_hash_does_not_depend_on_the_batch(batch: int) -> None:
    """The same image hashes the same whoever is in the batch with it."""
    images = np.concatenate([noise(40, 32, seed=1), flat(40, 32, seed=2)])
    parts = [perceptual_hashes(images[i : i + batch]) for i in range(0, len(images), batch)]
    np.testing.assert_array_equal(np.concatenate(parts), perceptual_hashes(images))


def test_no_images_no_hashes() -> None:
    """An empty batch gives (0, 8)."""
    assert perceptual_hashes(np.zeros((0, 32, 32, 3), np.uint8)).shape == (0, 8)


def embeddings(n: int, *, width: int = 96, seed: int = 0) -> Floats:
    mixing = np.random.default_rng(99).normal(size=(width, width))
    return (np.random.default_rng(seed).normal(size=(n, width)) @ mixing).astype(np.float32)


def copied(vectors: Floats, *, seed: int) -> Floats:
    """Copies move a lot, but in a few directions only."""
    random = np.random.default_rng(seed)
    loud = random.normal(0, 15, (len(vectors), 8)) @ np.linalg.qr(np.random.default_rng(5).normal(size=(vectors.shape[1], 8)))[0].T
    return np.asarray(vectors + loud + random.normal(0, 0.3, vectors.shape), dtype=np.float32)


def fitted(*, bits: int = 256) -> EmbeddingCode:
    vectors = embeddings(1500, seed=1)
    return EmbeddingCode.fit(vectors, copies=(copied(vectors, seed=2), copied(vectors, seed=3)), bits=bits)


@pytest.mark.parametrize("bits", [64, 128, 256])
@pytest.mark.parametrize("n", [0, 1, 5])
def test_codes_are_packed_bits(bits: int, n: int) -> None:
    """(n, bits / 8) uint8, also for no image."""
    codes = fitted(bits=bits)(embeddings(n, seed=7))
    assert codes.shape == (n, bits // 8)
    assert codes.dtype == np.uint8


def test_copies_stay_within_the_radius_and_others_do_not() -> None:
    """Unseen images: nearly all copies are found, and no other image is."""
    code = fitted()
    vectors = embeddings(1000, seed=11)
    distances = hamming(code(copied(vectors, seed=12)), code(vectors))
    assert (np.diag(distances) <= code.radius).mean() > 0.95
    np.fill_diagonal(distances, 256)
    assert (distances <= code.radius).any(axis=1).mean() <= 0.002


def test_learning_from_copies_beats_not_doing_so() -> None:
    """The projection turns away from the directions in which copies move."""
    blind = EmbeddingCode.fit(embeddings(1500, seed=1))
    unseen = embeddings(500, seed=11)
    moved = copied(unseen, seed=12)
    code = fitted()
    assert np.diag(hamming(code(moved), code(unseen))).mean() < 0.7 * np.diag(hamming(blind(moved), blind(unseen))).mean()


def test_bits_are_balanced() -> None:
    """Every bit is set for about half of the images: no bit is wasted."""
    share = np.unpackbits(fitted()(embeddings(4000, seed=13)), axis=1).mean(axis=0)
    assert share.min() > 0.4
    assert share.max() < 0.6


@pytest.mark.parametrize("bits", [64, 128, 256])
def test_the_radius_is_one_that_stores_search_exactly(bits: int) -> None:
    """At most 2 x bands - 1 bits, bands of 16."""
    assert 0 <= fitted(bits=bits).radius <= 2 * bits // 16 - 1


def test_a_stricter_target_never_widens_the_radius() -> None:
    """Fewer allowed false merges, a smaller or equal radius."""
    vectors = embeddings(1500, width=16, seed=1)
    radii = [EmbeddingCode.fit(vectors, false_merges=share).radius for share in (0.5, 0.01, 0.001)]
    assert radii == sorted(radii, reverse=True)
    assert radii[0] > radii[-1]


def test_true_duplicates_do_not_shrink_the_radius() -> None:
    """Sets hold the same picture twice; such pairs stand apart and are no false merges."""
    vectors = embeddings(1500, seed=1)
    assert EmbeddingCode.fit(np.concatenate([vectors, vectors[:45]])).radius >= EmbeddingCode.fit(vectors).radius - 4


def test_the_radius_rests_on_the_references() -> None:
    """Held-out images that have the codes of learned ones refuse a code; others, from the same learning, do not."""
    vectors, nudges = embeddings(1500, seed=1), 0.001 * embeddings(600, seed=2)
    vectors[:300] = vectors[0] + nudges[:300]
    assert EmbeddingCode.fit(vectors, references=embeddings(300, seed=3)).radius > 0
    with pytest.raises(ValueError, match="cannot tell images apart"):
        EmbeddingCode.fit(vectors, references=vectors[0] + nudges[300:])


def test_embeddings_that_tell_nothing_apart_are_refused() -> None:
    """Constant embeddings, and such with a handful of values, are errors and not codes that merge everything."""
    with pytest.raises(ValueError, match="cannot tell images apart"):
        EmbeddingCode.fit(np.ones((200, 16), np.float32))
    few = np.random.default_rng(0).normal(size=(3, 16)).astype(np.float32)[np.arange(200) % 3]
    with pytest.raises(ValueError, match="cannot tell images apart"):
        EmbeddingCode.fit(few)


def test_copies_of_the_first_images_are_enough() -> None:
    """A slow recognizer sees copies of a few images only; the code still turns away from how they move."""
    vectors, unseen = embeddings(1500, seed=1), embeddings(500, seed=11)
    code = EmbeddingCode.fit(vectors, copies=(copied(vectors[:400], seed=2),))
    assert (np.diag(hamming(code(copied(unseen, seed=12)), code(unseen))) <= code.radius).mean() > 0.95


def test_the_perceptual_radius_is_one_that_stores_search_exactly() -> None:
    """Distinct pictures allow some radius up to 7; equal ones allow 0, because stores need one."""
    assert 1 <= perceptual_radius(perceptual_hashes(noise(1500, 32, seed=1)), perceptual_hashes(noise(500, 32, seed=2))) <= 7
    assert perceptual_radius(np.zeros((600, 8), np.uint8), np.zeros((600, 8), np.uint8)) == 0


def test_narrow_embeddings_fill_the_code_too() -> None:
    """Fewer directions than the code could use: the rest of its bits look at the same ones from other angles."""
    vectors = embeddings(800, width=DIRECTIONS // 2, seed=1)
    assert EmbeddingCode.fit(vectors, false_merges=0.5).projection.shape == (DIRECTIONS // 2, 256)


def test_arrays_say_everything() -> None:
    """A code rebuilt from its arrays codes alike and has the same radius."""
    code = fitted()
    again = EmbeddingCode.from_arrays(code.arrays())
    vectors = embeddings(50, seed=21)
    np.testing.assert_array_equal(again(vectors), code(vectors))
    assert again.radius == code.radius


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("side", [32, 224])
def test_copies_look_like_their_original(name: str, side: int) -> None:
    """Each transform keeps size and type, changes something, and leaves the picture recognisable."""
    image, other = (Image.fromarray(x) for x in scenes(2, side, seed=3))
    copy = np.asarray(TRANSFORMS[name](image, other, np.random.default_rng(4)))
    assert copy.shape == (side, side, 3)
    assert copy.dtype == np.uint8
    reference = np.asarray(image)[:, ::-1] if name == "flip" else np.asarray(image)
    assert (copy != np.asarray(image)).any()
    assert np.corrcoef(copy.ravel(), reference.ravel())[0, 1] > 0.4


def test_random_copies_follow_their_generator() -> None:
    """The same seed gives the same copies, another one others; shape and type stay."""
    images = scenes(40, 32, seed=5)
    first, again, other = (random_copies(images, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert first.shape == images.shape
    assert first.dtype == np.uint8
