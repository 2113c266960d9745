"""Generated images against true ones on a list of pairs, beside two baselines."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xingaug.data.annotations import keypoints_of, read_annotations
from xingaug.data.market1501 import FOLDERS, Split, read_images, read_split
from xingaug.data.pairs import read_masks
from xingaug.errors import BadInput
from xingaug.generators.render import render_images
from xingaug.generators.store import load_generator
from xingaug.training.quality import measure


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
        device: where the generator runs.

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

    def __post_init__(self) -> None:
        """Checks what can be checked without opening a file."""
        if self.split not in FOLDERS:
            raise BadInput(f"split: '{self.split}', expected {', '.join(FOLDERS)}")
        for name in ("limit", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise BadInput(f"{name}: {value}, needed at least 1")


def evaluate(config: EvaluateConfig, progress: bool = True) -> dict[str, Any]:
    """Renders the source of every pair in the target's pose and compares with the target.

    Returns:
        `pairs` (number), `ssim`, `person_ssim` (where masks lie beside the images), `l1`, `psnr`, and under
        `baselines` the same figures for `copy_source` and for `identity_mean`, the mean of the identity's other images.

    Raises:
        BadInput: unreadable input, or a pair of two identities or whose images or keypoints are unknown.
    """
    generator = load_generator(config.generator, config.device)
    size = generator.size
    split = read_split(config.data, config.split)  # type: ignore[arg-type]
    pairs = read_pairs(config.pairs)[: config.limit]
    table = read_annotations(config.annotations)
    sources, targets = (_rows(split, [pair[side] for pair in pairs], config.pairs) for side in (0, 1))
    for source, target in zip(sources, targets, strict=True):
        if split.pids[source] != split.pids[target]:
            names = f"'{split.names[source]}' and '{split.names[target]}'"
            raise BadInput(f"{config.pairs}: {names} show two persons, expected two images of one")
    annotated = table.lookup(split.names)
    for row in (*sources, *targets):
        if annotated[row] < 0:
            raise BadInput(f"{config.annotations}: no keypoints for '{split.names[row]}', which {config.pairs} names")
    needed = np.unique(np.concatenate([sources, targets, _others(split, targets)]))
    images = np.zeros((len(split), *size, 3), np.uint8)
    images[needed] = read_images(split.select(needed), size=size)
    source_kp, target_kp = (keypoints_of(table, split.select(rows), size) for rows in (sources, targets))
    generated = render_images(
        generator, images[sources], source_kp, target_kp, config.batch_size, config.device,
        progress="rendering" if progress else None,
    )  # fmt: skip
    masks = [read_masks(split.select(rows), size) for rows in (sources, targets)]
    union = None if masks[0] is None or masks[1] is None else np.maximum(masks[0], masks[1])
    true = images[targets]
    copied = measure(images[sources], true, union).to_json()
    mean = measure(_identity_means(split, images, targets), true, union).to_json()
    baselines = {"copy_source": copied, "identity_mean": mean}
    return {**measure(generated, true, union).to_json(), "baselines": baselines}


def read_pairs(path: Path) -> list[tuple[str, str]]:
    """Reads a CSV with the header `from,to`.

    Raises:
        BadInput: unreadable, another header, a row that is not two names, or no pair.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{path}: cannot read the pairs ({error})") from None
    if not rows or [cell.strip() for cell in rows[0]] != ["from", "to"]:
        raise BadInput(f"{path}: line 1: expected the header from,to")
    for number, row in enumerate(rows[1:], 2):
        if len(row) != 2:
            raise BadInput(f"{path}: line {number}: {len(row)} fields, expected two image names")
    if len(rows) == 1:
        raise BadInput(f"{path}: no pair after the header")
    return [(a.strip(), b.strip()) for a, b in rows[1:]]


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
