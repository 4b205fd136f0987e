"""Image files are lossless, whatever their size."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from attacker_client.encoding import encode


@pytest.mark.parametrize(("n", "size"), [(3, 8), (2, 32), (2, 104), (2, 105), (1, 224), (0, 32)])
def test_encoding_is_lossless(n: int, size: int) -> None:
    """What the endpoint decodes is what the thief has: stored and compressed files, one block of 64 KiB and several."""
    images = np.random.default_rng(0).integers(0, 256, (n, size, size, 3), dtype=np.uint8)
    files = encode(images)
    assert len(files) == n
    for file, image in zip(files, images, strict=True):
        with Image.open(BytesIO(file), formats=["PNG"]) as decoded:
            assert decoded.mode == "RGB"
            assert np.array_equal(np.asarray(decoded), image)


def test_sides_may_differ() -> None:
    """Width and height are not mixed up."""
    image = np.arange(4 * 7 * 3, dtype=np.uint8).reshape(1, 4, 7, 3)
    with Image.open(BytesIO(encode(image)[0])) as decoded:
        assert np.array_equal(np.asarray(decoded), image[0])
