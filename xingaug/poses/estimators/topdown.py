"""Top-down networks as ONNX files, run by onnxruntime: RTMPose, ViTPose and similar ones."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xingaug.errors import BadInput, first_line
from xingaug.keypoints import Keypoints
from xingaug.poses.estimators.base import poses_of_coco17, require_file, weights_name
from xingaug.poses.estimators.frames import frame
from xingaug.poses.estimators.heads import decode_heatmaps, decode_simcc
from xingaug.programs import onnx_session

SIZE = (256, 192)
"""(height, width) of the input of a network that does not state it."""

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's mean and deviation of RGB in [0, 1]; both families use them (mmpose writes them times 255)."""

_COCO17: dict[int, list[int]] = {
    17: list(range(17)),  # COCO
    25: [0, 1, 2, 3, 4, *range(6, 14), 15, 16, 17, 18],  # easy_ViTPose's COCO with feet: neck and hips in between
    26: list(range(17)),  # Halpe's body
    133: list(range(17)),  # COCO-WholeBody
}
"""Indices of COCO's 17 joints among those of a network, by the network's number of joints."""


class TopDown:
    """One crop in, one person out.

    The crop is used as the person's box. It is RGB, normalised with ImageNet's mean and deviation, on a black border,
    as in the families' own pipelines. Both heads return values that may exceed 1; the confidence is clipped.
    """

    def __init__(self, kind: str, path: Path, device: torch.device) -> None:
        """Loads a network and runs it once to check its outputs.

        Args:
            kind: `rtmpose` or `vitpose`, for the name and the messages.
            path: the `.onnx` file.
            device: cpu or cuda.

        Raises:
            BadInput: no such file, no network that onnxruntime can load, other inputs or outputs than the families
                have, onnxruntime missing or without the requested CUDA.
        """
        require_file(kind, path, (".onnx",))
        self.path, self.device = path, device
        self._session = onnx_session(path, device, f"estimator '{kind}'")
        self._input, self._batch, self.size, self._dtype = _read_input(self._session, path)
        self._outputs = _in_order([output.name for output in self._session.get_outputs()])
        self._kind = _kind_of_head(self._run(torch.zeros(1, 3, *self.size)), self.size, path)
        self.name = weights_name(kind, path)

    def __call__(self, images: list[Tensor]) -> Keypoints:
        """Images of any sizes -> (B,)."""
        frames = frame(images, self.size, torch.zeros(3))
        mean, std = (torch.tensor(v, device=self.device)[:, None, None] for v in (MEAN, STD))
        given = self._run(frames.images.sub_(mean).div_(std))
        maps = [t[:, _COCO17[t.shape[1]]].to(self.device) for t in given]
        if self._kind == "simcc":
            xy, confidence = decode_simcc(maps[0], maps[1], self.size)
        else:
            xy, confidence = decode_heatmaps(maps[0], self.size)
        return poses_of_coco17(frames.back(xy), confidence, str(self.path))

    def _run(self, inputs: Tensor) -> list[Tensor]:
        """Outputs for (B, 3, h, w), float32 on the CPU; for a fixed batch size the last batch is padded."""
        step = self._batch or len(inputs)
        parts = [self._run_batch(part) for part in inputs.cpu().split(step)]
        return [torch.cat(outputs) for outputs in zip(*parts, strict=True)]

    def _run_batch(self, inputs: Tensor) -> list[Tensor]:
        count = len(inputs)
        if self._batch and count < self._batch:
            inputs = torch.cat([inputs, inputs.new_zeros(self._batch - count, *inputs.shape[1:])])
        try:
            outputs = self._session.run(self._outputs, {self._input: inputs.numpy().astype(self._dtype, copy=False)})
        except Exception as error:  # onnxruntime's errors have no other common class
            taken = f"does not take images {tuple(inputs.shape)} ({first_line(error)})"
            raise BadInput(f"{self.path}: {taken}; export it for this size and any batch") from None
        arrays = [np.asarray(output, np.float32) for output in outputs]
        if any(array.shape[:1] != inputs.shape[:1] for array in arrays):
            shapes = ", ".join(str(array.shape) for array in arrays)
            raise BadInput(f"{self.path}: gave {shapes} for {len(inputs)} images; needed a row for each")
        return [torch.from_numpy(array)[:count] for array in arrays]


def _read_input(session: Any, path: Path) -> tuple[str, int | None, tuple[int, int], type[np.floating]]:
    """Name, batch size (None: any), (height, width) and type of the network's input."""
    dtypes: dict[str, type[np.floating]] = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
    given = session.get_inputs()
    shapes = [list(i.shape) for i in given]
    if len(given) != 1 or len(shapes[0]) != 4 or (isinstance(shapes[0][1], int) and shapes[0][1] != 3):
        raise BadInput(f"{path}: takes {shapes}, needed one input of images (B, 3, H, W)")
    if given[0].type not in dtypes:
        raise BadInput(f"{path}: takes {given[0].type}, needed float or float16")
    batch, _, height, width = (n if isinstance(n, int) and n > 0 else None for n in shapes[0])
    return given[0].name, batch, (height or SIZE[0], width or SIZE[1]), dtypes[given[0].type]


def _in_order(names: list[str]) -> list[str]:
    """The names of a network's outputs; of two that end in x and y, as simcc_x and simcc_y, x comes first."""
    ends = [name.lower()[-1:] for name in names]
    return names[::-1] if ends == ["y", "x"] else names


def _kind_of_head(outputs: list[Tensor], size: tuple[int, int], path: Path) -> str:
    """The kind of head, `simcc` or `heatmaps`, from the shapes of the outputs."""
    shapes = [tuple(output.shape) for output in outputs]
    joints = shapes[0][1] if len(shapes[0]) > 2 else 0
    if len(outputs) == 2 and all(len(shape) == 3 and shape[1] == joints for shape in shapes):
        kind = "simcc"
        fits = shapes[0][2] * size[0] == shapes[1][2] * size[1]  # as many bins per pixel along x as along y
    else:
        kind = "heatmaps"
        fits = len(outputs) == 1 and len(shapes[0]) == 4 and min(shapes[0][2:]) > 1
    if not fits:
        gives = f"gives {', '.join(map(str, shapes))} for images {size[0]}x{size[1]}"
        raise BadInput(f"{path}: {gives}, needed SimCC (B, J, {size[1]}k), (B, J, {size[0]}k) or heatmaps (B, J, h, w)")
    if joints not in _COCO17:
        raise BadInput(f"{path}: finds {joints} joints, needed {', '.join(map(str, _COCO17))}, COCO's among them")
    return kind
