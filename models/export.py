"""From a trained network to ONNX: a recognizer's graph as the server runs it, and a backbone's to stand beside any of them."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.backbone import Backbone
from models.onnx_file import halve_weights
from models.training import MEAN, STD

OPSET = 18
OUTPUTS = ("logits", "features", "embedding")


class Described(nn.Module):
    """`describe` (normalised images to features and embedding) of pixels: float32 (N, 3, side, side) in 0..255."""

    scale: Tensor
    shift: Tensor

    def __init__(self, describe: nn.Module, *, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.describe = describe
        self.register_buffer("scale", 1 / (255 * torch.tensor(std).view(1, 3, 1, 1)))
        self.register_buffer("shift", -(torch.tensor(mean) / torch.tensor(std)).view(1, 3, 1, 1))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Features (N, d) and embedding (N, e)."""
        found: tuple[Tensor, Tensor] = self.describe(pixels * self.scale + self.shift)
        return found


class BackboneDescription(nn.Module):
    """What a bundle takes from a `Backbone`: its features and its embedding, not the classes it learned with."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features (N, 960 by default) and embedding (N, 256), a unit vector each, of normalised images (N, 3, H, W)."""
        _, features = self.backbone.describe(images)
        return features, functional.normalize(self.backbone.projection(features), dim=1)


def export(heads: nn.Module, path: Path, *, size: int) -> None:
    """Write `heads` (uint8 images (N, size, size, 3) to three outputs) as ONNX with a free batch axis."""
    _write(heads, torch.zeros(2, size, size, 3, dtype=torch.uint8), path, names=("images", *OUTPUTS))


def export_backbone(backbone: Backbone, path: Path, *, side: int = 32) -> None:
    """Write a trained backbone as ONNX, for `cloneguard bundle --backbone`: see `export_described`."""
    export_described(BackboneDescription(backbone), path, side=side, mean=MEAN, std=STD)


def export_described(describe: nn.Module, path: Path, *, side: int, mean: Sequence[float], std: Sequence[float]) -> None:
    """Write a network that gives features and embedding as a backbone's file, its weights as float16.

    In: `pixels` float32 (N, 3, side, side), 0..255; out: `features` (N, d) and `embedding` (N, e), float32. `mean` and `std` are of
    pixels in 0..1, one a colour.
    """
    _write(Described(describe, mean=mean, std=std), torch.zeros(2, 3, side, side), path, names=("pixels", "features", "embedding"))
    model = onnx.load(path)
    halve_weights(model)
    onnx.save(model, path)


def _write(network: nn.Module, example: Tensor, path: Path, *, names: Sequence[str]) -> None:
    """Export a network of one input, whose name comes first in `names`, with a free batch axis."""
    with warnings.catch_warnings():
        # The tracing exporter is deprecated, but its graphs are the ones whose Conv-MaxPool-ReLU chains ONNX Runtime fuses to int8.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.eval(),
            (example,),
            path,
            input_names=[names[0]],
            output_names=list(names[1:]),
            dynamic_axes={name: {0: "n"} for name in names},
            opset_version=OPSET,
            dynamo=False,
        )
    onnx.checker.check_model(onnx.load(path), full_check=True)
