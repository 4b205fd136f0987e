"""A decoded picture to the pixels a bundle's graph takes: colours, transparency, orientation, size."""

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from models.manifest import InputSpec

# EXIF orientation -> what shows the picture upright; 1 and anything unknown mean "as stored".
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def fit(image: Image.Image, spec: InputSpec) -> NDArray[np.uint8]:
    """Turn a picture into the (size, size, 3) uint8 RGB pixels that `spec` asks for.

    The recognizer sees what a person sees in a browser: upright by its EXIF orientation, the first frame, and
    transparent parts over white (hidden pixels beneath them are leftovers of an editor, mostly black, and would let a
    client show us something that nobody can see). A large JPEG is decoded at a half, quarter or eighth of its size,
    never below twice the target; this uses up `image` if it was not loaded yet. Raises what Pillow raises for
    broken data.
    """
    side = _shorter_side(spec)
    image.draft(None, (2 * side, 2 * side))
    upright = UPRIGHT.get(_orientation(image))
    rgb = _rgb(image)
    box = (0, 0, *rgb.size) if spec.resize == "stretch" else _centre(rgb.size, spec)
    if box != (0, 0, spec.size, spec.size):
        rgb = rgb.resize((spec.size, spec.size), Image.Resampling.BICUBIC, box=box)
    if upright is not None:
        rgb = rgb.transpose(upright)  # last, because a square of the target's size is cheap to turn
    return np.asarray(rgb)


def _shorter_side(spec: InputSpec) -> int:
    """Pixels of the shorter side before the centre is cut."""
    return spec.size if spec.resize == "stretch" else round(spec.size / spec.crop_fraction)


def _centre(size: tuple[int, int], spec: InputSpec) -> tuple[float, float, float, float]:
    """The part of a picture of `size` that is left after resizing its shorter side and cutting the centre.

    Resampling only this box gives what torchvision's Resize and CenterCrop give, without ever making the resized
    picture: a client's 4,000,000 x 4 pixels would become 65 billion.
    """
    width, height = size
    side = _shorter_side(spec)
    # torchvision rounds the longer side down, and the offset to the nearest even integer at .5
    wide = side if width <= height else side * width // height
    high = side if height <= width else side * height // width
    left, top = round((wide - spec.size) / 2), round((high - spec.size) / 2)
    return (
        left * width / wide,
        top * height / high,
        (left + spec.size) * width / wide,
        (top + spec.size) * height / high,
    )


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # 16-bit greys, which Pillow would clip at 255: 65535 / 257 = 255
        levels = np.clip(np.asarray(image), 0, 65535).astype(np.float32) / 257
        return Image.fromarray(np.rint(levels).astype(np.uint8)).convert("RGB")
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 where there is none or it cannot be read: a broken tag is no reason to refuse a picture."""
    if "exif" not in image.info:
        return 1
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except (SyntaxError, ValueError, TypeError, KeyError, OSError, EOFError, OverflowError, ArithmeticError):
        return 1
