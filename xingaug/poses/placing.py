"""Where and how large a drawn pose stands in the frame."""

from typing import Literal, get_args

import torch
from torch import Tensor

from xingaug.keypoints import Keypoints
from xingaug.poses.descriptor import torsos_of

Fit = Literal["frame", "source"]
FITS: tuple[Fit, ...] = get_args(Fit)
"""How a pose is placed: as it stood in its own frame, or as large as and where the source stands."""


def place(poses: Keypoints, sources: Keypoints, frame: tuple[int, int], fit: Fit) -> Keypoints:
    """Places drawn poses.

    "frame" leaves a pose where it was seen, so that the images are framed as the data set frames people. "source" gives
    it the source's torso: its length and the place of its middle. So a child stays a child, and nothing of the picture
    has to be invented because the person came nearer. Where the limbs would then leave the frame the pose moves back
    into it, and shrinks if it does not fit at all. Without a torso on either side it stays as it was.

    Args:
        poses: (B,) in a frame of the size `frame`, on the CPU.
        sources: (B,) persons that are rendered, in such a frame.
        frame: (height, width).
        fit: how.

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
    moved = (goal[:, None] + offset * scale[..., None]).clamp(min=torch.zeros(2), max=last)  # of rounding only
    return Keypoints(torch.where(able[:, None, None] & seen, moved, poses.xy), poses.visibility)


def _torsos(keypoints: Keypoints) -> tuple[Tensor, Tensor]:
    """Middle (B, 2) and length (B,) of each torso, in pixels."""
    middle, length = torsos_of(keypoints.xy.cpu().numpy(), keypoints.visibility.cpu().numpy())
    return torch.from_numpy(middle).float(), torch.from_numpy(length).float()
