"""Images that cost far more to decode than to send, and other formats under the name of one that is served."""

import io
import struct
import zlib
from collections.abc import Iterator

from PIL import Image

from tests.abuse.images import encode, picture

HUNDRED_MB = 100 * 2**20


def zeros_deflated(size: int) -> bytes:
    """`size` zero bytes as a zlib stream, made piece by piece."""
    packer, piece = zlib.compressobj(9), bytes(2**20)
    packed = b"".join(packer.compress(piece) for _ in range(size // len(piece)))
    return packed + packer.compress(bytes(size % len(piece))) + packer.flush()


def png(width: int, height: int, *chunks: tuple[bytes, bytes], depth: int = 8) -> bytes:
    """A PNG of RGB pixels with these chunks between its header and its end."""
    header = (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0))
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in (header, *chunks, (b"IEND", b""))
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def jpeg_of_scans(scans: int) -> bytes:
    """A large progressive JPEG whose last scan comes `scans` times over, as nothing but its marker and header."""
    file = encode(Image.new("RGB", (4000, 4000)), "JPEG", progressive=True)
    last = file.rindex(b"\xff\xda")
    (length,) = struct.unpack_from(">H", file, last + 2)
    return file[:-2] + file[last : last + 2 + length] * scans + file[-2:]


def webp_of_frames(frames: int) -> bytes:
    """An animation of one small frame, over and over."""
    still = encode(Image.new("RGB", (16, 16)), "WEBP", lossless=True)
    bits = still[12:]
    where = bytes(6) + (15).to_bytes(3, "little") * 2 + (10).to_bytes(3, "little") + b"\0"  # offset, size - 1, milliseconds, flags
    frame = b"ANMF" + struct.pack("<I", len(where) + len(bits)) + where + bits
    canvas = b"VP8X" + struct.pack("<I", 10) + bytes((2, 0, 0, 0)) + (15).to_bytes(3, "little") * 2
    body = b"WEBP" + canvas + b"ANIM" + struct.pack("<I", 6) + bytes(6) + frame * frames
    return b"RIFF" + struct.pack("<I", len(body)) + body


def bombs() -> Iterator[tuple[str, str, bytes, frozenset[int]]]:
    """Each bomb's name, media type, bytes, and the statuses that are right for it."""
    refused, either, served = frozenset({422}), frozenset({200, 422}), frozenset({200})
    pixel = (b"IDAT", zlib.compress(bytes(4)))
    yield "9400 x 9400 PNG", "image/png", png(9400, 9400, (b"IDAT", zeros_deflated(9400 * (1 + 9400 * 3)))), refused
    yield "60000 x 60000 PNG", "image/png", png(60_000, 60_000, (b"IDAT", zeros_deflated(HUNDRED_MB))), refused
    yield "JPEG of 5,000 scans", "image/jpeg", jpeg_of_scans(5000), refused
    text = b"Comment\0\0" + zeros_deflated(2 * HUNDRED_MB)
    yield "zTXt of 200 MB", "image/png", png(1, 1, (b"zTXt", text), pixel), either
    yield "zTXt of 200 MB behind the pixels", "image/png", png(1, 1, pixel, (b"zTXt", text)), either
    yield "iTXt of 200 MB", "image/png", png(1, 1, (b"iTXt", b"Comment\0\1\0\0\0" + text[9:]), pixel), either
    yield "iCCP of 200 MB", "image/png", png(1, 1, (b"iCCP", b"profile\0\0" + text[9:]), pixel), either
    yield "IDAT of 100 MB for one pixel", "image/png", png(1, 1, (b"IDAT", zeros_deflated(HUNDRED_MB))), either
    deep = png(64, 64, (b"IDAT", zlib.compress(bytes(64 * (1 + 64 * 6)))), depth=16)
    yield "16-bit PNG", "image/png", deep, served
    yield "CMYK JPEG", "image/jpeg", encode(picture(1).convert("CMYK"), "JPEG"), served
    yield "WebP of 10,000 frames", "image/webp", webp_of_frames(10_000), either
    for kind in ("TIFF", "EPS", "ICNS", "GIF", "BMP", "PPM", "TGA", "PCX"):
        yield f"{kind} named .jpg", "image/jpeg", _foreign(kind), refused


def _foreign(kind: str) -> bytes:
    file = io.BytesIO()
    picture(2, size=128).save(file, kind)
    return file.getvalue()
