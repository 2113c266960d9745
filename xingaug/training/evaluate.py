"""Compares generated images with true ones on a list of pairs, beside two baselines."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xingaug.data.annotations import Annotations, keypoints_of, read_annotations
from xingaug.data.market1501 import FOLDERS, Split, read_images
from xingaug.data.pairs import read_masks, read_pairs
from xingaug.data.readers import read_split
from xingaug.errors import BadInput
from xingaug.generators.core import OPENVINO_PAYS, RUNTIMES, Core, Runtime
from xingaug.generators.fast import DTYPES, Dtype
from xingaug.generators.many import render_images
from xingaug.generators.store import load_generator
from xingaug.keypoints import Keypoints
from xingaug.poses.descriptor import Shapes
from xingaug.poses.references import REFERENCES, Candidates, Reference
from xingaug.training.masks import pose_mask
from xingaug.training.poses_found import PoseEvaluator
from xingaug.training.quality import gradient, measure, sharpness
from xingaug.training.reid_evaluator import ReidEvaluator
from xingaug.training.vgg_metrics import VGGEvaluator

PERCEPTUAL = ("lpips", "fid", "is")
"""Metrics that need a feature network."""


@dataclass(frozen=True)
class EvaluateConfig:
    """What to measure.

    Attributes:
        generator: bundled name or .safetensors file.
        data: a Market-1501 tree.
        annotations: keypoints of the pairs' images.
        pairs: CSV with the header `from,to`; names of images of one identity.
        split: of the dataset that holds the images.
        reference: the image that is rendered: "image" is the pair's first, "camera" the one by its camera, but for the
            pair's second, whose pose is nearest to the target's (`xingaug.poses.references`).
        limit: measure only this many pairs, from the first.
        batch_size: images rendered at a time.
        device: where the generator and the networks of the metrics run.
        dtype: that the generator computes in; "auto" is bfloat16 where the device has it.
        runtime: of the generator; "auto" is OpenVINO on a CPU, if it is installed and there are enough pairs.
        reid: feature network for Rank-1 and mAP against the gallery (see `training.features`); None leaves them out.
        reid_cache: folder that caches the gallery's features; None does not cache them.
        pose_estimator: for PCK and PCKh (see `poses.estimators.load_estimator_file`); None leaves them out.
        sharpness: measure it.
        frechet_weights: of VGG-16, for `frechet` and `vgg_distance`; None leaves them out.
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
    reference: Reference = "image"
    limit: int | None = None
    batch_size: int = 32
    device: str = "cpu"
    dtype: Dtype = "auto"
    runtime: Runtime = "auto"
    reid: Path | None = None
    reid_cache: Path | None = None
    pose_estimator: Path | None = None
    sharpness: bool = False
    frechet_weights: Path | None = None
    perceptual: Sequence[str] = ()
    inception: Path | None = None

    def __post_init__(self) -> None:
        """Checks all that needs no file."""
        for name, known in (
            ("split", tuple(FOLDERS)),
            ("reference", REFERENCES),
            ("dtype", DTYPES),
            ("runtime", RUNTIMES),
        ):
            if getattr(self, name) not in known:
                raise BadInput(f"{name}: '{getattr(self, name)}', expected {', '.join(known)}")
        for name in ("limit", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise BadInput(f"{name}: {value}, needed at least 1")
        unknown = [name for name in self.perceptual if name not in PERCEPTUAL]
        if unknown:
            raise BadInput(f"perceptual: '{unknown[0]}', expected any of {', '.join(PERCEPTUAL)}")
        if self.reid_cache is not None and self.reid is None:
            raise BadInput(f"reid_cache: {self.reid_cache}, is the cache of reid, which is not set")
        if self.inception is not None and not {"fid", "is"} & set(self.perceptual):
            raise BadInput(f"inception: {self.inception}, is only read for fid or is, and neither is requested")


def evaluate(config: EvaluateConfig, progress: bool = True) -> dict[str, Any]:
    """Renders the source of every pair in the target's pose and compares with the target.

    Returns:
        `pairs` (number), `rendering` (what rendered, such as "bfloat16 by torch on cpu"), `reference` (unless "image"),
        `ssim`, `mask_ssim`, `person_ssim` (if there are masks beside the images), `l1`, `psnr`, and on request
        `reid_rank1`, `reid_map`, `pck`, `pckh`, `sharpness`, `frechet`, `vgg_distance`, `lpips`, `fid`, `is`.
        Under `baselines` the same figures for `copy_source`, the image that is rendered, and for `identity_mean`, the
        mean of the identity's other images; under `true` the figures of the true images themselves, and
        `pckh_of_true`. `measures` describes how each network's figure was measured, `perceptual` the same for lpips,
        fid and is.

    Raises:
        BadInput: unreadable input, a pair of two identities or whose images or keypoints are unknown, or networks or
            weights that cannot be used.
    """
    generator = load_generator(config.generator, config.device, config.dtype)
    size = generator.size
    pairs = _Pairs.read(config, size)
    few = config.runtime == "auto" and len(pairs.true) < OPENVINO_PAYS
    core = Core(generator, runtime="torch" if few else config.runtime)
    rendering = core.describe()
    networks = None
    if config.perceptual:
        from xingaug.training.perceptual_metrics import load_networks

        if "fid" in config.perceptual and len(pairs.true) < 2:
            raise BadInput(f"{config.pairs}: 1 pair to measure, fid needs at least 2")
        networks = load_networks(tuple(config.perceptual), size, config.inception, config.device)
    # True images first, so that an unsuitable network is reported before anything is rendered.
    evaluators = _Evaluators(config, pairs, progress)
    of_true = evaluators.scores("true", pairs.true, pairs.target_rows)
    of_true |= {} if config.frechet_weights is None else {"frechet": 0.0, "vgg_distance": 0.0}
    generated = render_images(
        core, pairs.sources, pairs.source_keypoints, pairs.target_keypoints, config.batch_size, config.device,
        progress="rendering" if progress else None,
    )  # fmt: skip
    sets = {"generated": generated, "copy_source": pairs.sources, "identity_mean": pairs.identity_means}
    pose_masks = pose_mask(pairs.target_keypoints, size)[:, 0].numpy()
    figures: dict[str, dict[str, Any]] = {
        name: measure(images, pairs.true, pairs.masks, pose_masks=pose_masks).to_json() for name, images in sets.items()
    }
    distances = evaluators.distances(sets)
    for name, images in sets.items():
        figures[name] |= evaluators.scores(name, images, pairs.source_rows) | distances.get(name, {})
    extra: dict[str, Any] = {}
    if of_true:
        extra = {"true": of_true, "measures": evaluators.describe()}
    if "pckh" in of_true:
        extra["pckh_of_true"] = of_true["pckh"]
    if networks is not None:
        from xingaug.training.perceptual_metrics import perceptual_scores

        scores = perceptual_scores(networks, sets, pairs.true, config.batch_size, progress)
        for name in sets:
            figures[name] |= scores[name]
        extra["perceptual"] = networks.describe()
    of_which = {} if config.reference == "image" else {"reference": config.reference}
    return {**figures.pop("generated"), "rendering": rendering, **of_which, **extra, "baselines": figures}


@dataclass(frozen=True, eq=False)
class _Pairs:
    """N pairs at the generator's size: images (N, H, W, 3) uint8, union of both person masks (N, H, W) or None."""

    source_rows: Split
    target_rows: Split
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
            if source == target:
                raise BadInput(f"{config.pairs}: '{split.names[source]}' is paired with itself, expected two images")
        annotated = table.lookup(split.names)
        for row in (*sources, *targets):
            if annotated[row] < 0:
                missing = f"no keypoints for '{split.names[row]}', which {config.pairs} names"
                raise BadInput(f"{config.annotations}: {missing}")
        of_pairs = sources
        if config.reference == "camera":
            sources = _references(split, table, size, sources, targets)
        needed = np.unique(np.concatenate([sources, targets, _others(split, targets)]))
        images = np.zeros((len(split), *size, 3), np.uint8)
        images[needed] = read_images(split.select(needed), size=size)
        keypoints = [keypoints_of(table, split.select(rows), size) for rows in (sources, targets)]
        # The pairs' own masks, so that the figures of other images are of the same pixels.
        masks = [read_masks(split.select(rows), size) for rows in (of_pairs, targets)]
        union = None if masks[0] is None or masks[1] is None else np.maximum(masks[0], masks[1])
        means = _identity_means(split, images, targets)
        return cls(
            split.select(sources), split.select(targets), images[sources], images[targets], means, union, *keypoints
        )


class _Evaluators:
    """The requested networks and their figures of a set of images; see `evaluate`."""

    def __init__(self, config: EvaluateConfig, pairs: _Pairs, progress: bool) -> None:
        self._pairs, self._progress = pairs, progress
        self._gradient = gradient(pairs.true) if config.sharpness else None
        size = (pairs.true.shape[1], pairs.true.shape[2])
        self._poses = self._vgg = self._reid = None
        if config.pose_estimator is not None:
            self._poses = PoseEvaluator(config.pose_estimator, config.device, config.batch_size)
            self._poses.measure_true(pairs.true, pairs.target_keypoints, self._label("poses of the true images"))
        if config.frechet_weights is not None:
            self._vgg = VGGEvaluator(
                config.frechet_weights, pairs.true, config.batch_size, config.device, "--frechet-weights"
            )
        if config.reid is not None:
            self._reid = ReidEvaluator(
                config.reid, config.data, size, config.device, config.batch_size, config.reid_cache, progress
            )

    def _label(self, text: str) -> str | None:
        return text if self._progress else None

    def scores(self, name: str, images: np.ndarray, shown: Split) -> dict[str, float]:
        """Figures of images (N, H, W, 3) uint8 with the identities and cameras of `shown`."""
        figures: dict[str, float] = {}
        if self._reid is not None:
            pair = self._pairs.source_rows, self._pairs.target_rows
            figures |= self._reid.scores(images, shown, pair, self._label(f"features of {name}"))
        if self._poses is not None:
            known = images is self._pairs.true
            figures |= self._poses.of_true if known else self._poses.scores(images, self._label(f"poses of {name}"))
        if self._gradient is not None:
            figures["sharpness"] = sharpness(images, self._gradient)
        return figures

    def distances(self, sets: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
        """Distances of each set of images (N, H, W, 3) uint8 from the true ones."""
        return {} if self._vgg is None else self._vgg.scores(sets, self._label("VGG-16"))

    def describe(self) -> dict[str, str]:
        """How each figure was measured."""
        texts = {} if self._reid is None else {"reid": self._reid.describe()}
        texts |= {} if self._poses is None else self._poses.describe()
        if self._gradient is not None:
            texts["sharpness"] = "mean gradient of the luma, as a share of the true images'"
        return texts | ({} if self._vgg is None else self._vgg.describe())


def _rows(split: Split, names: list[str], where: Path) -> np.ndarray:
    index = {name: i for i, name in enumerate(split.names.tolist())}
    missing = [name for name in names if name not in index]
    if missing:
        raise BadInput(f"{where}: {len(missing)} names are no image of the split, first '{missing[0]}'; see --split")
    return np.array([index[name] for name in names])


def _references(
    split: Split, table: Annotations, size: tuple[int, int], sources: np.ndarray, targets: np.ndarray
) -> np.ndarray:
    """For each pair the real image whose pose is nearest to the target's, of the source's person and camera."""
    known = _others(split, targets)  # the sources too, as a pair is of one person
    known = known[~split.synthetic[known] | np.isin(known, np.concatenate([sources, targets]))]
    shapes = Shapes.of(keypoints_of(table, split.select(known), size))
    first, second = np.searchsorted(known, sources), np.searchsorted(known, targets)
    candidates = Candidates.of(shapes, split.pids[known], split.camids[known])
    return known[candidates.nearest(first, shapes[second], second)]


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
