"""Classifiers as users have them: torch networks with random weights, exported to ONNX in different ways."""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from models.architectures import WideConvNet
from models.backbone import Backbone
from models.export import export_backbone
from models.graph import prepare

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Export = Callable[..., Path]


def pictures(n: int, size: int, *, seed: int = 0) -> NDArray[np.uint8]:
    """Smooth random images (n, size, size, 3): like photographs, and unlike noise, they differ in their means."""
    coarse = np.random.default_rng(seed).integers(0, 256, (n, 4, 4, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC)) for image in coarse])


def normalised(images: NDArray[np.uint8]) -> torch.Tensor:
    """What the torch network takes: (N, 3, H, W) float32."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def settle(network: nn.Module, size: int) -> nn.Module:
    """Give batch normalisations the statistics of images: with untrained ones, random deep networks answer the same to everything."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    network.train()
    with torch.no_grad():
        network(normalised(pictures(8, size, seed=1)))
    return network.eval()


@pytest.fixture(scope="session")
def export(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Export a torch network as ONNX with torch's tracing exporter; `free` leaves the batch axis open."""
    folder = tmp_path_factory.mktemp("exports")

    def export_one(network: nn.Module, name: str, *, size: int, free: bool = True, opset: int = 17) -> Path:
        path = folder / f"{name}.onnx"
        with warnings.catch_warnings():
            # Deprecated by torch, and still what most ONNX files in the world come from.
            warnings.filterwarnings("ignore", category=DeprecationWarning, module="torch|tests")
            warnings.filterwarnings("ignore", message=".*legacy TorchScript-based ONNX export.*")
            torch.onnx.export(
                network.eval(),
                (torch.zeros(1, 3, size, size),),
                path,
                input_names=["pixels"],
                output_names=["scores"],
                dynamic_axes={"pixels": {0: "batch"}} if free else None,
                opset_version=opset,
                dynamo=False,
            )
        return path

    return export_one


@pytest.fixture(scope="session")
def wide(export: Export) -> tuple[nn.Module, Path]:
    """The network we train ourselves, narrow and with random weights, and its export."""
    torch.manual_seed(0)
    network = settle(WideConvNet(10, widths=(16, 32, 32)), 32)
    return network, export(network, "wide", size=32)


@pytest.fixture(scope="session")
def wide_bundle_graph(wide: tuple[nn.Module, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network as a bundle's graph."""
    path = tmp_path_factory.mktemp("graphs") / "model.onnx"
    path.write_bytes(prepare(wide[1], classes=10, size=32, mean=MEAN, std=STD).SerializeToString())
    return path


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Backbone, Path]:
    """A narrow backbone with random weights (40 features, an embedding of 12), and its file."""
    torch.manual_seed(1)
    network = Backbone(5, widths=(8, 8, 12), embedding=12)
    settle(network, 32)
    path = tmp_path_factory.mktemp("backbone") / "backbone.onnx"
    export_backbone(network, path)
    return network, path
