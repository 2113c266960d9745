"""The perceptual loss on features of VGG (Johnson et al. 2016; METHOD: XingGAN, losses)."""

import torch
from torch import Tensor, nn

from xingaug.training.config import PerceptualConfig
from xingaug.training.vgg import VGGFeatures, unit_channels


class PerceptualLoss(nn.Module):
    """Mean difference of VGG's features, averaged over layers."""

    def __init__(self, config: PerceptualConfig) -> None:
        """Loads the part of the network that the layers need.

        Raises:
            BadInput: no weights, or a file that does not hold them.
        """
        super().__init__()
        self.vgg = VGGFeatures(config.network, config.weights, config.layers, "perceptual.weights")
        self.squared, self.normalised = config.distance == "squared", config.normalised

    def forward(self, generated: Tensor, target: Tensor) -> Tensor:
        """Two (B, 3, H, W) in [-1, 1] to one number."""
        with torch.no_grad():
            wanted = self.vgg((target + 1) / 2)
        pairs = zip(self.vgg((generated + 1) / 2), wanted, strict=True)
        return torch.stack([self._distance(a, b) for a, b in pairs]).mean()

    def _distance(self, a: Tensor, b: Tensor) -> Tensor:
        if self.normalised:
            a, b = unit_channels(a), unit_channels(b)
        difference = (a - b).square() if self.squared else (a - b).abs()
        return difference.sum(1).mean() if self.normalised else difference.mean()
