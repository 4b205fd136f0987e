"""A decoded picture to the pixels a bundle's graph takes: colours, transparency, orientation, size."""

from typing import Literal

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
MAX_ASPECT = 4  # of a picture's sides; what lies further out is far from the centre that is kept


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
    upright = UPRIGHT.get(_orientation(image.info.get("exif")))
    rgb = _rgb(image)
    rgb = rgb.resize((spec.size, spec.size), Image.Resampling.BICUBIC) if spec.resize == "stretch" else _centre(rgb, spec)
    if upright is not None:
        rgb = rgb.transpose(upright)  # last, because a square of the target's size is cheap to turn
    return np.asarray(rgb)


def _shorter_side(spec: InputSpec) -> int:
    """Pixels of the shorter side before the centre is cut."""
    return spec.size if spec.resize == "stretch" else round(spec.size / spec.crop_fraction)


def _centre(image: Image.Image, spec: InputSpec) -> Image.Image:
    """Resize the shorter side and cut the centre, to the pixel as torchvision's Resize and CenterCrop do.

    Of a strip, only the middle is resized: a client's 4,000,000 x 4 pixels would become 65 billion.
    """
    shorter = min(image.size)
    if max(image.size) > MAX_ASPECT * shorter:
        image = _cut(image, (min(image.width, MAX_ASPECT * shorter), min(image.height, MAX_ASPECT * shorter)))
    side = _shorter_side(spec)
    resized = (side * image.width // shorter, side * image.height // shorter)
    return _cut(image.resize(resized, Image.Resampling.BICUBIC), (spec.size, spec.size))


def _cut(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    left, top = round((image.width - size[0]) / 2), round((image.height - size[1]) / 2)
    return image.crop((left, top, left + size[0], top + size[1]))


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # 16-bit greys, which Pillow would clip at 255: 65535 / 257 = 255
        levels = np.clip(np.asarray(image), 0, 65535).astype(np.float32) / 257
        return Image.fromarray(np.rint(levels).astype(np.uint8)).convert("RGB")
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def _orientation(exif: object) -> int:
    """The orientation in an EXIF block, 1 where it says none or is damaged.

    Read here and not by Pillow, which decodes every tag that a client cares to write and warns about broken ones.
    """
    if not isinstance(exif, bytes):  # none, or a text chunk of that name
        return 1
    block = exif.removeprefix(b"Exif\x00\x00")
    order: Literal["little", "big"] = "little" if block[:2] == b"II" else "big"
    directory = int.from_bytes(block[4:8], order)
    count = int.from_bytes(block[directory : directory + 2], order)
    for start in range(directory + 2, min(directory + 2 + 12 * count, len(block)), 12):
        if int.from_bytes(block[start : start + 2], order) == ExifTags.Base.Orientation:
            return int.from_bytes(block[start + 8 : start + 10], order)
    return 1
