"""Position and scale of a drawn pose in the frame."""

from typing import Literal, get_args

import torch
from torch import Tensor

from xingaug.keypoints import Keypoints
from xingaug.poses.descriptor import torsos_of

Fit = Literal["frame", "source"]
FITS: tuple[Fit, ...] = get_args(Fit)
"""How a pose is placed: as in its own frame, or with the source's position and scale."""


def place(poses: Keypoints, sources: Keypoints, frame: tuple[int, int], fit: Fit) -> Keypoints:
    """Places drawn poses.

    "frame" keeps a pose as it was seen, so that images are framed as in the dataset. "source" gives it the length and
    the middle of the source's torso, so that a child stays a child and the generator need not invent details of a
    person who comes nearer. If limbs would then leave the frame, the pose is moved back into it, and shrunk if it does
    not fit at all. Without a torso in either, the pose is kept.

    Args:
        poses: (B,) in a frame of the size `frame`, on the CPU.
        sources: (B,) persons that are rendered, in a frame of the same size.
        frame: (height, width).
        fit: one of `FITS`.

    Returns:
        (B,) on the CPU.

    Raises:
        ValueError: an unknown fit.
    """
    if fit not in FITS:
        raise ValueError(f"fit: '{fit}', needed one of {', '.join(FITS)}")
    if fit == "frame" or not len(poses):
        return poses
    (root, length), (goal, goal_length) = _torsos(poses), _torsos(sources)
    able = (length > 0) & (goal_length > 0)
    scale = goal_length / length.clamp(min=1e-6)
    seen = poses.present[..., None]
    offset = (poses.xy - root[:, None]).where(seen, 0)
    low, high = offset.amin(1), offset.amax(1)  # (B, 2), at most 0 and at least 0
    last = torch.tensor([frame[1] - 1.0, frame[0] - 1.0])
    scale = torch.minimum(scale, (last / (high - low).clamp(min=1e-6)).amin(1))[:, None]
    goal = goal.clamp(min=-low * scale, max=last - high * scale)
    moved = (goal[:, None] + offset * scale[..., None]).clamp(min=torch.zeros(2), max=last)  # only against rounding
    return Keypoints(torch.where(able[:, None, None] & seen, moved, poses.xy), poses.visibility)


def _torsos(keypoints: Keypoints) -> tuple[Tensor, Tensor]:
    """Middle (B, 2) and length (B,) of each torso, in pixels."""
    middle, length = torsos_of(keypoints.xy.cpu().numpy(), keypoints.visibility.cpu().numpy())
    return torch.from_numpy(middle).float(), torch.from_numpy(length).float()
