"""A small network that knows photographs in general: features to tell distributions apart, an embedding to recognise a picture by."""

import torch
from torch import Tensor, nn

from models.architectures import WideConvNet

WIDTHS = (64, 128, 384)
HIDDEN = 640
EMBEDDING = 256
SHARPNESS = 2.0  # of the squashing: the number that is a standard deviation from its mean becomes tanh(2) = 0.96


class Backbone(nn.Module):
    """A `WideConvNet` with a second head, whose signs are the same for two copies of one picture.

    After SSCD (Pizzi et al., 2022), but the descriptor is made to be read as bits: every number is centred, scaled and squashed, so
    that copies agree best where all numbers are far from 0, and few signs flip.
    """

    def __init__(self, classes: int, *, widths: tuple[int, int, int] = WIDTHS, embedding: int = EMBEDDING) -> None:
        super().__init__()
        self.network = WideConvNet(classes, widths=widths)
        self.described, self.bits = sum(widths) + widths[-1], embedding
        self.projection = nn.Sequential(
            nn.BatchNorm1d(self.described),
            nn.Linear(self.described, HIDDEN),
            nn.ReLU(inplace=True),
            nn.Linear(HIDDEN, embedding),
            nn.BatchNorm1d(embedding, affine=False),
        )

    def describe(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The classifier's input (N, widths[-1]) and all features (N, sum(widths) + widths[-1]) of normalised images (N, 3, H, W)."""
        maps = self.network.maps(images)
        penultimate = self.network.penultimate(maps)
        return penultimate, torch.cat([*(x.mean(dim=(2, 3)) for x in maps), penultimate], dim=1)

    def embed(self, features: Tensor) -> Tensor:
        """The embedding (N, 256), each number in -1..1, of features as `describe` gives them."""
        return torch.tanh(SHARPNESS * self.projection(features).float())

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, classes) and embedding (N, 256) of normalised images (N, 3, H, W)."""
        penultimate, features = self.describe(images)
        return self.network.classifier(penultimate), self.embed(features)
