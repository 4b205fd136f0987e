"""From a trained network to the server's graph: uint8 NHWC in; logits, features and embedding out of one pass."""

import warnings
from pathlib import Path

import onnx
import torch
from torch import nn

OPSET = 18
OUTPUTS = ("logits", "features", "embedding")


def export(heads: nn.Module, path: Path, *, size: int) -> None:
    """Write `heads` (uint8 images (N, size, size, 3) to three outputs) as ONNX with a free batch axis."""
    with warnings.catch_warnings():
        # The tracing exporter is deprecated, but its graphs are the ones whose Conv-MaxPool-ReLU chains ONNX Runtime fuses to int8.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            heads.eval(),
            (torch.zeros(2, size, size, 3, dtype=torch.uint8),),
            path,
            input_names=["images"],
            output_names=list(OUTPUTS),
            dynamic_axes={name: {0: "n"} for name in ("images", *OUTPUTS)},
            opset_version=OPSET,
            dynamo=False,
        )
    onnx.checker.check_model(onnx.load(path), full_check=True)
