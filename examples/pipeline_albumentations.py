"""XingPose in an albumentations pipeline.

xingaug world runs/pedestrians --identities 40 --images-per-identity 6
python examples/pipeline_albumentations.py runs/pedestrians
"""

import sys
from pathlib import Path

from xingaug.augment.for_albumentations import KEYPOINTS, RenderPose  # first: it stops albumentations' version check

# isort: split
import albumentations
import numpy as np

import xingaug
from xingaug.data.annotations import keypoints_of, read_annotations
from xingaug.data.market1501 import read_split
from xingaug.images import read_image

SIZE = (128, 64)


def main(root: Path, epochs: int = 2) -> int:
    """Iterates over the images; returns the number rendered in the last epoch."""
    split = read_split(root, "train")
    keypoints = keypoints_of(read_annotations(root / "annotations.npz"), split, size=SIZE)
    bank = xingaug.PoseBank.build(keypoints, names=split.names, pids=split.pids)
    pose = RenderPose(xingaug.XingPose(xingaug.load_generator("pedestrians-small"), bank, p=0.5))
    pipeline = albumentations.Compose(
        [
            pose,
            albumentations.RandomBrightnessContrast(p=0.5),
            albumentations.Erasing(p=0.5),
            albumentations.Normalize(),
        ],
        keypoint_params=KEYPOINTS,
        seed=0,
    )
    for epoch in range(epochs):
        pose.set_epoch(epoch)
        rendered = 0
        for row in range(len(split)):
            given = keypoints.xy[row].numpy()
            sample = pipeline(
                image=read_image(split.path(row), SIZE),
                keypoints=given,
                visibility=keypoints.visibility[row].numpy(),
                key=str(split.names[row]),
            )
            assert sample["image"].shape == (*SIZE, 3)
            rendered += not np.allclose(sample["keypoints"], given, atol=1e-3)
        print(f"epoch {epoch}: {rendered} of {len(split)} rendered")
    return rendered


if __name__ == "__main__":
    main(Path(sys.argv[1]))
