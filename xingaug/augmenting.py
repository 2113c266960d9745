"""From a folder of crops to an augmented dataset: layout, leaks, keypoints, bank, images, page.

Every step's result is kept in a work folder whose name is a hash of everything the step depends on, including the
images' bytes. So a stopped run continues, and another run on the same images reuses the steps that they share.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from xingaug.augment.gate import GateConfig
from xingaug.data.annotations import Annotations, read_npz, write_npz
from xingaug.data.beside import find_beside, read_given
from xingaug.data.guess import open_or_guess
from xingaug.data.leaks import check_dataset, content_hash
from xingaug.data.market_tree import TABLE_NAME, old_names, write_market_tree
from xingaug.data.names import FOLDERS, SplitName
from xingaug.data.readers import Dataset
from xingaug.data.split import Split
from xingaug.errors import BadInput, say
from xingaug.files import (
    atomic_directory,
    atomic_write,
    claimed_directory,
    require_apart,
    require_new_directory,
    require_writable,
)
from xingaug.generators.store import load_generator
from xingaug.images import size_or_none
from xingaug.inputs import MAX_ARRAY_BYTES, read_json, sha256_of
from xingaug.offline.config import GenerateConfig
from xingaug.offline.describe import write_unreadable
from xingaug.offline.generate import UnreadableImages, generate
from xingaug.offline.job import gate_facts
from xingaug.offline.same_layout import DONE_NAME, require_same_layout, write_same_layout
from xingaug.offline.target import CONFIG_NAME, HINT, copy_or_link, require_linkable
from xingaug.poses import estimators
from xingaug.poses.annotate import NOBODY, annotate, count_rejected, rejected
from xingaug.poses.bank import PoseBank
from xingaug.poses.collect import bank_from_tree
from xingaug.poses.estimators.public import is_address, published, require_options, weights_file
from xingaug.report.annotations import annotation_sections
from xingaug.report.page import paragraph, preformatted, table
from xingaug.runs import require_own

WORST = 24
"""Number of skeletons on the page."""

_STEPS = 6
_HASHED = 16  # digits of a hash in the names of work folders


@dataclass(frozen=True)
class FolderConfig:
    """How to augment a folder of crops.

    Attributes:
        root: the folder, or a YAML file that describes a dataset.
        out: directory to write; absent, empty, or an earlier run of the same configuration.
        pattern: pattern of the paths below each split's folder, if the layout is unknown; None guesses one.
        layout: "market" writes a Market-1501 tree, "same" the dataset's own layout and file names.
        annotations: keypoints of the training images; None uses files beside them, else the estimator.
        estimator: pose estimator, used even if there are files beside the images; None is
            `xingaug.poses.estimators.DEFAULT`.
        weights: the estimator's weights: a file, or with `download` a published file's name or an address.
        download: whether to download them, the estimator's published ones if `weights` is None.
        sha256: hash of the file at the address, hexadecimal.
        generator: name or path, as for `load_generator`.
        gate: the quality gate, which rejects bad renderings; None keeps all.
        allow_leaks: continue if people or files of training are also in query or gallery.
        work: folder of results kept between runs; None is `xingaug/augment` in the user's cache.
        generating: other settings of `GenerateConfig`, such as per_image.
    """

    root: Path
    out: Path
    pattern: str | None = None
    layout: Literal["market", "same"] = "market"
    annotations: Path | None = None
    estimator: str | None = None
    weights: str | None = None
    download: bool = False
    sha256: str | None = None
    generator: str = "market1501-augment"
    gate: GateConfig | None = field(default_factory=GateConfig)
    allow_leaks: bool = False
    work: Path | None = None
    generating: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Checks what can be checked without opening a file."""
        if self.annotations is not None and self.estimator is not None:
            raise BadInput("--annotations, --estimator: give one of them")
        if (self.weights is not None or self.download) and self.estimator is None:
            option = "--download" if self.download else "--weights"
            raise BadInput(f"{option}: of which estimator? needed --estimator too")
        require_options(self.weights, self.download, self.sha256)
        self.generate_config(self.root, Path("annotations.npz"), Path("bank"), self.out)

    def generate_config(self, data: Path, annotations: Path, bank: Path, out: Path) -> GenerateConfig:
        """The configuration of `generate`."""
        return GenerateConfig(
            data=data, annotations=annotations, bank=bank, out=out, generator=self.generator, gate=self.gate,
            **self.generating,
        )  # fmt: skip

    @cached_property
    def work_folder(self) -> Path:
        """The folder of results kept between runs."""
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return self.work or home / "xingaug" / "augment"


@dataclass(frozen=True)
class Found:
    """A dataset with its recognised or guessed layout.

    Attributes:
        dataset: the opened dataset.
        splits: its splits.
        sentence: how its names are read, for the user.
        content: SHA-256 of its images and their labels, hexadecimal; it does not depend on where they lie.
    """

    dataset: Dataset
    splits: dict[SplitName, Split]
    sentence: str
    content: str

    @property
    def train(self) -> Split:
        """The training images."""
        return self.splits["train"]

    @property
    def key(self) -> str:
        """The name of its work folder, which holds links to the images."""
        return _short(f"{self.dataset.root.resolve()} {self.content}")

    @property
    def is_market_tree(self) -> bool:
        """Whether the dataset is rendered where it lies, as its layout and names are Market-1501's already."""
        return self.dataset.config.layout == "market1501"


def augment_folder(config: FolderConfig, progress: bool = True) -> dict[str, Any]:
    """Runs all steps and prints the result of each to standard error; an interrupted run is continued by the same call.

    Args:
        config: the folder and the settings.
        progress: show bars on a terminal, and a line for each step.

    Returns:
        `layout`, the counts of `generate`, `written` and `page`.

    Raises:
        BadInput: unusable input; `out` has not been touched.
        WorkFailed: a write failed, or images cannot be read; in the latter case all else is done.
    """
    steps = _Steps(progress)
    found = _find(config)
    _require_place(config, found)
    steps.say(f"dataset: {found.sentence}; {_counted(found.splits)}")
    work = config.work_folder / found.key
    with claimed_directory(work, "augmenting these images"):
        return _augmented(config, found, work, steps, progress)


def _augmented(config: FolderConfig, found: Found, work: Path, steps: "_Steps", progress: bool) -> dict[str, Any]:
    sections = [("What was found", _check(config, found, steps))]
    keypoints, pages = _keypoints(config, found, work, steps)
    sections += pages
    tree, keypoints = _tree(found, work, keypoints, progress)
    bank = _bank(tree, keypoints, work, steps)
    settings = config.generate_config(tree, keypoints, bank, config.out)
    if not found.is_market_tree:
        settings = replace(settings, follow_links=True)  # the tree links to the dataset's files, which were checked
    if config.layout == "same" and not found.is_market_tree:
        summary, unreadable = _generated_in_same_layout(config, found, settings, work, sections, progress)
    else:
        summary, unreadable = _generated(found, settings, sections, progress)
        if not found.is_market_tree:
            copy_or_link(tree / TABLE_NAME, config.out / TABLE_NAME, link=False)
    rendered = f"{summary['synthetic']} synthetic images of {summary['real']} real ones"
    steps.say(f"rendering: {rendered}; {summary['rejected']} were rejected by the gate")
    page = config.out / "report.html"
    steps.say(f"page: {page}")
    if unreadable:
        write_unreadable(config.out, unreadable)
        raise UnreadableImages(config.root, unreadable, config.out, summary)
    return {"layout": found.dataset.config.layout, **summary, "written": str(config.out), "page": str(page)}


class _Steps:
    """Prints the result of each step on one line."""

    def __init__(self, shown: bool) -> None:
        self._shown, self._number = shown, 0

    def say(self, text: str) -> None:
        self._number += 1
        if self._shown:
            say(f"[{self._number}/{_STEPS}] {text}")


# The dataset


def _find(config: FolderConfig) -> Found:
    root = config.root
    dataset, sentence = open_or_guess(root, config.pattern)
    splits = dataset.read_all()
    if "train" not in splits:
        raise BadInput(f"{root}: has no training images; needed some to augment")
    if splits["train"].synthetic.any():
        example = splits["train"].names[splits["train"].synthetic][0]
        raise BadInput(f"{root}: holds synthetic images already, such as {example}; give the real dataset")
    return Found(dataset, splits, sentence, _content(dataset, splits))


def _content(dataset: Dataset, splits: Mapping[SplitName, Split]) -> str:
    """SHA-256 of all images, with their names and labels."""
    digest = hashlib.sha256(f"{dataset.config.layout}\n".encode())

    def hash_of(path: Path) -> str:
        try:
            return content_hash(path).hex()
        except BadInput:
            return "unreadable"

    with ThreadPoolExecutor(8) as pool:
        for name, split in splits.items():
            hashes = pool.map(hash_of, (split.path(i) for i in range(len(split))))
            for i, ((pid, camid), one) in enumerate(zip(dataset.labels(split), hashes, strict=True)):
                numbers = f"{split.pids[i]} {split.camids[i]}"
                digest.update(f"{name} {split.file(i)} {pid} {camid} {numbers} {one}\n".encode())
    return digest.hexdigest()


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_HASHED]


def _counted(splits: Mapping[SplitName, Split]) -> str:
    parts = [
        f"{name} {len(split):,} images of {len({*split.pids[split.pids > 0].tolist()}):,} identities under "
        f"{len({*split.camids.tolist()})} cameras"
        for name, split in splits.items()
    ]
    return ", ".join(parts)


def _require_place(config: FolderConfig, found: Found) -> None:
    """Raises `BadInput` early for problems that would otherwise appear only after the work."""
    for what, path in (("--out", config.out), ("--work", config.work_folder)):
        require_apart(what, path, found.dataset.root)
    if not config.generating.get("follow_links", False):
        found.dataset.require_own_images(found.splits)
    if config.layout == "same" and not found.is_market_tree:
        require_same_layout(found.dataset)
        if config.generating.get("real") == "link":
            require_linkable([found.dataset.root], config.out)
        if not (config.out / DONE_NAME).exists():
            require_new_directory(config.out)
    else:
        require_own(config.out, CONFIG_NAME, HINT)
    require_writable(config.out / "report.html", "--out")
    load_generator(config.generator)
    if config.estimator is not None and config.estimator not in estimators.ESTIMATORS:
        raise BadInput(f"--estimator: unknown '{config.estimator}'; known: {', '.join(estimators.ESTIMATORS)}")
    if config.estimator is not None and config.download and not is_address(config.weights):
        published(config.estimator, config.weights)


# Leaks


def _check(config: FolderConfig, found: Found, steps: _Steps) -> str:
    """Looks for leaks; returns the HTML of the page's first section."""
    counts, report, unmatched, notes = check_dataset(found.dataset)
    leaks = report.lines()
    if (report.identities or report.files) and not config.allow_leaks:
        raise BadInput(f"{config.root}: {'; '.join(leaks)}; needed training apart from them, or --allow-leaks")
    warnings = [*notes, *([unmatched] if unmatched else [])]
    for line in warnings:
        say(line)
    steps.say(f"leaks: {'; '.join(leaks) or 'none'}")
    rows = [[name, *(f"{count:,}" for count in row.values())] for name, row in counts.items()]
    html = paragraph(f"{found.sentence}.") + table(["", "images", "identities", "cameras"], rows)
    for line in [*(leaks or ["No leaks."]), *warnings]:
        html += paragraph(line)
    if found.dataset.config.layout == "pattern":
        html += paragraph("The dataset as a YAML file, to be corrected and passed instead of the folder:", "soft")
        html += preformatted(found.dataset.config.to_yaml())
    return html


# Keypoints


def _keypoints(config: FolderConfig, found: Found, work: Path, steps: _Steps) -> tuple[Path, list[tuple[str, str]]]:
    """The file of keypoints, under the dataset's image names, and the page's sections about them."""
    names = [str(name) for name in found.train.names]
    paths = [found.train.path(i) for i in range(len(names))]
    known = _known(config, work, names, paths) or _estimated(config, work, names, paths)
    reasons = rejected(known.annotations, names, known.unreadable, known.absent)
    bad = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in count_rejected(reasons).items())
    count = f"{len(known.annotations):,} of {len(names):,} images"
    steps.say(f"keypoints: {known.origin}; {count}" + (f"; {bad}" if bad else ""))
    files = dict(zip(names, paths, strict=True))
    pages = annotation_sections(known.annotations, files, reasons, WORST)
    return known.file, [(f"Keypoints: {head[0].lower()}{head[1:]}", html) for head, html in pages]


@dataclass(frozen=True, eq=False)
class _Keypoints:
    """Keypoints of the training images, their file, their origin, and why images have none."""

    annotations: Annotations
    file: Path
    origin: str
    absent: str
    unreadable: dict[str, str]


def _known(config: FolderConfig, work: Path, names: list[str], paths: list[Path]) -> _Keypoints | None:
    """Keypoints from the given file, or from files beside the images; None if there are none."""
    beside = None
    if config.annotations is not None:
        beside = read_given(config.annotations, names, paths)
    elif config.estimator is None:
        folder = config.root if config.root.is_dir() else config.root.parent
        beside = find_beside(folder, names, paths)
    if beside is None:
        return None
    given = beside.annotations
    unreadable = {name: "no image" for name, path in zip(names, paths, strict=True) if size_or_none(path) is None}
    kept = np.array([name not in unreadable for name in given.names.tolist()], dtype=bool)
    file = work / f"keypoints-{beside.content[:_HASHED]}.npz"
    write_npz(file, given.names[kept], given.xy[kept], given.visibility[kept], given.source)
    where = ", ".join(str(path) for path in beside.files[:3])
    return _Keypoints(_read(file), file, f"{beside.kind} from {where}", "no annotation", unreadable)


def _estimated(config: FolderConfig, work: Path, names: list[str], paths: list[Path]) -> _Keypoints:
    """Keypoints from an estimator, or from its earlier run on these images."""
    name = config.estimator or estimators.DEFAULT
    device = str(config.generating.get("device", "cpu"))
    weights = weights_file(name, config.weights, config.download, config.sha256)
    estimator = estimators.load_estimator(name, weights, device)
    facts = hashlib.sha256(f"{estimator.name} {device}".encode()).hexdigest()[:_HASHED]
    file, beside = work / f"keypoints-{facts}.npz", work / f"unreadable-{facts}.json"
    if not (file.exists() and beside.exists()):
        done = annotate(names, paths, estimator, file, {"device": device})
        with atomic_write(beside) as temporary:
            temporary.write_text(json.dumps(done.unreadable), encoding="utf-8")
    unreadable = read_json(beside, "list of images")
    return _Keypoints(_read(file), file, f"found by {estimator.name}", NOBODY, unreadable)


def _read(file: Path) -> Annotations:
    return replace(read_npz(file), file=str(file))


# Tree, bank and images


def _tree(found: Found, work: Path, keypoints: Path, progress: bool) -> tuple[Path, Path]:
    """The dataset as a Market-1501 tree (itself if it is one), and the keypoints under the tree's names."""
    if found.is_market_tree:
        return found.dataset.root, keypoints
    tree = work / f"tree-{keypoints.stem.removeprefix('keypoints-')}"
    if not tree.exists():  # its content is in the work folder's name
        # Links were checked before; unreadable images are found when they are rendered.
        write_market_tree(found.dataset, tree, "symbolic", keypoints, progress, follow_links=True, keep_unreadable=True)
    return tree, tree / "annotations.npz"


def _bank(tree: Path, keypoints: Path, work: Path, steps: _Steps) -> Path:
    digest = sha256_of(keypoints, "annotations", MAX_ARRAY_BYTES)[:_HASHED]
    path = work / f"bank-{digest}"
    try:
        bank = PoseBank.load(path)
    except BadInput:  # missing, or damaged
        shutil.rmtree(path, ignore_errors=True)
        bank = bank_from_tree(tree, keypoints)
        bank.save(path)
    steps.say(f"bank: {len(bank.usable_rows)} usable poses of {len(bank)}")
    return path


def _generated(
    found: Found, settings: GenerateConfig, sections: Any, progress: bool
) -> tuple[dict[str, Any], list[str]]:
    """The counts of `generate`, and the images that could not be read, as the dataset names them."""
    try:
        return asdict(generate(settings, progress, sections=sections)), []
    except UnreadableImages as error:
        summary, names = error.summary, error.names
    old = {} if found.is_market_tree else old_names(settings.data)
    files = [name if "/" in name else f"{FOLDERS['train']}/{name}" for name in names]
    return summary, [old.get(file, name) for file, name in zip(files, names, strict=True)]


def _facts(config: FolderConfig, found: Found, settings: GenerateConfig) -> str:
    """SHA-256 of everything that a dataset in its own layout depends on; paths are none of it."""
    facts = {
        **asdict(settings), "data": found.content, "out": None, "bank": None,  # of the annotations
        "gate": gate_facts(settings.gate),
        "annotations": sha256_of(settings.annotations, "annotations", MAX_ARRAY_BYTES),
        "generator": str(load_generator(config.generator).content_hash),
    }  # fmt: skip
    return hashlib.sha256(json.dumps(facts, default=str, sort_keys=True).encode()).hexdigest()


def _generated_in_same_layout(
    config: FolderConfig, found: Found, settings: GenerateConfig, work: Path, sections: Any, progress: bool
) -> tuple[dict[str, Any], list[str]]:
    """Renders into the work folder, and converts the result to the dataset's own layout; as `_generated`."""
    digest = _facts(config, found, settings)
    done = config.out / DONE_NAME
    if done.exists():
        summary = read_json(done, "description of an augmented dataset", 1_000_000)
        if not isinstance(summary, dict) or summary.pop("made_of", None) != digest:
            raise BadInput(f"{config.out}: was made of other images or settings; name a new directory")
        return summary, summary.pop("unreadable", [])
    rendered = work / f"rendered-{digest[:_HASHED]}"
    # The number of copies per identity depends on whether real images are kept.
    in_work: Literal["omit", "copy"] = "omit" if settings.real == "omit" else "copy"
    summary, unreadable = _generated(found, replace(settings, out=rendered, real=in_work), sections, progress)
    with atomic_directory(config.out) as folder:
        write_same_layout(found.dataset, settings.data, rendered, folder, settings.real, progress, set(unreadable))
        made = {**summary, "unreadable": unreadable, "made_of": digest}
        (folder / DONE_NAME).write_text(json.dumps(made), encoding="utf-8")
    shutil.rmtree(rendered, ignore_errors=True)
    return summary, unreadable
