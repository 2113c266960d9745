"""Common to all estimators around the network: checks, flip averaging, the minimum confidence."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from xingaug.data.layouts import to_joints18
from xingaug.download import MOST_BYTES
from xingaug.errors import BadInput
from xingaug.inputs import sha256_of
from xingaug.keypoints import JOINTS, Keypoints

MIN_CONFIDENCE = 0.3
"""Confidence below which a joint is missing (our choice, and the threshold of the model families' own drawings)."""


class Estimator(Protocol):
    """Finds the person of each image.

    Attributes:
        name: one readable line, recorded as the source of annotations: kind, weights' file name, the first 12 hex
            digits of its SHA-256.
    """

    name: str

    def __call__(self, images: Tensor | Sequence[Tensor]) -> Keypoints:
        """Estimates the keypoints.

        Args:
            images: (B, 3, H, W), or B tensors (3, H_i, W_i), float in [0, 1], on any device.

        Returns:
            (B,) keypoints on the estimator's device, in each image's own pixels. `visibility` is the model's
            confidence in [0, 1]; if no person is found, all joints are missing.
        """
        ...


class Finder(Protocol):
    """A network with its pre- and postprocessing.

    Attributes:
        name: as in `Estimator`.
        device: the device that it runs on.
    """

    name: str
    device: torch.device

    def __call__(self, images: list[Tensor]) -> Keypoints:
        """Images (3, H_i, W_i) float32 on `device`, at least one -> (B,) all joints with their confidence."""
        ...


class PoseEstimator:
    """An `Estimator` made of a `Finder`.

    With `mirror` the finder runs on the mirrored images too, and its result is mirrored back. A joint's position is the
    mean of both, weighted by confidence, and its confidence is the mean of both, so that a joint found once keeps its
    position and half of its confidence (our choice). The neck, derived from the shoulders or found, is averaged like
    any other joint.

    Attributes:
        name: the finder's name, and whether it is mirrored.
    """

    def __init__(self, finder: Finder, mirror: bool = False, min_confidence: float = MIN_CONFIDENCE) -> None:
        """Wraps a finder.

        Args:
            finder: the network.
            mirror: average with the mirrored images.
            min_confidence: joints below it, after averaging, are missing; in [0, 1).

        Raises:
            ValueError: `min_confidence` outside its range.
        """
        if not 0 <= min_confidence < 1:
            raise ValueError(f"min_confidence: {min_confidence}, needed a number in [0, 1)")
        self.name = f"{finder.name}, mirrored" if mirror else finder.name
        self._finder, self._mirror, self._min_confidence = finder, mirror, min_confidence

    @torch.no_grad()
    def __call__(self, images: Tensor | Sequence[Tensor]) -> Keypoints:
        """Finds the person of each image; see `Estimator`.

        Raises:
            BadInput: the network does not accept the images, or its output is not a pose.
            ValueError: images of another shape or dtype.
        """
        device = self._finder.device
        checked = [_checked(image) for image in images]
        if not checked:
            return Keypoints(*(torch.zeros(0, len(JOINTS), *rest, device=device) for rest in ((2,), ())))
        if isinstance(images, Tensor):
            batch = list(images.to(device, torch.float32))  # in one go
        else:
            batch = [image.to(device, torch.float32) for image in checked]
        found = self._finder(batch)
        if self._mirror:
            mirrored = self._finder([image.flip(-1) for image in batch])
            found = _mean(found, _mirrored_back(mirrored, [image.shape[-1] for image in batch]))
        seen = found.visibility >= self._min_confidence
        return Keypoints(found.xy, found.visibility * seen)


def _checked(image: Tensor) -> Tensor:
    if image.ndim != 3 or len(image) != 3 or min(image.shape) < 1 or not image.is_floating_point():
        raise ValueError(f"images: {image.dtype} {tuple(image.shape)} for one of them, needed float (3, H, W)")
    return image


def _mirrored_back(found: Keypoints, widths: list[int]) -> Keypoints:
    flipped = found.flip(0)
    shift = torch.tensor(widths, dtype=torch.float32, device=found.device)
    return Keypoints(torch.stack([flipped.xy[..., 0] + shift[:, None], flipped.xy[..., 1]], -1), flipped.visibility)


def _mean(a: Keypoints, b: Keypoints) -> Keypoints:
    """Positions averaged by confidence, and the mean confidence."""
    total = a.visibility + b.visibility
    weight = (b.visibility / total).where(total > 0, 0)[..., None]
    return Keypoints(torch.lerp(a.xy, b.xy, weight), total / 2)


def poses_of_coco17(xy: Tensor, confidence: Tensor, where: str) -> Keypoints:
    """Converts COCO's 17 joints of a network to the 18 joints; the neck is the middle of the shoulders.

    Args:
        xy: (B, 17, 2) pixels of each image.
        confidence: (B, 17), clipped to [0, 1] here.
        where: the network, for the error message.

    Raises:
        BadInput: NaN or infinite values.
    """
    if not bool(confidence.isfinite().all() and xy.isfinite().all()):
        raise BadInput(f"{where}: gives NaN or infinite values; needed weights that fit the network")
    return to_joints18(xy, confidence.clamp(0, 1), "coco17")


def weights_name(kind: str, path: Path) -> str:
    """The name of an estimator: kind, weights' file name, and the start of its SHA-256."""
    return f"{kind} {path.name} {sha256_of(path, most=MOST_BYTES)[:12]}"


def require_file(kind: str, path: Path, suffixes: tuple[str, ...]) -> None:
    """Raises `BadInput` unless the file exists and has one of the suffixes."""
    if not path.is_file():
        raise BadInput(f"{path}: no such file; the estimator '{kind}' needs its weights, {' or '.join(suffixes)}")
    if path.suffix.lower() not in suffixes:
        raise BadInput(f"{path}: the estimator '{kind}' reads {' or '.join(suffixes)}")
