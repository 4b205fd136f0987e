"""From the server's graph to what a plain service would have been given: float NCHW in, logits out, the same weights."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import shape_inference
from onnx.utils import Extractor

from models.beside import is_merged, without_backbone

PROLOGUE = {"Add", "Cast", "Div", "Mul", "Sub", "Transpose"}


def classifier_only(model: Path, directory: Path, *, labels: Sequence[str], size: int) -> None:
    """Write model.onnx and classifier.json (labels, size, mean, std) into `directory`.

    Cut are the backbone, the embedding's branch, and the uint8 prologue, which the plain service does in numpy. What the prologue
    did is read off its output for black and white: (x / 255 - mean) / std a channel. Raises ValueError if it is anything else.
    """
    graph = onnx.load(model)
    classifier = shape_inference.infer_shapes(without_backbone(graph) if is_merged(graph) else graph)
    cut = _prologue_end(classifier.graph)
    for file, ends in (("prologue.onnx", (["images"], [cut])), ("model.onnx", ([cut], ["logits"]))):
        onnx.save(Extractor(classifier).extract_model(*ends), directory / file)
    black, grey, white = (_normalised(directory / "prologue.onnx", value=value, size=size) for value in (0, 102, 255))
    if black.shape != (1, 3, size, size) or not np.allclose(grey, black + (white - black) * 0.4, atol=1e-4):
        raise ValueError(f"{model}: its first nodes are not a normalisation to float NCHW; {cut} has shape {black.shape}")
    std = 1 / (white - black)[0, :, 0, 0]
    mean = -black[0, :, 0, 0] * std
    page = {"labels": list(labels), "size": size, "mean": mean.tolist(), "std": std.tolist()}
    (directory / "classifier.json").write_text(json.dumps(page))


def _prologue_end(graph: onnx.GraphProto) -> str:
    """The last tensor of the chain of elementwise nodes that begins at the input."""
    tensor = "images"
    while True:
        consumers = [node for node in graph.node if tensor in node.input]
        if len(consumers) != 1 or consumers[0].op_type not in PROLOGUE:
            return tensor
        tensor = consumers[0].output[0]


def _normalised(prologue: Path, *, value: int, size: int) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(prologue, providers=["CPUExecutionProvider"])
    output: NDArray[np.float32] = session.run(None, {"images": np.full((1, size, size, 3), value, dtype=np.uint8)})[0]
    return output
