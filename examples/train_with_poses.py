"""A training loop in plain PyTorch, with half of every batch re-rendered in other poses.

xingaug world runs/pedestrians --identities 40 --images-per-identity 6
python examples/train_with_poses.py runs/pedestrians
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

import xingaug
from xingaug.data.annotations import keypoints_of, read_annotations
from xingaug.data.market1501 import read_images, read_split
from xingaug.images import bytes_to_unit


def main(root: Path, epochs: int = 2, batch_size: int = 32) -> float:
    """Trains a small classifier of identities; returns its last loss."""
    split = read_split(root, "train")
    table = read_annotations(root / "annotations.npz")
    images = bytes_to_unit(torch.from_numpy(read_images(split, size=(128, 64))))  # (N, 3, 128, 64) in [0, 1]
    keypoints = keypoints_of(table, split, size=(128, 64))  # (N, 18)
    pids, labels = np.unique(split.pids, return_inverse=True)

    bank = xingaug.PoseBank.build(keypoints, names=split.names, pids=split.pids, camids=split.camids)
    augment = xingaug.XingPose(xingaug.load_generator("pedestrians-small"), bank, p=0.5, seed=0)

    network = nn.Sequential(
        nn.Conv2d(3, 32, 5, stride=4), nn.ReLU(), nn.Conv2d(32, 64, 3, stride=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d((4, 2)), nn.Flatten(), nn.Linear(64 * 8, len(pids)),
    )  # fmt: skip
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    for epoch in range(epochs):
        for rows in torch.randperm(len(split)).split(batch_size):
            names = [str(name) for name in split.names[rows]]
            out = augment(images[rows], keypoints[rows], keys=names, pids=split.pids[rows], epoch=epoch)
            loss = nn.functional.cross_entropy(network(out.images), torch.from_numpy(labels)[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        print(
            f"epoch {epoch}: loss {loss.item():.3f}, last batch {int(out.is_synthetic.sum())} of {len(rows)} rendered"
        )
    return loss.item()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
