"""Decodes the heads of top-down networks to joints in input pixels."""

import torch
from torch import Tensor

_FLOOR = 1e-3
"""Lower bound of the values beside a peak, as a share of it, before taking the logarithm."""


def decode_simcc(along_x: Tensor, along_y: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Decodes SimCC (Li et al. 2022) as in RTMPose: one distribution per joint and axis.

    Bin i is the pixel coordinate i / k, where k is the number of bins per pixel and 0 is the first pixel's centre.

    Args:
        along_x: (B, J, w * k).
        along_y: (B, J, h * k).
        size: (height, width) of the input, in pixels.

    Returns:
        (B, J, 2) pixels of the input, and (B, J) the smaller of the two highest values, unbounded.
    """
    (high_x, x), (high_y, y) = along_x.max(-1), along_y.max(-1)
    pixels_per_bin = along_x.new_tensor([size[1] / along_x.shape[-1], size[0] / along_y.shape[-1]])
    return torch.stack([x, y], -1) * pixels_per_bin, torch.minimum(high_x, high_y)


def decode_heatmaps(maps: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Decodes heatmaps as in ViTPose: one per joint, with outermost pixel centres aligned to the input's ("UDP").

    Map pixel i is the input's pixel i * (w - 1) / (w_map - 1) (Huang et al. 2020). The peak is refined, along each
    axis, by the parabola through the logarithms of the highest value and its two neighbours, at most half a pixel:
    exact up to rounding for a Gaussian. This is DARK's step (Zhang et al. 2020) without its blur and mixed derivative
    (our choice). A peak at the edge of the map is not refined across the edge.

    Args:
        maps: (B, J, h_map, w_map), both at least 2.
        size: (height, width) of the input, in pixels.

    Returns:
        (B, J, 2) pixels of the input, and (B, J) the highest values, unbounded.
    """
    height, width = maps.shape[-2:]
    highest, index = maps.flatten(2).max(-1)
    row, column = index // width, index % width
    across = maps.gather(2, row[..., None, None].expand(*row.shape, 1, width)).squeeze(2)
    down = maps.gather(3, column[..., None, None].expand(*row.shape, height, 1)).squeeze(3)
    refined = torch.stack([column + _step(across, column), row + _step(down, row)], -1)
    return refined * maps.new_tensor([(size[1] - 1) / (width - 1), (size[0] - 1) / (height - 1)]), highest


def _step(profile: Tensor, peak: Tensor) -> Tensor:
    """Distance of the parabola's vertex from the peak of each profile.

    Args:
        profile: (B, J, n) values along one axis.
        peak: (B, J) index of the highest value.

    Returns:
        (B, J) in [-0.5, 0.5]; 0 if the peak has only one neighbour or is not above 0.
    """
    last = profile.shape[-1] - 1
    around = torch.stack([peak - 1, peak, peak + 1], -1)
    values = profile.gather(2, around.clamp(0, last))
    least = _FLOOR * values[..., 1:2].clamp(min=1e-30)
    left, middle, right = values.maximum(least).log().unbind(-1)
    curvature = 2 * middle - left - right
    inside = (peak > 0) & (peak < last) & (curvature > 0) & (values[..., 1] > 0)
    return ((right - left) / (2 * curvature)).where(inside, 0).clamp(-0.5, 0.5)
