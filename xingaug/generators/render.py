"""Rendering as one pure function of tensors, in batches of a fixed size."""

import torch
from torch import Tensor, nn

from xingaug.generators.base import PoseGenerator
from xingaug.generators.pose import SIGMA, Poses, draw_maps


def render(
    generator: nn.Module,
    images: Tensor,
    source_xy: Tensor,
    source_visibility: Tensor,
    target_xy: Tensor,
    target_visibility: Tensor,
    sigma: float = SIGMA,
) -> Tensor:
    """Renders persons in other poses, without checks, device-to-host reads or data-dependent shapes.

    Args:
        generator: a `PoseGenerator`, or any network with the same call: images and both poses' heatmaps.
        images: (B, 3, H, W) float32 in [-1, 1], at the size the generator was built for.
        source_xy: (B, 18, 2) pixels of the images, finite.
        source_visibility: (B, 18) in [0, 1].
        target_xy: (B, 18, 2) pixels of the images, finite.
        target_visibility: (B, 18) in [0, 1].
        sigma: of the heatmaps that the generator was trained with, in pixels.

    Returns:
        (B, 3, H, W) in [-1, 1].
    """
    poses = Poses.of_joints(source_xy, source_visibility, target_xy, target_visibility, sigma)
    if isinstance(generator, PoseGenerator):
        return generator.run(images, poses)
    parameter = next(generator.parameters(), images)
    source, target = draw_maps(poses, (images.shape[-2], images.shape[-1])).to(parameter.dtype).chunk(2, 1)
    rendered: Tensor = generator(images.to(parameter.dtype), source, target)
    return rendered


def filled(rows: Tensor, size: int) -> Tensor:
    """(n, ...) to (size, ...), padded with copies of the last row."""
    missing = size - len(rows)
    return rows if not missing else torch.cat([rows, rows[-1:].expand(missing, *rows.shape[1:])])
