"""PoseNet, the project's own small pose estimator for person crops, one forward pass of 128x64 (our design).

Each joint has a heatmap of 4 px cells for its position, offsets for the position within a cell, and a map of scores for
its visibility. After heatmaps with offsets (Papandreou et al., CVPR 2017).
"""

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from xingaug.errors import BadInput
from xingaug.files import atomic_write
from xingaug.generators.fast import has_bfloat16
from xingaug.inputs import read_bytes
from xingaug.keypoints import JOINTS, Keypoints
from xingaug.poses.estimators.base import weights_name
from xingaug.poses.estimators.frames import rows_by_size

SIZE = (128, 64)
"""(height, width) of the input images, in pixels."""

CELL = 4
"""Side of a heatmap's cell in pixels."""

MOST_BYTES = 50_000_000
_FORMAT = "xingaug pose estimator 1"
_WINDOW = 2  # radius, in cells round the highest one, of the mean that gives the joint's position


class PoseNet(nn.Module):
    """Images (B, 3, 128, 64) in [0, 1] to maps of the 18 joints; 1.4 M parameters."""

    def __init__(self, widths: tuple[int, int, int, int] = (32, 64, 100, 124)) -> None:
        """Args: `widths`: channels at a half, a quarter, an eighth and a sixteenth of the resolution."""
        super().__init__()
        a, b, c, d = widths
        self.to_half = nn.Sequential(nn.PixelUnshuffle(2), _conv(12, a))
        self.to_quarter = nn.Sequential(_conv(a, b, 2), Residual(b))
        self.to_eighth = nn.Sequential(_conv(b, c, 2), Residual(c), Residual(c))
        self.to_sixteenth = nn.Sequential(_conv(c, d, 2), Residual(d))
        self.up_eighth = nn.Sequential(nn.Conv2d(d, 4 * b, 1), nn.PixelShuffle(2))
        self.join_eighth = nn.Sequential(_conv(b + c, c), Residual(c))
        self.up_quarter = nn.Sequential(nn.Conv2d(c, 4 * b, 1), nn.PixelShuffle(2))
        self.join_quarter = nn.Sequential(_conv(2 * b, b), Residual(b))
        self.out = nn.Conv2d(b, 4 * len(JOINTS), 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Predicts the maps of the joints.

        Args:
            images: (B, 3, 128, 64) in [0, 1].

        Returns:
            Logits (B, 18, 32, 16) of a distribution over the cells; offsets from a cell's centre in pixels
            (B, 18, 2, 32, 16), x and y; visibility logits (B, 18). All float32.
        """
        quarter = self.to_quarter(self.to_half(images * 4 - 2))  # (B, b, 32, 16)
        eighth = self.to_eighth(quarter)  # (B, c, 16, 8)
        code = self.up_eighth(self.to_sixteenth(eighth))
        code = self.join_eighth(torch.cat([code, eighth], 1))
        code = self.join_quarter(torch.cat([self.up_quarter(code), quarter], 1))
        maps = self.out(code).float().unflatten(1, (4, len(JOINTS)))  # (B, 4, 18, 32, 16)
        cells, scores = maps[:, 0], maps[:, 1]
        where = cells.flatten(2).softmax(-1)
        visible = (where * scores.flatten(2)).sum(-1)
        return cells, maps[:, 2:].transpose(1, 2) * CELL, visible


class Residual(nn.Module):
    """Residual block of two 3x3 convolutions."""

    def __init__(self, width: int) -> None:
        """Args: `width`: channels in and out."""
        super().__init__()
        self.first, self.second = _conv(width, width), _conv(width, width)[:2]

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W) to the same."""
        return F.relu(x + self.second(self.first(x)))


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def cell_centres(like: Tensor) -> Tensor:
    """(2, 32, 16), x and y of each cell's centre in pixels of the image."""
    y, x = (torch.arange(side // CELL, device=like.device) * CELL + (CELL - 1) / 2 for side in SIZE)
    return torch.stack(torch.broadcast_tensors(x[None], y[:, None]))


def joints_of(cells: Tensor, offsets: Tensor, visible: Tensor) -> Keypoints:
    """Decodes a network's maps to joints.

    A joint's position is the mean over the cells round the highest one, weighted by probability.

    Args:
        cells: (B, 18, 32, 16) logits.
        offsets: (B, 18, 2, 32, 16) pixels.
        visible: (B, 18) logits.

    Returns:
        (B,) keypoints in pixels of 128x64.
    """
    rows, columns = cells.shape[-2:]
    probability = cells.flatten(2).softmax(-1).unflatten(2, (rows, columns))
    best = cells.flatten(2).argmax(-1)
    top, left = best.div(columns, rounding_mode="floor")[..., None, None], best.remainder(columns)[..., None, None]
    y, x = torch.arange(rows, device=cells.device)[:, None], torch.arange(columns, device=cells.device)
    near = ((y - top).abs() <= _WINDOW) & ((x - left).abs() <= _WINDOW)
    weight = probability * near
    weight = weight / weight.sum((2, 3), keepdim=True)
    xy = ((cell_centres(cells) + offsets) * weight[:, :, None]).sum((3, 4))
    return Keypoints(xy, visible.sigmoid())


class PoseNetFinder:
    """Crops of any size in, stretched to 128x64; the 18 joints out, in each crop's own pixels.

    Runs in bfloat16 if the device supports it, which is three times as fast and moves joints by hundredths of a pixel.
    """

    def __init__(self, path: Path, device: torch.device) -> None:
        """Loads the weights.

        Raises:
            BadInput: no such file, or not a file that `save_posenet` wrote.
        """
        self.device = device
        self._dtype = torch.bfloat16 if has_bfloat16(device) else torch.float32
        self._network = fused(load_posenet(path)).to(device, self._dtype).to(memory_format=torch.channels_last)
        self.name = weights_name("posenet", path)

    def __call__(self, images: list[Tensor]) -> Keypoints:
        """Images of any sizes -> (B,)."""
        poses = torch.zeros(len(images), len(JOINTS), 3, device=self.device)
        for size, rows in rows_by_size(images).items():
            batch = torch.stack([images[i] for i in rows])
            if size != SIZE:
                batch = F.interpolate(batch, SIZE, mode="bilinear", antialias=True)
            found = joints_of(*self._network(batch.to(self._dtype, memory_format=torch.channels_last)))
            poses[rows] = torch.cat([found.resize(SIZE, size).xy, found.visibility[..., None]], -1)
        return Keypoints(poses[..., :2], poses[..., 2])


def fused(network: PoseNet) -> PoseNet:
    """The network for inference, with batch norms folded into the convolutions before them."""
    network = network.eval().requires_grad_(False)
    for module in list(network.modules()):
        if isinstance(module, nn.Sequential) and len(module) > 1 and isinstance(module[1], nn.BatchNorm2d):
            module[0], module[1] = _fused(module)
    return network


def _fused(layers: nn.Sequential) -> tuple[nn.Module, nn.Module]:
    convolution, norm = layers[0], layers[1]
    assert isinstance(convolution, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    return fuse_conv_bn_eval(convolution, norm), nn.Identity()


def save_posenet(network: PoseNet, path: Path, notes: dict[str, Any] | None = None) -> Path:
    """Writes weights in half precision, batch-norm statistics in float32, with notes in the file's header.

    Args:
        network: the network to save.
        path: ends in `.safetensors`.
        notes: plain data, such as the training configuration.
    """
    state = {}
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            value = value.to(torch.float32 if name.endswith(("running_mean", "running_var")) else torch.float16)
        state[name] = value.contiguous()
    with atomic_write(path) as temporary:
        temporary.write_bytes(save(state, {"xingaug": json.dumps({"format": _FORMAT, **(notes or {})})}))
    return path


def load_posenet(path: Path) -> PoseNet:
    """Reads a file written by `save_posenet`.

    Raises:
        BadInput: no such file, another kind of file, or weights that do not fit or are not finite.
    """
    data = read_bytes(path, "estimator", MOST_BYTES)
    network = PoseNet()
    try:
        state = load(data)
        network.load_state_dict(state)
    except (SafetensorError, RuntimeError, ValueError):
        raise BadInput(f"{path}: not the weights of a PoseNet, needed what `xingaug train-estimator` writes") from None
    wrong = next((name for name, value in state.items() if not value.isfinite().all()), None)
    if wrong is not None:
        raise BadInput(f"{path}: {wrong} holds values that are not finite; the file is damaged")
    return network
