"""What each of two processes does in test_rendering_loader.py; writes what it rendered to OUT/<rank>.json."""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from posing import make
from test_rendering_loader import TrainingImages
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler

from xingaug.augment.loader import RenderingLoader


class Posed(nn.Module):
    """A network with a transform inside, whose frozen generator DDP must pass over."""

    def __init__(self) -> None:
        super().__init__()
        self.augment, self.network = make(), nn.Conv2d(3, 2, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(images).mean()


def main(out: Path) -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    model = DistributedDataParallel(Posed())
    data = TrainingImages()
    sampler = DistributedSampler(data, shuffle=True)
    loader = RenderingLoader(DataLoader(data, batch_size=3, sampler=sampler), model.module.augment)
    seen = {}
    for epoch in range(2):
        sampler.set_epoch(epoch)
        for batch in loader:
            model(batch["images"]).backward()
            for key, flag, image in zip(batch["keys"], batch["is_synthetic"], batch["images"], strict=True):
                seen[f"{epoch}/{key}"] = [bool(flag), float(image.mean())]
    (out / f"{rank}.json").write_text(json.dumps(seen))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
