"""Poses as inputs of a generator: joints, with Gaussian heatmaps drawn only for networks that need them."""

from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIGMA = 6.0
"""Pixels: standard deviation of a joint's map at the generator's size (PATN and XingGAN)."""

_NEGLIGIBLE = 1.0262e-10
"""Where a Gaussian is cut off: exp(-23), as in `render_heatmaps`; denormal numbers would slow a processor."""


class Poses(NamedTuple):
    """Source and target poses of a batch, side by side: index 0 is the source, 1 the target.

    Attributes:
        xy: (B, 2, 18, 2) float32 pixels (x, y) at the images' size; 0 where a joint is missing.
        present: (B, 2, 18) float32, 1 or 0.
        sigma: of drawn heatmaps, in pixels.
        heatmaps: (B, 36, H, W) given by the caller, source first, used instead of drawn ones; else None.
    """

    xy: Tensor
    present: Tensor
    sigma: float = SIGMA
    heatmaps: Tensor | None = None

    @classmethod
    def of_joints(
        cls,
        source_xy: Tensor,
        source_visibility: Tensor,
        target_xy: Tensor,
        target_visibility: Tensor,
        sigma: float = SIGMA,
    ) -> Self:
        """From each pose's xy (B, 18, 2) in pixels and visibility (B, 18) in [0, 1]; everything finite."""
        present = torch.stack([source_visibility, target_visibility], 1).float().sign()
        xy = torch.stack([source_xy, target_xy], 1).float() * present[..., None]
        return cls(xy, present, sigma)

    @classmethod
    def of_heatmaps(cls, source: Tensor, target: Tensor) -> Self:
        """From the heatmaps (B, 18, H, W) in [0, 1] of each pose."""
        heatmaps = torch.cat([source, target], 1)
        with torch.no_grad():
            xy, present = joints_of(heatmaps.float().unflatten(1, (2, -1)))
        return cls(xy * present[..., None], present, heatmaps=heatmaps)


def joints_of(heatmaps: Tensor) -> tuple[Tensor, Tensor]:
    """Joints of heatmaps: the vertex of a parabola through the log at the maximum, which is exact for a Gaussian.

    Args:
        heatmaps: (..., 18, H, W), one Gaussian of any width in each, H and W at least 3.

    Returns:
        (..., 18, 2) pixels (x, y), and (..., 18) float32: 1 where the joint is there, else 0.
    """
    peak_x, peak_y = heatmaps.amax(-2), heatmaps.amax(-1)  # (..., 18, W), (..., 18, H)
    xy = torch.stack([_vertex(peak_x), _vertex(peak_y)], -1)
    return xy, (peak_x.amax(-1) > 0).float()


def _vertex(profile: Tensor) -> Tensor:
    """(..., L) to the position of the maximum (...), with sub-pixel precision."""
    centre = profile.argmax(-1, keepdim=True).clamp(1, profile.shape[-1] - 2)
    before, here, after = (profile.gather(-1, centre + k).clamp(min=1e-9).log() for k in (-1, 0, 1))
    curvature = (2 * here - before - after).clamp(min=1e-6)
    return (centre + ((after - before) / (2 * curvature)).clamp(-2, 2)).squeeze(-1)


class Coordinates(nn.Module):
    """A module whose buffers are coordinates or lengths: they stay float32 whatever type the network computes in."""

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """Moves to devices, but not to other types."""
        exact = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, buffer in exact.items():
            moved = self._buffers[name]
            if buffer is not None and moved is not None and moved.dtype != buffer.dtype:
                self._buffers[name] = buffer.to(moved.device)
        return self


class PoseMaps(Coordinates):
    """Gaussian heatmaps of both poses, drawn as products of one along x and one along y, and so are their 4x4 means."""

    axis: Tensor
    position: Tensor

    def __init__(self, size: tuple[int, int]) -> None:
        """Args: `size`: (height, width) of the images; other sizes work too, at the cost of a few operations."""
        super().__init__()
        self.size = tuple(size)
        axis, position = _lines(self.size, torch.device("cpu"))
        self.register_buffer("axis", axis, persistent=False)
        self.register_buffer("position", position, persistent=False)

    def forward(self, poses: Poses, size: tuple[int, int]) -> Tensor:
        """The heatmaps of both poses, (B, 36, H, W) in [0, 1]; the caller's own, if given."""
        return _outer(_profiles(poses, *self._lines(size)), size[0]) if poses.heatmaps is None else poses.heatmaps

    def means(self, poses: Poses, size: tuple[int, int]) -> Tensor:
        """Their means over 4x4 pixels, (B, 36, H/4, W/4), computed from joints without full-size heatmaps."""
        if poses.heatmaps is not None:
            return F.avg_pool2d(poses.heatmaps, 4)
        return _outer(_profiles(poses, *self._lines(size)).unflatten(1, (-1, 4)).mean(2), size[0] // 4)

    def _lines(self, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        return (self.axis, self.position) if size == self.size else _lines(size, self.axis.device)


def draw_maps(poses: Poses, size: tuple[int, int]) -> Tensor:
    """The heatmaps of both poses, (B, 36, H, W) in [0, 1], as a function."""
    return _outer(_profiles(poses, *_lines(size, poses.xy.device)), size[0])


def _profiles(poses: Poses, axis: Tensor, position: Tensor) -> Tensor:
    """(B, H + W, 36): every joint's Gaussian along y, followed by the one along x."""
    centre = poses.xy.flatten(1, 2).transpose(1, 2).index_select(1, axis)  # (B, H + W, 36)
    away = position - centre
    factor = 0.5 / poses.sigma**2
    gaussian = ((away * away).clamp(max=24 / factor) * -factor).exp()
    return F.threshold(gaussian, _NEGLIGIBLE, 0) * poses.present.flatten(1)[:, None]


def _outer(profiles: Tensor, height: int) -> Tensor:
    """(B, h + w, 36) to (B, 36, h, w), channels last."""
    return (profiles[:, :height, None] * profiles[:, None, height:]).permute(0, 3, 1, 2)


def _lines(size: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """For H rows followed by W columns: the index of their coordinate (H + W,), and its value (H + W, 1)."""
    rows, columns = (torch.arange(n, device=device) for n in size)
    axis = torch.cat([torch.ones_like(rows), torch.zeros_like(columns)])
    return axis, torch.cat([rows, columns]).float()[:, None]
