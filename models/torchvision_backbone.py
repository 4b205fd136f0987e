"""A pretrained torchvision network as a feature backbone: for users with a network, or with its weights in torch's cache."""

from difflib import get_close_matches
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

from models.export import export_described
from models.manifest import BundleError
from models.onnx_file import first_line

SIDE = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as torchvision's weights expect them


class Penultimate(nn.Module):
    """A classification network without its last dense layer; features and embedding are both what that layer saw.

    Without fine-tuning for copies, the pooled penultimate vector is the usual descriptor of a picture (Babenko et al., 2014).
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        dense = [name for name, module in network.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)][-1]
        network.set_submodule(dense, nn.Identity())

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features (N, d) and embedding (N, d) of normalised images (N, 3, 224, 224)."""
        vector = self.network(images).flatten(1)
        return vector, vector.clone()


def export_torchvision(name: str, path: Path, *, weights: str | None = "DEFAULT") -> None:
    """Write torchvision's classification network `name` as a backbone; `weights` None: random ones. Raises BundleError."""
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        near = get_close_matches(name, known, n=3) or ["resnet18", "resnet50", "resnet101"]
        raise BundleError(f"torchvision has no classification network {name!r}: try {', '.join(near)}")
    try:
        network = torchvision.models.get_model(name, weights=weights)
    except (OSError, RuntimeError) as error:  # no network, or a download that was cut off
        repair = f"copy them to {torch.hub.get_dir()}/checkpoints from a machine that has them, or give --backbone builtin"
        raise BundleError(f"the weights of {name} cannot be downloaded ({first_line(error)}): {repair}") from error
    try:
        export_described(Penultimate(network), path, side=SIDE, mean=MEAN, std=STD)
    except Exception as error:  # torch's exporter promises no type
        raise BundleError(f"{name} cannot be exported ({first_line(error)}): choose another network") from error
