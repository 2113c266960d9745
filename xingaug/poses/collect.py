"""The pose bank of a dataset."""

from pathlib import Path

from xingaug.data.annotations import keypoints_of, read_annotations
from xingaug.data.market1501 import read_split
from xingaug.errors import BadInput
from xingaug.poses.bank import PoseBank


def bank_from_tree(root: Path, annotations: Path, frame: tuple[int, int] = (128, 64)) -> PoseBank:
    """Collects the poses of a tree's training split.

    Args:
        root: a Market-1501 tree.
        annotations: keypoints of its images, .npz or PATN .csv.
        frame: (height, width) in pixels that the poses are brought to.

    Raises:
        BadInput: unreadable input, no annotated training image, or no usable pose.
    """
    split = read_split(root, "train")
    table = read_annotations(annotations)
    rows = table.lookup(split.names)
    if not (rows >= 0).any():
        raise BadInput(f"{annotations}: annotates none of the {len(split)} training images of {root}")
    known = split.select(rows >= 0)
    keypoints = keypoints_of(table, known, frame)
    return PoseBank.build(keypoints, names=known.names, pids=known.pids, camids=known.camids, frame=frame)
