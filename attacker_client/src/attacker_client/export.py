"""A student as an ONNX file: what a thief would put on the market, and what `cloneguard detect` and `verify` ask."""

import warnings
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from attacker_client.students import Student, StudentError

OPSET = 18


class Logits(nn.Module):
    """A student without its training: pixels (n, 3, S, S) in 0..1 to logits (n, classes)."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (n, classes)."""
        logits: Tensor = self.student(pixels)
        return logits


def export(student: Student, path: Path) -> None:
    """Write a student with a free batch axis; the input is called pixels, the output logits. An interrupted export leaves no half file.

    Raises StudentError where onnx is missing.
    """
    if find_spec("onnx") is None:
        raise StudentError("exporting needs onnx: pip install 'attacker-client[onnx]'")
    partial = path.with_name(path.name + ".partial")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracing exporter is deprecated; the other one needs two more packages
        torch.onnx.export(
            Logits(student.cpu()).eval(), (torch.zeros(2, 3, student.size, student.size),), partial, input_names=["pixels"],
            output_names=["logits"], dynamic_axes={"pixels": {0: "n"}, "logits": {0: "n"}}, opset_version=OPSET, dynamo=False,
        )  # fmt: skip
    partial.replace(path)
