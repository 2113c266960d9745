"""Whether generated persons have their target poses, measured by a pose estimator."""

from pathlib import Path

import numpy as np
import torch

from xingaug.errors import BadInput
from xingaug.images import bytes_to_unit
from xingaug.keypoints import JOINTS, Keypoints
from xingaug.poses.estimators import MIN_CONFIDENCE, Estimator, load_estimator_file
from xingaug.progress import ProgressBar
from xingaug.training.quality import has_head, pck, pckh


def estimate_poses(
    estimator: Estimator, images: np.ndarray, batch_size: int = 32, progress: str | None = None
) -> Keypoints:
    """Estimates the persons' poses.

    Args:
        estimator: from `xingaug.poses.estimators`.
        images: (N, H, W, 3) uint8, one person in each.
        batch_size: images at a time.
        progress: label of the progress bar; None shows none.

    Returns:
        (N,) keypoints on the CPU.

    Raises:
        BadInput: the estimator rejects these images, or returns no poses.
    """
    starts = ProgressBar(range(0, len(images), batch_size), progress, unit="part")
    batches = (bytes_to_unit(torch.from_numpy(images[start : start + batch_size])) for start in starts)
    parts = [estimator(batch).to("cpu") for batch in batches]
    return Keypoints(torch.cat([part.xy for part in parts]), torch.cat([part.visibility for part in parts]))


class PoseEvaluator:
    """A pose estimator, the target poses, and which of their joints it finds in the true images.

    Attributes:
        of_true: `scores` of the true images, after `measure_true`.
    """

    of_true: dict[str, float]

    def __init__(self, path: Path, device: torch.device | str = "cpu", batch_size: int = 32) -> None:
        """Loads the estimator: `.onnx` or `.pt2`, see `load_estimator_file`.

        Raises:
            BadInput: a file that holds no estimator.
        """
        self._estimator = load_estimator_file(path, device)
        self._path, self._batch_size = path, batch_size

    def measure_true(self, images: np.ndarray, poses: Keypoints, label: str | None = None) -> None:
        """Measures (N, H, W, 3) uint8 true images and their (N,) poses, the reference of `scores`.

        Raises:
            BadInput: it finds none of the joints.
        """
        found = estimate_poses(self._estimator, images, self._batch_size, label)
        self._poses, self._height = poses, images.shape[1]
        self._findable = Keypoints(poses.xy, poses.visibility * (found.visibility >= MIN_CONFIDENCE))
        present = self._findable.present.clone()
        present[:, JOINTS.index("neck")] = False
        if not bool(present.any()):
            raise BadInput(f"{self._path}: finds no joint of {len(images)} true images; needed a pose estimator")
        self.of_true = self._compare(found)

    def scores(self, images: np.ndarray, label: str | None = None) -> dict[str, float]:
        """`pck`, over joints that are found in the true images, and `pckh` if any head is known.

        Args:
            images: (N, H, W, 3) uint8, of the poses that `measure_true` was given.
            label: of the progress bar; None shows none.
        """
        return self._compare(estimate_poses(self._estimator, images, self._batch_size, label))

    def _compare(self, found: Keypoints) -> dict[str, float]:
        scores = {"pck": pck(found, self._findable, self._height)}
        if bool(has_head(self._poses).any()):
            scores["pckh"] = pckh(found, self._poses)
        return scores

    def describe(self) -> dict[str, str]:
        """How the figures are measured."""
        return {
            "pck": f"joints within 0.2 of a quarter of the image's height, those that {self._estimator.name} finds in "
            "the true images"
        }
