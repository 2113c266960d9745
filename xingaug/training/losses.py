"""Losses of the generator and of the discriminators.

Each returns the mean over the batch of one number per image, so the loss of a batch is the mean of its parts' losses:
several processes or gradient accumulation give the same gradients as one batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from xingaug.keypoints import Keypoints
from xingaug.poses.estimators.posenet import CELL, SIZE, cell_centres

Maps = tuple[Tensor, Tensor, Tensor]
"""Output of `PoseNet`: logits of the cells, offsets in pixels, logits of visibility."""


def weighted_l1(generated: Tensor, target: Tensor, mask: Tensor | None, person_weight: float) -> Tensor:
    """Mean absolute difference, with a higher weight on the person.

    Args:
        generated: (B, 3, H, W) in [-1, 1].
        target: the same.
        mask: (B, 1, H, W) in [0, 1], 1 on the person; None weighs all pixels alike.
        person_weight: weight of a person's pixel; the background has 1.
    """
    return _weighted_mean((generated - target).abs(), mask, person_weight)


def structural_loss(generated: Tensor, target: Tensor, mask: Tensor | None, person_weight: float) -> Tensor:
    """1 - SSIM with 7x7 mean windows (our choice: the Gaussian window of the measure is slow to differentiate).

    Arguments as for `weighted_l1`.
    """
    x, y = (generated + 1) / 2, (target + 1) / 2
    mean_x, mean_y, mean_xx, mean_yy, mean_xy = _box(torch.cat([x, y, x * x, y * y, x * y], 1)).chunk(5, 1)
    var_x, var_y = mean_xx - mean_x**2, mean_yy - mean_y**2
    covariance = mean_xy - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    ssim = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return _weighted_mean(1 - ssim, None if mask is None else _box(mask), person_weight)


def _box(x: Tensor) -> Tensor:
    """Means of (B, C, H, W) over 7x7 windows, by columns and then by rows: 14 additions a pixel in place of 49."""
    return F.avg_pool2d(F.avg_pool2d(x, (7, 1), stride=1), (1, 7), stride=1)


def _weighted_mean(values: Tensor, mask: Tensor | None, person_weight: float) -> Tensor:
    """Weighted mean of (B, C, H, W) in each image, then over the batch."""
    if mask is None:
        return values.mean()
    weight = 1 + (person_weight - 1) * mask
    return ((values.mean(1, keepdim=True) * weight).sum((1, 2, 3)) / weight.sum((1, 2, 3))).mean()


def identity_loss(network: Callable[[Tensor], Tensor], generated: Tensor, target: Tensor) -> Tensor:
    """1 - cosine between the features of generated and true images.

    Args:
        network: images (B, 3, H, W) in [0, 1] to features (B, D).
        generated: (B, 3, H, W) in [-1, 1].
        target: the same.
    """
    with torch.no_grad():
        wanted = network((target + 1) / 2)
    return (1 - F.cosine_similarity(network((generated + 1) / 2), wanted)).mean()


def joint_losses(maps: tuple[Tensor, Tensor, Tensor], xy: Tensor, visible: Tensor) -> dict[str, Tensor]:
    """Loss terms of a pose network's maps.

    Args:
        maps: output of `PoseNet`.
        xy: (B, 18, 2) pixels.
        visible: (B, 18) bool; cells and offsets are learned from visible joints only.
    """
    cells, offsets, scores = maps
    away = xy[..., None, None] - cell_centres(cells)  # (B, 18, 2, 32, 16) px from each cell's centre to the joint
    weight = (-away.square().sum(2).flatten(2) / (2 * CELL**2)).softmax(-1)  # (B, 18, N)
    seen = visible.float()
    cell_loss = -(weight * cells.flatten(2).log_softmax(-1)).sum(-1)
    offset_loss = ((offsets - away).abs().sum(2).flatten(2) * weight).sum(-1)
    share = seen / seen.sum(1, keepdim=True).clamp(min=1) / len(seen)
    return {
        "cells": (cell_loss * share).sum(),
        "offsets": 0.25 * (offset_loss * share).sum(),
        "visible": F.binary_cross_entropy_with_logits(scores, seen),
    }


def pose_loss(network: Callable[[Tensor], Maps], generated: Tensor, xy: Tensor, visibility: Tensor) -> Tensor:
    """Distance between the target joints and those that a pose network finds in generated images.

    Args:
        network: as `PoseNet`; no gradient reaches its weights.
        generated: (B, 3, H, W) in [-1, 1].
        xy: (B, 18, 2) pixels, the target pose.
        visibility: (B, 18); joints at 0 do not count.
    """
    size = (generated.shape[-2], generated.shape[-1])
    images = (generated + 1) / 2
    if size != SIZE:
        images = F.interpolate(images, SIZE, mode="bilinear", antialias=True)
    joints = Keypoints(xy, visibility).resize(size, SIZE)
    terms = joint_losses(network(images), joints.xy, visibility > 0)
    return terms["cells"] + terms["offsets"]


@dataclass(frozen=True)
class Adversarial:
    """An adversarial loss on a discriminator's scores (logits), which are higher for real images.

    Attributes:
        generator: its loss, from the scores of generated images.
        discriminator: its loss, from the scores of true and of generated images.
    """

    generator: Callable[[Tensor], Tensor]
    discriminator: Callable[[Tensor, Tensor], Tensor]


ADVERSARIAL = {
    "hinge": Adversarial(
        generator=lambda fake: -fake.mean(),
        discriminator=lambda real, fake: F.relu(1 - real).mean() + F.relu(1 + fake).mean(),
    ),
    # As released: binary cross-entropy; the discriminator's true and generated terms have weight 1/2 each.
    "bce": Adversarial(
        generator=lambda fake: F.softplus(-fake).mean(),
        discriminator=lambda real, fake: (F.softplus(-real).mean() + F.softplus(fake).mean()) / 2,
    ),
    "least_squares": Adversarial(
        generator=lambda fake: ((fake - 1) ** 2).mean(),
        discriminator=lambda real, fake: (((real - 1) ** 2).mean() + (fake**2).mean()) / 2,
    ),
}


def feature_matching(fake: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """Mean absolute difference of a discriminator's features, averaged over its layers."""
    return torch.stack([(f - r.detach()).abs().mean() for f, r in zip(fake, real, strict=True)]).mean()


def r1_penalty(scores: Tensor, images: Tensor) -> Tensor:
    """Squared gradient of the scores by the true images, summed over each image (Mescheder et al. 2018).

    Args:
        scores: (B, ...), computed from `images`.
        images: (B, 3, H, W), with gradient.
    """
    summed = scores.flatten(1).mean(1).sum()
    (gradient,) = torch.autograd.grad(summed, images, create_graph=True)
    return gradient.square().sum((1, 2, 3)).mean()
