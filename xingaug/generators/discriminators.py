"""Discriminators: does the image look like the source person, does it fit the target pose."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm


class PatchDiscriminator(nn.Module):
    """A spectrally normalised patch discriminator on an image and its condition.

    The condition is the source image for the appearance discriminator, the target heatmaps for the shape one.
    """

    def __init__(self, condition_channels: int, width: int = 48, layers: int = 3) -> None:
        """Builds the network.

        Args:
            condition_channels: 3 for a source image, 18 for target heatmaps.
            width: channels of the first layer, doubled at each further one.
            layers: stride-2 layers.
        """
        super().__init__()
        channels = [4 * (3 + condition_channels)] + [width * 2**i for i in range(layers)]
        self.layers = nn.ModuleList(
            spectral_norm(nn.Conv2d(a, b, 3, stride=1 if i == 0 else 2, padding=1))
            for i, (a, b) in enumerate(pairwise(channels))
        )
        self.score = spectral_norm(nn.Conv2d(channels[-1], 1, 3, padding=1))

    def forward(self, image: Tensor, condition: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Scores patches.

        Args:
            image: (B, 3, H, W) in [-1, 1].
            condition: (B, condition_channels, H, W).

        Returns:
            Scores (B, 1, h', w'), higher for real, and the features of each layer.
        """
        x = F.pixel_unshuffle(torch.cat([image, condition], 1), 2)
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
            features.append(x)
        return self.score(x), features
