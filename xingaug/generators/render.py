"""Bytes in, bytes out: a generator applied to any number of images."""

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from xingaug.images import bytes_to_unit, signed_to_unit, unit_to_bytes, unit_to_signed
from xingaug.keypoints import Keypoints, render_heatmaps


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
    """
    height, width = images.shape[1:3]
    rendered = np.empty_like(images)
    starts = range(0, len(images), batch_size)
    for start in tqdm(starts, desc=progress, disable=None if progress else True, unit="batch"):
        rows = slice(start, start + batch_size)
        pixels = unit_to_signed(bytes_to_unit(torch.from_numpy(images[rows]).to(device)))
        maps = [render_heatmaps(kp[rows].to(device), (height, width)) for kp in (source, target)]
        generated = generator(pixels.contiguous(memory_format=torch.channels_last), *maps)
        rendered[rows] = unit_to_bytes(signed_to_unit(generated.clamp(-1, 1))).cpu().numpy()
    return rendered
