"""Builds the pose bank of a dataset."""

from pathlib import Path

from xingaug.data.annotations import annotated_training, keypoints_of
from xingaug.poses.bank import PoseBank
from xingaug.poses.index import IndexSettings


def bank_from_tree(
    root: Path, annotations: Path, frame: tuple[int, int] = (128, 64), settings: IndexSettings | None = None
) -> PoseBank:
    """Collects the poses of a dataset's training split.

    Args:
        root: the dataset, a folder or a YAML file.
        annotations: keypoints of its images, .npz or PATN .csv.
        frame: (height, width) in pixels that the poses are scaled to.
        settings: how a search finds its candidates; None chooses by the number of poses.

    Raises:
        BadInput: unreadable input, no annotated training image, or no usable pose.
    """
    split, table = annotated_training(root, annotations)
    keypoints = keypoints_of(table, split, frame)
    return PoseBank.build(
        keypoints, names=split.names, pids=split.pids, camids=split.camids, frame=frame, settings=settings
    )
