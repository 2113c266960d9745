"""Body keypoints: the 18 OpenPose/COCO joints, their geometry, and their heatmaps.

A coordinate is (x, y) in pixels, with the centre of the top-left pixel at (0, 0).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

JOINTS = (
    "nose", "neck",
    "right_shoulder", "right_elbow", "right_wrist",
    "left_shoulder", "left_elbow", "left_wrist",
    "right_hip", "right_knee", "right_ankle",
    "left_hip", "left_knee", "left_ankle",
    "right_eye", "left_eye", "right_ear", "left_ear",
)  # fmt: skip
"""Names of the joints; right and left are the person's own."""

LIMBS = (
    (1, 2), (2, 3), (3, 4), (1, 5), (5, 6), (6, 7),
    (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13),
    (1, 0), (0, 14), (14, 16), (0, 15), (15, 17),
)  # fmt: skip
"""Pairs of joints that a skeleton drawing connects."""

FLIP_ORDER = (0, 1, 5, 6, 7, 2, 3, 4, 11, 12, 13, 8, 9, 10, 15, 14, 17, 16)
"""Joint i of a mirrored person is joint FLIP_ORDER[i] of the original."""

MIN_VISIBLE = 8
"""Fewest joints of a person that is used as a pose, paired or re-rendered (our choice)."""


@dataclass(frozen=True, eq=False)
class Keypoints:
    """Keypoints of one person or of any batch of persons.

    Attributes:
        xy: (..., 18, 2) float32, pixels (x, y). Values at missing joints are ignored; non-finite ones are set to 0.
        visibility: (..., 18) float32 in [0, 1]; 0 is a missing joint, anything above it is present (a confidence).

    Raises:
        ValueError: wrong shapes, devices or ranges, or a present joint that is not finite.
    """

    xy: Tensor
    visibility: Tensor

    def __post_init__(self) -> None:
        """Converts to float32 tensors and checks shapes, devices and ranges."""
        xy, visibility = _as_float32("xy", self.xy), _as_float32("visibility", self.visibility)
        joints = len(JOINTS)
        if xy.ndim < 2 or xy.shape[-2:] != (joints, 2):
            raise ValueError(f"xy: shape {tuple(xy.shape)}, needed (..., {joints}, 2)")
        if visibility.shape != xy.shape[:-1]:
            raise ValueError(f"visibility: shape {tuple(visibility.shape)}, needed {tuple(xy.shape[:-1])} to fit xy")
        if xy.device != visibility.device:
            raise ValueError(f"xy is on {xy.device}, visibility on {visibility.device}; needed one device")
        if not bool(((visibility >= 0) & (visibility <= 1)).all()):
            raise ValueError("visibility: values outside [0, 1] or NaN")
        finite = xy.isfinite()
        if not bool((finite.all(-1) | (visibility == 0)).all()):
            raise ValueError("xy: NaN or infinite at a visible joint; set its visibility to 0 if it is missing")
        object.__setattr__(self, "xy", xy.where(finite, 0))
        object.__setattr__(self, "visibility", visibility)

    @classmethod
    def _derived(cls, xy: Tensor, visibility: Tensor) -> "Keypoints":
        """Builds keypoints from checked ones, without checking again, which would synchronise a GPU."""
        keypoints = object.__new__(cls)
        object.__setattr__(keypoints, "xy", xy)
        object.__setattr__(keypoints, "visibility", visibility)
        return keypoints

    @classmethod
    def stack(cls, persons: Sequence["Keypoints"]) -> "Keypoints":
        """Stacks keypoints of equal shape along a new first axis."""
        return cls(torch.stack([p.xy for p in persons]), torch.stack([p.visibility for p in persons]))

    @property
    def shape(self) -> tuple[int, ...]:
        """The batch shape, without the joints: () for one person, (B,) for a batch."""
        return tuple(self.xy.shape[:-2])

    @property
    def device(self) -> torch.device:
        """The device of both tensors."""
        return self.xy.device

    @property
    def present(self) -> Tensor:
        """(..., 18) bool: the joints that are not missing."""
        return self.visibility > 0

    def __len__(self) -> int:
        """Number of persons along the first batch axis."""
        if not self.shape:
            raise TypeError("these keypoints are one person, which has no length")
        return self.shape[0]

    def __getitem__(self, index: int | slice | Tensor | np.ndarray | Sequence[int]) -> "Keypoints":
        """Selects persons along the first batch axis."""
        if not self.shape:
            raise TypeError("these keypoints are one person and cannot be indexed")
        return Keypoints._derived(self.xy[index], self.visibility[index])

    def to(self, device: torch.device | str) -> "Keypoints":
        """Moves the keypoints to `device`."""
        return Keypoints._derived(self.xy.to(device), self.visibility.to(device))

    def flip(self, width: int) -> "Keypoints":
        """Mirrors horizontally in a frame `width` pixels wide; left and right joints are swapped."""
        x = width - 1 - self.xy[..., :1]
        flipped = torch.cat([x, self.xy[..., 1:]], dim=-1)
        order = list(FLIP_ORDER)
        return Keypoints._derived(flipped[..., order, :], self.visibility[..., order])

    def resize(self, source: tuple[int, int], target: tuple[int, int]) -> "Keypoints":
        """Scales the keypoints as an image resized from `source` to `target` (height, width), about pixel centres."""
        for name, size in (("source", source), ("target", target)):
            _require_size(name, size)
        scale = self.xy.new_tensor([target[1] / source[1], target[0] / source[0]])
        return Keypoints._derived((self.xy + 0.5) * scale - 0.5, self.visibility)

    def crop(self, top: int, left: int, size: tuple[int, int]) -> "Keypoints":
        """Moves the keypoints into a crop with top-left pixel (left, top); joints outside `size` become missing.

        `size` is (height, width); a negative `top` or `left` is padding.
        """
        moved = Keypoints(self.xy - self.xy.new_tensor([left, top]), self.visibility)
        return Keypoints(moved.xy, moved.visibility * moved.inside(size))

    def inside(self, size: tuple[int, int]) -> Tensor:
        """(..., 18) bool: whether each joint lies on a pixel of a frame of `size` (height, width)."""
        _require_size("size", size)
        limit = self.xy.new_tensor([size[1] - 0.5, size[0] - 0.5])
        return ((self.xy >= -0.5) & (self.xy <= limit)).all(-1)


def render_heatmaps(keypoints: Keypoints, size: tuple[int, int] = (128, 64), sigma: float = 6.0) -> Tensor:
    """Draws one Gaussian per joint (PATN and XingGAN: sigma 6 px at 128x64).

    The maps are exact to 1e-10 and contain no denormal numbers, which are very slow on CPUs.

    Args:
        keypoints: keypoints in a frame of `size`.
        size: (height, width) of the maps.
        sigma: standard deviation in pixels, above 0.

    Returns:
        (..., 18, H, W) float32 in [0, 1] on the keypoints' device; 1 at the joint, all zero for a missing one.
    """
    _require_size("size", size)
    if not 0 < sigma < float("inf"):
        raise ValueError(f"sigma: {sigma}, needed a finite number of pixels above 0")
    height, width = size
    present = keypoints.present.to(keypoints.xy.dtype)
    along_x = _gaussian(keypoints.xy[..., 0], width, sigma)
    along_y = _gaussian(keypoints.xy[..., 1], height, sigma) * present[..., None]
    return along_y[..., :, None] * along_x[..., None, :]


def _gaussian(centre: Tensor, length: int, sigma: float) -> Tensor:
    """exp(-(i - centre)^2 / 2 sigma^2) for i in 0..length-1, with everything below 1e-10 set to 0."""
    index = torch.arange(length, device=centre.device, dtype=centre.dtype)
    exponent = -((index - centre[..., None]) ** 2) / (2 * sigma**2)
    # Masked before exp, so that intermediate values are not denormal either.
    negligible = exponent < -23.0
    return exponent.masked_fill(negligible, 0).exp().masked_fill(negligible, 0)


def _as_float32(name: str, values: Tensor | np.ndarray | Sequence[float]) -> Tensor:
    try:
        # Anything but a tensor is copied: a NumPy array may change later, or be a read-only memory map.
        return (values if isinstance(values, Tensor) else torch.tensor(values)).to(torch.float32)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name}: cannot be made a float tensor ({error})") from None


def _require_size(name: str, size: tuple[int, int]) -> None:
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"{name}: {tuple(size)}, needed (height, width), both at least 1")
