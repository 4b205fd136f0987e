"""The bodies of the networks that a thief trains: what turns images into vectors, a row of a table each."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torchvision
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Plan:
    """What a body is made for: images of `size` pixels a side, and whether it is the `pretrained` one's shape, filled by a `download`."""

    size: int
    pretrained: bool
    download: bool

    @property
    def weights(self) -> str | None:
        """As torchvision calls them."""
        return "IMAGENET1K_V1" if self.pretrained and self.download else None


@dataclass(frozen=True, slots=True)
class Architecture:
    """One row of the table. `body` makes what turns images into vectors (n, d), and says d."""

    summary: str
    body: Callable[[Plan], tuple[nn.Module, int]]
    pretrained: bool = False  # whether torchvision has weights for it


class Residual(nn.Module):
    """x + f(x), where f convolves, normalises and rectifies."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.change = convolution(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Maps of the shape of `x`."""
        changed: Tensor = x + self.change(x)
        return changed


class LargestOf(nn.Module):
    """Each map's largest value, (n, c)."""

    def forward(self, maps: Tensor) -> Tensor:
        """Vectors (n, c) of maps (n, c, h, w)."""
        return torch.amax(maps, dim=(2, 3))


def convolution(channels_in: int, channels_out: int, *, halve: bool = False) -> nn.Sequential:
    """3x3 convolution, batch norm and ReLU; halving the map right after the convolution saves half of what follows."""
    pooling = [nn.MaxPool2d(2, ceil_mode=True)] if halve else []
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False), *pooling, nn.BatchNorm2d(channels_out), nn.ReLU(inplace=True)
    )


def _small(plan: Plan) -> tuple[nn.Module, int]:
    """Wide layers on small maps: the matrix units of new CPUs are nearly idle on narrow ones."""
    stride = max(1, plan.size // 32)
    stem = [nn.Conv2d(3, 32, stride + 1, stride=stride), nn.ReLU(inplace=True)]
    stages = [
        layer for wide, wider in ((32, 64), (64, 128), (128, 256)) for layer in (convolution(wide, wider, halve=True), Residual(wider))
    ]
    return nn.Sequential(*stem, *stages, LargestOf()), 256


def _lenet(plan: Plan) -> tuple[nn.Module, int]:
    """Three 5x5 convolutions with pooling and a dense layer: no norms, no shortcuts."""
    layers: list[nn.Module] = []
    for before, after in ((3, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(before, after, 5, padding=2), nn.MaxPool2d(2), nn.ReLU(inplace=True)]
    side = min(4, plan.size // 8)  # larger images are averaged down to what those of 32 pixels have
    dense = [nn.AdaptiveAvgPool2d(side), nn.Flatten(), nn.Linear(128 * side**2, 256), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, *dense), 256


def _vgg8(plan: Plan) -> tuple[nn.Module, int]:  # noqa: ARG001 - one signature for the whole table
    """Six narrow 3x3 convolutions with batch norm, averaged: what is left of VGG on a small budget."""
    plan_of_layers = ((3, 32, True), (32, 64, False), (64, 64, True), (64, 128, False), (128, 128, True), (128, 256, True))
    layers = [convolution(before, after, halve=halve) for before, after, halve in plan_of_layers]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), 256


def _patch_resnet(plan: Plan) -> tuple[nn.Module, int]:  # noqa: ARG001 - one signature for the whole table
    """Residual layers over patches of 4x4 pixels, which do not overlap."""
    stem = [nn.Conv2d(3, 64, 4, stride=4), nn.ReLU(inplace=True)]
    return nn.Sequential(*stem, convolution(64, 128), Residual(128), convolution(128, 256, halve=True), Residual(256), LargestOf()), 256


def _composite_vgg16(plan: Plan) -> tuple[nn.Module, int]:  # noqa: ARG001 - one signature for the whole table
    """The student of Mosafi et al.: VGG-16's convolutions, two dense layers of 512, no batch norm."""
    layers: list[nn.Module] = []
    channels = 3
    for width, depth in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(depth):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
            nn.init.kaiming_normal_(layers[-2].weight, nonlinearity="relu")  # type: ignore[arg-type]
            nn.init.zeros_(layers[-2].bias)  # type: ignore[arg-type]
            channels = width
        layers.append(nn.MaxPool2d(2, ceil_mode=True))  # 32 pixels become 1; larger images are averaged to 1 below
    dense = [nn.Linear(512, 512), nn.ReLU(inplace=True), nn.Dropout(0.0), nn.Linear(512, 512), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), *dense), 512


def _vgg16(plan: Plan) -> tuple[nn.Module, int]:
    """VGG-16-BN: the plain one hardly trains from scratch. Small images get average pooling: the dense layers are made for 224 pixels."""
    network = torchvision.models.vgg16_bn(weights=plan.weights, dropout=0.0)
    if plan.pretrained or plan.size >= 64:
        network.classifier[-1] = nn.Identity()
        return _upsampled(network, plan), 4096
    for layer in network.features.modules():
        if isinstance(layer, nn.MaxPool2d):
            layer.ceil_mode = True
    return nn.Sequential(network.features, nn.AdaptiveAvgPool2d(1), nn.Flatten()), 512


def _resnet(name: str) -> Callable[[Plan], tuple[nn.Module, int]]:
    def body(plan: Plan) -> tuple[nn.Module, int]:
        network = getattr(torchvision.models, name)(weights=plan.weights)
        width = network.fc.in_features
        network.fc = nn.Identity()
        if plan.size < 64 and not plan.pretrained:  # the stem made for 224 pixels would throw fifteen sixteenths of a small image away
            network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
            nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
            network.maxpool = nn.Identity()
        return _upsampled(network, plan), width

    return body


def _upsampled(network: nn.Module, plan: Plan) -> nn.Module:
    """Pretrained weights know no image below 64 pixels."""
    if plan.size >= 64 or not plan.pretrained:
        return network
    return nn.Sequential(nn.Upsample(size=(64, 64), mode="bilinear", align_corners=False), network)


STUDENTS: dict[str, Architecture] = {
    "small": Architecture("a small residual network of wide layers, made for CPUs", _small),
    "lenet": Architecture("three 5x5 convolutions with pooling and a dense layer, after LeCun et al. 1998: the quickest", _lenet),
    "vgg8": Architecture("a narrow VGG of six convolutions with batch norm", _vgg8),
    "patch-resnet": Architecture("residual layers over patches of 4x4 pixels", _patch_resnet),
    "composite-vgg16": Architecture(
        "VGG-16 without batch norm and with two dense layers of 512, as in the composite attack", _composite_vgg16
    ),
    "vgg16": Architecture("torchvision's VGG-16-BN: VGG-16 with batch norm, which also trains from scratch", _vgg16, pretrained=True),
    "resnet18": Architecture("torchvision's ResNet-18; 3x3 stem for images below 64 pixels", _resnet("resnet18"), pretrained=True),
    "resnet34": Architecture("torchvision's ResNet-34; 3x3 stem for images below 64 pixels", _resnet("resnet34"), pretrained=True),
}
