"""Images as PNG files, made as fast as can be: the client may share its machine with the endpoint that it asks."""

import struct
import zlib
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attacker_client.transfer_set import Images

_STORED = (
    32_768  # bytes of pixels up to which nothing is compressed: a tenth of the time, and both ends save it; above, the wire costs more
)


def encode(images: Images) -> list[bytes]:
    """PNG files of images (n, S, S, 3), lossless; small ones are stored as they are, others little compressed because that is faster."""
    if len(images) and images[0].nbytes <= _STORED:
        return _stored(images)
    return [_compressed(image) for image in images]


def _stored(images: Images) -> list[bytes]:
    """PNG (ISO 15948) without filters, each file one IDAT of one or more stored blocks."""
    n, height, width, _ = images.shape
    rows = np.zeros((n, height, 1 + 3 * width), np.uint8)  # a row begins with its filter: 0, none
    rows[:, :, 1:] = images.reshape(n, height, 3 * width)
    opening = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    ending = _chunk(b"IEND", b"")
    return [b"".join((opening, _chunk(b"IDAT", zlib.compress(image.tobytes(), 0)), ending)) for image in rows]


def _chunk(kind: bytes, data: bytes) -> bytes:
    return b"".join((len(data).to_bytes(4, "big"), kind, data, zlib.crc32(data, zlib.crc32(kind)).to_bytes(4, "big")))


def _compressed(image: NDArray[np.uint8]) -> bytes:
    file = BytesIO()
    Image.fromarray(image).save(file, "PNG", compress_level=1)
    return file.getvalue()
