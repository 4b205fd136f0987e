"""What the server's graph gives besides logits: features for scoring the query, an embedding for finding its near-duplicates."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.architectures import WideConvNet
from models.training import MEAN, STD


class Heads(nn.Module):
    """A trained network with its server-side inputs and outputs: uint8 (N, H, W, 3) to (logits, features, embedding).

    The export wraps the network in this, so that one pass gives all three. Everything is a plain pooling of maps that the network
    computes anyway, so the two extra outputs cost nothing to speak of, carry no weights, and survive int8 as well as the maps do.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, network: WideConvNet) -> None:
        super().__init__()
        self.network = network
        # (x / 255 - mean) / std as one product and one sum
        std = torch.tensor(STD).view(1, 3, 1, 1)
        self.register_buffer("scale", 1 / (255 * std))
        self.register_buffer("shift", -torch.tensor(MEAN).view(1, 3, 1, 1) / std)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (N, classes), features (N, 832 by default) and embedding (N, 512 by default)."""
        maps = self.network.maps(images.permute(0, 3, 1, 2).float() * self.scale + self.shift)
        penultimate = self.network.penultimate(maps)
        logits: Tensor = self.network.classifier(penultimate)
        means = [_mean(x) for x in maps]
        return logits, features(means, penultimate), embedding(maps[0], means[1])


def features(means: list[Tensor], penultimate: Tensor) -> Tensor:
    """The mean of every block's maps, and what the classifier sees.

    The classifier's own input only knows the classes; early blocks know what a photograph of this kind looks like. With them, a
    linear filter finds twice as many foreign images at the same false-positive rate.
    """
    return torch.cat([*means, penultimate], dim=1)


def embedding(first: Tensor, second_mean: Tensor) -> Tensor:
    """The first block's maps averaged over four overlapping quarters, and the mean of the second block's.

    Coarse early maps tell two photographs apart, whatever class they are of, and barely move when a copy is shifted, cropped or
    turned a little; later maps forget which photograph it was.
    """
    side = first.shape[-1]
    quarters = functional.avg_pool2d(first, (side + 1) // 2, stride=side // 2)
    return torch.cat([quarters.flatten(1), second_mean], dim=1)


def _mean(maps: Tensor) -> Tensor:
    return maps.mean(dim=(2, 3))
