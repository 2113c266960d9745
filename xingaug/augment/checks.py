"""Checks of a batch for `XingPose`, with one clear ValueError each."""

from collections.abc import Sequence
from typing import SupportsIndex

import numpy as np
import torch
from torch import Tensor

from xingaug.keypoints import MIN_VISIBLE, Keypoints

FRAME_MARGIN = 0.25
"""How far outside the image a visible joint may lie, as a share of its side; beyond, the frame is wrong."""

RANGE_TOLERANCE = 1e-3
"""Tolerance on [0, 1] for rounding in an earlier step."""

Integers = Sequence[int] | np.ndarray | Tensor


def check_images(images: Tensor) -> None:
    """Raises ValueError unless images are (B, 3, H, W) float in [0, 1]; names the range that they seem to have."""
    if not isinstance(images, Tensor):
        raise ValueError(f"images: {type(images).__name__}, needed a tensor (B, 3, H, W)")
    if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[2:]) < 1:
        raise ValueError(f"images: shape {tuple(images.shape)}, needed (B, 3, H, W)")
    if images.dtype == torch.uint8:
        raise ValueError("images: uint8, needed float in [0, 1]; divide by 255 (xingaug.images.bytes_to_unit)")
    if not images.is_floating_point():
        raise ValueError(f"images: {images.dtype}, needed float in [0, 1]")
    if not images.numel():
        return
    low, high = torch.stack(images.detach().aminmax()).tolist()
    if low >= -RANGE_TOLERANCE and high <= 1 + RANGE_TOLERANCE:
        return
    span = f"images: values from {low:.3g} to {high:.3g}, needed [0, 1]"
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError("images: NaN or infinite values, needed [0, 1]")
    if low >= 0 and high > 3:
        raise ValueError(f"{span}; they look like 0..255, divide by 255")
    if low >= -1 - RANGE_TOLERANCE and high <= 1 + RANGE_TOLERANCE:
        raise ValueError(f"{span}; they look like [-1, 1], use xingaug.images.signed_to_unit")
    if low >= -3 and high <= 3:
        raise ValueError(f"{span}; they look normalised (ImageNet mean and std); render first, normalise after")
    raise ValueError(span)


class FrameCheck:
    """Checks that keypoints are in the frame of their images.

    A person may stand in the corner of one odd crop. But if at least four persons, all of a batch or the first of
    several small ones, have every joint in the top left quarter, the keypoints belong to a smaller frame.
    """

    def __init__(self) -> None:
        """Starts without any batch checked."""
        self._in_corner = 0
        self._seen_elsewhere = False

    def __call__(self, keypoints: Keypoints, size: tuple[int, int]) -> None:
        """Checks a batch.

        Args:
            keypoints: (B,) persons.
            size: (height, width) of their images.

        Raises:
            ValueError: a visible joint lies far outside, or all persons so far are in that quarter.
        """
        # In numpy: on the CPU a single torch operation costs as much as all of these.
        xy, present = keypoints.xy.detach().cpu().numpy(), keypoints.visibility.detach().cpu().numpy() > 0
        side = np.array([size[1], size[0]], np.float32)
        far = ((xy < -FRAME_MARGIN * side) | (xy > (1 + FRAME_MARGIN) * side)).any(-1) & present
        corner = ((xy < side / 2).all(-1) | ~present).all(-1)
        judged = present.sum(-1) >= MIN_VISIBLE
        joints_far, in_corner, elsewhere = (
            int(n) for n in (far.sum(), (judged & corner).sum(), (judged & ~corner).sum())
        )
        if joints_far:
            row, joint = np.argwhere(far)[0].tolist()
            x, y = xy[row, joint].tolist()
            raise ValueError(
                f"keypoints: row {row} has joint {joint} at ({x:.0f}, {y:.0f}), far outside images of "
                f"{size[0]}x{size[1]}; they belong to another frame, use keypoints.resize(source, target)"
            )
        self._in_corner += in_corner
        self._seen_elsewhere |= elsewhere > 0
        here = in_corner >= 4 and not elsewhere
        if here or (self._in_corner >= 4 and not self._seen_elsewhere):
            self._in_corner = 0
            raise ValueError(
                f"keypoints: every joint of all rows lies in the top left quarter of images of "
                f"{size[0]}x{size[1]}; they belong to a smaller frame, use keypoints.resize(source, target)"
            )


def checked_keys(keys: Sequence[str] | None, batch: int) -> list[str]:
    """The B image names as a list, or ValueError."""
    if keys is None:
        raise ValueError("keys: missing; needed one image name per row, because draws are keyed by name")
    if isinstance(keys, str) or len(keys) != batch:
        came = "one string" if isinstance(keys, str) else f"{len(keys)} names"
        raise ValueError(f"keys: {came}, needed {batch}, one image name per row")
    wrong = [key for key in keys if not isinstance(key, str)]
    if wrong:
        raise ValueError(f"keys: {wrong[0]!r} ({type(wrong[0]).__name__}), needed image names as strings")
    return list(keys)


def checked_integer(name: str, value: SupportsIndex) -> int:
    """The value as an int, or ValueError for anything but an integer, 3.0 and True included."""
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        raise ValueError(f"{name}: {value!r}, needed a whole number")
    return value.__index__()


def checked_integers(name: str, values: Integers | None, batch: int) -> np.ndarray | None:
    """(B,) int64, None if None was given, or ValueError."""
    if values is None:
        return None
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.shape != (batch,) or not (np.issubdtype(array.dtype, np.integer) or not batch):
        raise ValueError(f"{name}: {array.dtype} {array.shape}, needed integers ({batch},), one per row")
    return array.astype(np.int64)


def usable(keypoints: Keypoints) -> Tensor:
    """(B,) bool: the rows with at least `MIN_VISIBLE` visible joints."""
    return keypoints.present.sum(-1) >= MIN_VISIBLE
