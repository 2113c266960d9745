"""Lightning: xingaug renders in `on_after_batch_transfer`, on the device of the batch.

pip install lightning
xingaug world runs/pedestrians --identities 40 --images-per-identity 6
python examples/lightning_module.py runs/pedestrians
"""

import sys
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import xingaug
from xingaug.data.annotations import keypoints_of, read_annotations
from xingaug.data.market1501 import read_split
from xingaug.images import bytes_to_unit, read_image

SIZE = (128, 64)


class TrainingImages(Dataset[dict[str, Any]]):
    """Clean images in [0, 1] with their keypoints, names and labels."""

    def __init__(self, root: Path) -> None:
        self.split = read_split(root, "train")
        self.keypoints = keypoints_of(read_annotations(root / "annotations.npz"), self.split, size=SIZE)
        self.pids, self.labels = np.unique(self.split.pids, return_inverse=True)

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, row: int) -> dict[str, Any]:
        joints = self.keypoints[row]
        image = bytes_to_unit(torch.from_numpy(read_image(self.split.path(row), SIZE)))
        return {
            "images": image, "xy": joints.xy, "visibility": joints.visibility, "keys": str(self.split.names[row]),
            "pids": int(self.split.pids[row]), "labels": int(self.labels[row]),
        }  # fmt: skip


class Classifier(lightning.LightningModule):
    """A small classifier of identities whose training batches are re-rendered."""

    def __init__(self, data: TrainingImages) -> None:
        super().__init__()
        names, pids, camids = data.split.names, data.split.pids, data.split.camids
        bank = xingaug.PoseBank.build(data.keypoints, names=names, pids=pids, camids=camids)
        self.augment = xingaug.XingPose(xingaug.load_generator("pedestrians-small"), bank, p=0.5)
        self.network = nn.Sequential(
            nn.Conv2d(3, 32, 5, stride=4), nn.ReLU(), nn.Conv2d(32, 64, 3, stride=2), nn.ReLU(),
            nn.AdaptiveAvgPool2d((4, 2)), nn.Flatten(), nn.Linear(64 * 8, len(data.pids)),
        )  # fmt: skip
        self.rendered = 0

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Renders the rows drawn by epoch and image name; in validation the transform does nothing."""
        keypoints = xingaug.Keypoints(batch["xy"], batch["visibility"])
        out = self.augment(batch["images"], keypoints, batch["keys"], batch["pids"].cpu(), epoch=self.current_epoch)
        self.rendered += int(out.is_synthetic.sum())
        return {**batch, "images": out.images}

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """The loss of the rendered batch."""
        return nn.functional.cross_entropy(self.network(batch["images"]), batch["labels"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.network.parameters(), lr=1e-3)


def main(root: Path, epochs: int = 2) -> int:
    """Trains; returns the number of rendered rows."""
    data = TrainingImages(root)
    model = Classifier(data)
    trainer = lightning.Trainer(max_epochs=epochs, logger=False, enable_checkpointing=False)
    trainer.fit(model, DataLoader(data, batch_size=16, shuffle=True))
    print(f"{model.rendered} of {epochs * len(data)} rows rendered")
    return model.rendered


if __name__ == "__main__":
    main(Path(sys.argv[1]))
