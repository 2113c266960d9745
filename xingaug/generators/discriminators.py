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


class ResidualDiscriminator(nn.Module):
    """PATN's discriminator, which XingGAN uses for both conditions (XingGAN, Tang et al., ECCV 2020).

    Every channel of the last residual block is a score. Scores are logits: the sigmoid of the released training
    belongs to its loss.
    """

    def __init__(self, condition_channels: int, width: int = 64, blocks: int = 3, dropout: float = 0.5) -> None:
        """Builds the network.

        Args:
            condition_channels: 3 for a source image, 18 for target heatmaps.
            width: channels of the first layer, doubled at each of the two stride-2 layers.
            blocks: residual blocks, at least 1.
            dropout: inside a residual block.
        """
        super().__init__()
        if blocks < 1:
            raise ValueError(f"blocks: {blocks}, needed at least 1")
        stem = nn.Conv2d(3 + condition_channels, width, 7, padding=3, padding_mode="reflect", bias=False)
        self.down = nn.ModuleList([nn.Sequential(stem, nn.BatchNorm2d(width), nn.ReLU(inplace=True))])
        for channels in (width, 2 * width):
            convolution = nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1, bias=False)
            self.down.append(nn.Sequential(convolution, nn.BatchNorm2d(2 * channels), nn.ReLU(inplace=True)))
        self.blocks = nn.ModuleList(_residual_branch(4 * width, dropout) for _ in range(blocks))

    def forward(self, image: Tensor, condition: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Scores patches.

        Args:
            image: (B, 3, H, W) in [-1, 1], H and W divisible by 4 and at least 8.
            condition: (B, condition_channels, H, W).

        Returns:
            Scores (B, 4 * width, H/4, W/4), higher for real, and the features of each layer before the blocks, whose
            dropout lets two passes differ.
        """
        x = torch.cat([image, condition], 1)
        features = []
        for layer in self.down:
            x = layer(x)
            features.append(x)
        for block in self.blocks:
            x = x + block(x)
        return x, features


def _residual_branch(channels: int, dropout: float) -> nn.Sequential:
    """What a residual block adds to its input."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect", bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        nn.Dropout(dropout),
        nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect", bias=False),
        nn.BatchNorm2d(channels),
    )
