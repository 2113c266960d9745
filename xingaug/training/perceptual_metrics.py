"""LPIPS, FID and IS on torchmetrics' networks, each set of images passed through once."""

import http.client
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from xingaug.errors import BadInput, first_line
from xingaug.images import bytes_to_unit
from xingaug.progress import ProgressBar
from xingaug.tensors import read_tensors
from xingaug.training.vgg_metrics import frechet

_INCEPTION = "Inception v3 of torch-fidelity (TensorFlow's of 2015-12-05)"
INCEPTION = "weights-inception-2015-12-05-6726825d.pth"
"""torch-fidelity's name for the file of its weights."""
_SPLITS = 10  # of the images, for IS
_LPIPS_MIN = 31  # pixels; below, AlexNet's second pooling has nothing left


@dataclass(frozen=True, eq=False)
class PerceptualNetworks:
    """The networks that the requested metrics need.

    Attributes:
        names: of "lpips", "fid", "is", in this order.
        size: (height, width) of the images in pixels.
        lpips: torchmetrics' LPIPS metric, None if it was not requested.
        inception: images to 2048 features, None if neither FID nor IS was requested.
        device: where they run.
    """

    names: tuple[str, ...]
    size: tuple[int, int]
    lpips: Any
    inception: Any
    device: torch.device | str

    def describe(self) -> dict[str, str]:
        """For each metric its feature network and how the images are resized."""
        height, width = self.size
        resize = f"images of {height}x{width} resized to 299x299, bilinear with antialiasing"
        texts = {
            "lpips": f"AlexNet of torchvision with LPIPS 0.1's linear weights, images of {height}x{width} not resized",
            "fid": f"{_INCEPTION}, 2048 pooled features, {resize}",
            "is": f"{_INCEPTION}, 1008 logits without bias, {_SPLITS} splits, {resize}",
        }
        return {name: texts[name] for name in self.names}


def load_networks(
    names: tuple[str, ...],
    size: tuple[int, int],
    inception: Path | None = None,
    device: torch.device | str = "cpu",
) -> PerceptualNetworks:
    """Loads what the metrics need, and downloads weights that are not in torch's cache.

    Args:
        names: any of "lpips", "fid", "is".
        size: (height, width) of the images in pixels.
        inception: weights for FID and IS (torch-fidelity's `weights-inception-2015-12-05-6726825d.pth`); None looks
            in torch's cache, `hub/checkpoints` below `TORCH_HOME`.
        device: where they will run.

    Raises:
        BadInput: torchmetrics or torch-fidelity is not installed, weights are missing and cannot be downloaded, a file
            holds other weights, or the images are too small.
    """
    if "lpips" in names and min(size) < _LPIPS_MIN:
        raise BadInput(f"lpips: images of {size[0]}x{size[1]}, AlexNet needs at least {_LPIPS_MIN} pixels on each side")
    try:
        # The libraries' output and warnings on import do not belong in the output of a command.
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            lpips = _load_lpips().to(device) if "lpips" in names else None
            network = _load_inception(inception).to(device) if {"fid", "is"} & set(names) else None
    except ImportError as error:
        missing = (error.name or "torchmetrics").partition(".")[0]
        raise BadInput(
            f"{missing} is not installed, which {', '.join(names)} needs; pip install 'xingaug[metrics]'"
        ) from None
    ordered = tuple(name for name in ("lpips", "fid", "is") if name in names)
    return PerceptualNetworks(ordered, size, lpips, network, device)


@torch.no_grad()
def perceptual_scores(
    networks: PerceptualNetworks,
    sets: dict[str, np.ndarray],
    true: np.ndarray,
    batch_size: int = 32,
    progress: bool = False,
) -> dict[str, dict[str, float]]:
    """Measures sets of images against the true ones.

    Args:
        networks: from `load_networks`.
        sets: named sets of images (N, H, W, 3) uint8, each compared with the same true images.
        true: (N, H, W, 3) uint8, N at least 2 for FID.
        batch_size: images at a time.
        progress: whether bars are shown on a terminal.

    Returns:
        For each set the metrics by name: LPIPS (mean over the pairs) and FID, 0 for equal images, and IS, at least 1,
        which does not depend on the true images.
    """
    scores: dict[str, dict[str, float]] = {name: {} for name in sets}
    if networks.lpips is not None:
        for name, images in sets.items():
            scores[name]["lpips"] = _lpips(networks, images, true, batch_size, f"lpips of {name}" if progress else None)
    if networks.inception is not None:
        for name, images in sets.items():
            features = _features(networks, images, batch_size, f"Inception on {name}" if progress else None)
            if "fid" in networks.names:
                if name == next(iter(sets)):
                    of_true = _features(networks, true, batch_size, "Inception on true" if progress else None)
                scores[name]["fid"] = frechet(features, of_true)
            if "is" in networks.names:
                scores[name]["is"] = inception_score(features @ networks.inception.fc.weight.T)
    return scores


def inception_score(logits: Tensor) -> float:
    """IS by torchmetrics, of (N, classes) logits, in 10 splits (fewer if N is), drawn the same way every time."""
    from torchmetrics.image.inception import InceptionScore

    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # about its use of memory, and the standard deviation of a single split
        torch.manual_seed(0)
        metric = InceptionScore(feature=_Given(logits.shape[1]), splits=_SPLITS).to(logits.device)
        metric.update(logits.double())
        return float(metric.compute()[0])


class _Given(nn.Module):
    """In place of the feature network that torchmetrics wants: returns features computed before."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def _lpips(
    networks: PerceptualNetworks, images: np.ndarray, true: np.ndarray, batch_size: int, progress: str | None
) -> float:
    networks.lpips.reset()
    for start in ProgressBar(range(0, len(images), batch_size), progress, unit="batch"):
        pair = (_batch(networks, side[start : start + batch_size]) for side in (images, true))
        networks.lpips.update(*(bytes_to_unit(side) for side in pair))
    return float(networks.lpips.compute())


def _features(networks: PerceptualNetworks, images: np.ndarray, batch_size: int, progress: str | None) -> Tensor:
    """(N, 2048) float32 on the networks' device."""
    parts = []
    for start in ProgressBar(range(0, len(images), batch_size), progress, unit="batch"):
        batch = _batch(networks, images[start : start + batch_size])
        parts.append(networks.inception(batch.movedim(-1, 1)))
    return torch.cat(parts)


def _batch(networks: PerceptualNetworks, images: np.ndarray) -> Tensor:
    return torch.from_numpy(images).to(networks.device)


def _load_lpips() -> Any:
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
    from torchvision.models import AlexNet_Weights

    path = _cached(AlexNet_Weights.DEFAULT.url, "AlexNet's weights for lpips", "")
    _require_tensors(path, "AlexNet's weights for lpips")
    try:
        return LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True)
    except (RuntimeError, AttributeError, TypeError):
        raise BadInput(f"{path}: not torchvision's weights of AlexNet; remove it to have it downloaded again") from None


def _load_inception(path: Path | None) -> Any:
    what = "Inception's weights for fid and is"
    if path is not None:
        if not path.is_file():
            raise BadInput(f"{path}: no such file; needed {what}, {INCEPTION}")
        _require_tensors(path, what)  # before torchmetrics, which takes many seconds to import
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3
    from torchmetrics.image.fid import NoTrainInceptionV3

    if path is None:
        path = _cached(URL_INCEPTION_V3, what, " or name it with --inception")
        _require_tensors(path, what)
    try:
        return NoTrainInceptionV3("inception-v3-compat", ["2048"], str(path), antialias=True)
    except (RuntimeError, AttributeError, TypeError):
        raise BadInput(f"{path}: not torch-fidelity's weights of Inception v3; needed {INCEPTION}") from None


def _cached(url: str, what: str, otherwise: str) -> Path:
    """Path of a file in torch's cache, where the library that needs it looks; downloads it if it is missing."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    if path.is_file():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        start_of_hash = path.stem.rpartition("-")[2]
        torch.hub.download_url_to_file(url, str(path), start_of_hash, progress=sys.stderr.isatty())
    except (OSError, RuntimeError, http.client.HTTPException) as error:  # a wrong hash is a RuntimeError
        reason = first_line(error)
        raise BadInput(
            f"{path}: missing ({what}), and cannot be downloaded ({reason}); put the file there, set TORCH_HOME to a "
            f"cache that has it{otherwise}"
        ) from None
    return path


def _require_tensors(path: Path, what: str) -> None:
    """Refuses a file that could run code or is no state dict; the libraries load it unchecked."""
    state = read_tensors(path, what)
    if not isinstance(state, dict):
        raise BadInput(f"{path}: holds a {type(state).__name__}, needed {what}")
