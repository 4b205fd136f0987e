"""The recognizer sees what a person sees, resized as the bundle says."""

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from models.manifest import InputSpec
from models.preprocess import fit
from tests.models.conftest import pictures

FOUR = InputSpec(size=4)


def stored(image: Image.Image, kind: str, **options: object) -> Image.Image:
    """The image as it comes back from a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return Image.open(buffer)


def flat(mode: str, colour: object) -> Image.Image:
    return Image.new(mode, (4, 4), colour)  # type: ignore[arg-type]


def test_pixels_of_the_right_size_are_untouched() -> None:
    """An RGB image that already has the size is passed on bit for bit."""
    pixels = pictures(1, 32)[0]
    for resize in ("stretch", "center_crop"):
        np.testing.assert_array_equal(fit(Image.fromarray(pixels), InputSpec(size=32, resize=resize)), pixels)


@pytest.mark.parametrize(
    ("image", "rgb"),
    [
        (flat("L", 7), (7, 7, 7)),
        (flat("1", 1), (255, 255, 255)),
        (flat("LA", (10, 255)), (10, 10, 10)),
        (flat("RGBA", (200, 0, 0, 0)), (255, 255, 255)),
        (flat("RGBA", (0, 0, 0, 128)), (127, 127, 127)),
        (flat("CMYK", (0, 255, 255, 0)), (255, 0, 0)),
        (stored(flat("RGB", (1, 2, 3)).quantize(2), "PNG"), (1, 2, 3)),
        (stored(flat("RGB", (1, 2, 3)), "PNG", transparency=(1, 2, 3)), (255, 255, 255)),
        (stored(flat("P", 0), "PNG", transparency=0), (255, 255, 255)),
        (stored(Image.fromarray(np.full((4, 4), 514, dtype=np.uint16)), "PNG"), (2, 2, 2)),
        (stored(Image.fromarray(np.full((4, 4), 65535, dtype=np.uint16)), "PNG"), (255, 255, 255)),
        (Image.fromarray(np.full((4, 4), 257 * 9, dtype=np.int32)), (9, 9, 9)),
    ],
    ids=[
        *("grey", "bilevel", "grey-alpha", "transparent", "half-transparent", "cmyk"),
        *("palette", "key-colour", "palette-alpha", "16-bit", "16-bit-white", "32-bit"),
    ],
)
def test_every_kind_of_picture_becomes_rgb_over_white(image: Image.Image, rgb: tuple[int, int, int]) -> None:
    """Greys are not clipped, palettes are looked up, and transparent parts show the white behind them."""
    found = fit(image, FOUR)
    assert found.dtype == np.uint8
    assert found.shape == (4, 4, 3)
    assert {tuple(pixel) for pixel in found.reshape(-1, 3).tolist()} == {rgb}


@pytest.mark.parametrize(("width", "height"), [(64, 64), (100, 60), (60, 101), (31, 47), (140, 37)])
@pytest.mark.parametrize("crop_fraction", [1.0, 0.875, 0.5])
def test_center_crop_is_torchvisions(width: int, height: int, crop_fraction: float) -> None:
    """The pixels are those of torchvision's Resize and CenterCrop."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))
    size = 32
    reference = Compose([Resize(round(size / crop_fraction), InterpolationMode.BICUBIC), CenterCrop(size)])(image)
    found = fit(image, InputSpec(size=size, resize="center_crop", crop_fraction=crop_fraction))
    np.testing.assert_array_equal(found, np.asarray(reference))


def test_stretch_ignores_the_aspect_ratio() -> None:
    """The whole picture is in the result, antialiased."""
    image = Image.fromarray(pictures(1, 64)[0]).resize((90, 40))
    np.testing.assert_array_equal(fit(image, InputSpec(size=32)), np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC)))


@pytest.mark.parametrize("resize", ["stretch", "center_crop"])
def test_extreme_shapes_cost_no_memory(resize: str) -> None:
    """A strip of 2,000,000 x 2 pixels is not blown up to 64,000,000 x 32 on the way to its centre."""
    assert fit(Image.new("L", (2_000_000, 2), 9), InputSpec(size=32, resize=resize)).max() == 9


def test_large_jpegs_are_decoded_smaller_never_below_twice_the_target() -> None:
    """A JPEG eight times too large is decoded at a quarter, and the result is nearly that of the full decode."""
    picture = Image.fromarray(pictures(1, 256)[0])
    image = stored(picture, "JPEG", quality=95)
    found = fit(image, InputSpec(size=32))
    assert image.size == (64, 64)
    full = np.asarray(picture.resize((32, 32), Image.Resampling.BICUBIC))
    assert difference(found, full).mean() < 2

    small = stored(picture, "JPEG", quality=95)
    fit(small, InputSpec(size=65))
    assert small.size == (256, 256)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_pictures_stand_upright(orientation: int, kind: str) -> None:
    """A picture stored lying on its side is seen as its EXIF orientation tells browsers to show it."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    image = stored(Image.fromarray(pictures(1, 32)[0]), kind, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    np.testing.assert_array_equal(fit(image, InputSpec(size=32)), expected)


@pytest.mark.parametrize(
    "exif",
    [b"Exif\x00\x00", b"Exif\x00\x00II*\x00\xff\xff\xff\xff", b"Exif\x00\x00garbage", b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01"],
)
def test_broken_exif_is_ignored(exif: bytes) -> None:
    """A damaged tag block is no reason to refuse the picture it comes with."""
    image = stored(Image.fromarray(pictures(1, 32)[0]), "PNG", exif=exif)
    np.testing.assert_array_equal(fit(image, InputSpec(size=32)), pictures(1, 32)[0])


def difference(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Absolute differences without wrapping around."""
    return np.abs(one.astype(np.int64) - other.astype(np.int64))


def test_damaged_pictures_raise() -> None:
    """Truncated data is Pillow's error, never a half-grey picture."""
    buffer = io.BytesIO()
    Image.fromarray(pictures(1, 64)[0]).save(buffer, "JPEG")
    with pytest.raises(OSError, match="truncated"):
        fit(Image.open(io.BytesIO(buffer.getvalue()[:-400])), InputSpec(size=32))
