"""MoveNet, single pose (Google, 2021), as an ONNX file run by onnxruntime."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xingaug.errors import BadInput, first_line
from xingaug.keypoints import Keypoints
from xingaug.poses.estimators.base import poses_of_coco17, require_file, weights_name
from xingaug.poses.estimators.frames import frame
from xingaug.programs import onnx_session

_TYPES = {"tensor(int32)": np.int32, "tensor(uint8)": np.uint8, "tensor(float)": np.float32}
_PADDING = 1.0
"""The crop fills the frame: on 200 crops of Market-1501 this finds more joints than a border does (92 to 89 %)."""


class MoveNet:
    """One crop in, one person out: RGB 0 to 255 in black surroundings, COCO's 17 joints out as y, x, score."""

    def __init__(self, path: Path, device: torch.device) -> None:
        """Loads a network and runs it once to check its output.

        Args:
            path: the `.onnx` file, input (1, H, W, 3), output (1, 1, 17, 3) as shares of H and W.
            device: cpu or cuda.

        Raises:
            BadInput: no such file, no network that onnxruntime can load, other inputs or outputs, onnxruntime missing
                or without the requested CUDA.
        """
        require_file("movenet", path, (".onnx",))
        self.path, self.device = path, device
        self._session = onnx_session(path, device, "estimator 'movenet'")
        if not takes_rows_of_pixels(self._session):
            shapes = [list(given.shape) for given in self._session.get_inputs()]
            raise BadInput(f"{path}: takes {shapes}, needed one input of images (1, H, W, 3)")
        given = self._session.get_inputs()[0]
        if given.type not in _TYPES:
            raise BadInput(f"{path}: takes {given.type}, needed int32, uint8 or float")
        self._input, self._dtype = given.name, _TYPES[given.type]
        self.size = int(given.shape[1]), int(given.shape[2])
        self._run(np.zeros((*self.size, 3)))
        self.name = weights_name("movenet", path)

    def __call__(self, images: list[Tensor]) -> Keypoints:
        """Images of any sizes -> (B,)."""
        frames = frame(images, self.size, torch.zeros(3), _PADDING)
        pixels = (frames.images * 255).round().clamp(0, 255).movedim(1, -1).cpu().numpy()
        found = torch.from_numpy(np.stack([self._run(one) for one in pixels])).to(self.device)
        # MoveNet's coordinates start at the outer edge of the first pixel, ours at its centre.
        xy = found[..., [1, 0]] * torch.tensor([self.size[1], self.size[0]], device=self.device) - 0.5
        return poses_of_coco17(frames.back(xy), found[..., 2], str(self.path))

    def _run(self, pixels: np.ndarray) -> np.ndarray:
        """One frame (H, W, 3), 0 to 255 -> (17, 3) float32."""
        try:
            found = self._session.run(None, {self._input: pixels[None].astype(self._dtype)})
        except Exception as error:  # onnxruntime's errors have no other common class
            raise BadInput(f"{self.path}: does not take images ({first_line(error)}); needed MoveNet") from None
        if len(found) != 1 or np.shape(found[0]) != (1, 1, 17, 3):
            shapes = ", ".join(str(np.shape(array)) for array in found)
            raise BadInput(f"{self.path}: gives {shapes}, needed MoveNet's single pose (1, 1, 17, 3)")
        return np.asarray(found[0][0, 0], np.float32)


def takes_rows_of_pixels(session: Any) -> bool:
    """Whether a network's input is (1, H, W, 3), as MoveNet's, and not (B, 3, H, W)."""
    given = session.get_inputs()
    shape = list(given[0].shape)
    sides = shape[1:3]
    return len(given) == 1 and len(shape) == 4 and shape[3] == 3 and all(isinstance(n, int) and n > 31 for n in sides)
