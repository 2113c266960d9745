"""Generated images against true ones on a list of pairs, beside two baselines."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from xingaug.data.annotations import keypoints_of, read_annotations
from xingaug.data.market1501 import FOLDERS, Split, read_images
from xingaug.data.pairs import read_masks, read_pairs
from xingaug.data.readers import read_split
from xingaug.errors import BadInput
from xingaug.generators.render import render_images
from xingaug.generators.store import load_generator
from xingaug.images import bytes_to_unit
from xingaug.keypoints import JOINTS, Keypoints
from xingaug.programs import load_program, run_program
from xingaug.progress import ProgressBar
from xingaug.training.masks import pose_mask
from xingaug.training.quality import has_head, measure, pckh

PERCEPTUAL = ("lpips", "fid", "is")
"""Metrics that take a feature network's weights."""


@dataclass(frozen=True)
class EvaluateConfig:
    """What to measure.

    Attributes:
        generator: bundled name or .safetensors file.
        data: a Market-1501 tree.
        annotations: keypoints of the pairs' images.
        pairs: CSV with the header `from,to`; names of images of one identity.
        split: where the images lie.
        limit: measure the first pairs only.
        batch_size: images rendered at a time.
        device: where the generator and the networks of the metrics run.
        pose_estimator: program of torch.export for PCKh; None leaves PCKh out.
        perceptual: any of `PERCEPTUAL`.
        inception: weights for "fid" and "is"; None looks in torch's cache.

    Raises:
        BadInput: a value outside its range.
    """

    generator: str
    data: Path
    annotations: Path
    pairs: Path
    split: str = "gallery"
    limit: int | None = None
    batch_size: int = 32
    device: str = "cpu"
    pose_estimator: Path | None = None
    perceptual: Sequence[str] = ()
    inception: Path | None = None

    def __post_init__(self) -> None:
        """Checks what can be checked without opening a file."""
        if self.split not in FOLDERS:
            raise BadInput(f"split: '{self.split}', expected {', '.join(FOLDERS)}")
        for name in ("limit", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise BadInput(f"{name}: {value}, needed at least 1")
        unknown = [name for name in self.perceptual if name not in PERCEPTUAL]
        if unknown:
            raise BadInput(f"perceptual: '{unknown[0]}', expected any of {', '.join(PERCEPTUAL)}")
        if self.inception is not None and not {"fid", "is"} & set(self.perceptual):
            raise BadInput(f"inception: {self.inception}, is read for fid or is alone, and neither was asked for")


def evaluate(config: EvaluateConfig, progress: bool = True) -> dict[str, Any]:
    """Renders the source of every pair in the target's pose and compares with the target.

    Returns:
        `pairs` (number), `ssim`, `mask_ssim`, `person_ssim` (where masks lie beside the images), `l1`, `psnr`, `pckh`
        (with a pose estimator), `lpips`, `fid`, `is` (where asked for), and under `baselines` the same figures for
        `copy_source` and for `identity_mean`, the mean of the identity's other images. With a pose estimator also
        `pckh_of_true`, its PCKh on the true images; with perceptual metrics also `perceptual`, which says for each the
        feature network and the size of the images in it.

    Raises:
        BadInput: unreadable input, a pair of two identities or whose images or keypoints are unknown, or an estimator
            or weights that cannot be used.
    """
    generator = load_generator(config.generator, config.device)
    size = generator.size
    pairs = _Pairs.read(config, size)
    networks = None
    if config.perceptual:
        from xingaug.training.perceptual_metrics import load_networks

        if "fid" in config.perceptual and len(pairs.true) < 2:
            raise BadInput(f"{config.pairs}: 1 pair to measure, fid needs at least 2")
        networks = load_networks(tuple(config.perceptual), size, config.inception, config.device)
    # First on the true images, so that an estimator that does not fit is told before anything is rendered.
    estimator = None if config.pose_estimator is None else _Estimator(config, pairs.target_keypoints, progress)
    extra: dict[str, Any] = {} if estimator is None else {"pckh_of_true": estimator.pckh(pairs.true, "true")}
    generated = render_images(
        generator, pairs.sources, pairs.source_keypoints, pairs.target_keypoints, config.batch_size, config.device,
        progress="rendering" if progress else None,
    )  # fmt: skip
    sets = {"generated": generated, "copy_source": pairs.sources, "identity_mean": pairs.identity_means}
    pose_masks = pose_mask(pairs.target_keypoints, size)[:, 0].numpy()
    figures: dict[str, dict[str, Any]] = {
        name: measure(images, pairs.true, pairs.masks, pose_masks=pose_masks).to_json() for name, images in sets.items()
    }
    if estimator is not None:
        for name, images in sets.items():
            figures[name]["pckh"] = estimator.pckh(images, name)
    if networks is not None:
        from xingaug.training.perceptual_metrics import perceptual_scores

        scores = perceptual_scores(networks, sets, pairs.true, config.batch_size, progress)
        for name in sets:
            figures[name] |= scores[name]
        extra["perceptual"] = networks.describe()
    return {**figures.pop("generated"), **extra, "baselines": figures}


@dataclass(frozen=True, eq=False)
class _Pairs:
    """N pairs at the generator's size: images (N, H, W, 3) uint8, union of both person masks (N, H, W) or None."""

    sources: np.ndarray
    true: np.ndarray
    identity_means: np.ndarray
    masks: np.ndarray | None
    source_keypoints: Keypoints
    target_keypoints: Keypoints

    @classmethod
    def read(cls, config: EvaluateConfig, size: tuple[int, int]) -> "_Pairs":
        split = read_split(config.data, config.split)  # type: ignore[arg-type]
        names = read_pairs(config.pairs)[: config.limit]
        table = read_annotations(config.annotations)
        sources, targets = (_rows(split, [pair[side] for pair in names], config.pairs) for side in (0, 1))
        for source, target in zip(sources, targets, strict=True):
            if split.pids[source] != split.pids[target]:
                both = f"'{split.names[source]}' and '{split.names[target]}'"
                raise BadInput(f"{config.pairs}: {both} show two persons, expected two images of one")
        annotated = table.lookup(split.names)
        for row in (*sources, *targets):
            if annotated[row] < 0:
                missing = f"no keypoints for '{split.names[row]}', which {config.pairs} names"
                raise BadInput(f"{config.annotations}: {missing}")
        needed = np.unique(np.concatenate([sources, targets, _others(split, targets)]))
        images = np.zeros((len(split), *size, 3), np.uint8)
        images[needed] = read_images(split.select(needed), size=size)
        keypoints = [keypoints_of(table, split.select(rows), size) for rows in (sources, targets)]
        masks = [read_masks(split.select(rows), size) for rows in (sources, targets)]
        union = None if masks[0] is None or masks[1] is None else np.maximum(masks[0], masks[1])
        means = _identity_means(split, images, targets)
        return cls(images[sources], images[targets], means, union, *keypoints)


class _Estimator:
    """A pose estimator, and the poses that it should find."""

    def __init__(self, config: EvaluateConfig, true: Keypoints, progress: bool) -> None:
        if not bool(has_head(true).any()):
            raise BadInput(f"{config.annotations}: no target has two joints of its head, which PCKh needs")
        self.path = config.pose_estimator or Path()
        self.program = load_program(self.path, "a pose estimator", config.device)
        self.true, self.batch_size, self.device, self.progress = true, config.batch_size, config.device, progress

    def pckh(self, images: np.ndarray, name: str) -> float:
        """PCKh of the poses found in images of (N, H, W, 3) uint8."""
        label = f"poses of {name}" if self.progress else None
        return pckh(estimate_poses(self.program, self.path, images, self.batch_size, self.device, label), self.true)


@torch.no_grad()
def estimate_poses(
    program: nn.Module,
    path: Path,
    images: np.ndarray,
    batch_size: int = 32,
    device: torch.device | str = "cpu",
    progress: str | None = None,
) -> Keypoints:
    """Finds the persons' poses.

    Args:
        program: takes images (B, 3, H, W) float32 in [0, 1] and returns (B, 18, 3): x, y in pixels of these images and
            a confidence in [0, 1], 0 for a joint that it does not find.
        path: the program's file, for the error messages.
        images: (N, H, W, 3) uint8, one person in each.
        batch_size: images at a time.
        device: where the program runs.
        progress: label of the bar shown on a terminal; None for none.

    Returns:
        (N,) keypoints on the CPU.

    Raises:
        BadInput: the program does not take these images, or returns another shape or other values.
    """
    parts = []
    for start in ProgressBar(range(0, len(images), batch_size), progress, unit="batch"):
        batch = bytes_to_unit(torch.from_numpy(images[start : start + batch_size]).to(device)).contiguous()
        found = run_program(program, path, batch)
        needed = (len(batch), len(JOINTS), 3)
        if tuple(found.shape) != needed:
            shapes = f"returns {tuple(found.shape)} for images {tuple(batch.shape)}, needed {needed}"
            raise BadInput(f"{path}: {shapes}: x, y, confidence of each joint")
        parts.append(found.float().cpu())
    poses = torch.cat(parts)
    try:
        return Keypoints(poses[..., :2], poses[..., 2])
    except ValueError as error:
        raise BadInput(f"{path}: returns no poses, x and y in pixels and a confidence in [0, 1] ({error})") from None


def _rows(split: Split, names: list[str], where: Path) -> np.ndarray:
    index = {name: i for i, name in enumerate(split.names.tolist())}
    missing = [name for name in names if name not in index]
    if missing:
        raise BadInput(f"{where}: {len(missing)} names are no image of the split, first '{missing[0]}'; see --split")
    return np.array([index[name] for name in names])


def _others(split: Split, rows: np.ndarray) -> np.ndarray:
    """All rows of the identities of `rows`."""
    return np.flatnonzero(np.isin(split.pids, split.pids[rows]))


def _identity_means(split: Split, images: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """For each target the mean of its identity's other images; (N, H, W, 3) uint8."""
    means = np.empty((len(targets), *images.shape[1:]), np.uint8)
    for pid in np.unique(split.pids[targets]):
        rows = np.flatnonzero(split.pids == pid)
        total = images[rows].astype(np.float64).sum(0)
        for i in np.flatnonzero(split.pids[targets] == pid):
            means[i] = np.rint((total - images[targets[i]]) / max(len(rows) - 1, 1))
    return means
