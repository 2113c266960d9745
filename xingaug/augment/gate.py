"""The quality gate: which rendered images are good enough to be trained on (thresholds: our choice)."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xingaug.errors import BadInput
from xingaug.keypoints import Keypoints
from xingaug.programs import load_program, put_in_eval_mode, run_program

NEAR = 0.05
"""A joint is in place within this share of the image's height: 6.4 pixels at 128x64."""

Estimator = Callable[[Tensor], Keypoints]
"""Finds the pose in each image: (n, 3, H, W) float in [0, 1] -> (n,) in the images' frame; joints may be missing."""


@dataclass(frozen=True, eq=False)
class Verdict:
    """The gate's decision on n rendered images.

    Attributes:
        kept: (n,) bool on the CPU, True for images that pass.
        scores: by name, each (n,) float32 on the CPU: "contrast" and "saturated", and with the networks for them
            "identity" and "pose".
    """

    kept: Tensor
    scores: dict[str, Tensor]


@dataclass(frozen=True)
class GateConfig:
    """A gate in a configuration file; see `QualityGate`."""

    # A re-ID network, images in [0, 1] -> (n, D): ONNX, or .pt2 of torch.export, which can run code.
    features: str | None = None
    min_identity: float = 0.5  # least cosine of its features of rendered and real image
    min_contrast: float = 0.05
    max_saturated: float = 0.3

    def __post_init__(self) -> None:
        """Checks ranges."""
        if not (-1 <= self.min_identity <= 1 and 0 <= self.min_contrast <= 1 and 0 <= self.max_saturated <= 1):
            raise ValueError("needed min_identity in [-1, 1], min_contrast and max_saturated in [0, 1]")
        if self.features is None and self.min_identity != 0.5:
            raise ValueError(f"min_identity: {self.min_identity}, is a cosine of `features`, which names no network")


class KeptCounts:
    """How many rendered images of each identity passed the gate; -1 counts images without an identity.

    Attributes:
        judged: rendered images by identity.
        kept: those of them that passed.
    """

    def __init__(self, judged: Counter[int] | None = None, kept: Counter[int] | None = None) -> None:
        """Starts from the given counts, or from zero."""
        self.judged: Counter[int] = Counter(judged)
        self.kept: Counter[int] = Counter(kept)

    def add(self, pids: Sequence[int], kept: Sequence[bool]) -> None:
        """Counts images by identity and verdict."""
        self.judged.update(pids)
        self.kept.update(pid for pid, passed in zip(pids, kept, strict=True) if passed)

    def copy(self) -> "KeptCounts":
        """A copy of the present counts."""
        return KeptCounts(self.judged, self.kept)

    def since(self, before: "KeptCounts") -> "KeptCounts":
        """The counts added since `before` was copied."""
        return KeptCounts(self.judged - before.judged, self.kept - before.kept)

    def shares(self) -> dict[int, float]:
        """For each judged identity the share of its rendered images that passed, lowest first."""
        shares = {pid: self.kept[pid] / count for pid, count in self.judged.items()}
        return dict(sorted(shares.items(), key=lambda item: (item[1], item[0])))

    def summary(self, worst: int = 3) -> str:
        """One line for a log: the share that passed, and the identities that lost most."""
        judged = self.judged.total()
        if not judged:
            return "quality gate: nothing judged"
        line = f"quality gate: kept {self.kept.total() / judged:.1%} of {judged} rendered images"
        lost = [(pid, share) for pid, share in self.shares().items() if share < 1 and pid >= 0][:worst]
        each = [f"identity {pid} {share:.0%} of {self.judged[pid]}" for pid, share in lost]
        return f"{line}; least of {', '.join(each)}" if each else line


class QualityGate(nn.Module):
    """Accepts a rendered image, or rejects it, so that its row keeps the real one.

    Every image is judged alone, so that the verdict does not depend on the batch.

    Attributes:
        counts: verdicts so far, by identity.
    """

    def __init__(
        self,
        features: nn.Module | None = None,
        estimator: Estimator | None = None,
        min_identity: float = 0.5,
        min_pose: float = 0.5,
        min_contrast: float = 0.05,
        max_saturated: float = 0.3,
    ) -> None:
        """Takes the networks over: they are put in eval mode and their parameters are frozen.

        Args:
            features: a re-ID network, features(images (n, 3, H, W) in [0, 1]) -> (n, D); it resizes and normalises as
                it needs. Images come at the generator's size.
            estimator: finds the pose of a rendered image.
            min_identity: least cosine of the features of the rendered and the source image, in [-1, 1].
            min_pose: least share of the target joints that the estimator finds within 5 % of the height, in [0, 1].
            min_contrast: least standard deviation of the grey levels, in [0, 1]. It catches empty images: all of
                Market-1501's training images lie above 0.07.
            max_saturated: greatest share of the values that are 0 or 1 (within 1/255), in [0, 1]. It catches burnt-out
                images: all of Market-1501's training images lie below 0.13.

        Raises:
            ValueError: a threshold outside its range.
        """
        super().__init__()
        for name, value, least in (
            ("min_identity", min_identity, -1), ("min_pose", min_pose, 0), ("min_contrast", min_contrast, 0),
            ("max_saturated", max_saturated, 0),
        ):  # fmt: skip
            if not least <= value <= 1:
                raise ValueError(f"{name}: {value}, needed a number in [{least}, 1]")
        self.features, self.estimator = features, estimator
        self.requires_grad_(False)
        self.train()
        self.min_identity, self.min_pose = min_identity, min_pose
        self.min_contrast, self.max_saturated = min_contrast, max_saturated
        self.counts = KeptCounts()

    def train(self, mode: bool = True) -> "QualityGate":
        """Keeps the networks in eval mode regardless of `mode`; an exported program stays as it was exported."""
        self.training = False
        for network in (self.features, self.estimator):
            if isinstance(network, nn.Module):
                put_in_eval_mode(network)
        return self

    @torch.no_grad()
    def forward(self, sources: Tensor, rendered: Tensor, targets: Keypoints, pids: np.ndarray | None = None) -> Verdict:
        """Judges rendered images and counts them.

        Args:
            sources: (n, 3, H, W) in [0, 1], the real images.
            rendered: (n, 3, H, W) in [0, 1], the images rendered from them.
            targets: (n,) in their frame, the target poses.
            pids: (n,) identities to count by, or None.

        Raises:
            ValueError: the feature network or the estimator returns something of another type or shape.
        """
        self.train()  # a surrounding model may have put them in another mode
        scores = {"contrast": _contrast(rendered), "saturated": _saturated(rendered)}
        kept = (scores["contrast"] >= self.min_contrast) & (scores["saturated"] <= self.max_saturated)
        if self.features is not None:
            pairs = (self._features(sources), self._features(rendered))
            scores["identity"] = F.cosine_similarity(*pairs).float()
            kept &= scores["identity"] >= self.min_identity
        if self.estimator is not None:
            scores["pose"] = _share_in_place(self._found(rendered), targets, rendered.shape[-2])
            kept &= scores["pose"] >= self.min_pose
        verdict = Verdict(kept.cpu(), {name: values.cpu() for name, values in scores.items()})
        self.counts.add([-1] * len(kept) if pids is None else pids.tolist(), verdict.kept.tolist())
        return verdict

    def _features(self, images: Tensor) -> Tensor:
        assert self.features is not None
        found = self.features(_as_input_of(self.features, images))
        if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(images):
            came = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(f"features: gave {came}, needed ({len(images)}, D)")
        return found

    def _found(self, images: Tensor) -> Keypoints:
        assert self.estimator is not None
        found = self.estimator(_as_input_of(self.estimator, images))
        if not isinstance(found, Keypoints) or found.shape != (len(images),):
            came = found.shape if isinstance(found, Keypoints) else type(found).__name__
            raise ValueError(f"estimator: gave {came}, needed Keypoints ({len(images)},)")
        return found.to(images.device)


def _as_input_of(network: object, images: Tensor) -> Tensor:
    """The images in the dtype of a network's weights."""
    weights = next(network.parameters(), None) if isinstance(network, nn.Module) else None
    return images if weights is None else images.to(weights.dtype)


def _contrast(images: Tensor) -> Tensor:
    """(n,) standard deviation of the grey levels (ITU-R BT.601)."""
    weights = images.new_tensor([0.299, 0.587, 0.114])[:, None, None]
    return (images * weights).sum(1).flatten(1).std(dim=1, correction=0).float()


def _saturated(images: Tensor) -> Tensor:
    """(n,) share of the values at either end of the range."""
    ends = (images < 1.5 / 255) | (images > 253.5 / 255)
    return ends.flatten(1).float().mean(1)


def _share_in_place(found: Keypoints, targets: Keypoints, height: int) -> Tensor:
    """(n,) share of the target's joints that were found near their position; one that was not found counts as off."""
    near = (found.xy - targets.xy).norm(dim=-1) <= NEAR * height
    wanted = targets.present
    return (near & found.present & wanted).sum(-1) / wanted.sum(-1).clamp(min=1)


def build_gate(config: GateConfig, size: tuple[int, int], device: torch.device | str = "cpu") -> QualityGate:
    """Builds the gate of a configuration.

    Args:
        config: file and thresholds.
        size: (height, width) of the generator's images.
        device: of its networks.

    Raises:
        BadInput: the file of `features` cannot be loaded, or holds no network of features (n, D).
    """
    features = None
    if config.features is not None:
        features = load_program(config.features, "a re-ID network", device)
        for count in (1, 2):
            found = run_program(features, config.features, torch.zeros(count, 3, *size, device=device))
            if found.ndim != 2 or len(found) != count:
                raise BadInput(f"{config.features}: gives {tuple(found.shape)} for {count} images, needed ({count}, D)")
    return QualityGate(
        features, min_identity=config.min_identity, min_contrast=config.min_contrast, max_saturated=config.max_saturated
    )
