"""Keypoint R-CNN (He et al. 2017) from torchvision."""

import sys
from pathlib import Path
from urllib.error import URLError

import torch
from torch import Tensor, nn

from xingaug.errors import BadInput, first_line
from xingaug.keypoints import Keypoints
from xingaug.poses.estimators.base import poses_of_coco17, require_file, weights_name
from xingaug.poses.estimators.frames import Frames, frame
from xingaug.tensors import misfit, read_tensors, state_dict_of

SIZE = (640, 480)
"""(height, width) of the frames: an upright crop becomes 512 pixels high (our choice)."""

BORDER = (0.485, 0.456, 0.406)
"""The mean that the network subtracts, so that the border becomes 0, as in torchvision's own padding."""

PERSONS = 10
"""Most persons kept per crop, best first (our choice)."""

AT_ONCE = 8
"""Frames per forward pass, to limit memory (our choice)."""


class KeypointRCNN:
    """A detector with keypoint head; of several persons in a crop the central one is used.

    It has the largest product of score and share of the crop's middle (half its height and half its width) that its box
    covers; a person outside the middle is not the crop's person. A joint's confidence is the person's score times the
    sigmoid of the joint's own score, which is a logit (both our choice). torchvision's joints are pixel indices, as in
    COCO: the first pixel's centre is 0.
    """

    def __init__(self, network: nn.Module, name: str, device: torch.device) -> None:
        """Wraps a network.

        Args:
            network: as torchvision's: list of (3, H, W) in [0, 1] -> list of dicts with `boxes` (N, 4), `scores` (N,),
                `labels` (N,), 1 for a person, `keypoints` (N, 17, 3) and `keypoints_scores` (N, 17), in the pixels of
                its input images.
            name: name of the estimator.
            device: the device that it runs on.
        """
        self.name, self.device = name, device
        self._network = network.to(device).eval().requires_grad_(False)

    @classmethod
    def load(cls, path: Path | None, device: torch.device) -> "KeypointRCNN":
        """Builds `keypointrcnn_resnet50_fpn` with the weights of a file, or with torchvision's own.

        Raises:
            BadInput: no such file, weights that do not fit, or none available from torchvision.
        """
        if path is None:
            path, state = _weights_of_torchvision()
        else:
            state = _read_state(path)
        return cls(_build(state, path), weights_name("keypoint-rcnn", path), device)

    def __call__(self, images: list[Tensor]) -> Keypoints:
        """Images of any sizes -> (B,)."""
        parts = [self._find(images[i : i + AT_ONCE]) for i in range(0, len(images), AT_ONCE)]
        xy, confidence = (torch.cat(of_all) for of_all in zip(*parts, strict=True))
        return poses_of_coco17(xy, confidence, self.name)

    def _find(self, images: list[Tensor]) -> tuple[Tensor, Tensor]:
        """(B, 17, 2) pixels of the images and (B, 17) confidences; zeros if there is nobody."""
        frames = frame(images, SIZE, torch.tensor(BORDER))
        given = self._network(list(frames.images))
        middles = _middles(images, frames)
        xy, confidence = (torch.zeros(len(images), 17, *rest, device=self.device) for rest in ((2,), ()))
        for i, one in enumerate(given):
            person = central_person(one["boxes"], one["scores"] * (one["labels"] == 1), middles[i])
            if person is not None:
                xy[i] = one["keypoints"][person, :, :2]
                confidence[i] = one["scores"][person] * one["keypoints_scores"][person].sigmoid()
        return frames.back(xy), confidence


def central_person(boxes: Tensor, scores: Tensor, middle: Tensor) -> int | None:
    """The person with the largest product of score and share of `middle` that the box covers.

    Args:
        boxes: (N, 4) x1, y1, x2, y2.
        scores: (N,) in [0, 1].
        middle: (4,) a box in the same frame.

    Returns:
        The row, or None if no box covers any of it.
    """
    sides = torch.minimum(boxes[:, 2:], middle[2:]) - torch.maximum(boxes[:, :2], middle[:2])
    rank = scores * sides.clamp(min=0).prod(-1) / (middle[2:] - middle[:2]).prod()
    return int(rank.argmax()) if bool((rank > 0).any()) else None


def _middles(images: list[Tensor], frames: Frames) -> Tensor:
    """(B, 4) central boxes of half the height and half the width of each crop, in pixels of the frames."""
    sizes = torch.tensor([[image.shape[-1], image.shape[-2]] for image in images], device=frames.scale.device)
    inner = sizes * frames.scale
    return torch.cat([frames.offset + inner / 4, frames.offset + inner * 3 / 4], -1)


def _weights_of_torchvision() -> tuple[Path, dict[str, Tensor]]:
    """The weights from torchvision's cache, or downloaded by it."""
    from torchvision.models.detection import KeypointRCNN_ResNet50_FPN_Weights

    weights = KeypointRCNN_ResNet50_FPN_Weights.COCO_V1
    path = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rpartition("/")[2]
    try:
        bar = sys.stderr.isatty()
        state = weights.get_state_dict(progress=bar, check_hash=True, map_location="cpu", weights_only=True)
    except OSError as error:
        if not isinstance(error, URLError | ConnectionError | TimeoutError):
            raise
        reason = first_line(error)
    except Exception as error:  # a damaged file can raise anything
        reason = first_line(error)
    else:
        return path, state
    raise BadInput(
        f"estimator 'keypoint-rcnn': no weights from torchvision, which takes them from {weights.url} ({reason}) and "
        f"keeps them as {path} (TORCH_HOME moves it); put the file there or name its path"
    )


def _read_state(path: Path) -> dict[str, Tensor]:
    require_file("keypoint-rcnn", path, (".pth", ".pt", ".safetensors"))
    needed = "the weights of torchvision's keypointrcnn_resnet50_fpn"
    return state_dict_of(path, read_tensors(path, needed), needed)


def _build_network() -> nn.Module:
    """The network without weights, configured not to resize frames of `SIZE`."""
    from torchvision.models.detection import keypointrcnn_resnet50_fpn

    with torch.random.fork_rng(devices=[]):  # it draws initial weights, which are overwritten
        return keypointrcnn_resnet50_fpn(
            weights=None,
            weights_backbone=None,
            min_size=min(SIZE),
            max_size=max(SIZE),
            box_detections_per_img=PERSONS,
        )


def _build(state: dict[str, Tensor], path: Path) -> nn.Module:
    """The network with these weights."""
    network = _build_network()
    if found := misfit(state, network):
        raise BadInput(f"{path}: no weights of torchvision's keypointrcnn_resnet50_fpn ({found})")
    network.load_state_dict(state)
    if not any(name.endswith("num_batches_tracked") for name in state):
        _leave_variances_as_they_are(network)
    return network


def _leave_variances_as_they_are(network: nn.Module) -> None:
    """Sets epsilon to 0, which weights with frozen batch norms, such as torchvision's own, expect."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 0.0
