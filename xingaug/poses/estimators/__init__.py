"""Pose estimators, the project's own and third-party networks, behind one protocol."""

from pathlib import Path

import torch

from xingaug.errors import BadInput
from xingaug.poses.estimators.base import MIN_CONFIDENCE, Estimator, Finder, PoseEstimator
from xingaug.poses.estimators.keypoint_rcnn import KeypointRCNN
from xingaug.poses.estimators.movenet import MoveNet, takes_rows_of_pixels
from xingaug.poses.estimators.posenet import PoseNetFinder
from xingaug.poses.estimators.program import Program
from xingaug.poses.estimators.public import PUBLIC
from xingaug.poses.estimators.topdown import TopDown
from xingaug.programs import onnx_session

__all__ = [
    "ESTIMATORS",
    "MIN_CONFIDENCE",
    "Estimator",
    "PoseEstimator",
    "load_estimator",
    "load_estimator_file",
    "posenet_file",
]

_WEIGHTS = {
    "rtmpose": "an ONNX file of RTMPose or RTMW, as mmdeploy exports it (.onnx)",
    "vitpose": "an ONNX file of ViTPose, as mmdeploy or easy_ViTPose exports it (.onnx)",
    "movenet": "an ONNX file of MoveNet's single pose, input (1, H, W, 3) (.onnx)",
    "posenet": "what `xingaug train-estimator` writes (.safetensors)",
    "program": "a network, images (B, 3, H, W) in [0, 1] -> (B, 18, 3), as ONNX (.onnx) or torch.export.save (.pt2)",
}
"""The file that each estimator without bundled weights needs."""

_BUNDLED = Path(__file__).resolve().parents[2] / "weights" / "estimators"

BUNDLED: tuple[str, ...] = tuple(sorted(path.stem for path in _BUNDLED.glob("*.safetensors")))
"""Names of the estimators with bundled weights; each has a model card beside them."""

DEFAULT = "posenet-market1501"
"""The default estimator."""

ESTIMATORS: tuple[str, ...] = (*BUNDLED, "keypoint-rcnn", *_WEIGHTS)
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
        name: one of `ESTIMATORS`; those of `BUNDLED` need nothing else. `rtmpose` and `vitpose` read any top-down ONNX
            model of either family: SimCC or heatmaps is detected from the outputs.
        weights: the file. `keypoint-rcnn` takes a state dict, `.pth` or `.safetensors`, and without a path the weights
            that torchvision caches or downloads; `rtmpose`, `vitpose` and `movenet` take `.onnx`, `posenet` the output
            of `train_estimator`, `program` takes `.onnx` or `.pt2`; the latter can run code, so use only one that you
            trust.
        device: the device of the network and of the returned keypoints.
        mirror: estimate on the mirrored images too and average (see `PoseEstimator`).
        min_confidence: joints below it are missing, in [0, 1).

    Returns:
        The estimator.

    Raises:
        BadInput: an unknown name, no such file, a file of another model, no weights for `keypoint-rcnn` in
            torchvision's cache and no internet, onnxruntime missing or without the requested CUDA.
        ValueError: `min_confidence` outside its range.
    """
    if name not in ESTIMATORS:
        raise BadInput(f"unknown estimator '{name}'; known: {', '.join(ESTIMATORS)}")
    if name in BUNDLED and weights is not None:
        raise BadInput(f"estimator '{name}': comes with its weights; with {weights} name the estimator posenet")
    if weights is None and name in _WEIGHTS:
        is_published = any(one.estimator == name for one in PUBLIC)
        or_fetch = "; or --download fetches published ones" if is_published else ""
        raise BadInput(f"estimator '{name}': comes without weights; name {_WEIGHTS[name]}{or_fetch}")
    device = _checked_device(device)
    finder: Finder
    if name in BUNDLED or name == "posenet":
        finder = PoseNetFinder(weights or posenet_file(name), device)
    elif name == "keypoint-rcnn":
        finder = KeypointRCNN.load(weights, device)
    elif name == "program":
        finder = Program(Path(weights or ""), device)
    elif name == "movenet":
        finder = MoveNet(Path(weights or ""), device)
    else:
        finder = TopDown(name, Path(weights or ""), device)
    return PoseEstimator(finder, mirror, min_confidence)


def posenet_file(name_or_path: str | Path) -> Path:
    """The weights file of a PoseNet: the bundled one of that name, or the given path."""
    return _BUNDLED / f"{name_or_path}.safetensors" if str(name_or_path) in BUNDLED else Path(name_or_path)


def load_estimator_file(path: Path, device: str | torch.device = "cpu", min_confidence: float = 0.0) -> Estimator:
    """Loads an estimator; its kind is detected from the file.

    Args:
        path: `.pt2`, `.safetensors` of PoseNet, or `.onnx`: MoveNet has an input (1, H, W, 3), a program one output
            (B, 18, 3), otherwise it is a top-down network such as RTMPose.
        device: where the network runs.
        min_confidence: joints below it are missing, in [0, 1).

    Raises:
        BadInput: as `load_estimator`.
    """
    kind = "posenet" if path.suffix.lower() == ".safetensors" else "program"
    if path.suffix.lower() == ".onnx" and path.is_file():
        session = onnx_session(path, torch.device("cpu"), "a pose estimator")
        outputs = session.get_outputs()
        if takes_rows_of_pixels(session):
            kind = "movenet"
        elif len(outputs) != 1 or len(outputs[0].shape) != 3:
            kind = "rtmpose"
    return load_estimator(kind, path, device, min_confidence=min_confidence)


def _checked_device(device: str | torch.device) -> torch.device:
    try:
        checked = torch.device(device)
    except RuntimeError:
        raise BadInput(f"device '{device}': no such device; known: cpu, cuda, cuda:1 and so on") from None
    if checked.type == "cuda" and not torch.cuda.is_available():
        raise BadInput(f"device '{checked}': this torch finds no CUDA device; use cpu")
    return checked
