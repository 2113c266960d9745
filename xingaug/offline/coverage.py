"""Assigns images to the pose clusters of a bank."""

from collections.abc import Sequence

import numpy as np
import torch

from xingaug.keypoints import Keypoints
from xingaug.poses.bank import PoseBank
from xingaug.poses.descriptor import Shapes


def groups_of(bank: PoseBank, names: Sequence[str], keypoints: Keypoints, frame: tuple[int, int]) -> np.ndarray:
    """The bank's cluster of similar poses that each image belongs to.

    Args:
        bank: the bank with the clusters.
        names: (N,) names of the images; an image in the bank has the cluster of its pose there.
        keypoints: (N,) of the images; any other image gets the cluster of the bank's nearest pose.
        frame: (height, width) of the keypoints.

    Returns:
        (N,) int64; -1 for a pose without a torso.
    """
    known = [bank.positions_named(name) for name in names]
    groups = np.array([bank.clusters[bank.usable_rows[found[0]]] if found else -1 for found in known], np.int64)
    others = np.array([row for row, found in enumerate(known) if not found], np.int64)
    poses = keypoints[torch.from_numpy(others)].resize(frame, bank.frame)
    torsos = Shapes.of(poses).has_torso
    if torsos.any():
        nearest = bank.search(poses[torch.from_numpy(torsos)], k=1).indices[:, 0].numpy()
        groups[others[torsos]] = bank.clusters[nearest]
    return groups
