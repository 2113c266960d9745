"""A Frechet and a perceptual distance, both on VGG-16; neither is FID or LPIPS, which use other networks."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from xingaug.errors import BadInput
from xingaug.images import bytes_to_unit
from xingaug.progress import ProgressBar
from xingaug.training.vgg import VGGFeatures, unit_channels

LAYERS = (3, 8, 15, 22)  # relu1_2, relu2_2, relu3_3, relu4_3 of VGG-16
_MIN_SIDE = 8  # pixels; relu4_3 comes after three poolings


class VGGEvaluator:
    """Measures images against true ones."""

    def __init__(
        self, weights: Path, true: np.ndarray, batch_size: int, device: torch.device | str, label: str
    ) -> None:
        """Loads the network.

        Args:
            weights: a state dict of torchvision's VGG-16 or of its `features`, .safetensors or .pth.
            true: (N, H, W, 3) uint8, N at least 2.
            batch_size: images at a time.
            device: where the network runs.
            label: name of the weights in messages.

        Raises:
            BadInput: a file that does not hold them, or too few or too small images.
        """
        if len(true) < 2 or min(true.shape[1:3]) < _MIN_SIDE:
            has = f"{len(true)} images of {true.shape[1]}x{true.shape[2]}"
            raise BadInput(f"{label}: {has}, needed at least 2 of at least {_MIN_SIDE}x{_MIN_SIDE} pixels")
        self._network = VGGFeatures("vgg16", str(weights), LAYERS, label).to(device)
        self._true, self._batch_size, self._device = true, batch_size, device

    @torch.no_grad()
    def scores(self, sets: dict[str, np.ndarray], label: str | None = None) -> dict[str, dict[str, float]]:
        """The two distances of sets of images from the true ones, whose features are computed once.

        Args:
            sets: named sets of images (N, H, W, 3) uint8.
            label: of the progress bar; None shows none.

        Returns:
            For each set, both 0 for equal images: `frechet`, between Gaussians of the means over the image of relu4_3
            (512 numbers an image); `vgg_distance`, squared distance of the features of `LAYERS`, of unit length over
            the channels at each position, averaged over positions, layers and pairs.
        """
        means: dict[str, list[Tensor]] = {name: [] for name in ("", *sets)}
        distances: dict[str, list[Tensor]] = {name: [] for name in sets}
        for start in ProgressBar(range(0, len(self._true), self._batch_size), label, unit="part"):
            part = slice(start, start + self._batch_size)
            wanted = self._features(self._true[part])
            means[""].append(wanted[-1].mean((2, 3)))
            wanted = [unit_channels(layer) for layer in wanted]
            for name, images in sets.items():
                features = self._features(images[part])
                means[name].append(features[-1].mean((2, 3)))
                layers = zip(features, wanted, strict=True)
                squared = [(unit_channels(a) - b).square().sum(1).mean((1, 2)) for a, b in layers]
                distances[name].append(torch.stack(squared).mean(0))
        of_true = torch.cat(means[""])
        return {
            name: {
                "frechet": frechet(torch.cat(means[name]), of_true),
                "vgg_distance": float(torch.cat(distances[name]).mean()),
            }
            for name in sets
        }

    def _features(self, images: np.ndarray) -> list[Tensor]:
        found: list[Tensor] = self._network(bytes_to_unit(torch.from_numpy(images).to(self._device)))
        return found

    def describe(self) -> dict[str, str]:
        """How the two are measured."""
        height, width = self._true.shape[1:3]
        size = f"images of {height}x{width} not resized"
        return {
            "frechet": f"means over the image of VGG-16's relu4_3 (torchvision's scale), {size}",
            "vgg_distance": "VGG-16's relu1_2, relu2_2, relu3_3, relu4_3, of unit length over channels, squared "
            f"distance, {size}",
        }


def frechet(features: Tensor, true: Tensor) -> float:
    """Frechet distance between the Gaussians of two sets of features, in double precision.

    The trace of the square root of the product of both covariances equals the sum of the singular values of the product
    of both sets' centred features, which are first reduced to at most D rows.

    Args:
        features: (N, D), N at least 2.
        true: (M, D), M at least 2.
    """
    sides = [side.double().cpu() for side in (features, true)]
    centred = [(side - side.mean(0)) / (len(side) - 1) ** 0.5 for side in sides]
    a, b = (torch.linalg.qr(side, mode="r").R if len(side) > side.shape[1] else side for side in centred)
    means = (sides[0].mean(0) - sides[1].mean(0)).square().sum()
    traces = sum(side.square().sum() for side in centred)
    return max(float(means + traces - 2 * torch.linalg.svdvals(a @ b.T).sum()), 0.0)
