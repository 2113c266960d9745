"""The rendering core, one pure function of tensors, and what applies it to any number of images."""

import numpy as np
import torch
from torch import Tensor, nn

from xingaug.errors import WorkFailed
from xingaug.generators.base import PoseGenerator
from xingaug.generators.pose import SIGMA, Poses, draw_maps
from xingaug.images import bytes_to_unit, signed_to_unit, unit_to_bytes, unit_to_signed
from xingaug.keypoints import Keypoints
from xingaug.progress import ProgressBar


def render(
    generator: nn.Module,
    images: Tensor,
    source_xy: Tensor,
    source_visibility: Tensor,
    target_xy: Tensor,
    target_visibility: Tensor,
    sigma: float = SIGMA,
) -> Tensor:
    """Renders persons in other poses. Nothing is checked in here, read by the host, or of a shape that depends on data.

    Args:
        generator: a `PoseGenerator`, or any network that is called as one with heatmaps.
        images: (B, 3, H, W) float32 in [-1, 1], at the size the generator was built for.
        source_xy: (B, 18, 2) pixels of the images, finite.
        source_visibility: (B, 18) in [0, 1].
        target_xy: likewise, of the poses wanted.
        target_visibility: likewise.
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


@torch.no_grad()
def render_images(
    generator: nn.Module,
    images: np.ndarray,
    source: Keypoints,
    target: Keypoints,
    batch_size: int = 32,
    device: torch.device | str = "cpu",
    progress: str | None = None,
) -> np.ndarray:
    """Renders every person in the target pose.

    Args:
        generator: on `device`; its `size` is the images' size.
        images: (N, H, W, 3) uint8.
        source: (N,) keypoints of the images, in pixels.
        target: (N,) keypoints wanted.
        batch_size: images at a time.
        device: where to compute.
        progress: label of the bar shown on a terminal; None for none.

    Returns:
        (N, H, W, 3) uint8.

    Raises:
        WorkFailed: the generator gives numbers that are not finite.
    """
    rendered = np.empty_like(images)
    starts = range(0, len(images), batch_size)
    for first in ProgressBar(starts, progress, unit="batch"):
        rows = slice(first, first + batch_size)
        pixels = unit_to_signed(bytes_to_unit(torch.from_numpy(images[rows]).to(device)))
        start_xy, start_seen = source.xy[rows].to(device), source.visibility[rows].to(device)
        end_xy, end_seen = target.xy[rows].to(device), target.visibility[rows].to(device)
        wide = pixels.contiguous(memory_format=torch.channels_last)
        generated = render(generator, wide, start_xy, start_seen, end_xy, end_seen)
        if not bool(generated.isfinite().all()):
            raise WorkFailed("generator: gives numbers that are not finite, which are no images; take other weights")
        rendered[rows] = unit_to_bytes(signed_to_unit(generated.clamp(-1, 1))).cpu().numpy()
    return rendered
