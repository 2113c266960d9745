"""A small dataset to generate from, and a generator that is quick and says what it was given."""

import hashlib
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from xingaug.data.annotations import write_npz
from xingaug.keypoints import Keypoints
from xingaug.offline.config import GenerateConfig
from xingaug.offline.generate import Summary, generate
from xingaug.poses.bank import PoseBank

SIZE = (32, 16)
TRAIN = [f"{pid:04d}_c{camid}s1_{pid:04d}{camid:02d}_00.jpg" for pid in (2, 7, 11) for camid in (1, 2, 3)]
QUERY, GALLERY = (
    ["0003_c1s1_000100_00.jpg"],
    ["-1_c1s1_000100_00.jpg", "0000_c1s1_000200_00.jpg", "0003_c2s1_000300_00.jpg"],
)
# x and y of a standing person, as shares of a frame's sides.
STANDING = np.array(
    [
        [0.50, 0.12], [0.50, 0.22], [0.38, 0.22], [0.34, 0.36], [0.32, 0.48], [0.62, 0.22], [0.66, 0.36], [0.68, 0.48],
        [0.42, 0.52], [0.42, 0.72], [0.42, 0.92], [0.58, 0.52], [0.58, 0.72], [0.58, 0.92],
        [0.47, 0.10], [0.53, 0.10], [0.44, 0.12], [0.56, 0.12],
    ],
    np.float32,
)  # fmt: skip


class Blend(nn.Module):
    """The source with the target's joints burnt in; `pause` seconds for each call."""

    size = SIZE
    content_hash = "blend"

    def __init__(self, pause: float = 0.0) -> None:
        super().__init__()
        self.pause = pause
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, source: Tensor, source_heatmaps: Tensor, target_heatmaps: Tensor) -> Tensor:
        time.sleep(self.pause)
        return torch.tanh(self.conv(source) + target_heatmaps.amax(1, keepdim=True))


def poses(count: int, frame: tuple[int, int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    shares = STANDING + np.random.default_rng(seed).uniform(-0.03, 0.03, (count, 18, 2)).astype(np.float32)
    return (shares * (frame[1], frame[0]) - 0.5).astype(np.float32), np.ones((count, 18), np.float32)


def write_images(folder: Path, names: list[str], seed: int) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for name in names:
        Image.fromarray(rng.integers(0, 256, (*SIZE, 3), np.uint8)).save(folder / name, quality=90)


def build_dataset(root: Path) -> GenerateConfig:
    """A dataset of nine training images, its annotations and a bank; the configuration to generate from it."""
    data = root / "data"
    write_images(data / "bounding_box_train", [*TRAIN, "-1_c1s1_000001_00.jpg"], 0)
    write_images(data / "query", QUERY, 1)
    write_images(data / "bounding_box_test", GALLERY, 2)
    (data / "query" / "Thumbs.db").write_bytes(b"not an image")
    write_npz(root / "annotations.npz", TRAIN, *poses(len(TRAIN), SIZE, 3))
    bank = PoseBank.build(Keypoints(*poses(20, (128, 64), 4)), names=[f"0099_c1s1_{i:06d}_00.jpg" for i in range(20)])
    bank.save(root / "bank")
    return dataset_config(root)


def dataset_config(root: Path) -> GenerateConfig:
    """The configuration for what `build_dataset` wrote."""
    return GenerateConfig(
        data=root / "data",
        annotations=root / "annotations.npz",
        generator="unused",
        bank=root / "bank",
        per_image=3,
        out=root / "out",
        batch_size=4,
    )


def run(config: GenerateConfig, generator: nn.Module | None = None) -> Summary:
    return generate(config, progress=False, generator=generator or Blend())


def tree(root: Path) -> dict[str, str]:
    """SHA-256 of every file below `root`, temporary and hidden ones included."""
    files = [path for path in root.rglob("*") if path.is_file()]
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
