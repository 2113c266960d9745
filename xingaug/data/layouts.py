"""Converts keypoints from other joint layouts to the project's 18 joints."""

import re
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from xingaug.errors import BadInput
from xingaug.keypoints import JOINTS, Keypoints

LAYOUTS: dict[str, tuple[str, ...]] = {
    "lsp14": (
        "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle",
        "right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow", "left_wrist",
        "neck", "head_top",
    ),
    "coco17": (
        "nose", "left_eye", "right_eye", "left_ear", "right_ear",
        "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist",
        "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle",
    ),
    "openpose18": JOINTS,
    "body25": (
        "nose", "neck",
        "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist",
        "mid_hip", "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle",
        "right_eye", "left_eye", "right_ear", "left_ear",
        "left_big_toe", "left_small_toe", "left_heel", "right_big_toe", "right_small_toe", "right_heel",
    ),
    "halpe26": (
        "nose", "left_eye", "right_eye", "left_ear", "right_ear",
        "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist",
        "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle",
        "head_top", "neck", "mid_hip",
        "left_big_toe", "right_big_toe", "left_small_toe", "right_small_toe", "left_heel", "right_heel",
    ),
}  # fmt: skip
"""Joint orders by name: Leeds Sports Pose, COCO, OpenPose's COCO model and BODY_25, and Halpe's body."""

NOSE_SHARE = 0.515
"""Where the nose lies between head top (0) and neck (1).

Measured on 7,678 training images of Market-1501 that have both 14 joints (layumi/market1501_body_point) and a visible
nose in PATN's annotations: the mean error is 0.0 px in y and -0.7 px in x, the median distance 6.2 px, at 128x64. Most
of it is sideways, from heads that are turned.
"""

_KNOWN = frozenset(joint for layout in LAYOUTS.values() for joint in layout)
_PARTS = {"sho": "shoulder", "elb": "elbow", "wri": "wrist", "hip": "hip", "kne": "knee", "ank": "ankle"}
_SHORT = {"head": "head_top"} | {s[0] + p: f"{s}_{part}" for s in ("right", "left") for p, part in _PARTS.items()}


def joint_names(layout: str | Sequence[str]) -> tuple[str, ...]:
    """The joints of a layout, under the names that `LAYOUTS` uses.

    Args:
        layout: a key of `LAYOUTS`, or the names themselves. Case, spaces and hyphens do not matter, and the short
            names of Market-1501's 14 points are known too: `head`, `rsho`, `lank` and so on.

    Raises:
        BadInput: no such layout, an unknown joint, or a joint that is listed twice.
    """
    if isinstance(layout, str):
        if layout not in LAYOUTS:
            raise BadInput(f"unknown layout '{layout}'; known: {', '.join(LAYOUTS)}")
        return LAYOUTS[layout]
    names = []
    for given in layout:
        plain = re.sub(r"[\s-]+", "_", str(given).strip().lower())
        name = _SHORT.get(plain, plain)
        if name not in _KNOWN:
            raise BadInput(f"unknown joint {str(given)[:40]!r}; known: {', '.join(sorted(_KNOWN))}")
        if name in names:
            raise BadInput(f"joint {str(given)[:40]!r} is given twice, needed once")
        names.append(name)
    return tuple(names)


def to_joints18(
    xy: Tensor | np.ndarray | Sequence, visibility: Tensor | np.ndarray | Sequence, layout: str | Sequence[str]
) -> Keypoints:
    """Converts keypoints of another layout to the 18 joints of `xingaug.keypoints.JOINTS`.

    Joints outside the 18 are dropped; joints that the layout lacks are missing, with two exceptions. Without a neck,
    the midpoint of the shoulders is used, as in the training of OpenPose's COCO model. Without a nose, it is the point
    `NOSE_SHARE` of the way from head top to neck, also for a person seen from behind. The visibility of a derived joint
    is the lower of the two that it comes from; it is missing if one of them is.

    Args:
        xy: (..., J, 2) pixels (x, y), with the centre of the top-left pixel at (0, 0).
        visibility: (..., J) in [0, 1]; 0 is a missing joint, whose xy is ignored.
        layout: a key of `LAYOUTS`, or the names of the J joints (see `joint_names`).

    Returns:
        Keypoints of batch shape (...).

    Raises:
        BadInput: an unknown layout or joint, a number of joints that the layout does not have, a visibility outside
            [0, 1], or a visible joint that is not finite.
    """
    names = joint_names(layout)
    given_xy, given_visibility = _float32("xy", xy), _float32("visibility", visibility)
    if given_xy.ndim < 2 or given_xy.shape[-2:] != (len(names), 2):
        raise BadInput(f"xy: shape {tuple(given_xy.shape)}, needed (..., {len(names)}, 2) for the layout's joints")
    if given_visibility.shape != given_xy.shape[:-1]:
        needed = tuple(given_xy.shape[:-1])
        raise BadInput(f"visibility: shape {tuple(given_visibility.shape)}, needed {needed} to fit xy")
    index_of = {name: index for index, name in enumerate(names)}
    parts = [_joint(given_xy, given_visibility, index_of, joint) for joint in JOINTS]
    try:
        return Keypoints(torch.stack([p for p, _ in parts], -2), torch.stack([v for _, v in parts], -1))
    except ValueError as error:
        raise BadInput(str(error)) from None


def _joint(xy: Tensor, visibility: Tensor, index_of: dict[str, int], joint: str) -> tuple[Tensor, Tensor]:
    """One of the 18 joints, (..., 2) and (...): copied, derived or missing."""
    if joint in index_of:
        return xy[..., index_of[joint], :], visibility[..., index_of[joint]]
    start, end, share = {
        "neck": ("right_shoulder", "left_shoulder", 0.5),
        "nose": ("head_top", "neck", NOSE_SHARE),
    }.get(joint, ("", "", 0.0))
    if start not in index_of or end not in index_of:
        return torch.zeros_like(xy[..., 0, :]), torch.zeros_like(visibility[..., 0])
    a, b = xy[..., index_of[start], :], xy[..., index_of[end], :]
    seen = torch.minimum(visibility[..., index_of[start]], visibility[..., index_of[end]])
    return torch.where(seen[..., None] != 0, torch.lerp(a, b, share), 0.0), seen


def _float32(name: str, values: Tensor | np.ndarray | Sequence) -> Tensor:
    try:
        return (values if isinstance(values, Tensor) else torch.from_numpy(np.array(values, np.float64))).float()
    except (TypeError, ValueError) as error:
        raise BadInput(f"{name}: not an array of numbers ({error})") from None
