"""Losses of the generator and of the discriminators; each returns one number per call."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def weighted_l1(generated: Tensor, target: Tensor, mask: Tensor | None, person_weight: float) -> Tensor:
    """Mean absolute difference, heavier on the person.

    Args:
        generated: (B, 3, H, W) in [-1, 1].
        target: the same.
        mask: (B, 1, H, W) in [0, 1], 1 on the person; None weighs all pixels alike.
        person_weight: weight of a person's pixel, where the background has 1.
    """
    difference = (generated - target).abs()
    if mask is None:
        return difference.mean()
    weight = 1 + (person_weight - 1) * mask
    return (difference * weight).sum() / (weight.sum() * 3)


def structural_loss(generated: Tensor, target: Tensor, mask: Tensor | None, person_weight: float) -> Tensor:
    """1 - SSIM with 7x7 mean windows (our choice: the Gaussian window of the measure is dear to differentiate).

    Arguments as for `weighted_l1`.
    """
    window = 7
    x, y = (generated + 1) / 2, (target + 1) / 2
    mean_x, mean_y = _box(x, window), _box(y, window)
    var_x = _box(x * x, window) - mean_x**2
    var_y = _box(y * y, window) - mean_y**2
    covariance = _box(x * y, window) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    ssim = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    loss = 1 - ssim
    if mask is None:
        return loss.mean()
    weight = 1 + (person_weight - 1) * _box(mask, window)
    return (loss * weight).sum() / (weight.sum() * 3)


def _box(x: Tensor, window: int) -> Tensor:
    return F.avg_pool2d(x, window, stride=1)


def hinge_generator(fake_scores: Tensor) -> Tensor:
    """The generator's hinge loss: wants high scores."""
    return -fake_scores.mean()


def hinge_discriminator(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """The discriminator's hinge loss: wants real above 1, fake below -1."""
    return F.relu(1 - real_scores).mean() + F.relu(1 + fake_scores).mean()


def feature_matching(fake: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """Mean absolute difference of a discriminator's features, averaged over its layers."""
    return torch.stack([(f - r.detach()).abs().mean() for f, r in zip(fake, real, strict=True)]).mean()
