"""A pose estimator saved by `torch.export.save`, or as ONNX."""

from pathlib import Path

import torch
from torch import Tensor

from xingaug.errors import BadInput
from xingaug.keypoints import JOINTS, Keypoints
from xingaug.poses.estimators.base import weights_name
from xingaug.poses.estimators.frames import rows_by_size
from xingaug.programs import load_program, run_program


class Program:
    """A network that maps images (B, 3, H, W) in [0, 1] to x, y, confidence of the 18 joints."""

    def __init__(self, path: Path, device: torch.device) -> None:
        """Loads the program.

        Raises:
            BadInput: no such file, or no program that this torch can load.
        """
        self.path, self.device = path, device
        self._network = load_program(path, "a pose estimator", device)
        self.name = weights_name("program", path)

    def __call__(self, images: list[Tensor]) -> Keypoints:
        """Images of any sizes -> (B,); those of one size are run as one batch.

        Raises:
            BadInput: the program does not accept the images, or returns another shape or invalid values.
        """
        poses = torch.zeros(len(images), len(JOINTS), 3, device=self.device)
        for rows in rows_by_size(images).values():
            batch = torch.stack([images[i] for i in rows])
            found = run_program(self._network, self.path, batch)
            needed = (len(rows), len(JOINTS), 3)
            if tuple(found.shape) != needed:
                shapes = f"returns {tuple(found.shape)} for images {tuple(batch.shape)}, needed {needed}"
                raise BadInput(f"{self.path}: {shapes}: x, y, confidence of each joint")
            poses[rows] = found.float()
        try:
            return Keypoints(poses[..., :2], poses[..., 2])
        except ValueError as error:
            reason = f"returns no poses, x and y in pixels and a confidence in [0, 1] ({error})"
            raise BadInput(f"{self.path}: {reason}") from None
