"""What a run has to make: a fixed list of synthetic images, known before the first one is rendered."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from xingaug.augment.checks import usable
from xingaug.augment.transform import XingPose
from xingaug.data.annotations import Annotations, bring_to
from xingaug.data.market1501 import Split
from xingaug.keypoints import Keypoints
from xingaug.offline.manifest import synthetic_name


@dataclass(frozen=True)
class Item:
    """One synthetic image: copy number `copy` of the plan's source `source`, in the pose of `bank_row`."""

    name: str
    source: int
    copy: int
    bank_row: int


@dataclass(frozen=True, eq=False)
class Plan:
    """The list and what it was made from.

    Attributes:
        sources: (N,) images to render from.
        keypoints: (N,) theirs, in a frame of the generator's size.
        items: what to make; the copies of a source beside one another.
        unreadable: names of images that are no images.
        without_annotation: images that have no keypoints.
        unusable_keypoints: images with too few joints inside the image.
        copies_without_pose: copies for which the sampler found no valid pose.
    """

    sources: Split
    keypoints: Keypoints
    items: list[Item]
    unreadable: list[str]
    without_annotation: int
    unusable_keypoints: int
    copies_without_pose: int


def make_plan(train: Split, annotations: Annotations, aug: XingPose, per_image: int) -> Plan:
    """Chooses the sources and draws the poses of all their copies.

    Copy n is drawn as in epoch n. Joints outside an image count as missing.

    Args:
        train: the training images, all of them real.
        annotations: their keypoints, each in the frame of its own image.
        aug: with p = 1.
        per_image: copies of each source.
    """
    rows = annotations.lookup(train.names)
    candidates = np.flatnonzero(rows >= 0)
    sizes = [image_size(train.path(index)) for index in candidates.tolist()]
    readable = np.array([size is not None for size in sizes], dtype=bool)
    unreadable = [str(name) for name in train.names[candidates[~readable]]]
    candidates = candidates[readable]
    frames = np.array([size for size in sizes if size is not None], dtype=np.int64).reshape(-1, 2)
    keypoints = bring_to(aug.size, annotations.keypoints(rows[candidates]), frames)
    able = usable(keypoints).numpy()
    sources, keypoints = train.select(candidates[able]), keypoints[torch.from_numpy(able)]
    bank_rows = [_drawn(aug, sources, keypoints, copy) for copy in range(per_image)]
    names: Sequence[str] = sources.names.tolist()
    items = [
        Item(synthetic_name(name, copy), source, copy, int(bank_rows[copy][source]))
        for source, name in enumerate(names)
        for copy in range(per_image)
        if bank_rows[copy][source] >= 0
    ]
    return Plan(
        sources=sources,
        keypoints=keypoints,
        items=items,
        unreadable=unreadable,
        without_annotation=int((rows < 0).sum()),
        unusable_keypoints=int((~able).sum()),
        copies_without_pose=len(sources) * per_image - len(items),
    )


def image_size(path: Path) -> tuple[int, int] | None:
    """(height, width) from the file's header; None where it is missing or no image."""
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except (OSError, SyntaxError, ValueError):
        return None


def _drawn(aug: XingPose, sources: Split, keypoints: Keypoints, copy: int) -> np.ndarray:
    """(N,) int64 bank rows of one copy of every source; -1 where no pose was found."""
    names = sources.names.tolist()
    return aug.draw(keypoints, names, sources.pids, sources.camids, copy, size=aug.size).bank_rows.numpy()
