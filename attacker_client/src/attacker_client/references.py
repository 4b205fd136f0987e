"""The honest recognizer, where the red team has it: what a defended endpoint would have said without its defences.

Fidelity to a defended endpoint's own answers counts its lies as truth; fidelity to the recognizer behind it doesn't.
"""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attacker_client.attacks.attack import Buyer
from attacker_client.transfer_set import Images

UNKNOWN = -1  # the label of an image that got no answer
BATCH = 64


class UnusableReference(Exception):  # noqa: N818 - reads as what it is
    """The reference can't be used; the text says why."""


class Reference(Protocol):
    """A recognizer that answers honestly."""

    @property
    def names(self) -> Mapping[int, str]:
        """Class id -> name, as far as they are known."""
        ...

    async def labels(self, images: Images) -> NDArray[np.int64]:
        """The best class of each image (n, S, S, 3), as the reference numbers them (n,); UNKNOWN where it has none."""
        ...


class EndpointReference:
    """An endpoint without defences, asked like any other; `names` maps the classes it has told."""

    def __init__(self, buyer: Buyer, names: Mapping[int, str]) -> None:
        self.names = names
        self._buyer = buyer

    async def labels(self, images: Images) -> NDArray[np.int64]:
        """Buy the labels; raises OracleError."""
        return await bought_labels(self._buyer, images)


class OnnxReference:
    """A model file, or a bundle's directory with bundle.json beside its model, run here with ONNX Runtime.

    A uint8 input is taken as (n, S, S, 3), a float one as (n, 3, S, S) in 0..1; the scores are the output named `logits`, or the first.
    """

    def __init__(self, path: Path) -> None:
        try:
            import onnxruntime  # noqa: PLC0415, an extra of its own
        except ImportError as error:
            raise UnusableReference("an ONNX reference needs ONNX Runtime: pip install 'attacker-client[onnx]'") from error
        model, self.names = _described(path)
        try:
            self._session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's errors have no common class of their own
            raise UnusableReference(f"{model} is no ONNX model that can be run ({error})") from error
        self._input = self._session.get_inputs()[0]
        if self._input.type not in ("tensor(uint8)", "tensor(float)") or len(self._input.shape) != 4:
            raise UnusableReference(
                f"{model} takes {self._input.type} {self._input.shape}: images are uint8 (n, S, S, 3) or float (n, 3, S, S)"
            )
        outputs = [output.name for output in self._session.get_outputs()]
        self._output = "logits" if "logits" in outputs else outputs[0]

    async def labels(self, images: Images) -> NDArray[np.int64]:
        """Run the model in a thread."""
        return await asyncio.to_thread(self._labels, images)

    def _labels(self, images: Images) -> NDArray[np.int64]:
        parts = [self._best(images[start : start + BATCH]) for start in range(0, len(images), BATCH)]
        return np.concatenate([np.zeros(0, np.int64), *parts])

    def _best(self, images: Images) -> NDArray[np.int64]:
        height, width = self._input.shape[1:3] if self._input.type == "tensor(uint8)" else self._input.shape[2:4]
        fixed = isinstance(height, int) and isinstance(width, int)
        pixels = _resized(images, height, width) if fixed and images.shape[1:3] != (height, width) else images
        fed: NDArray[Any] = pixels
        if self._input.type == "tensor(float)":
            fed = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), np.float32) / np.float32(255)
        (scores,) = self._session.run([self._output], {self._input.name: fed})
        return np.asarray(scores.reshape(len(images), -1).argmax(axis=1), np.int64)


async def bought_labels(buyer: Buyer, images: Images) -> NDArray[np.int64]:
    """The labels that an endpoint gives images (n, S, S, 3); UNKNOWN for one that got no answer. Raises OracleError."""
    told = await buyer.buy(images)
    labels = np.full(len(images), UNKNOWN, np.int64)
    labels[: len(told)] = np.where(told.weights > 0, told.labels, UNKNOWN)
    return labels


def _described(path: Path) -> tuple[Path, dict[int, str]]:
    """The model's file and its classes' names."""
    if path.is_file():
        return path, {}
    try:
        described = json.loads((path / "bundle.json").read_bytes())
        return path / described["models"]["fp32"], dict(enumerate(described["labels"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UnusableReference(f"{path} is neither an ONNX file nor a bundle's directory ({type(error).__name__}: {error})") from error


def _resized(images: Images, height: int, width: int) -> Images:
    return np.stack([np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)) for image in images])
