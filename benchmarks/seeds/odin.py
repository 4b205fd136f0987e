"""ODIN (Liang, Li and Srikant, 2018), the rival that needs gradients: no server can afford it, so it lives here."""

import json
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import version_converter
from onnx2torch import convert  # type: ignore[import-untyped]
from torch import nn
from torch.nn import functional

from benchmarks.plain_model import classifier_only
from defenses.vocabulary import Floats

TEMPERATURE = 1000.0
EPSILON = 0.0014  # in units of normalised pixels
OPSET = 17  # the last whose ReduceMax onnx2torch knows


class Odin:
    """1 - max softmax(f(x') / T), x' = x - epsilon * sign(-d log max softmax(f(x) / T) / dx): higher is more foreign.

    The step makes the recognizer surer of its own answer, and it gains more on images that it knows.
    """

    def __init__(self, model: Path, *, size: int, temperature: float = TEMPERATURE, epsilon: float = EPSILON) -> None:
        self.network, self._mean, self._std = torch_classifier(model, size=size)
        self.temperature, self.epsilon = temperature, epsilon

    def logits(self, images: NDArray[np.uint8]) -> Floats:
        """Class scores (n, classes) of images (n, size, size, 3), as the ONNX graph gives them."""
        with torch.inference_mode():
            found: Floats = self.network(self._normalised(images)).numpy()
        return found

    def __call__(self, images: NDArray[np.uint8], *, batch: int = 250) -> NDArray[np.float64]:
        """Score images (n, size, size, 3)."""
        return np.concatenate([self._score(images[i : i + batch]) for i in range(0, len(images), batch)])

    def _score(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        pixels = self._normalised(images).requires_grad_()
        logits = self.network(pixels) / self.temperature
        functional.cross_entropy(logits, logits.argmax(dim=1), reduction="sum").backward()  # type: ignore[no-untyped-call]
        assert pixels.grad is not None
        with torch.inference_mode():
            # double: at T = 1000 all probabilities are nearly the same
            surer = self.network(pixels - self.epsilon * pixels.grad.sign()).double() / self.temperature
            scores: NDArray[np.float64] = (1 - surer.softmax(dim=1).amax(dim=1)).numpy()
        return scores

    def _normalised(self, images: NDArray[np.uint8]) -> torch.Tensor:
        pixels = (images.astype(np.float32) / 255 - self._mean) / self._std
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))


def torch_classifier(model: Path, *, size: int) -> tuple[nn.Module, Floats, Floats]:
    """The classifier inside a bundle's graph as a torch network of normalised pixels, with the mean and std to normalise by.

    Raises ValueError where the graph does not begin with a normalisation.
    """
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        classifier_only(model, scratch, labels=(), size=size)
        page = json.loads((scratch / "classifier.json").read_text())
        options = onnxruntime.SessionOptions()
        # weights that are stored as float16 and cast become constants, which is all that onnx2torch takes for weights
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(scratch / "folded.onnx")
        onnxruntime.InferenceSession(scratch / "model.onnx", options, providers=["CPUExecutionProvider"])
        network: nn.Module = convert(version_converter.convert_version(onnx.load(scratch / "folded.onnx"), OPSET))
    for parameter in network.parameters():
        parameter.requires_grad_(False)  # noqa: FBT003 - torch's signature
    return network.eval(), np.array(page["mean"], dtype=np.float32), np.array(page["std"], dtype=np.float32)
