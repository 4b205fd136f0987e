"""How endpoints are spoken to: our own wire format, and the Open Inference Protocol v2 of KServe, Triton and MLServer.

Of the protocol two kinds of input are known: one BYTES tensor of image files, and one numeric tensor of pixels, NCHW or NHWC: UINT8 as
0..255, floats as 0..1, resized where height and width are fixed. And two kinds of output: `class_id` and, where served, `label` and
`score`, best class first; and one float tensor of all classes: probabilities if they are >= 0 and sum to 1, else logits.
"""

import io
import re
from base64 import b64encode
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.special import softmax  # type: ignore[import-untyped]  # ships no types

from app.recognizers.asked import Told

Pixels = NDArray[np.uint8]  # (height, width, 3)
FLOATS = ("FP16", "FP32", "FP64")
_MODEL = re.compile(r".*/v2/models/[^/]+(/versions/[^/]+)?(/infer)?/?")


class Dialect(Protocol):
    """How one kind of endpoint is spoken to. What it can't read is a ValueError, KeyError, TypeError, IndexError or AttributeError."""

    def request(self, image: Pixels) -> dict[str, Any]:
        """What is POSTed about one image, as httpx takes it."""
        ...

    def read(self, document: Any) -> Told:
        """The best class in the JSON of a 200."""
        ...


class Predict:
    """Our own wire format: the image file is the body."""

    def request(self, image: Pixels) -> dict[str, Any]:
        """See Dialect."""
        return {"content": _png(image), "headers": {"content-type": "image/png"}}

    def read(self, document: Any) -> Told:
        """See Dialect."""
        best, model = document["predictions"][0], document.get("model")
        score, name = best.get("score"), model.get("name", "") if isinstance(model, dict) else ""
        return Told(str(best["label"]), int(best["class_id"]), None if score is None else float(score), str(name))


@dataclass(frozen=True, slots=True)
class OpenInference:
    """The protocol, for a model whose one input is the tensor of this name, datatype and shape; -1 is a free axis."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    @staticmethod
    def is_spoken_at(path: str) -> bool:
        """Whether a path of an address is a model's: .../v2/models/NAME, with or without a version and /infer."""
        return _MODEL.fullmatch(path) is not None

    @classmethod
    def of(cls, metadata: Any) -> Self:
        """What a model's metadata says; see Dialect for errors."""
        (tensor,) = metadata["inputs"]
        found = cls(str(tensor["name"]), str(tensor["datatype"]), tuple(int(side) for side in tensor["shape"]))
        if found.datatype not in ("BYTES", "UINT8", *FLOATS):
            raise ValueError(f"an input of {found.datatype}")
        if found.datatype != "BYTES" and (len(found.shape) not in (3, 4) or 3 not in (found.shape[-1], found.shape[-3])):
            raise ValueError(f"an input of shape {list(found.shape)}")
        return found

    def request(self, image: Pixels) -> dict[str, Any]:
        """See Dialect."""
        shape, data = self._values(image)
        return {"json": {"inputs": [{"name": self.name, "datatype": self.datatype, "shape": shape, "data": data}]}}

    def read(self, document: Any) -> Told:
        """See Dialect."""
        model = str(document.get("model_name", ""))
        tensors = {tensor["name"]: np.asarray(tensor["data"]).ravel() for tensor in document["outputs"]}
        if "class_id" in tensors:
            class_id = int(tensors["class_id"][0])
            score = float(tensors["score"][0]) if "score" in tensors else None
            return Told(str(tensors["label"][0]) if "label" in tensors else str(class_id), class_id, score, model)
        (scores,) = (tensors[one["name"]].astype(np.float64) for one in document["outputs"] if one["datatype"] in FLOATS)
        if scores.min() < 0 or abs(scores.sum() - 1) > 0.01:
            scores = softmax(scores)
        best = int(scores.argmax())
        return Told(str(best), best, float(scores[best]), model)

    def _values(self, image: Pixels) -> tuple[list[int], list[Any]]:
        if self.datatype == "BYTES":
            return [1] * len(self.shape), [b64encode(_png(image)).decode()]
        first = self.shape[-3] == 3
        height, width = self.shape[-2:] if first else self.shape[-3:-1]
        if min(height, width) > 0:
            image = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
        ordered = image.transpose(2, 0, 1) if first else image
        values = ordered.ravel() if self.datatype == "UINT8" else (ordered.ravel() / 255).round(7)
        return [1] * (len(self.shape) - 3) + list(ordered.shape), values.tolist()


def _png(image: Pixels) -> bytes:
    """A file that loses nothing."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
