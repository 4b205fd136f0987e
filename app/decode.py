"""Bytes to pixels, limits first: what can't be an honest image is refused before it costs anything."""

import asyncio
import hashlib
import io
import os
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from app.errors import OverloadedError, UndecodableError
from defenses.vocabulary import Query
from models.manifest import InputSpec
from models.preprocess import fit

FORMATS = ("JPEG", "PNG", "WEBP")  # of Pillow's 43 parsers
MAX_SCANS = 100  # a progressive JPEG has about ten; 5,000 empty ones cost 5 CPU-seconds


class Decoder:
    """Turn an uploaded image into a query, in threads of its own, away from the event loop.

    An image that waited longer than `deadline_seconds` for a thread is shed.
    """

    def __init__(self, spec: InputSpec, *, max_pixels: int, deadline_seconds: float) -> None:
        self._spec, self._max_pixels, self._deadline = spec, max_pixels, deadline_seconds
        Image.MAX_IMAGE_PIXELS = None  # Pillow would warn about sizes far above our own limit, which is checked first
        self._threads = ThreadPoolExecutor(max_workers=os.cpu_count() or 1, thread_name_prefix="decode")

    async def __call__(self, image: bytes, *, client: str) -> Query:
        """Decode one image. Raises UndecodableError or OverloadedError."""
        received, arrived = time.time(), time.monotonic()
        pixels, digest = await asyncio.get_running_loop().run_in_executor(self._threads, self._in_time, image, arrived)
        return Query(id=uuid.uuid4().hex, client=client, pixels=pixels, digest=digest, received=received)

    def _in_time(self, image: bytes, arrived: float) -> tuple[NDArray[np.uint8], bytes]:
        if time.monotonic() - arrived > self._deadline:
            raise OverloadedError("deadline")
        return self.pixels(image)

    def pixels(self, image: bytes) -> tuple[NDArray[np.uint8], bytes]:
        """The pixels (size, size, 3) that the recognizer sees, and their SHA-256."""
        if image.startswith(b"\xff\xd8") and image.count(b"\xff\xda") > MAX_SCANS:
            raise UndecodableError("The image has too many scans.")
        try:
            with Image.open(io.BytesIO(image), formats=FORMATS) as opened:
                if opened.width * opened.height > self._max_pixels:
                    raise UndecodableError(f"The image has more than {self._max_pixels} pixels.")
                pixels = fit(opened, self._spec)
        except UnidentifiedImageError as error:
            raise UndecodableError("The image is not a JPEG, PNG or WebP that can be read.") from error
        except UndecodableError:
            raise
        except Exception as error:  # the bytes are a stranger's, and Pillow's parsers raise whatever their arithmetic runs into
            raise UndecodableError("The image is damaged.") from error
        return pixels, hashlib.sha256(pixels.tobytes()).digest()

    def close(self) -> None:
        """Let the threads go."""
        self._threads.shutdown(wait=False, cancel_futures=True)
