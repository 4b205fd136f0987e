"""Read request bodies within limits, and take them apart: a raw image, a multipart form, or JSON."""

import base64
import binascii
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.types import Message, Receive

from app.errors import BadSyntaxError, OverloadedError, TimedOutError, TooLargeError, UnsupportedMediaError
from app.service import Service

IMAGE_TYPES = ("image/jpeg", "image/png", "image/webp")


@asynccontextmanager
async def received_body(service: Service, headers: Headers, receive: Receive) -> AsyncIterator[bytes]:
    """Read a whole body, and count its bytes until the request is done with them.

    Raises TooLargeError as soon as it is known to be too large, and OverloadedError when all requests together hold too much.
    """
    limit = service.settings.server.max_body_bytes
    announced = headers.get("content-length", "0")
    if not announced.isdecimal():
        raise BadSyntaxError("Content-Length is not a number.")
    if int(announced) > limit:
        raise TooLargeError(f"The body is larger than {limit} bytes.")
    chunks: list[bytes] = []
    size = 0
    try:
        more = True
        while more:
            message: Message = await receive()
            if message["type"] == "http.disconnect":
                raise TimedOutError("The body did not arrive.")
            chunk: bytes = message.get("body", b"")
            size += len(chunk)
            service.buffered_bytes += len(chunk)
            if size > limit:
                raise TooLargeError(f"The body is larger than {limit} bytes.")
            if service.buffered_bytes > service.settings.server.max_buffered_bytes:
                raise OverloadedError("memory")
            chunks.append(chunk)
            more = message.get("more_body", False)
        yield chunks[0] if len(chunks) == 1 else b"".join(chunks)
    finally:
        service.buffered_bytes -= size


async def image_in(headers: Headers, body: bytes) -> bytes:
    """The image's bytes in a `POST /predict` body. Raises BadSyntaxError or UnsupportedMediaError."""
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type in IMAGE_TYPES:
        image = body
    elif media_type == "application/json":
        image = _image_in_json(body)
    elif media_type == "multipart/form-data":
        image = await _image_in_form(headers, body)
    else:
        raise UnsupportedMediaError(f"Send {', '.join(IMAGE_TYPES)}, multipart/form-data with a field `file`, or application/json.")
    if not image:
        raise BadSyntaxError("The image is empty.")
    return image


def parse_json(body: bytes) -> Any:
    """Parse JSON. Raises BadSyntaxError."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadSyntaxError("The body is not valid JSON.") from error


def decode_base64(text: object) -> bytes:
    """Decode strict base64 text. Raises BadSyntaxError."""
    if not isinstance(text, str):
        raise BadSyntaxError("Image data must be a base64 string.")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadSyntaxError("Image data is not valid base64.") from error


def _image_in_json(body: bytes) -> bytes:
    document = parse_json(body)
    image = document.get("image") if isinstance(document, dict) else None
    if not isinstance(image, dict) or "b64" not in image:
        raise BadSyntaxError('Expected {"image": {"b64": "..."}}.')
    return decode_base64(image["b64"])


class _InMemory(MultiPartParser):
    """The body is in memory already, and within its limit: nothing is spooled to disk."""

    spool_max_size = 2**31


async def _image_in_form(headers: Headers, body: bytes) -> bytes:
    async def stream() -> AsyncIterator[bytes]:
        yield body

    try:
        form = await _InMemory(headers, stream(), max_files=1, max_fields=8, max_part_size=len(body)).parse()  # type: ignore[arg-type]
    except (MultiPartException, KeyError, ValueError) as error:
        raise BadSyntaxError("The body is not a valid multipart form with one field `file`.") from error
    try:
        file = form.get("file")
        if isinstance(file, UploadFile):
            return await file.read()
        raise BadSyntaxError("The form has no file in a field `file`.")
    finally:
        await form.close()
