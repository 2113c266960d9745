"""Whole sets of images, rendered batch by batch."""

import numpy as np
import torch
from torch import nn

from xingaug.errors import WorkFailed
from xingaug.generators.core import Core
from xingaug.images import bytes_to_unit, signed_to_unit, unit_to_bytes, unit_to_signed
from xingaug.keypoints import Keypoints
from xingaug.progress import ProgressBar


@torch.no_grad()
def render_images(
    generator: nn.Module | Core,
    images: np.ndarray,
    source: Keypoints,
    target: Keypoints,
    batch_size: int = 32,
    device: torch.device | str = "cpu",
    progress: str | None = None,
) -> np.ndarray:
    """Renders every person in the target pose.

    Args:
        generator: on `device`; its `size` is the images' size. A `Core` also fixes runtime and type.
        images: (N, H, W, 3) uint8.
        source: (N,) keypoints of the images, in pixels.
        target: (N,) keypoints of the target poses, in pixels.
        batch_size: images at a time; pixels do not depend on it.
        device: to compute on.
        progress: label of the bar shown on a terminal; None for none.

    Returns:
        (N, H, W, 3) uint8.

    Raises:
        WorkFailed: the generator's output is not finite.
    """
    core = generator if isinstance(generator, Core) else Core(generator)
    rendered = np.empty_like(images)
    starts = range(0, len(images), batch_size)
    for first in ProgressBar(starts, progress, unit="batch"):
        rows = slice(first, first + batch_size)
        pixels = unit_to_signed(bytes_to_unit(torch.from_numpy(images[rows]).to(device)))
        xy = torch.stack([source.xy[rows], target.xy[rows]], 1).to(device)
        visibility = torch.stack([source.visibility[rows], target.visibility[rows]], 1).to(device)
        generated = core(pixels.contiguous(memory_format=torch.channels_last), xy, visibility)
        if not bool(generated.isfinite().all()):
            raise WorkFailed("generator: its output is not finite; needed other weights")
        rendered[rows] = unit_to_bytes(signed_to_unit(generated.clamp(-1, 1))).cpu().numpy()
    return rendered
