"""Converts a generated Market-1501 tree back to the layout of its dataset, with file names that layout accepts."""

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np

from xingaug.data.annotations import read_npz, write_npz
from xingaug.data.market_tree import old_names
from xingaug.data.names import FOLDERS, MANIFEST_NAME, SplitName
from xingaug.data.readers import DESCRIPTION_NAME, Dataset
from xingaug.data.readers.config import DatasetConfig, PatternSplit
from xingaug.data.readers.template import parse_template
from xingaug.data.split import Split
from xingaug.errors import BadInput, WorkFailed
from xingaug.images import MAX_BYTES
from xingaug.inputs import read_text, sha256_of
from xingaug.offline.describe import ANNOTATIONS_NAME, PAGE_NAME, write_real
from xingaug.offline.journal import REJECTED_NAME, Entry, read_rejected, write_entries
from xingaug.offline.manifest import ManifestLine, read_manifest, write_manifest
from xingaug.offline.target import copy_or_link
from xingaug.progress import ProgressBar

DONE_NAME = "augment.json"
"""File in a directory of `layout: same` with the counts and a hash of images and settings."""

_LISTS: dict[str, dict[str, SplitName]] = {
    "msmt17": {
        "list_train.txt": "train", "list_val.txt": "train", "list_query.txt": "query", "list_gallery.txt": "gallery",
    },
    "veri": {"name_train.txt": "train", "name_query.txt": "query", "name_test.txt": "gallery"},
}  # fmt: skip
_TRAIN_LISTS = ("list_train.txt", "list_val.txt", "name_train.txt")

Namer = Callable[[str, int], str]
"""The path of copy n of the image at a path, both below the dataset's root."""


def require_same_layout(dataset: Dataset) -> None:
    """Raises `BadInput` if the layout cannot name synthetic images."""
    layout = dataset.config.layout
    if layout in ("cuhk03", "deepfashion"):
        raise BadInput(
            f"--layout: same: {dataset}: {layout}'s published lists name every image and its pairs, and would have to "
            "be rewritten; needed market"
        )
    train = dataset.read("train")
    namer = namer_of(dataset, {train.file(i) for i in range(len(train))})
    namer(train.file(0), 0)


def namer_of(dataset: Dataset, taken: Iterable[str]) -> Namer:
    """A function that names the synthetic images of a dataset so that they are read back with the same identity.

    Args:
        dataset: a dataset in the layout market1501, pattern, msmt17 or veri.
        taken: existing paths below its root, which no image may get.
    """
    known = set(taken)

    def name(file: str, copy: int) -> str:
        path = PurePosixPath(file)
        stem = path.name[: -len(path.suffix)] if path.suffix else path.name
        # VeRi's names only allow digits after the last number; the 9 avoids published numbers.
        endings = (
            (f"9{copy:03d}",) if dataset.config.layout == "veri" else (f"_x{copy:03d}", f"x{copy:03d}", f"9{copy:03d}")
        )
        for ending in endings:
            candidate = str(path.with_name(f"{stem}{ending}.jpg"))
            if candidate not in known and _reads_alike(dataset.config, file, candidate):
                return candidate
        raise BadInput(
            f"--layout: same: no other name of {file} fits '{_pattern(dataset.config).pattern}'; needed a pattern that "
            "ends in *, or the layout market"
        )

    return name


def _reads_alike(config: DatasetConfig, file: str, candidate: str) -> bool:
    """Whether a pattern reads the same identity and camera from both paths; other layouts accept any ending."""
    if config.layout != "pattern":
        return True
    split = _pattern(config)
    template = parse_template(split.pattern)
    folder = "" if split.folder == "." else f"{split.folder}/"
    before, after = (template.fields(path.removeprefix(folder)) for path in (file, candidate))
    return before is not None and before == after


def _pattern(config: DatasetConfig) -> PatternSplit:
    assert config.train is not None  # a pattern layout without it has no training images to render
    return config.train


def write_same_layout(
    dataset: Dataset,
    tree: Path,
    rendered: Path,
    out: Path,
    real: str,
    progress: bool = True,
    unreadable: Collection[str] = (),
) -> int:
    """Writes the real images of a dataset and the synthetic ones of a generated tree in the dataset's layout.

    Beside them are `annotations.npz`, `manifest.jsonl`, `rejected.jsonl` and `report.html` of the generated tree, with
    the new names, `real.sha256`, and for a pattern layout its description `dataset.yaml`.

    Args:
        dataset: the original dataset.
        tree: the Market-1501 tree that was imported from it.
        rendered: the dataset generated from that tree.
        out: an empty directory.
        real: "copy", "link" or "omit", as for `GenerateConfig`; query and gallery are always written.
        progress: show a bar.
        unreadable: paths of images below the dataset's root that are left out.

    Returns:
        The number of synthetic images.

    Raises:
        BadInput: the layout cannot name an image.
        WorkFailed: the written dataset is not read back correctly.
    """
    splits = dataset.read_all()
    files = {split.file(i) for split in splits.values() for i in range(len(split))}
    namer, old = namer_of(dataset, files), old_names(tree)
    lines = list(_renamed(read_manifest(rendered / MANIFEST_NAME), namer, old, splits["train"]))
    made = {f"{FOLDERS['train']}/{line.file.rpartition('/')[2]}": new.file for line, new in lines}
    kept = sorted(
        file for name, split in splits.items() if name != "train" or real != "omit"
        for file in (split.file(i) for i in range(len(split))) if file not in unreadable
    )  # fmt: skip
    listed = {}
    for file in ProgressBar(kept, "real images", shown=progress):
        copy_or_link(dataset.root / file, out / file, link=real == "link")
        listed[file] = sha256_of(out / file, "image", MAX_BYTES)
    write_real(out, listed)
    for line, new in ProgressBar(lines, "naming", shown=progress):
        _move(rendered / line.file, out / new.file)
    _write_lists(dataset, out, [new for _, new in lines], real, unreadable)
    _write_annotations(rendered / ANNOTATIONS_NAME, out, {**old, **made})
    write_manifest(out / MANIFEST_NAME, [new for _, new in lines])
    copy_or_link(rendered / PAGE_NAME, out / PAGE_NAME, link=False)
    if (rendered / REJECTED_NAME).exists():
        write_entries(out / REJECTED_NAME, (_entry(entry, namer, old) for entry in read_rejected(rendered)))
    train = [splits["train"].file(i) for i in range(len(splits["train"]))]
    readable = 0 if real == "omit" else len(set(train) - set(unreadable))
    _require_read_back(dataset, out, [new for _, new in lines], readable)
    return len(lines)


def _renamed(
    lines: Iterable[ManifestLine], namer: Namer, old: Mapping[str, str], train: Split
) -> Iterator[tuple[ManifestLine, ManifestLine]]:
    """Each line, and the same line with the names, identity and camera of the dataset."""
    rows = {train.file(i): i for i in range(len(train))}
    for line in lines:
        source, reference = (old[f"{FOLDERS['train']}/{name}"] for name in (line.source, line.reference))
        pid, camid = int(train.pids[rows[source]]), int(train.camids[rows[source]])
        new = replace(line, file=namer(source, line.copy), source=source, pid=pid, camid=camid, reference=reference)
        yield line, new


def _entry(entry: Entry, namer: Namer, old: Mapping[str, str]) -> Entry:
    stem, _, copy = entry.name.rpartition(".")[0].rpartition("_x")
    return replace(entry, name=namer(old[f"{FOLDERS['train']}/{stem}.jpg"], int(copy)))


def _move(source: Path, target: Path) -> None:
    """Hard-links a file, or copies it if the disk does not allow links; the generated tree is removed afterwards."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        copy_or_link(source, target, link=False)


def labels_of(dataset: Dataset, split: Split) -> dict[str, tuple[str, str]]:
    """Identity and camera, as the dataset's names have them, by path below its root."""
    return {split.file(i): labels for i, labels in enumerate(dataset.labels(split))}


def _write_lists(
    dataset: Dataset, folder: Path, made: list[ManifestLine], real: str, unreadable: Collection[str]
) -> None:
    """Writes the files that define the splits: a pattern's description, or published lists with synthetic images."""
    layout = dataset.config.layout
    if layout == "pattern":
        text = replace(dataset.config, root=Path()).to_yaml()
        (folder / DESCRIPTION_NAME).write_text(text, encoding="utf-8")
    lists = {name: _lines_of(dataset.root / name) for name in _LISTS.get(layout, ()) if (dataset.root / name).exists()}
    labels = dict(line.rpartition(" ")[::2] for name in _TRAIN_LISTS for line in lists.get(name, []))
    for name in lists if unreadable else ():
        top = dataset.read(_LISTS[layout][name]).file(0).partition("/")[0]
        lists[name] = [line for line in lists[name] if f"{top}/{_path_of(line)}" not in unreadable]
    for name, lines in lists.items():
        kept = [] if name in _TRAIN_LISTS and real == "omit" else lines
        if name == _TRAIN_LISTS[0]:
            # Paths in the list are relative to the folder of its images.
            kept = kept + [f"{line.file.partition('/')[2]} {labels[line.source.partition('/')[2]]}" for line in made]
        elif name == _TRAIN_LISTS[2]:
            kept = kept + [line.file.partition("/")[2] for line in made]
        (folder / name).write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


def _path_of(line: str) -> str:
    """The path in a line of a list, which may have a label behind it."""
    return line.rpartition(" ")[0] or line


def _lines_of(path: Path) -> list[str]:
    return [line.strip() for line in read_text(path, "list of images").split("\n") if line.strip()]


def _write_annotations(file: Path, folder: Path, names: Mapping[str, str]) -> None:
    table = read_npz(file)
    new = [names[f"{FOLDERS['train']}/{name}"] for name in table.names.tolist()]
    write_npz(folder / ANNOTATIONS_NAME, new, table.xy, table.visibility, table.source)


def _require_read_back(dataset: Dataset, folder: Path, lines: list[ManifestLine], real: int) -> None:
    """Raises `WorkFailed` unless the layout's reader reads every image with its identity and camera."""
    written = replace(dataset, root=folder, where=folder)
    there = written.read("train")
    before, after = labels_of(dataset, dataset.read("train")), labels_of(written, there)
    for line in lines:
        if after.get(line.file) != before[line.source]:
            raise WorkFailed(f"{line.file}: is not read back as {line.source}'s person; use --layout market")
    if len(there) != len(lines) + real or np.unique(there.names).size != len(there):
        raise WorkFailed(f"{folder}: reads {len(there)} training images, wrote {len(lines) + real}")
