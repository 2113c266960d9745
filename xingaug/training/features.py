"""Re-ID feature networks from a file: images in, feature vectors out."""

import hashlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from xingaug.errors import BadInput
from xingaug.files import atomic_write
from xingaug.images import bytes_to_unit
from xingaug.inputs import read_arrays
from xingaug.programs import input_shape, load_program, run_program
from xingaug.progress import ProgressBar


class FeatureNetwork:
    """A network from images (B, 3, H, W), RGB in [0, 1], to features (B, D); it normalises the images itself.

    Attributes:
        path: its file.
        size: (height, width) that images are resized to, bilinear with antialiasing: the file's if it is fixed, else
            the one given.
    """

    def __init__(self, path: Path, size: tuple[int, int], device: torch.device | str = "cpu") -> None:
        """Loads the network.

        Args:
            path: `.onnx`, or `.pt2` of torch.export, which can run code: name only one that you trust.
            size: (height, width) for a network that accepts any.
            device: where it runs.

        Raises:
            BadInput: no such file, not a network, or one with other inputs.
        """
        self.path, self._device = path, device
        self._network = load_program(path, "a feature network", device)
        shape = input_shape(self._network)
        if shape and (len(shape) != 4 or shape[1] not in (3, None)):
            taken = ", ".join("any" if n is None else str(n) for n in shape)
            raise BadInput(f"{path}: takes ({taken}), needed a feature network of images (B, 3, H, W)")
        self._batch, height, width = (shape[0], shape[2], shape[3]) if shape else (None, None, None)
        self.size = height or size[0], width or size[1]

    @torch.no_grad()
    def __call__(self, images: np.ndarray, batch_size: int = 32, label: str | None = None) -> Tensor:
        """Features of unit length.

        Args:
            images: (N, H, W, 3) uint8.
            batch_size: images at a time, if the network accepts any number.
            label: of the progress bar; None shows none.

        Returns:
            (N, D) float32 on the CPU.

        Raises:
            BadInput: the network rejects the images, or returns anything but finite vectors.
        """
        step = self._batch or batch_size
        parts = []
        for start in ProgressBar(range(0, len(images), step), label, unit="part"):
            batch = bytes_to_unit(torch.from_numpy(images[start : start + step]).to(self._device))
            parts.append(self._features(batch))
        return F.normalize(torch.cat(parts), dim=-1)

    def _features(self, images: Tensor) -> Tensor:
        if tuple(images.shape[2:]) != self.size:
            images = F.interpolate(images, self.size, mode="bilinear", align_corners=False, antialias=True)
        count = len(images)
        if self._batch and count < self._batch:
            images = torch.cat([images, images.new_zeros(self._batch - count, *images.shape[1:])])
        found = run_program(self._network, self.path, images.contiguous())
        if found.ndim != 2 or len(found) != len(images):
            shapes = f"returns {tuple(found.shape)} for images {tuple(images.shape)}"
            raise BadInput(f"{self.path}: {shapes}, needed features ({len(images)}, D)")
        if not bool(found.isfinite().all()):
            raise BadInput(f"{self.path}: returns NaN or infinite features; needed a trained network")
        return found[:count].float().cpu()


def remembered(network: FeatureNetwork, images: list[Path], folder: Path) -> Path:
    """Path of the cached features of some images: a hash of the network, its size and all files' names and sizes."""
    with network.path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    digest.update(repr(network.size).encode())
    for path in images:
        found = path.stat()
        digest.update(f"{path.absolute()}\0{found.st_size}\0{found.st_mtime_ns}\0".encode(errors="surrogateescape"))
    return folder / f"features-{digest.hexdigest()[:24]}.npz"


def read_features(path: Path, count: int) -> Tensor | None:
    """Reads features (N, D) that `write_features` wrote; None if there are none.

    Raises:
        BadInput: the file holds something else.
    """
    if not path.is_file():
        return None
    found = read_arrays(path, "file of features").get("features")
    if found is None or found.ndim != 2 or len(found) != count or found.dtype != np.float32:
        raise BadInput(f"{path}: not the features of {count} images; remove it to compute them again")
    return torch.from_numpy(found)


def write_features(path: Path, features: Tensor) -> None:
    """Writes features (N, D) for `read_features` atomically."""
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez(file, features=features.numpy())
