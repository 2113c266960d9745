"""Random plausible skeletons, for tests that need poses and no images."""

import numpy as np
import torch

from xingaug.keypoints import JOINTS, Keypoints
from xingaug.poses.bank import PoseBank

# x, y of a standing person in a frame of 128x64, joints in the order of JOINTS.
_STANDING = np.array(
    [
        (32, 14), (32, 26), (22, 27), (18, 42), (16, 56), (42, 27), (46, 42), (48, 56), (26, 62),
        (25, 86), (24, 110), (38, 62), (39, 86), (40, 110), (30, 12), (34, 12), (27, 14), (37, 14),
    ],
    dtype=np.float32,
)  # fmt: skip
_PARENT = (1, -1, 1, 2, 3, 1, 5, 6, 1, 8, 9, 1, 11, 12, 0, 0, 14, 15)
_TOP_DOWN = (1, 0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17)


def random_people(count: int, seed: int = 0, missing: float = 0.0) -> Keypoints:
    """(count,) persons in a frame of 128x64: limbs turned and lengthened at random, joints missing with a chance."""
    rng = np.random.default_rng(seed)
    xy = np.zeros((count, 18, 2), np.float32)
    for joint in _TOP_DOWN:
        parent = _PARENT[joint]
        if parent < 0:
            xy[:, joint] = _STANDING[joint]
            continue
        bone = _STANDING[joint] - _STANDING[parent]
        angle = rng.normal(0, 0.25, count)
        length = rng.normal(1, 0.05, count)[:, None]
        turned = np.stack(
            [np.cos(angle) * bone[0] - np.sin(angle) * bone[1], np.sin(angle) * bone[0] + np.cos(angle) * bone[1]], -1
        )
        xy[:, joint] = xy[:, parent] + turned * length
    xy = xy.clip((0, 0), (63, 127))
    visibility = (rng.random((count, 18)) >= missing).astype(np.float32)
    visibility[:, [1, 8]] = 1  # a torso
    return Keypoints(torch.from_numpy(xy), torch.from_numpy(visibility))


def hide(keypoints: Keypoints, *joints: str) -> Keypoints:
    visibility = keypoints.visibility.clone()
    visibility[..., [JOINTS.index(joint) for joint in joints]] = 0
    return Keypoints(keypoints.xy, visibility)


def small_bank() -> PoseBank:
    """300 poses of 75 identities under 6 cameras, some joints missing."""
    people = random_people(300, seed=1, missing=0.15)
    names = [f"{index:04d}_c1s1_000000_00.jpg" for index in range(300)]
    return PoseBank.build(people, names=names, pids=np.arange(300) // 4, camids=np.arange(300) % 6 + 1)
