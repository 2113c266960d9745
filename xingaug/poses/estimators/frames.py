"""Resizes crops of any size to a network's input size, and maps joints back."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

PADDING = 1.25
"""Ratio of the input's height or width to the crop's: the amount of surroundings that RTMPose and ViTPose are trained
with. It also leaves a border round a person who fills the crop."""


@dataclass(frozen=True, eq=False)
class Frames:
    """Crops placed in frames of one size.

    A crop's (x, y) is mapped to `(xy + 0.5) * scale - 0.5 + offset`: the crop is resized about pixel centres to a whole
    number of pixels and placed at a whole pixel, so that the inverse is exact.

    Attributes:
        images: (B, 3, h, w).
        scale: (B, 2) x and y, frame pixels per crop pixel. Both are equal up to the rounding of the size.
        offset: (B, 2) x and y, position of the crop's top-left pixel in the frame.
    """

    images: Tensor
    scale: Tensor
    offset: Tensor

    def back(self, xy: Tensor) -> Tensor:
        """Pixels of the frames, (B, ..., 2), to pixels of the crops."""
        shape = (len(xy), *(1,) * (xy.ndim - 2), 2)
        return (xy - self.offset.reshape(shape) + 0.5) / self.scale.reshape(shape) - 0.5


def frame(crops: list[Tensor], size: tuple[int, int], border: Tensor, padding: float = PADDING) -> Frames:
    """Resizes crops to fill 1 / `padding` of a frame, centred; the aspect ratio is kept.

    Args:
        crops: (3, H_i, W_i) float32 on one device, at least one. Crops of equal size are resized together.
        size: (height, width) of the frames.
        border: (3,) the colour around the crops.
        padding: ratio of the frame's height or width to the crop's, at least 1.

    Returns:
        The frames; bilinear, antialiased when a crop is reduced.
    """
    device = crops[0].device
    images = border.to(device)[:, None, None].repeat(len(crops), 1, *size)
    scale, offset = torch.empty(2, len(crops), 2)
    for shape, rows in rows_by_size(crops).items():
        inner = _inner_size(shape, size, padding)
        top, left = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
        stacked = torch.stack([crops[i] for i in rows])
        resized = F.interpolate(stacked, inner, mode="bilinear", align_corners=False, antialias=True)
        where = slice(None) if len(rows) == len(crops) else torch.tensor(rows, device=device)
        images[where, :, top : top + inner[0], left : left + inner[1]] = resized
        scale[rows] = torch.tensor([inner[1] / shape[1], inner[0] / shape[0]])
        offset[rows] = torch.tensor([float(left), float(top)])
    return Frames(images, scale.to(device), offset.to(device))


def rows_by_size(crops: list[Tensor]) -> dict[tuple[int, int], list[int]]:
    """Indices of the crops by (height, width)."""
    rows: dict[tuple[int, int], list[int]] = {}
    for i, crop in enumerate(crops):
        rows.setdefault((crop.shape[-2], crop.shape[-1]), []).append(i)
    return rows


def _inner_size(crop: tuple[int, int], size: tuple[int, int], padding: float) -> tuple[int, int]:
    scale = min(size[0] / crop[0], size[1] / crop[1]) / padding
    return max(1, round(crop[0] * scale)), max(1, round(crop[1] * scale))
