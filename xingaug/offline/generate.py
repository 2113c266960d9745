"""An augmented dataset on disk: real images, and each of them again in poses from a bank.

The work is a fixed list of synthetic images, cut into fixed batches; which pose each one gets follows from the seed and
its source's name. A batch is rendered whole if any image of it is missing, so that an image has the same neighbours,
and with them the same bytes, in an interrupted run and in an uninterrupted one. An image exists or it does not (atomic
writes), and everything else that is told about it can be computed again without rendering: so the manifest is written
at the end, in one step, from the list and the files, and has no torn or doubled line to mend.
"""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from xingaug.augment.transform import XingPose
from xingaug.data.annotations import Annotations, read_annotations, write_npz
from xingaug.data.market1501 import FOLDERS, Split, read_split
from xingaug.errors import BadInput, WorkFailed
from xingaug.generators.store import load_generator
from xingaug.offline.manifest import (
    MAX_COPIES,
    ManifestLine,
    read_manifest,
    sha256_of,
    write_manifest,
)
from xingaug.offline.plan import Item, Plan, make_plan
from xingaug.offline.render import render_missing
from xingaug.offline.target import claimed, place, require_linkable
from xingaug.poses.bank import PoseBank
from xingaug.poses.placing import FITS, Fit
from xingaug.poses.samplers import parse_sampler

MANIFEST_NAME = "manifest.jsonl"
ANNOTATIONS_NAME = "annotations.npz"


@dataclass(frozen=True)
class GenerateConfig:
    """What to generate.

    Attributes:
        data: root of a dataset in Market-1501 layout.
        annotations: keypoints of its training images, .npz or .csv.
        generator: name or path, as `load_generator` takes it.
        bank: directory of a pose bank.
        per_image: synthetic images for each real one, 1 to 1000.
        out: directory to write; absent, empty, or an earlier run of the same configuration.
        sampler: a name in `xingaug.poses.samplers.SAMPLERS`, or a mixture such as "uniform=3,near=1".
        fit: "frame" puts a pose where it was seen, "source" where and as large as the source stands.
        seed: of every draw.
        batch_size: images rendered at a time. Sums are rounded differently at another size, so it belongs to what
            makes two runs alike.
        device: where the generator runs.
        real: the real training images are copied, hard-linked or left out. Query and gallery are always there,
            hard-linked with "link", else copied.

    Raises:
        BadInput: a value outside its range.
    """

    data: Path
    annotations: Path
    generator: str
    bank: Path
    per_image: int
    out: Path
    sampler: str = "uniform"
    fit: Fit = "frame"
    seed: int = 0
    batch_size: int = 32
    device: str = "cpu"
    real: Literal["copy", "link", "omit"] = "copy"

    def __post_init__(self) -> None:
        """Checks what can be checked without opening a file."""
        if not 1 <= self.per_image <= MAX_COPIES:
            raise BadInput(f"per_image: {self.per_image}, needed 1 to {MAX_COPIES}")
        if self.seed < 0:
            raise BadInput(f"seed: {self.seed}, needed at least 0")
        if self.batch_size < 1:
            raise BadInput(f"batch_size: {self.batch_size}, needed at least 1")
        parse_sampler(self.sampler)
        if self.fit not in FITS:
            raise BadInput(f"fit: '{self.fit}', needed one of {', '.join(FITS)}")
        if self.real not in ("copy", "link", "omit"):
            raise BadInput(f"real: '{self.real}', needed copy, link or omit")
        out, data = Path(self.out).resolve(), Path(self.data).resolve()
        if out.is_relative_to(data) or data.is_relative_to(out):
            raise BadInput(f"out: {self.out} and the dataset {self.data} lie in one another; name a directory outside")


@dataclass(frozen=True)
class Summary:
    """What a run did.

    Attributes:
        real: real training images in the new dataset.
        synthetic: synthetic images in the new dataset.
        rendered: those of them that this run rendered; the others were there already.
        without_annotation: real images that have no keypoints.
        unusable_keypoints: real images with fewer than 8 joints inside the image.
        copies_without_pose: synthetic images for which the sampler found no valid pose.
        seconds: of the whole run.
        images_per_second: rendered images by the time of decoding, rendering and writing; 0 if none was rendered.
    """

    real: int
    synthetic: int
    rendered: int
    without_annotation: int
    unusable_keypoints: int
    copies_without_pose: int
    seconds: float
    images_per_second: float


def generate(config: GenerateConfig, progress: bool = True, generator: nn.Module | None = None) -> Summary:
    """Writes an augmented dataset in Market-1501 layout; an interrupted run is continued by the same call.

    Beside the images: `annotations.npz` (keypoints of every annotated training image, real and synthetic),
    `manifest.jsonl` (a line per synthetic image, see `ManifestLine`) and `config.json` (what the content depends on).
    The same configuration gives the same bytes. Synthetic images have the generator's size. Copy n of an image has the
    pose that `XingPose` draws for it in epoch n.

    Args:
        config: what to generate.
        progress: shows a bar where stderr is a terminal.
        generator: a generator that is loaded already and on `config.device`; `config.generator` is then not read.

    Returns:
        Counts and times.

    Raises:
        BadInput: anything about the input or the directory that cannot be used; nothing has been written.
        WorkFailed: the disk refused, or source images could not be decoded; in the latter case all else is done.
    """
    started = time.perf_counter()
    train, query, gallery = (read_split(config.data, split) for split in ("train", "query", "gallery"))
    if train.synthetic.any():
        example = train.names[train.synthetic][0]
        raise BadInput(f"{config.data}: holds synthetic images already, such as {example}; give the real dataset")
    annotations = read_annotations(config.annotations)
    bank = PoseBank.load(config.bank)
    _require_training_poses(bank, train, (query, gallery), config.bank)
    gen = generator if generator is not None else load_generator(config.generator, config.device)
    aug = XingPose(gen, bank, p=1.0, sampler=config.sampler, seed=config.seed, fit=config.fit)
    plan = make_plan(train, annotations, aug, config.per_image)
    if not plan.items:
        reasons = (
            f"{plan.without_annotation} without annotation, {plan.unusable_keypoints} with too few joints, "
            f"{len(plan.unreadable)} unreadable, {plan.copies_without_pose} copies without pose"
        )
        raise BadInput(f"{config.data}: none of {len(train)} training images can be re-rendered ({reasons})")
    out = Path(config.out)
    if config.real == "link":
        require_linkable(Path(config.data), out)
    facts = _facts(config, aug, (train, query, gallery))
    try:
        with claimed(out, facts):
            _place_real(config, train, progress)
            rendered, seconds, unreadable = render_missing(
                out / FOLDERS["train"], aug, plan, config.batch_size, _known_hashes(out / MANIFEST_NAME), progress
            )
            items = [item for item in plan.items if str(plan.sources.names[item.source]) not in unreadable]
            _describe(config, aug, plan, items, train, annotations)
    except OSError as error:
        where = f"{error.filename or out}: {error.strerror or error}"
        raise WorkFailed(f"{where}; the finished images are kept, start again to go on") from None
    if unreadable:
        raise WorkFailed(
            f"{config.data}: {len(unreadable)} images cannot be decoded ({', '.join(sorted(unreadable)[:3])}); "
            f"everything else is done in {config.out}"
        )
    return Summary(
        real=0 if config.real == "omit" else len(train),
        synthetic=len(items),
        rendered=rendered,
        without_annotation=plan.without_annotation,
        unusable_keypoints=plan.unusable_keypoints,
        copies_without_pose=plan.copies_without_pose,
        seconds=time.perf_counter() - started,
        images_per_second=rendered / seconds if rendered else 0.0,
    )


def _require_training_poses(bank: PoseBank, train: Split, tests: Sequence[Split], path: Path) -> None:
    """Raises `BadInput` if the bank holds poses of query or gallery images, which training must not see."""
    names = {str(name) for name in bank.names}
    test_names = {str(name) for split in tests for name in split.names} - {str(name) for name in train.names}
    found = sorted(names & test_names)
    if found:
        raise BadInput(
            f"{path}: {len(found)} poses are of test images, such as {found[0]}; build it from training images"
        )


def _facts(config: GenerateConfig, aug: XingPose, splits: Sequence[Split]) -> dict[str, str | int]:
    """Everything that the bytes of the new dataset depend on, and nothing else (no path, no time)."""
    listing = hashlib.sha256()
    for split in splits:
        for index, name in enumerate(split.names):
            listing.update(f"{split.split}/{name} {split.path(index).stat().st_size}\n".encode())
    return {
        "format": 1,
        "data_listing": listing.hexdigest(),
        "annotations": sha256_of(Path(config.annotations)),
        "generator": str(aug.generator.content_hash),
        "bank": aug.bank.content_hash,
        "per_image": config.per_image,
        "sampler": config.sampler,
        "fit": config.fit,
        "seed": config.seed,
        "batch_size": config.batch_size,
        "device": torch.device(config.device).type,
        "real": config.real,
    }


def _place_real(config: GenerateConfig, train: Split, progress: bool) -> None:
    """Query and gallery as they are, junk included, and the real training images unless they are left out."""
    out, data = Path(config.out), Path(config.data)
    pairs = [
        (path, out / folder / path.name)
        for folder in (FOLDERS["query"], FOLDERS["gallery"])
        for path in sorted((data / folder).iterdir())
        if path.suffix.lower() == ".jpg" and not path.name.startswith(".")
    ]
    if config.real != "omit":
        pairs += [(train.path(index), out / FOLDERS["train"] / str(name)) for index, name in enumerate(train.names)]
    for source, target in tqdm(pairs, "real images", unit="image", disable=None if progress else True):
        place(source, target, link=config.real == "link")


def _describe(
    config: GenerateConfig, aug: XingPose, plan: Plan, items: Sequence[Item], train: Split, annotations: Annotations
) -> None:
    """Writes the annotations of the new training set and, as the last thing of all, the manifest."""
    out, folder = Path(config.out), FOLDERS["train"]
    bank_rows, sources = torch.tensor([[item.bank_row, item.source] for item in items], dtype=torch.int64).T
    targets = aug.poses(bank_rows, plan.keypoints[sources], aug.size)
    rows = annotations.lookup([] if config.real == "omit" else train.names)
    kept = rows[rows >= 0]
    write_npz(
        out / ANNOTATIONS_NAME,
        [*annotations.names[kept].tolist(), *(item.name for item in items)],
        np.concatenate([annotations.xy[kept], targets.xy.numpy()]),
        np.concatenate([annotations.visibility[kept], targets.visibility.numpy()]),
        source="xingaug generate",
    )
    joints = torch.cat([targets.xy, targets.visibility[..., None]], dim=-1).double().round(decimals=3).tolist()
    write_manifest(
        out / MANIFEST_NAME,
        (
            ManifestLine(
                file=f"{folder}/{item.name}",
                sha256=sha256_of(out / folder / item.name),
                source=str(plan.sources.names[item.source]),
                pid=int(plan.sources.pids[item.source]),
                camid=int(plan.sources.camids[item.source]),
                copy=item.copy,
                bank_row=item.bank_row,
                target_keypoints=joints[index],
                sampler=config.sampler,
                fit=config.fit,
                seed=config.seed,
                generator=str(aug.generator.content_hash),
                bank=aug.bank.content_hash,
            )
            for index, item in enumerate(items)
        ),
    )


def _known_hashes(manifest: Path) -> dict[str, str]:
    """Hash of each synthetic image by name, where an earlier run came to its end."""
    return {Path(line.file).name: line.sha256 for line in read_manifest(manifest)} if manifest.exists() else {}
