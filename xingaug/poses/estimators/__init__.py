"""Pose estimators behind one protocol: images in, the 18 joints of each image's central person out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from xingaug.errors import BadInput
from xingaug.keypoints import Keypoints

ESTIMATORS: tuple[str, ...] = ("keypoint-rcnn", "rtmpose", "vitpose", "program")
"""What `load_estimator` knows."""


class Estimator(Protocol):
    """Finds the central person's joints.

    Attributes:
        name: one line: kind, weights' file name, first 12 hex digits of their SHA-256.
    """

    name: str

    def __call__(self, images: Tensor | Sequence[Tensor]) -> Keypoints:
        """(B, 3, H, W), or B images (3, H_i, W_i), in [0, 1]; returns (B,) in each image's own pixels."""
        ...


def load_estimator(
    name: str,
    weights: Path | None = None,
    device: str | torch.device = "cpu",
    mirror: bool = False,
    min_confidence: float = 0.2,
) -> Estimator:
    """Replaced when the estimators are merged.

    Raises:
        BadInput: always.
    """
    raise BadInput(f"--estimator: '{name}' is not built in this branch; needed the merged estimators")
