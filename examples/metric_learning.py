"""PyTorch Metric Learning: its sampler draws the batches, xingaug renders half of their rows in other poses.

pip install pytorch-metric-learning
xingaug world runs/pedestrians --identities 40 --images-per-identity 6
python examples/metric_learning.py runs/pedestrians
"""

import sys
from pathlib import Path
from typing import Any

import torch
from pytorch_metric_learning import losses, samplers
from torch import nn
from torch.utils.data import DataLoader, Dataset

from reid_integration.by_path import MEAN, STD, render_by_path
from xingaug.data.readers import read_split
from xingaug.images import read_image

SIZE = (128, 64)


class Crops(Dataset[Any]):
    """(image, pid, camid, path) of the training images of any dataset that xingaug reads."""

    def __init__(self, root: Path) -> None:
        split = read_split(root, "train")
        self.records = [(str(split.path(i)), int(split.pids[i]), int(split.camids[i])) for i in range(len(split))]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, row: int) -> Any:
        path, pid, camid = self.records[row]
        image = torch.from_numpy(read_image(path, SIZE)).permute(2, 0, 1).float() / 255
        mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
        return (image - mean) / std, pid, camid, path


def main(root: Path, epochs: int = 2) -> int:
    """Trains an embedding with triplets; returns the number of rendered rows."""
    data = Crops(root)
    labels = [pid for _, pid, _ in data.records]
    sampler = samplers.MPerClassSampler(labels, m=4, length_before_new_iter=len(labels) // 16 * 16)
    stock = DataLoader(data, batch_size=16, sampler=sampler)
    loader = render_by_path(stock, data.records, root / "annotations.npz", "pedestrians-small", p=0.5)  # xingaug

    network = nn.Sequential(
        nn.Conv2d(3, 32, 5, stride=4), nn.ReLU(), nn.Conv2d(32, 64, 3, stride=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d((4, 2)), nn.Flatten(), nn.Linear(64 * 8, 32),
    )  # fmt: skip
    criterion, optimiser = losses.TripletMarginLoss(margin=0.2), torch.optim.Adam(network.parameters(), lr=1e-3)
    for epoch in range(epochs):
        for images, pids, _, _ in loader:
            loss = criterion(network(images), pids)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        print(f"epoch {epoch}: loss {loss.item():.3f}, {loader.synthetic} of {loader.rows} rendered")
    return loader.synthetic


if __name__ == "__main__":
    main(Path(sys.argv[1]))
