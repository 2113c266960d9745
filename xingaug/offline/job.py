"""Prepares a run: everything that is read, checked and decided before the first write."""

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from xingaug.augment.gate import GateConfig
from xingaug.augment.transform import XingPose
from xingaug.data.annotations import Annotations, read_annotations
from xingaug.data.market1501 import FOLDERS, Split, read_split
from xingaug.data.names import ends_among, image_files
from xingaug.data.readers import require_market_tree
from xingaug.data.split import MissingSplit
from xingaug.errors import BadInput
from xingaug.files import require_no_links_out
from xingaug.generators.core import OPENVINO_PAYS, Runtime
from xingaug.generators.fast import Dtype, has_bfloat16
from xingaug.images import MAX_BYTES, decode_image
from xingaug.inputs import MAX_ARRAY_BYTES, read_bytes, sha256_of
from xingaug.offline.config import GenerateConfig
from xingaug.offline.formats import FolderStore, ShardStore, Store
from xingaug.offline.journal import Journal
from xingaug.offline.plan import Items, Sources, copies_per_source, find_sources, first_items
from xingaug.offline.render import Renderer, build_transform, put_on_other_grounds
from xingaug.offline.resources import fitting_batch_size, image_bytes
from xingaug.offline.target import read_facts, require_linkable
from xingaug.poses.bank import PoseBank
from xingaug.programs import MAX_PROGRAM_BYTES
from xingaug.training.processes import Processes

THREADS = 8
"""Threads that read files."""

LINE_BYTES = 1100
"""Bytes per image in the manifest and the annotations."""


@dataclass(frozen=True, eq=False)
class Job:
    """A run, ready to start.

    Attributes:
        config: what to generate.
        train: the real training images.
        listing: SHA-256 of every image of the dataset that is copied or re-rendered, by its path below the root; "" for
            a file that cannot be read or decoded.
        annotations: keypoints of the training images.
        renderer: renders the images.
        sources: the training images that can be re-rendered.
        items: the first round's images.
        tried: (N,) number of copies of each source that the first round tries.
        without_pose: number of copies for which the sampler found no valid pose.
        facts: everything that the bytes of the new dataset depend on.
    """

    config: GenerateConfig
    train: Split
    listing: dict[str, str]
    annotations: Annotations
    renderer: Renderer
    sources: Sources
    items: Items
    tried: np.ndarray
    without_pose: int
    facts: dict[str, Any]

    @property
    def real(self) -> Split:
        """The real training images of the new dataset: the readable ones, or none."""
        if self.config.real == "omit":
            return self.train.select([])
        return self.train.select([bool(self.listing[self.train.file(i)]) for i in range(len(self.train))])

    def real_files(self) -> list[str]:
        """Paths, below the root of both datasets, of the readable real images that are copied.

        A folder has all of query and gallery, junk included. Shards hold training images only.
        """
        names = {f"{FOLDERS['train']}/{name}" for name in self.real.names}
        tests = (FOLDERS["query"], FOLDERS["gallery"]) if self.config.format == "folder" else ()
        return [
            file
            for file, sha256 in self.listing.items()
            if sha256 and (file in names or file.startswith(tuple(f"{folder}/" for folder in tests)))
        ]

    def unreadable(self) -> set[str]:
        """Names of training images, and paths of test images, that cannot be read or are not images."""
        train = f"{FOLDERS['train']}/"
        needed = [file for file in self.listing if file.startswith(train) or self.config.format == "folder"]
        unread = {file.removeprefix(train) for file in needed if not self.listing[file]}
        return unread | set(self.sources.unreadable)

    @property
    def bytes(self) -> int:
        """Approximate size of the new dataset on disk, manifest and annotations included."""
        files = [] if self.config.real == "link" else self.real_files()
        # A file takes whole blocks; in a shard an image also has two headers and its keypoints.
        block, labels = (4096, 0) if self.config.format == "folder" else (512, 2048)
        real = sum(-(-(self.config.data / file).stat().st_size // block) * block + labels for file in files)
        each = image_bytes(self.sources, self.renderer.aug.size, block) + labels
        return real + int(len(self.items) * (each + LINE_BYTES))


def prepare(config: GenerateConfig, processes: Processes, generator: nn.Module | None = None) -> Job:
    """Reads and checks everything.

    Args:
        config: what to generate.
        processes: the process group, with this process's device.
        generator: a loaded generator on the device, instead of `config.generator`.

    Raises:
        BadInput: unusable input.
    """
    require_market_tree(config.data, "generate")
    train, tests = read_split(config.data, "train"), _tests(config.data)
    if train.synthetic.any():
        example = train.names[train.synthetic][0]
        raise BadInput(f"{config.data}: holds synthetic images already, such as {example}; give the real dataset")
    if not config.follow_links:
        _require_own_files(config.data)
    annotations = read_annotations(config.annotations)
    config = replace(config, dtype=_dtype(config, processes))
    aug = build_transform(config, processes.device, generator)
    if not config.allow_test:
        _require_training_poses(aug.bank, train, tests, config.bank)
    sources = find_sources(train, annotations, aug.size)
    requested = copies_per_source(config, sources, train)
    if len(sources) and not requested.any():
        raise BadInput(
            f"per_identity: {config.per_identity}, every identity has as many training images already; needed more"
        )
    items, tried, without_pose = first_items(aug, sources, requested, config.budget, config.reference)
    aug.core.runtime = _runtime(config, processes, aug, len(items))
    aug.core.plan()  # to fail now if something is missing
    config = replace(config, runtime=aug.core.runtime)
    if not len(items):
        reasons = (
            f"{sources.without_annotation} without annotation, {sources.unusable_keypoints} with too few joints, "
            f"{len(sources.unreadable)} unreadable, {without_pose} copies without pose"
        )
        raise BadInput(f"{config.data}: none of {len(train)} training images can be re-rendered ({reasons})")
    if config.real == "link":
        require_linkable(_folders(config.data), config.out)
    batch_size = _batch_size(config, processes, aug)
    store: Store = FolderStore(config.out, batch_size)
    if config.format == "webdataset":
        store = ShardStore(config.out, config.shard_size)
    put_on_other_grounds(aug, sources, config.ground)
    renderer = Renderer(aug, sources, store, Journal(config.out), batch_size)
    listing = _listing(train)
    facts = _facts(config, renderer, (train, *tests), listing)
    return Job(config, train, listing, annotations, renderer, sources, items, tried, without_pose, facts)


def _tests(root: Path) -> list[Split]:
    """Query and gallery, if the dataset has them: one for training only has neither."""
    found = []
    for split in ("query", "gallery"):
        with suppress(MissingSplit):
            found.append(read_split(root, split))
    return found


def _folders(root: Path) -> list[Path]:
    """The folders of the existing splits."""
    return [root / folder for folder in FOLDERS.values() if (root / folder).is_dir()]


def _require_own_files(root: Path) -> None:
    """Raises `BadInput` if an image is a link out of the dataset: copying it could expose someone else's file."""
    images = (path for folder in _folders(root) for path in folder.iterdir())
    require_no_links_out(root, images, "--follow-links")


def _dtype(config: GenerateConfig, processes: Processes) -> Dtype:
    """The configured dtype, that of an earlier run, or what the device supports; the first process decides for all."""
    found: Dtype = config.dtype
    if found == "auto":
        earlier = read_facts(config.out).get("precision")
        half = earlier == "bfloat16" or (earlier != "float32" and has_bfloat16(processes.device))
        found = "bfloat16" if half else "float32"
    return "bfloat16" if processes.broadcast(found) == "bfloat16" else "float32"


def _runtime(config: GenerateConfig, processes: Processes, aug: XingPose, images: int) -> Runtime:
    """The configured runtime, that of an earlier run, or the faster one; the first process decides for all."""
    found: Runtime = config.runtime
    if found == "auto":
        earlier = read_facts(config.out)
        found = aug.core.plan()[0] if images >= OPENVINO_PAYS else "torch"
        if earlier:
            found = "openvino" if earlier.get("runtime") == "openvino" else "torch"
    return "openvino" if processes.broadcast(found) == "openvino" else "torch"


def _batch_size(config: GenerateConfig, processes: Processes, aug: XingPose) -> int:
    """The configured batch size, that of an earlier run, or what fits memory; the first process decides for all."""
    earlier = read_facts(config.out).get("batch_size")
    size = config.batch_size or (earlier if type(earlier) is int and 0 < earlier <= 65_536 else 0)
    if not size:
        workers = config.workers if config.engine == "ray" and config.workers else torch.get_num_threads()
        size = fitting_batch_size(aug.generator, processes.device, workers * processes.on_this_machine)
    return int(processes.broadcast(str(size)))


def _require_training_poses(bank: PoseBank, train: Split, tests: Sequence[Split], path: Path) -> None:
    """Raises `BadInput` if the bank holds poses of query or gallery images, which training must not see."""
    names = bank.names.tolist()
    tested, trained = ((str(split.path(i)) for split in some for i in range(len(split))) for some in (tests, [train]))
    found = sorted(ends_among(tested, names) - ends_among(trained, names))
    if found:
        raise BadInput(
            f"{path}: {len(found)} poses are of test images, such as {found[0]}; build it from training images, "
            "or allow it (--allow-test)"
        )


def _listing(train: Split) -> dict[str, str]:
    """SHA-256 of the training images and of all images of query and gallery; see `Job.listing`."""
    files = [f"{FOLDERS['train']}/{name}" for name in train.names]
    for folder in _folders(train.root):
        if folder.name != FOLDERS["train"]:
            files += [f"{folder.name}/{name}" for name in image_files(folder).images]

    def hash_of_file(file: str) -> str:
        try:
            data = read_bytes(train.root / file, "image", MAX_BYTES)
            decode_image(data, file)
            return hashlib.sha256(data).hexdigest()
        except (BadInput, OSError):
            return ""

    with ThreadPoolExecutor(THREADS) as pool:
        return dict(zip(files, pool.map(hash_of_file, files), strict=True))


def gate_facts(gate: GateConfig | None) -> dict[str, Any] | None:
    """The gate's settings, with the hash of its network in place of the path."""
    if gate is None:
        return None
    features = None if gate.features is None else sha256_of(gate.features, most=MAX_PROGRAM_BYTES)
    return {**vars(gate), "features": features}


def _facts(
    config: GenerateConfig, renderer: Renderer, splits: Sequence[Split], listing: Mapping[str, str]
) -> dict[str, Any]:
    """Exactly what the bytes of the new dataset depend on (no path, no time, no engine)."""
    images = "".join(f"{file} {sha256}\n" for file, sha256 in listing.items())
    return {
        "version": 2,
        "format": config.format,
        "shard_size": config.shard_size if config.format == "webdataset" else None,
        "data": hashlib.sha256(images.encode()).hexdigest(),
        "images": {split.split: len(split) for split in splits},
        "annotations": sha256_of(config.annotations, most=MAX_ARRAY_BYTES),
        "generator": str(renderer.aug.generator.content_hash),
        "bank": renderer.aug.bank.content_hash,
        "per_image": config.per_image,
        "per_identity": config.per_identity,
        "budget": config.budget,
        "sampler": config.sampler,
        "fit": config.fit,
        "reference": None if config.reference == "image" else config.reference,  # None: as before it existed
        "ground": None if renderer.aug.grounds is None else renderer.aug.grounds.share,
        "seed": config.seed,
        "gate": gate_facts(config.gate),
        "tries": config.tries if config.gate else None,
        "batch_size": renderer.batch_size,
        "precision": config.dtype,
        "runtime": None if config.runtime == "torch" else config.runtime,
        "device": torch.device(config.device).type,
        "real": config.real,
    }
