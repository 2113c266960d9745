"""A pose estimator that needs no weights, and the command line with it in the place of a real one.

python annotating.py annotate ...: as `xingaug annotate ...`; XINGAUG_TEST_DELAY seconds for each batch.
"""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from xingaug.keypoints import Keypoints

JOINTS = 18


class ByColour:
    """Joint j lies at (2 + j / 4, 20 + 4 j); an image's first pixel tells how many joints it shows, red of them.

    A green pixel value above 0 puts that many of them outside.
    """

    name = "by colour, none.pt2, 0123456789ab"

    def __init__(self, delay: float = 0) -> None:
        self.delay = delay
        self.batches: list[tuple[int, ...]] = []  # their sizes and whether they came stacked

    def __call__(self, images: Tensor | Sequence[Tensor]) -> Keypoints:
        time.sleep(self.delay)
        self.batches.append((len(images), isinstance(images, Tensor)))
        joint = torch.arange(JOINTS)
        xy, seen = [], []
        for image in images:
            red, green, blue = (image[:, 0, 0] * 255).round().long().tolist()
            place = torch.stack([2 + joint / 4, 20 + 4 * joint], -1) + blue / 256
            place[:green] += 10_000
            xy.append(place)
            seen.append((joint < red) * (0.3 + 0.7 * joint / JOINTS))
        return Keypoints(torch.stack(xy), torch.stack(seen))


def write_colour(path: Path, joints: int, outside: int = 0, shift: int = 0, size: tuple[int, int] = (128, 64)) -> None:
    """An image of which `ByColour` finds `joints` joints, of which `outside` lie outside."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.full((*size, 3), 90, np.uint8)
    image[0, 0] = joints, outside, shift
    Image.fromarray(image).save(path, format="PNG")


def load(name: str, weights: Any = None, device: str = "cpu", mirror: bool = False, min_confidence: float = 0) -> Any:
    estimator = ByColour(float(os.environ.get("XINGAUG_TEST_DELAY", 0)))
    estimator.name = f"{name}, {weights}"
    return estimator


if __name__ == "__main__":
    from xingaug.cli import main

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("xingaug.poses.estimators.load_estimator", load)
        sys.exit(main(sys.argv[1:]))
