"""The images that a calibration rests on, and what the recognizer says about them and about near-duplicates of them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from defenses.copies import TRANSFORMS, copies_by, random_copies
from defenses.nonsense import nonsense
from defenses.true_duplicates import have_duplicates
from models.bundle import Bundle, Outputs
from models.folders import image_files, read_images
from models.manifest import BundleError

LEAST_IMAGES = 500  # below it a threshold at 1% rests on five images
BATCH = 64
COPIES = 3  # near-duplicates of an image that the embedding's code learns from
# A slow recognizer of large pictures must not spend hours on copies: all of 10,000 images at 32 pixels, 400 at 224
COPIED_PIXELS = 20_000_000
PROBED, PROBED_PIXELS = 1_000, 3_000_000  # held-out images that every transform is tried on, by the same reasoning 60 at 224

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """n images (n, size, size, 3), their files, and what the recognizer gave for them."""

    files: tuple[Path, ...]
    images: Pixels
    outputs: Outputs


@dataclass(frozen=True, slots=True, eq=False)
class Passes:
    """Everything that was computed once. `distinct` says which `held_out` images show no picture of `learned`.

    `learned` images are as they are, and `recompressed` what the recognizer gives for them after one more JPEG encoding.
    `held_out` and `foreign` (held out) are as they are. `outside` are the foreign images to learn from, both ways, with nonsense among
    them. `copies` are embeddings of near-duplicates of the first `learned` images, `probes` images and embeddings of copies of the
    first `held_out` ones, a transform each.
    """

    learned: Sample
    recompressed: Outputs
    distinct: NDArray[np.bool_]
    held_out: Sample
    outside: Outputs | None
    foreign: Sample | None
    copies: tuple[NDArray[np.float32], ...]
    probes: dict[str, tuple[Pixels, NDArray[np.float32]]]


class Recognizer:
    """Passes of the model in batches, each counted on one progress bar."""

    def __init__(self, bundle: Bundle, progress: Progress, *, total: int) -> None:
        self._bundle, self._progress = bundle, progress
        self._task = progress.add_task(f"{bundle.model} looks at {total} images", total=total)

    def __call__(self, images: Pixels, change: Callable[[Pixels], Pixels] = lambda batch: batch) -> Outputs:
        """Infer images (n, size, size, 3), changed batch by batch, so that no second set of them is held in memory."""
        parts = []
        for start in range(0, len(images), BATCH):
            batch = images[start : start + BATCH]
            parts.append(self._bundle.infer(change(batch)))
            self._progress.advance(self._task, len(batch))
        return joined(parts)


def run_passes(
    bundle: Bundle, progress: Progress, *, inside: Path, held_out: Path | None, outside: Path | None, most: int, random: np.random.Generator
) -> Passes:
    """Read the folders and compute everything once. Raises BundleError for a folder with too few images, or with one that is damaged.

    Without `held_out` a fifth of `inside` is kept for that; a tenth of `outside` always is.
    """
    size = bundle.manifest.input.size
    own, own_files = _read(inside, bundle, progress, most=most, random=random)
    if held_out:
        kept, kept_files = _read(held_out, bundle, progress, most=most, random=random)
    else:
        (own, own_files), (kept, kept_files) = _split(own, own_files, every=5)
    learned_foreign = kept_foreign = drawn = own[:0]
    foreign_files: tuple[Path, ...] = ()
    if outside:
        others, files = _read(outside, bundle, progress, most=most, random=random)
        (learned_foreign, _), (kept_foreign, foreign_files) = _split(others, files, every=10)
        drawn = nonsense(len(learned_foreign) // 10, size, random)
    copied = own[: max(COPIED_PIXELS // size**2, 1)]
    probed = kept[: min(PROBED, max(PROBED_PIXELS // size**2, 1))]
    own_passes = 2 * len(own) + len(kept) + COPIES * len(copied) + len(TRANSFORMS) * len(probed)
    recognizer = Recognizer(bundle, progress, total=own_passes + 2 * (len(learned_foreign) + len(drawn)) + len(kept_foreign))

    def recompress(batch: Pixels) -> Pixels:
        return copies_by("recompress", batch, random)

    known, unknown = Sample(own_files, own, recognizer(own)), Sample(kept_files, kept, recognizer(kept))
    distinct = ~have_duplicates(kept, unknown.outputs.embedding, own, known.outputs.embedding)
    if not distinct.any():
        raise BundleError("every held-out image is also among those to learn from: give others")
    foreign = [recognizer(images, change) for images in (learned_foreign, drawn) if len(images) for change in (np.asarray, recompress)]
    return Passes(
        learned=known,
        distinct=distinct,
        recompressed=recognizer(own, recompress),
        held_out=unknown,
        outside=joined(foreign) if foreign else None,
        foreign=Sample(foreign_files, kept_foreign, recognizer(kept_foreign)) if outside else None,
        copies=tuple(recognizer(copied, lambda batch: random_copies(batch, random)).embedding for _ in range(COPIES)),
        probes={name: _probe(name, probed, recognizer, random) for name in TRANSFORMS},
    )


def joined(parts: Iterable[Outputs]) -> Outputs:
    """Several outputs as one."""
    parts = list(parts)
    return Outputs(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("logits", "features", "embedding")))


def _probe(name: str, images: Pixels, recognizer: Recognizer, random: np.random.Generator) -> tuple[Pixels, NDArray[np.float32]]:
    copies = copies_by(name, images, random)
    return copies, recognizer(copies).embedding


def _split(
    images: Pixels, files: tuple[Path, ...], *, every: int
) -> tuple[tuple[Pixels, tuple[Path, ...]], tuple[Pixels, tuple[Path, ...]]]:
    """All images but every so many-th, and those: nothing is learned from what is measured with."""
    rest = np.delete(images, np.s_[::every], axis=0)
    return (rest, tuple(file for i, file in enumerate(files) if i % every)), (images[::every].copy(), files[::every])


def _read(folder: Path, bundle: Bundle, progress: Progress, *, most: int, random: np.random.Generator) -> tuple[Pixels, tuple[Path, ...]]:
    files = image_files(folder)
    if len(files) < LEAST_IMAGES:
        raise BundleError(f"{folder} holds {len(files)} images (.jpg, .png, .webp); calibrating needs at least {LEAST_IMAGES}")
    chosen = tuple(files[i] for i in random.permutation(len(files))[:most])
    return read_images(progress.track(chosen, description=f"reading {folder.name}"), bundle.manifest.input), chosen
