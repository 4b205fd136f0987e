"""Images are decoded within limits, and what is not one is refused."""

import io
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from app.decode import Decoder
from app.errors import UndecodableError
from models.manifest import InputSpec


@pytest.fixture
def decoder() -> Iterator[Decoder]:
    decoder = Decoder(InputSpec(size=32), max_pixels=1_000_000, deadline_seconds=5)
    yield decoder
    decoder.close()


def picture(size: tuple[int, int] = (32, 32)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_lossless_pixels_arrive_as_they_were_sent(decoder: Decoder, kind: str) -> None:
    """At the recognizer's own size nothing is resampled."""
    pixels, _ = decoder.pixels(encoded(picture(), kind, lossless=True))
    assert np.array_equal(pixels, np.asarray(picture()))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "1", "P"])
def test_every_colour_mode_gives_rgb(decoder: Decoder, mode: str) -> None:
    """uint8 (32, 32, 3), whatever was sent."""
    pixels, _ = decoder.pixels(encoded(picture((100, 60)).convert(mode), "JPEG" if mode == "CMYK" else "PNG"))
    assert pixels.shape == (32, 32, 3)
    assert pixels.dtype == np.uint8


def test_the_digest_is_that_of_the_pixels_not_of_the_file(decoder: Decoder) -> None:
    """The same picture in two lossless files is the same query."""
    assert decoder.pixels(encoded(picture(), "PNG"))[1] == decoder.pixels(encoded(picture(), "WEBP", lossless=True))[1]


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "BMP", "ICO"])
def test_other_formats_are_refused(decoder: Decoder, kind: str) -> None:
    """Three parsers are open, not forty."""
    with pytest.raises(UndecodableError, match="not a JPEG, PNG or WebP"):
        decoder.pixels(encoded(picture(), kind))


@pytest.mark.parametrize("keyword", ["exif", "transparency", "icc_profile", "dpi", "gamma"])
@pytest.mark.parametrize("compressed", [True, False])
def test_a_text_chunk_may_have_any_name(decoder: Decoder, keyword: str, compressed: bool) -> None:  # noqa: FBT001, a parameter of pytest
    """A PNG's text is a stranger's: it never becomes a failure of ours."""
    info = PngInfo()
    info.add_text(keyword, "not what it says", zip=compressed)
    for mode in ("RGB", "L", "P", "RGBA", "1"):
        try:
            pixels, _ = decoder.pixels(encoded(picture().convert(mode), "PNG", pnginfo=info))
        except UndecodableError:
            continue
        assert pixels.shape == (32, 32, 3)


def test_too_many_pixels_are_refused(decoder: Decoder) -> None:
    """By the header, before anything is decoded."""
    with pytest.raises(UndecodableError, match="more than 1000000 pixels"):
        decoder.pixels(encoded(Image.new("RGB", (1001, 1000)), "PNG"))


def test_too_many_scans_are_refused(decoder: Decoder) -> None:
    """A progressive JPEG may repeat itself ten times, not thousands of times."""
    with pytest.raises(UndecodableError, match="scans"):
        decoder.pixels(encoded(picture(), "JPEG")[:-2] + b"\xff\xda\x00\x02" * 101)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_truncated_image_is_refused(decoder: Decoder, kind: str) -> None:
    """Half an image is not an image."""
    body = encoded(picture((200, 200)), kind)
    with pytest.raises(UndecodableError, match=r"damaged|not a JPEG"):
        decoder.pixels(body[: len(body) // 2])
