"""Pose estimators: networks of other people that find the person of an image, behind one protocol."""

from pathlib import Path

import torch

from xingaug.errors import BadInput
from xingaug.poses.estimators.base import MIN_CONFIDENCE, Estimator, Finder, PoseEstimator
from xingaug.poses.estimators.keypoint_rcnn import KeypointRCNN
from xingaug.poses.estimators.program import Program
from xingaug.poses.estimators.topdown import TopDown

__all__ = ["ESTIMATORS", "MIN_CONFIDENCE", "Estimator", "PoseEstimator", "load_estimator"]

_WEIGHTS = {
    "rtmpose": "an ONNX file of RTMPose or RTMW, as mmdeploy exports it (.onnx)",
    "vitpose": "an ONNX file of ViTPose, as mmdeploy or easy_ViTPose exports it (.onnx)",
    "program": "a network, images (B, 3, H, W) in [0, 1] -> (B, 18, 3), as ONNX (.onnx) or torch.export.save (.pt2)",
}
"""What the estimators that come without weights need."""

ESTIMATORS: tuple[str, ...] = ("keypoint-rcnn", *_WEIGHTS)
"""Names of the estimators."""


def load_estimator(
    name: str,
    weights: Path | None = None,
    device: str | torch.device = "cpu",
    mirror: bool = False,
    min_confidence: float = MIN_CONFIDENCE,
) -> Estimator:
    """Loads an estimator with its weights.

    Args:
        name: one of `ESTIMATORS`. `rtmpose` and `vitpose` read any top-down ONNX model of either family: whether its
            head is SimCC or heatmaps is told by its outputs.
        weights: the file. `keypoint-rcnn` takes a state dict, `.pth` or `.safetensors`, and without a path the weights
            that torchvision keeps or downloads; `rtmpose` and `vitpose` take `.onnx`, `program` takes `.onnx` or
            `.pt2`; the latter can run code, so name only one that you trust.
        device: where the network runs and the keypoints come out.
        mirror: estimate on the mirrored images too and average (see `PoseEstimator`).
        min_confidence: joints below it are missing, in [0, 1).

    Returns:
        The estimator.

    Raises:
        BadInput: an unknown name, no such file, a file that is no such model, no weights for `keypoint-rcnn` in
            torchvision's cache and no network, onnxruntime missing or without CUDA where it is asked for.
        ValueError: `min_confidence` outside its range.
    """
    if name not in ESTIMATORS:
        raise BadInput(f"unknown estimator '{name}'; known: {', '.join(ESTIMATORS)}")
    if weights is None and name in _WEIGHTS:
        raise BadInput(f"estimator '{name}': comes without weights; name {_WEIGHTS[name]}")
    device = _checked_device(device)
    finder: Finder
    if name == "keypoint-rcnn":
        finder = KeypointRCNN.load(weights, device)
    elif name == "program":
        finder = Program(Path(weights or ""), device)
    else:
        finder = TopDown(name, Path(weights or ""), device)
    return PoseEstimator(finder, mirror, min_confidence)


def _checked_device(device: str | torch.device) -> torch.device:
    try:
        checked = torch.device(device)
    except RuntimeError:
        raise BadInput(f"device '{device}': no such device; known: cpu, cuda, cuda:1 and so on") from None
    if checked.type == "cuda" and not torch.cuda.is_available():
        raise BadInput(f"device '{checked}': this torch finds no CUDA device; use cpu")
    return checked
