"""A tiny generator that shows what it was given, persons, and a bank, for the tests of the transform."""

import torch
from torch import Tensor, nn

from xingaug.augment.transform import XingPose
from xingaug.keypoints import Keypoints
from xingaug.poses.bank import PoseBank

SIZE = (32, 16)
# One standing person in a 128x64 frame, as shares of its sides.
STANDING = torch.tensor(
    [
        [0.50, 0.12], [0.50, 0.22], [0.38, 0.22], [0.34, 0.36], [0.32, 0.48], [0.62, 0.22], [0.66, 0.36], [0.68, 0.48],
        [0.42, 0.52], [0.42, 0.72], [0.42, 0.92], [0.58, 0.52], [0.58, 0.72], [0.58, 0.92],
        [0.47, 0.10], [0.53, 0.10], [0.44, 0.12], [0.56, 0.12],
    ]
)  # fmt: skip


class Blend(nn.Module):
    """Half the source, a convolution of it, and a trace of where the joints go."""

    size = SIZE
    content_hash = "blend"

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.dropout = nn.Dropout(0.5)
        self.rows = 0

    def forward(self, source: Tensor, source_heatmaps: Tensor, target_heatmaps: Tensor) -> Tensor:
        self.rows += len(source)
        assert source.min() >= -1
        assert source.max() <= 1
        trace = (target_heatmaps.amax(1, keepdim=True) - source_heatmaps.amax(1, keepdim=True)).expand_as(source)
        return torch.tanh(0.5 * source + self.dropout(self.norm(self.conv(source))) + 0.5 * trace)


def persons(count: int, size: tuple[int, int] = SIZE, seed: int = 0) -> Keypoints:
    rng = torch.Generator().manual_seed(seed)
    shift = 0.06 * (torch.rand(count, len(STANDING), 2, generator=rng) - 0.5)
    xy = (STANDING + shift) * torch.tensor([size[1], size[0]]) - 0.5
    return Keypoints(xy, torch.ones(count, len(STANDING)))


def images_of(count: int, size: tuple[int, int] = SIZE, seed: int = 0) -> Tensor:
    return torch.rand((count, 3, *size), generator=torch.Generator().manual_seed(seed + 1))


def keys_of(count: int) -> list[str]:
    return [f"{i:04d}_c1s1_000001_00.jpg" for i in range(count)]


def make_bank(count: int = 40) -> PoseBank:
    return PoseBank.build(persons(count, (128, 64), seed=9), names=[f"bank{i}.jpg" for i in range(count)])


BANK = make_bank()


def make(**arguments) -> XingPose:
    return XingPose(Blend(), arguments.pop("bank", BANK), **{"p": 0.5, **arguments})
