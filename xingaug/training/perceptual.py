"""The perceptual loss on features of VGG (Johnson et al. 2016; XingGAN, Tang et al., ECCV 2020)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xingaug.training.config import PerceptualConfig
from xingaug.training.vgg import VGGFeatures, unit_channels


class PerceptualLoss(nn.Module):
    """Features of VGG, and the mean difference of these and of their Gram matrices."""

    def __init__(self, config: PerceptualConfig) -> None:
        """Loads the part of the network that the layers need.

        Raises:
            BadInput: no weights, or a file that does not hold them.
        """
        super().__init__()
        self.vgg = VGGFeatures(config.network, config.weights, config.layers, "perceptual.weights")
        self.squared, self.normalised = config.distance == "squared", config.normalised

    def forward(self, generated: Tensor, target: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Two (B, 3, H, W) in [-1, 1] to the features of both, (B, C, h, w), after each layer."""
        with torch.no_grad():
            wanted = self.vgg((target + 1) / 2)
        return list(zip(self.vgg((generated + 1) / 2), wanted, strict=True))

    def distance(self, features: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """Mean difference of what `forward` gives, averaged over layers."""
        return torch.stack([self._distance(a, b) for a, b in features]).mean()

    def style(self, features: Sequence[tuple[Tensor, Tensor]], mask: Tensor) -> Tensor:
        """`style_distance` of what `forward` gives, averaged over layers; `mask`: (B, 1, H, W)."""
        return torch.stack([style_distance(a, b, mask) for a, b in features]).mean()

    def _distance(self, a: Tensor, b: Tensor) -> Tensor:
        if self.normalised:
            a, b = unit_channels(a), unit_channels(b)
        difference = (a - b).square() if self.squared else (a - b).abs()
        return difference.sum(1).mean() if self.normalised else difference.mean()


def style_distance(a: Tensor, b: Tensor, mask: Tensor) -> Tensor:
    """Mean difference of the Gram matrices of two feature maps, as a share of the second one's (Johnson et al. 2016).

    Args:
        a: (B, C, h, w).
        b: (B, C, h, w), what it is compared with.
        mask: (B, 1, H, W) in [0, 1], 1 where features count, at any resolution.
    """
    weight = F.interpolate(mask.float(), size=a.shape[-2:], mode="area").flatten(2)  # (B, 1, N)
    area = weight.sum(2, keepdim=True) + 1
    weighted = [features.float().flatten(2) * weight for features in (a, b)]
    of_a, of_b = (features @ features.transpose(1, 2) / area for features in weighted)
    share = (of_a - of_b).abs().mean((1, 2)) / of_b.abs().mean((1, 2)).clamp(min=1e-8)
    return share.mean()
