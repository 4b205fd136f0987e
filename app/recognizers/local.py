"""Recognizers that run in this process: bundles, and whatever can be called."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.special import softmax  # type: ignore[import-untyped]  # ships no types

from app.recognizers.asked import Images, Source, Told
from models.bundle import Bundle

BATCH = 64


def bundle_source(bundle: Bundle) -> Source:
    """A bundle's honest answers: no defence stands in front of it. Images of another size are fitted as bicubic thumbnails."""
    size = bundle.manifest.input.size
    return function_source(lambda images: softmax(bundle.logits(_sized(images, size)), axis=1), labels=bundle.manifest.labels)


def function_source(probabilities: Callable[[Images], NDArray[np.floating]], *, labels: Sequence[str]) -> Source:
    """Any function from images uint8 (n, height, width, 3) to the probabilities (n, classes) of the classes called `labels`."""

    def tell(images: Images) -> Iterator[Told]:
        for start in range(0, len(images), BATCH):
            for row in probabilities(images[start : start + BATCH]):
                best = int(row.argmax())
                yield Told(labels[best], best, float(row[best]))

    return tell


def _sized(images: Images, size: int) -> Images:
    if images.shape[1:3] == (size, size):
        return images
    return np.stack([np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC)) for image in images])
