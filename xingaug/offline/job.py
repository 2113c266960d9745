"""Everything that is read and decided before the first write."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from xingaug.data.annotations import Annotations, read_annotations
from xingaug.data.market1501 import Split, read_split
from xingaug.errors import BadInput
from xingaug.offline.config import GenerateConfig
from xingaug.offline.formats import FolderStore, ShardStore, Store
from xingaug.offline.journal import Journal
from xingaug.offline.manifest import sha256_of
from xingaug.offline.plan import Items, Sources, copies_asked_for, find_sources, first_items
from xingaug.offline.render import Renderer, build_transform
from xingaug.offline.resources import fitting_batch_size, image_bytes
from xingaug.offline.target import read_facts, require_linkable
from xingaug.poses.bank import PoseBank


@dataclass(frozen=True, eq=False)
class Job:
    """A run, ready to start.

    Attributes:
        config: what to generate.
        train: the real training images.
        tests: query and gallery.
        annotations: keypoints of the training images.
        renderer: makes the images.
        sources: the training images that can be rendered again.
        asked: (N,) copies of each of them.
        items: the first round's images.
        without_pose: copies for which the sampler found no valid pose.
        facts: what the bytes of the new dataset depend on.
    """

    config: GenerateConfig
    train: Split
    tests: tuple[Split, Split]
    annotations: Annotations
    renderer: Renderer
    sources: Sources
    asked: np.ndarray
    items: Items
    without_pose: int
    facts: dict[str, Any]

    @property
    def real(self) -> Split:
        """The real training images of the new dataset."""
        return self.train.select([]) if self.config.real == "omit" else self.train

    @property
    def bytes(self) -> int:
        """About what the new dataset takes on disk, with the lines about its images."""
        splits = [] if self.config.real == "link" else [self.real]
        if self.config.format == "folder" and self.config.real != "link":
            splits += self.tests
        real = sum(split.path(index).stat().st_size for split in splits for index in range(len(split)))
        # A line of the manifest and a row of keypoints; in a shard two headers, keypoints, and contents rounded up.
        beside = 1500 + (2048 if self.config.format == "webdataset" else 0)
        return real + int(len(self.items) * (image_bytes(self.sources, self.renderer.aug.size) + beside))


def prepare(config: GenerateConfig, device: str, generator: nn.Module | None = None) -> Job:
    """Reads and checks everything.

    Args:
        config: what to generate.
        device: where this process renders.
        generator: one that is loaded already and on the device, in place of `config.generator`.

    Raises:
        BadInput: anything about the input that cannot be used.
    """
    train, query, gallery = (read_split(config.data, split) for split in ("train", "query", "gallery"))
    if train.synthetic.any():
        example = train.names[train.synthetic][0]
        raise BadInput(f"{config.data}: holds synthetic images already, such as {example}; give the real dataset")
    annotations = read_annotations(config.annotations)
    aug = build_transform(config, device, generator)
    if not config.allow_test:
        _require_training_poses(aug.bank, train, (query, gallery), config.bank)
    sources = find_sources(train, annotations, aug.size)
    asked = copies_asked_for(config, sources, train)
    items, without_pose = first_items(aug, sources, asked, config.budget)
    if not len(items):
        reasons = (
            f"{sources.without_annotation} without annotation, {sources.unusable_keypoints} with too few joints, "
            f"{len(sources.unreadable)} unreadable, {without_pose} copies without pose, {asked.sum()} copies asked for"
        )
        raise BadInput(f"{config.data}: none of {len(train)} training images can be re-rendered ({reasons})")
    if config.real == "link":
        require_linkable(config.data, config.out)
    batch_size = config.batch_size or int(read_facts(config.out).get("batch_size") or 0)
    if not batch_size:
        batch_size = fitting_batch_size(aug.generator, torch.device(device), torch.get_num_threads())
    store: Store = FolderStore(config.out, batch_size)
    if config.format == "webdataset":
        store = ShardStore(config.out, config.shard_size)
    renderer = Renderer(aug, sources, store, Journal(config.out), batch_size)
    facts = _facts(config, renderer, (train, query, gallery))
    return Job(config, train, (query, gallery), annotations, renderer, sources, asked, items, without_pose, facts)


def _require_training_poses(bank: PoseBank, train: Split, tests: Sequence[Split], path: Path) -> None:
    """Raises `BadInput` if the bank holds poses of query or gallery images, which training must not see."""
    names = {str(name) for name in bank.names}
    test_names = {str(name) for split in tests for name in split.names} - {str(name) for name in train.names}
    found = sorted(names & test_names)
    if found:
        raise BadInput(
            f"{path}: {len(found)} poses are of test images, such as {found[0]}; build it from training images, "
            "or allow it (--allow-test)"
        )


def _facts(config: GenerateConfig, renderer: Renderer, splits: Sequence[Split]) -> dict[str, Any]:
    """Everything that the bytes of the new dataset depend on, and nothing else (no path, no time, no engine)."""
    listing = hashlib.sha256()
    for split in splits:
        for index, name in enumerate(split.names):
            listing.update(f"{split.split}/{name} {split.path(index).stat().st_size}\n".encode())
    gate = None
    if config.gate is not None:
        features = None if config.gate.features is None else sha256_of(Path(config.gate.features))
        gate = {**vars(config.gate), "features": features}
    return {
        "version": 2,
        "format": config.format,
        "shard_size": config.shard_size if config.format == "webdataset" else None,
        "data_listing": listing.hexdigest(),
        "images": {split.split: len(split) for split in splits},
        "annotations": sha256_of(config.annotations),
        "generator": str(renderer.aug.generator.content_hash),
        "bank": renderer.aug.bank.content_hash,
        "per_image": config.per_image,
        "per_identity": config.per_identity,
        "budget": config.budget,
        "sampler": config.sampler,
        "fit": config.fit,
        "seed": config.seed,
        "gate": gate,
        "tries": config.tries if gate else None,
        "batch_size": renderer.batch_size,
        "precision": config.precision,
        "device": torch.device(config.device).type,
        "real": config.real,
    }
