"""Runs the whole pipeline on a small scale: data, bank, generation, re-ID with and without, and a page.

Each step leaves its result on disk; a stopped demo continues, and a finished one only writes its page again.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from xingaug.config import to_mapping, to_yaml
from xingaug.data.annotations import Annotations, annotated_training, keypoints_of, read_annotations, write_npz
from xingaug.data.market1501 import FOLDERS, Split, read_images, read_split
from xingaug.data.pairs import read_masks
from xingaug.data.readers import require_market_tree
from xingaug.errors import BadInput, WorkFailed
from xingaug.files import atomic_directory, atomic_write
from xingaug.generators.many import render_images
from xingaug.generators.store import load_generator
from xingaug.inputs import read_json
from xingaug.keypoints import MIN_VISIBLE, Keypoints
from xingaug.offline.config import GenerateConfig
from xingaug.offline.generate import generate
from xingaug.poses.bank import PoseBank
from xingaug.poses.collect import bank_from_tree
from xingaug.report.demo import Pairs, write_demo_page
from xingaug.runs import require_own, require_same_or_write
from xingaug.training.quality import measure

WORLD_IDENTITIES = 100
MAX_IDENTITIES = 4999  # of training and of test each; names have four digits
IMAGES_PER_IDENTITY = 8
KNOWN_WORLD = 77  # seed of the persons in xingaug/weights/reid
PAIRS = 200
BATCH_SIZE = 64
_MOST_BYTES = 100_000

T = TypeVar("T")


@dataclass(frozen=True)
class DemoConfig:
    """Settings of the demo.

    Attributes:
        out: directory to write; absent, empty, or an earlier demo of the same configuration.
        data: a Market-1501 tree; None writes a pedestrian world.
        annotations: keypoints of the tree's training images and, if available, of its test images; needed with `data`.
        identities: number of identities in training and in test each; None is 100 for the world, all for a tree.
        generator: bundled name or .safetensors file.
        iterations: re-ID training iterations of each arm.
        seed: seed of the world, the draws and the training.
    """

    out: Path
    data: Path | None = None
    annotations: Path | None = None
    identities: int | None = None
    generator: str = "pedestrians-small"
    iterations: int = 150
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks what can be checked without opening a file."""
        if (self.data is None) != (self.annotations is None):
            raise BadInput("--data and --annotations belong together: give both, or neither for the pedestrian world")
        if self.identities is not None and not 2 <= self.identities <= MAX_IDENTITIES:
            raise BadInput(f"--identities: {self.identities}, needed 2 to {MAX_IDENTITIES}")
        if self.data is None and self.seed == KNOWN_WORLD:
            raise BadInput(f"--seed: {self.seed}, of the persons that the re-ID network starts from; needed another")
        if self.iterations < 1 or self.seed < 0:
            raise BadInput("--iterations: needed at least 1; --seed: needed at least 0")


class StepTimes:
    """Prints each step with its time, and keeps the times across runs."""

    def __init__(self, path: Path, steps: int) -> None:
        """Args: `path`: file of the times; `steps`: total number of steps."""
        self.path, self.steps, self.number = path, steps, 0
        self.seconds = _times(path)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Times a block; a step that an earlier run finished keeps its time from then."""
        self.number += 1
        print(f"[{self.number}/{self.steps}] {name}", file=sys.stderr, flush=True)
        start = time.perf_counter()
        yield
        taken = time.perf_counter() - start
        self.seconds[name] = max(taken, self.seconds.get(name, 0.0))
        with atomic_write(self.path) as temporary:
            temporary.write_text(json.dumps(self.seconds, indent=1))
        print(f"      {taken:.1f} s", file=sys.stderr, flush=True)


def _times(path: Path) -> dict[str, float]:
    """The times of an earlier run, if there was one."""
    found = read_json(path, "times of a demo", _MOST_BYTES) if path.exists() else {}
    if not isinstance(found, dict) or not all(isinstance(value, int | float) for value in found.values()):
        raise BadInput(f"{path}: damaged; remove it")
    return found


def run_demo(config: DemoConfig) -> dict[str, Any]:
    """Runs all steps.

    Returns:
        `report` (path), `reid` (figures of each arm), `held_out` (quality, and that of copying the source, on persons
        outside the training images; named `training_pairs` for a dataset without keypoints of its test images),
        `seconds`.

    Raises:
        BadInput: unusable input, or `out` holds something else.
        WorkFailed: the re-ID training failed.
    """
    _claim(config)
    times = StepTimes(config.out / "times.json", steps=7)
    root = config.out / "data"
    with times.step("pedestrian world" if config.data is None else "subset of the dataset"):
        _once(root, lambda: _write_data(config, root))
    with times.step("reading it back"):
        splits: dict[str, Split] = {name: read_split(root, name) for name in FOLDERS}
        annotations = read_annotations(root / "annotations.npz")
    with times.step("pose bank"):
        _once(config.out / "bank", lambda: bank_from_tree(root, root / "annotations.npz").save(config.out / "bank"))
        bank = PoseBank.load(config.out / "bank")
    with times.step("generator on pairs of one person"):
        generator = load_generator(config.generator)
        pairs = _pairs(config, root, splits, annotations, generator)
        walks = _walks(config, splits["train"], annotations, bank, generator)
    with times.step("augmented dataset on disk"):
        offline = generate(
            GenerateConfig(
                data=root, annotations=root / "annotations.npz", generator=config.generator, bank=config.out / "bank",
                per_image=1, out=config.out / "augmented", seed=config.seed, real="link",
            )
        )  # fmt: skip
    with times.step("re-ID training, real only and with augment: xinggan_pose"):
        comparison = _compare(config, len(splits["train"]))
    with times.step("report"):
        counts: dict[str, int] = {name: len(split) for name, split in splits.items()}
        report = write_demo_page(
            config.out / "report.html", config.data is None, config.generator, config.iterations, counts, bank,
            pairs, walks, asdict(offline), comparison, times.seconds,
        )  # fmt: skip
    print(f"open {report.resolve()}", file=sys.stderr)
    reid = {cell["arm"]: next(iter(cell["results"].values())) for cell in comparison["cells"]}
    figures = {arm: {k: v for k, v in row.items() if k != "cmc"} for arm, row in reid.items()}
    quality = {"generated": pairs.generated.to_json(), "copy_source": pairs.copied.to_json()}
    name = "held_out" if pairs.are_held_out else "training_pairs"
    return {"report": str(report), "reid": figures, name: quality, "seconds": times.seconds}


def _claim(config: DemoConfig) -> None:
    """Writes the configuration into `out`, or checks that it is the same as there."""
    path = config.out / "demo.json"
    wanted = {key: value for key, value in to_mapping(config).items() if key != "out"}
    require_own(config.out, path.name, "name a new directory with --out")
    if not path.exists():
        _require_inputs(config)  # before anything is written
    require_same_or_write(path, wanted, "name another --out, or remove it first")


def _require_inputs(config: DemoConfig) -> None:
    """Raises `BadInput` unless the generator and, if given, the dataset can be read."""
    load_generator(config.generator)
    if config.data is not None and config.annotations is not None:
        require_market_tree(config.data, "demo")
        annotated_training(config.data, config.annotations)
        for split in FOLDERS:
            read_split(config.data, split)


def _once(path: Path, make: Callable[[], object]) -> None:
    if not path.exists():
        make()


def _write_data(config: DemoConfig, root: Path) -> None:
    if config.data is None or config.annotations is None:
        from xingaug.data.pedestrians import write_world

        count = config.identities or WORLD_IDENTITIES
        write_world(root, 2 * count, IMAGES_PER_IDENTITY, config.seed, train_poses="starved")
    else:
        write_subset(config.data, config.annotations, root, config.identities)


def write_subset(data: Path, annotations: Path, out: Path, identities: int | None) -> None:
    """Links a part of a Market-1501 tree into a new one.

    Args:
        data: the tree.
        annotations: keypoints of its training images; those of the part are written to `out/annotations.npz`.
        out: directory to write, new or empty.
        identities: number of identities of training and of test each, the lowest that have keypoints (training) or
            images in both query and gallery (test); None keeps all. Junk and distractors are left out.
    """
    train, query, gallery = (read_split(data, name) for name in FOLDERS)
    annotated, table = annotated_training(data, annotations)
    learn = np.unique(annotated.pids)[:identities]
    test = np.intersect1d(query.pids, gallery.pids[gallery.pids > 0])[:identities]
    names: list[str] = []
    with atomic_directory(out) as folder:
        for (name, subfolder), split, pids in zip(
            FOLDERS.items(), (train, query, gallery), (learn, test, test), strict=True
        ):
            part = split.select(np.isin(split.pids, pids))
            if not len(part):
                raise BadInput(f"{data}: no {name} image of the chosen identities")
            (folder / subfolder).mkdir()
            for i in range(len(part)):
                _link(part.path(i), folder / subfolder / str(part.names[i]))
            names += part.names.tolist()
        rows = table.lookup(sorted(set(names)))  # query and gallery may have images of the same name
        kept = rows[rows >= 0]
        write_npz(folder / "annotations.npz", table.names[kept], table.xy[kept], table.visibility[kept], table.source)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source.resolve(), target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)


def _pairs(
    config: DemoConfig, root: Path, splits: dict[str, Split], annotations: Annotations, generator: nn.Module
) -> Pairs:
    """Renders pairs and measures them against the true images: of test persons, else of training persons."""
    name = "gallery" if len(_drawn_pairs(splits["gallery"], annotations, config.seed)) else "train"
    split, drawn = splits[name], _drawn_pairs(splits[name], annotations, config.seed)
    if not len(drawn):
        raise BadInput(f"{root}: no identity has two images with at least {MIN_VISIBLE} visible joints")
    sources, targets = drawn.T
    size: tuple[int, int] = generator.size  # type: ignore[assignment]
    source_kp, target_kp = (keypoints_of(annotations, split.select(side), size) for side in (sources, targets))
    images = read_images(split.select(sources), size=size)
    if config.data is None:
        true, target_kp, masks = _true_images(root, split, sources, targets)
        own = read_masks(split.select(sources), size)
        union = masks if own is None else np.maximum(masks, own)
    else:
        true, union = read_images(split.select(targets), size=size), None
    generated = render_images(generator, images, source_kp, target_kp, progress="rendering")
    quality = measure(generated, true, union), measure(images, true, union)
    return Pairs(images, target_kp, generated, true, *quality, are_held_out=name == "gallery")


def _drawn_pairs(split: Split, annotations: Annotations, seed: int) -> np.ndarray:
    """(N, 2) rows of two images of one person, with N at most `PAIRS`."""
    rows = annotations.lookup(split.names)
    visible = (annotations.visibility[rows] > 0).sum(1) * (rows >= 0)
    usable = np.flatnonzero((visible >= MIN_VISIBLE) & (split.pids > 0))
    rng = np.random.default_rng([seed, 1])
    pairs = []
    for source in rng.permutation(usable):
        partners = usable[(split.pids[usable] == split.pids[source]) & (usable != source)]
        if len(partners):
            pairs.append((source, rng.choice(partners)))
    return np.array(pairs[:PAIRS], np.int64).reshape(-1, 2)


def _true_images(
    root: Path, split: Split, sources: np.ndarray, targets: np.ndarray
) -> tuple[np.ndarray, Keypoints, np.ndarray]:
    """Renders the true images in the pedestrian world, with their keypoints and masks."""
    from xingaug.data.pedestrians import load_world

    world = load_world(root)
    names = split.names
    true = [world.render_in_pose(str(names[a]), str(names[b])) for a, b in zip(sources, targets, strict=True)]
    keypoints = Keypoints(
        *(torch.from_numpy(np.stack(a)) for a in ([r.xy for r in true], [r.visibility for r in true]))
    )
    return np.stack([r.image for r in true]), keypoints, np.stack([r.mask for r in true])


def _walks(
    config: DemoConfig, train: Split, annotations: Annotations, bank: PoseBank, generator: nn.Module, poses: int = 8
) -> list[tuple[np.ndarray, np.ndarray]]:
    """A few training persons, each in several poses of the bank: (image, (poses, H, W, 3) generated)."""
    rows = annotations.lookup(train.names)
    visible = (annotations.visibility[rows] > 0).sum(1) * (rows >= 0)
    rng = np.random.default_rng([config.seed, 2])
    candidates = [int(np.flatnonzero(train.pids == pid)[0]) for pid in np.unique(train.pids)]
    persons = rng.permutation([i for i in candidates if visible[i] >= 12] or candidates)[:4]
    size: tuple[int, int] = generator.size  # type: ignore[assignment]
    walks = []
    for person in persons:
        image = read_images(train.select(np.array([person])), size=size)
        chosen = rng.choice(bank.usable_rows, poses)
        source = keypoints_of(annotations, train.select(np.repeat(person, poses)), size)
        target = bank.keypoints(chosen).resize(bank.frame, size)
        walks.append((image[0], render_images(generator, np.repeat(image, poses, 0), source, target)))
    return walks


def _compare(config: DemoConfig, training_images: int) -> dict[str, Any]:
    """Runs `reid_integration.compare` on two arms in its own process; returns its results."""
    # Drawn persons have weights to start from, as photos have ImageNet's: a minute from random ones says nothing, as
    # two trainings then differ more than the arms do.
    start, average, rate = ("osnet_x0_25-pedestrians", 0.95, 1e-3) if config.data is None else ("", 0.0, 2e-3)
    settings = {
        "out": str(config.out / "reid"),
        "iterations": config.iterations,
        "seeds": [config.seed],
        "common": {
            "model": {"name": "osnet_x0_25", "pretrained": False, "load_weights": start},
            "data": {
                "root": str(config.out), "sources": ["data"], "targets": ["data"], "height": 128, "width": 64,
                "transforms": ["random_flip", "random_crop"], "workers": 0,
            },
            "loss": {"name": "softmax"},
            "train": {
                "optim": "adam", "lr": rate, "lr_scheduler": "cosine",
                "batch_size": min(BATCH_SIZE, training_images), "ema": average,
            },
            "test": {"dist_metric": "cosine"},
        },
        "arms": {
            "real": {},
            "xinggan_pose": {
                "augment": {
                    "name": "xinggan_pose", "generator": config.generator, "bank": str(config.out / "bank"),
                    "annotations": str(config.out / "data" / "annotations.npz"), "p": 0.5,
                }
            },
        },
    }  # fmt: skip
    path = config.out / "compare.yaml"
    with atomic_write(path) as temporary:
        temporary.write_text(to_yaml(settings))
    # In its own process: this package does not import torchreid, and users run the same command.
    command = [sys.executable, "-m", "reid_integration.compare", "--config", str(path)]
    code = subprocess.run(command, stdout=sys.stderr, check=False).returncode
    if code:
        raise WorkFailed(f"{' '.join(command[1:])}: ended with exit code {code}")
    results: dict[str, Any] = read_json(config.out / "reid" / "results.json", "results of the comparison")
    return results
