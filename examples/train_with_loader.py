"""XingPose around a DataLoader: it yields rendered batches, and the usual re-ID augmentation follows on their device.

xingaug world runs/pedestrians --identities 40 --images-per-identity 6
python examples/train_with_loader.py runs/pedestrians
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import xingaug
from xingaug.augment.batch import erase, flip, normalize, pad_crop
from xingaug.augment.gate import QualityGate
from xingaug.augment.loader import RenderingLoader
from xingaug.data.annotations import keypoints_of, read_annotations
from xingaug.data.market1501 import read_split
from xingaug.images import bytes_to_unit, read_image

SIZE = (128, 64)


class TrainingImages(Dataset[dict[str, Any]]):
    """Images with their keypoints, as `RenderingLoader` reads them."""

    def __init__(self, root: Path) -> None:
        self.split = read_split(root, "train")
        self.keypoints = keypoints_of(read_annotations(root / "annotations.npz"), self.split, size=SIZE)
        self.pids, self.labels = np.unique(self.split.pids, return_inverse=True)

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, row: int) -> dict[str, Any]:
        joints = self.keypoints[row]
        return {
            "images": bytes_to_unit(torch.from_numpy(read_image(self.split.path(row), SIZE))),
            "xy": joints.xy,
            "visibility": joints.visibility,
            "keys": str(self.split.names[row]),
            "pids": int(self.split.pids[row]),
            "label": int(self.labels[row]),
        }


def main(root: Path, epochs: int = 2) -> float:
    """Trains a small classifier of identities; returns its last loss."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    data = TrainingImages(root)
    names, pids, camids = data.split.names, data.split.pids, data.split.camids
    bank = xingaug.PoseBank.build(data.keypoints, names=names, pids=pids, camids=camids)
    generator = xingaug.load_generator("pedestrians-small", device)
    augment = xingaug.XingPose(generator, bank, p=0.5, reuse=2, gate=QualityGate())
    loader = RenderingLoader(DataLoader(data, batch_size=32, shuffle=True, num_workers=2), augment)

    network = nn.Sequential(
        nn.Conv2d(3, 32, 5, stride=4), nn.ReLU(), nn.Conv2d(32, 64, 3, stride=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d((4, 2)), nn.Flatten(), nn.Linear(64 * 8, len(data.pids)),
    ).to(device)  # fmt: skip
    optimiser, rng = torch.optim.Adam(network.parameters(), lr=1e-3), torch.Generator().manual_seed(0)
    for epoch in range(epochs):
        rendered = 0
        for batch in loader:
            images = erase(pad_crop(flip(batch["images"], rng), rng), rng)
            images = normalize(images, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
            loss = nn.functional.cross_entropy(network(images), batch["label"].to(device))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            rendered += int(batch["is_synthetic"].sum())
        print(f"epoch {epoch}: loss {loss.item():.3f}, {rendered} of {len(data)} rendered")
    return loss.item()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
