"""XingPose as the first of torchvision's v2 transforms; the others then transform images and keypoints.

xingaug world runs/pedestrians --identities 40 --images-per-identity 6
python examples/pipeline_torchvision.py runs/pedestrians
"""

import sys
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

import xingaug
from xingaug.augment.for_torchvision import RenderPose
from xingaug.data.annotations import keypoints_of, read_annotations
from xingaug.data.market1501 import read_split
from xingaug.images import read_image

SIZE = (128, 64)


class TrainingImages(Dataset[dict[str, Any]]):
    """Images and keypoints as tv_tensors in one sample."""

    def __init__(self, root: Path, transform: v2.Transform) -> None:
        self.split, self.transform = read_split(root, "train"), transform
        self.keypoints = keypoints_of(read_annotations(root / "annotations.npz"), self.split, size=SIZE)

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, row: int) -> dict[str, Any]:
        image = torch.from_numpy(read_image(self.split.path(row), SIZE)).movedim(-1, 0)
        return self.transform(
            {
                "image": tv_tensors.Image(image),
                "keypoints": tv_tensors.KeyPoints(self.keypoints.xy[row], canvas_size=SIZE),
                "visibility": self.keypoints.visibility[row],
                "key": str(self.split.names[row]),
                "pid": int(self.split.pids[row]),
            }
        )


def main(root: Path, epochs: int = 2) -> int:
    """Iterates over the images; returns the number rendered in the last epoch."""
    split = read_split(root, "train")
    keypoints = keypoints_of(read_annotations(root / "annotations.npz"), split, size=SIZE)
    bank = xingaug.PoseBank.build(keypoints, names=split.names, pids=split.pids)
    pose = RenderPose(xingaug.XingPose(xingaug.load_generator("pedestrians-small"), bank, p=0.5))
    transform = v2.Compose(
        [
            pose,
            v2.RandomCrop(SIZE, padding=4),
            v2.ColorJitter(brightness=0.2),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    loader = DataLoader(TrainingImages(root, transform), batch_size=32, num_workers=2, persistent_workers=True)
    for epoch in range(epochs):
        pose.set_epoch(epoch)
        rendered = sum(int(batch["is_synthetic"].sum()) for batch in loader)
        print(f"epoch {epoch}: {rendered} of {len(split)} rendered")
    return rendered


if __name__ == "__main__":
    main(Path(sys.argv[1]))
