"""Open Inference Protocol v2, the client's side: POST /v2/models/NAME/infer of KServe, Triton, MLServer.

Two kinds of input are known: one BYTES tensor of image files (base64 in JSON), and one numeric tensor of pixels, NCHW or NHWC, as image
classifiers have it: UINT8 as 0..255, floats as 0..1, resized (bilinear) where height and width are fixed. What normalisation a recognizer
wants beyond that its metadata doesn't say. Two kinds of output: tensors `class_id` and, where served, `label` and `score`, best class
first; and one float tensor of all classes, in which a class is its position: probabilities if they are >= 0 and sum to 1, else logits.
"""

import json
import re
import time
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from io import BytesIO
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attacker_client import wire
from attacker_client.connections import tls
from attacker_client.errors import Garbled, Refused, Unreachable
from attacker_client.wire import Dialect, Entry, OracleAnswer

_MODEL = re.compile(r"(?P<model>.*/v2/models/[^/]+(/versions/[^/]+)?)(/infer)?/?")
_FLOATS = ("FP16", "FP32", "FP64")
_WHOLE = [str(value) for value in range(256)]  # the 256 values of a pixel, written out once
_SHARES = [f"{value / 255:.7g}" for value in range(256)]
_TEXTS = {"UINT8": _WHOLE, **dict.fromkeys(_FLOATS, _SHARES)}


def is_spoken_at(url: str) -> bool:
    """Whether the address is one of this protocol: .../v2/models/NAME, with or without a version and /infer."""
    return _MODEL.fullmatch(urlsplit(url).path) is not None


def endpoint_url(url: str) -> str:
    """The address images are POSTed to, of either wire format. Raises ValueError for what is no HTTP address."""
    predict = urlsplit(wire.predict_url(url))
    model = _MODEL.fullmatch(urlsplit(url).path)
    return urlunsplit(predict._replace(path=f"{model['model']}/infer")) if model else urlunsplit(predict)


async def discover(url: str, *, headers: Mapping[str, str] | None = None, timeout: float = 30.0) -> Dialect:  # noqa: ASYNC109 - httpx's
    """Find out how the endpoint is spoken to: for this protocol by its model's metadata, else by its address alone. Raises OracleError."""
    infer = endpoint_url(url)
    if not is_spoken_at(url):
        return wire.Predict(infer)
    model = infer.removesuffix("/infer")
    try:
        async with httpx.AsyncClient(trust_env=False, verify=tls(), timeout=timeout) as http:
            response = await http.get(model, headers=dict(headers or {}))
    except httpx.TransportError as error:
        raise Unreachable(f"{model}: {type(error).__name__}: {error}") from error
    if response.status_code in (401, 403, 429, 503):
        wait = wire.read_retry_after(response.headers.get("retry-after"), now=time.time())
        raise Refused(f"{model} answered {response.status_code}", status=response.status_code, retry_after=wait)
    if response.status_code != HTTPStatus.OK:
        raise Garbled(f"{model} answered {response.status_code} ({wire.read_problem(response.content) or response.reason_phrase})")
    try:
        return _dialect(infer, response.json())
    except (KeyError, TypeError, ValueError) as error:
        raise Garbled(f"{model} takes no images as we know them ({type(error).__name__}: {error})") from error


def _dialect(url: str, metadata: dict[str, Any]) -> Dialect:
    (tensor,) = metadata["inputs"]
    name, datatype, shape = str(tensor["name"]), tensor["datatype"], [int(side) for side in tensor["shape"]]
    if datatype == "BYTES":
        return FilesDialect(url, name=name, shape=(1,) * len(shape))
    if datatype not in _TEXTS:
        raise ValueError(f"an input of {datatype}")
    sides = shape[-3:]
    if len(shape) not in (3, 4) or 3 not in (sides[0], sides[2]):
        raise ValueError(f"an input of shape {shape}")
    channels_first = sides[0] == 3
    height, width = sides[1:] if channels_first else sides[:2]
    size = (width, height) if min(width, height) > 0 else None
    return PixelsDialect(url, name=name, datatype=datatype, batched=len(shape) == 4, channels_first=channels_first, size=size)


@dataclass(frozen=True, slots=True)
class FilesDialect:
    """One BYTES tensor: the image file in base64."""

    url: str
    name: str
    shape: tuple[int, ...]

    def request(self, image: bytes, *, media_type: str | None = None) -> tuple[bytes, str]:  # noqa: ARG002 - the file says what it is
        """One image, one query."""
        tensor = {"name": self.name, "shape": self.shape, "datatype": "BYTES", "data": [b64encode(image).decode()]}
        return json.dumps({"inputs": [tensor]}).encode(), "application/json"

    def read(self, body: bytes) -> OracleAnswer:
        """See `read_answer`."""
        return read_answer(body)


@dataclass(frozen=True, slots=True)
class PixelsDialect:
    """One numeric tensor: the image's pixels; `size` is (width, height) where it is fixed."""

    url: str
    name: str
    datatype: str
    batched: bool
    channels_first: bool
    size: tuple[int, int] | None

    def request(self, image: bytes, *, media_type: str | None = None) -> tuple[bytes, str]:  # noqa: ARG002 - the file says what it is
        """One image, one query. Raises ValueError for what is no image file."""
        try:
            with Image.open(BytesIO(image), formats=("JPEG", "PNG", "WEBP")) as file:
                picture = file.convert("RGB")
        except OSError as error:
            raise ValueError(f"not an image file: {error}") from error
        if self.size is not None and picture.size != self.size:
            picture = picture.resize(self.size, Image.Resampling.BILINEAR)
        pixels: NDArray[np.uint8] = np.asarray(picture)
        if self.channels_first:
            pixels = pixels.transpose(2, 0, 1)
        shape = [1, *pixels.shape] if self.batched else list(pixels.shape)
        head = json.dumps({"name": self.name, "shape": shape, "datatype": self.datatype})
        values = ",".join(map(_TEXTS[self.datatype].__getitem__, pixels.tobytes()))
        return f'{{"inputs": [{head[:-1]}, "data": [{values}]}}]}}'.encode(), "application/json"

    def read(self, body: bytes) -> OracleAnswer:
        """See `read_answer`."""
        return read_answer(body)


def read_answer(body: bytes) -> OracleAnswer:
    """Read the body of a 200; raises ValueError where it isn't one of the protocol with an output that we know."""
    try:
        document = json.loads(body)
        tensors = {tensor["name"]: tensor for tensor in document["outputs"]}
        entries = _told_entries(tensors) if "class_id" in tensors else _all_classes(list(tensors.values()))
        model = f"{document['model_name']} {document.get('model_version', '')}".rstrip()
        return OracleAnswer(id=str(document.get("id", "")), model=model, entries=entries)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"not an answer of the Open Inference Protocol that we know ({type(error).__name__}: {error})") from error


def _told_entries(tensors: dict[str, dict[str, Any]]) -> tuple[Entry, ...]:
    ids = _flat(tensors["class_id"]).astype(np.int64).tolist()
    if not 0 <= min(ids) <= max(ids) < wire.MOST_CLASSES:
        raise ValueError(f"classes numbered {min(ids)} to {max(ids)}")
    labels = [str(label) for label in np.asarray(tensors["label"]["data"]).ravel()] if "label" in tensors else [str(n) for n in ids]
    scores = _flat(tensors["score"]).tolist() if "score" in tensors else [None] * len(ids)
    return tuple(Entry(label, n, score) for label, n, score in zip(labels, ids, scores, strict=True))


def _all_classes(tensors: list[dict[str, Any]]) -> tuple[Entry, ...]:
    (scores,) = (_flat(tensor) for tensor in tensors if tensor["datatype"] in _FLOATS)
    if scores.min() < 0 or abs(scores.sum() - 1) > 0.01:
        scores = np.exp(scores - scores.max())
        scores /= scores.sum()
    return tuple(Entry(str(n), n, float(scores[n])) for n in np.argsort(-scores, kind="stable").tolist())


def _flat(tensor: dict[str, Any]) -> NDArray[np.float64]:
    """The values of a tensor about one image, nested or not."""
    values = np.asarray(tensor["data"], np.float64).ravel()
    if len(values) == 0 or not np.isfinite(values).all():
        raise ValueError(f"the tensor {tensor['name']} says nothing")
    if values.shape != (np.prod(tensor["shape"]),) or (len(tensor["shape"]) > 1 and tensor["shape"][0] != 1):
        raise ValueError(f"the tensor {tensor['name']} of shape {tensor['shape']} is not about one image")
    return values
