"""Training folders for the arms of a comparison: a share of the real images, and synthetic ones beside them."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor, nn

from xingaug.data.annotations import read_annotations, write_npz
from xingaug.data.market1501 import FOLDERS, read_split
from xingaug.data.names import MANIFEST_NAME, image_files
from xingaug.data.pedestrians import World
from xingaug.data.split import Split
from xingaug.errors import BadInput
from xingaug.files import atomic_directory
from xingaug.images import read_image, write_image
from xingaug.inputs import MAX_ARRAY_BYTES, sha256_of
from xingaug.offline.config import GenerateConfig
from xingaug.offline.generate import Summary, generate
from xingaug.offline.manifest import read_manifest
from xingaug.offline.target import copy_or_link, require_linkable
from xingaug.poses.bank import PoseBank
from xingaug.poses.collect import bank_from_tree
from xingaug.poses.draws import keyed_uniform
from xingaug.poses.references import Reference, require_fit
from xingaug.runs import require_same_or_write

MADE_OF = "made_of.json"
"""The file of a written folder that says of what it was made."""

Kind = Literal["duplicates", "offline", "oracle"]
"""Kinds of synthetic images: copies of the real ones, renderings of them in drawn poses, or, in a pedestrian world, the
true images in those poses."""


@dataclass(frozen=True)
class SyntheticConfig:
    """How the arms' synthetic images are made, with the same sources and poses for every kind.

    Attributes:
        generator: bundled name or .safetensors file.
        annotations: keypoints of the training images, also for arms that render them while training, unless their
            augment.annotations names others; None is annotations.npz in the dataset's folder.
        per_image: synthetic images for each real one.
        sampler: how poses are drawn (see `XingPose`).
        fit: how poses are placed (see `XingPose`).
        reference: which of a person's images are rendered (see `GenerateConfig`); the duplicates are always of all.
        seed: of the draws.

    Raises:
        ValueError: per_image or seed outside its range, or a reference that fit excludes.
    """

    generator: str = "pedestrians-small"
    annotations: Path | None = None
    per_image: int = 4
    sampler: str = "uniform"
    fit: Literal["frame", "source"] = "frame"
    reference: Reference = "image"
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks ranges."""
        if self.per_image < 1 or self.seed < 0:
            raise ValueError(f"per_image: {self.per_image}, seed: {self.seed}; needed at least 1 and 0")
        require_fit(self.reference, self.fit)


class CopyOfSource(nn.Module):
    """A generator that returns the source."""

    content_hash = "copy of the source"

    def __init__(self, size: tuple[int, int]) -> None:
        """Args: `size`: (height, width) of the images."""
        super().__init__()
        self.size = size

    def forward(self, source: Tensor, source_heatmaps: Tensor, target_heatmaps: Tensor) -> Tensor:
        """The source, (B, 3, H, W), unchanged."""
        return source


@dataclass(frozen=True)
class Cut:
    """The part of a training set that a cell is trained on.

    Attributes:
        images: share of each identity's images, in (0, 1].
        identities: share of the identities, in (0, 1].
    """

    images: float = 1.0
    identities: float = 1.0

    @property
    def is_whole(self) -> bool:
        """Whether it is the whole training set."""
        return self.images == self.identities == 1

    @property
    def name(self) -> str:
        """Name of its folder, such as share_20 or identities_20."""
        parts = [f"share_{100 * self.images:g}"] if self.images < 1 or self.identities == 1 else []
        return "_".join([*parts, *([f"identities_{100 * self.identities:g}"] if self.identities < 1 else [])])

    @property
    def label(self) -> str:
        """Readable label, such as "20 % of the images"."""
        parts = [f"{100 * self.images:g} % of the images"] if self.images < 1 or self.identities == 1 else []
        return " of ".join(
            [*parts, *([f"{100 * self.identities:g} % of the identities"] if self.identities < 1 else [])]
        )


def chosen_rows(names: np.ndarray, pids: np.ndarray, cut: Cut) -> np.ndarray:
    """(N,) bool: the images that belong to a cut.

    At least two identities and two images of each, drawn by name, so that a smaller cut is a subset of a larger one.

    Args:
        names: (N,) image names.
        pids: (N,) identities.
        cut: what to keep.
    """
    draws = keyed_uniform(0, 0, names.tolist(), "share")
    people = np.unique(pids)
    order = np.argsort(keyed_uniform(0, 0, [str(pid) for pid in people.tolist()], "identities"))
    chosen = np.zeros(len(names), bool)
    for pid in people[order[: max(2, round(cut.identities * len(people)))]]:
        rows = np.flatnonzero(pids == pid)
        chosen[rows[np.argsort(draws[rows])[: max(2, round(cut.images * len(rows)))]]] = True
    return chosen


def write_cut(source: Path, out: Path, cut: Cut, annotations: Path | None = None) -> Path:
    """Writes a folder with a part of the real training images, and with query and gallery, as hard links.

    Args:
        source: a dataset in Market-1501 layout.
        out: the new folder, or an earlier one of the same call.
        cut: which training images.
        annotations: keypoints of the training images; None is annotations.npz in `source`.

    Returns:
        `out`, in which annotations.npz holds the keypoints of the chosen images.

    Raises:
        BadInput: unreadable dataset or annotations, or an `out` of other images or keypoints.
    """
    require_linkable([source / folder for folder in FOLDERS.values()], out)
    train = read_split(source, "train")
    train = train.select(~train.synthetic)
    made_of = facts_of(train, annotations or source / "annotations.npz")
    if out.exists():
        require_same_or_write(out / MADE_OF, made_of, f"remove {out.parent}, and it is written again")
        return out
    kept = train.select(np.flatnonzero(chosen_rows(train.names, train.pids, cut)))
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_directory(out) as folder:
        write_annotations_of(kept.names, annotations or source / "annotations.npz", folder)
        for index in range(len(kept)):
            copy_or_link(kept.path(index), folder / FOLDERS["train"] / str(kept.names[index]), link=True)
        for part in (FOLDERS["query"], FOLDERS["gallery"]):
            for name in image_files(source / part).images:
                copy_or_link(source / part / name, folder / part / name, link=True)
        require_same_or_write(folder / MADE_OF, made_of, "")
    return out


def facts_of(split: Split, annotations: Path | None) -> dict[str, Any]:
    """Hashes of the names and sizes of a split's files, and of its keypoints, to tell whether a folder is of them."""
    facts = [f"{name} {split.path(index).stat().st_size}" for index, name in enumerate(split.names)]
    return {
        "images": hashlib.sha256("\n".join(facts).encode()).hexdigest(),
        "annotations": None if annotations is None else sha256_of(annotations, "annotations", MAX_ARRAY_BYTES),
    }


def write_annotations_of(names: np.ndarray, annotations: Path, folder: Path) -> None:
    """Writes annotations.npz with the keypoints of some images, those of `names` (N,) that have any."""
    table = read_annotations(annotations)
    rows = table.lookup(names)
    rows = rows[rows >= 0]
    write_npz(folder / "annotations.npz", table.names[rows].tolist(), table.xy[rows], table.visibility[rows])


def write_arm(kind: Kind, real: Path, out: Path, config: SyntheticConfig, world: Path | None = None) -> Path:
    """Writes a folder with the images of `real` and synthetic ones with the same pids and camids.

    An interrupted call is resumed by the next one.

    Args:
        kind: what the synthetic images are.
        real: a folder that `write_cut` wrote.
        out: the new folder.
        config: how they are made.
        world: for the oracle, the pedestrian world that the images of `real` come from.

    Returns:
        `out`.

    Raises:
        BadInput: an oracle without a world, or as `generate`.
    """
    if kind == "oracle":
        require_world(world)
        # The manifest of the generated images holds the pose drawn for each source.
        offline = write_arm("offline", real, out.parent / "offline", config)
        return _write_oracle(offline, real, out, World(world or real))
    bank = real.parent / "bank"
    if not bank.exists():
        bank_from_tree(real, real / "annotations.npz").save(bank)
    generator = None
    if kind == "duplicates":
        generator = CopyOfSource(_size_of(real))
    _generate(config, real, out, bank, generator)
    return out


def _size_of(real: Path) -> tuple[int, int]:
    """(height, width) of a dataset's first image, to which duplicates of others are resized."""
    height, width, _ = read_image(read_split(real, "train").path(0)).shape
    return height, width


def require_world(folder: Path | None) -> None:
    """Raises `BadInput` unless the folder is a pedestrian world, whose true images in every pose are known."""
    if folder is None or not (folder / "world.json").is_file():
        raise BadInput(f"synthetic: oracle: {folder} is no pedestrian world; only there the true images are known")


def _generate(config: SyntheticConfig, real: Path, out: Path, bank: Path, generator: nn.Module | None) -> Summary:
    settings = GenerateConfig(
        data=real, annotations=real / "annotations.npz", generator=config.generator, bank=bank,
        per_image=config.per_image, out=out, sampler=config.sampler, fit=config.fit, seed=config.seed, real="link",
        reference="image" if generator else config.reference,
    )  # fmt: skip
    return generate(settings, generator=generator)


def _write_oracle(offline: Path, real: Path, out: Path, world: World) -> Path:
    if out.exists():
        return out
    bank = PoseBank.load(real.parent / "bank")
    with atomic_directory(out) as folder:
        for part in FOLDERS.values():
            for name in image_files(real / part).images:
                copy_or_link(real / part / name, folder / part / name, link=True)
        for line in read_manifest(offline / MANIFEST_NAME):
            rendered = world.render_in_pose(line.source, str(bank.names[line.bank_row]))
            write_image(folder / line.file, rendered.image)
    return out
