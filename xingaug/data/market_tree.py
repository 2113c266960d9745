"""Any dataset as a Market-1501 tree, which `xingaug generate` and other re-ID libraries read.

Some of those, torchreid's own reader among them, accept only what Market-1501 itself has: identities up to 1501 and six
cameras. `reid_integration` accepts all.
"""

import csv
import filecmp
import io
import os
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from xingaug.data.annotations import Annotations, read_annotations, read_npz, require_somebody, write_npz
from xingaug.data.names import FOLDERS, SplitName
from xingaug.data.readers import Dataset, open_dataset
from xingaug.data.split import Split
from xingaug.errors import BadInput
from xingaug.files import atomic_directory, require_apart
from xingaug.images import MAX_BYTES, is_upright, jpeg_bytes, read_image
from xingaug.inputs import open_regular, read_bytes, read_text
from xingaug.progress import ProgressBar

Link = Literal["copy", "hard", "symbolic"]
TABLE_NAME = "names.csv"
ANNOTATIONS_NAME = "annotations.npz"

_FRAMES = 1_000_000  # a frame number has six digits


@dataclass(frozen=True)
class ImportSummary:
    """Counts of a written Market-1501 tree.

    Attributes:
        root: the tree.
        images: number of images by split.
        identities: number of identities over all splits, without distractors.
        reencoded: number of images that were not JPEG, or turned by their EXIF data.
        annotations: number of annotation rows written.
        notes: notes from the reader, for the user.
    """

    root: Path
    images: dict[SplitName, int]
    identities: int
    reencoded: int
    annotations: int
    notes: tuple[str, ...]


def write_market_tree(
    data: Path | Dataset,
    out: Path,
    link: Link = "copy",
    annotations: Path | None = None,
    progress: bool = True,
    follow_links: bool = False,
    keep_unreadable: bool = False,
) -> ImportSummary:
    """Writes a dataset as a Market-1501 tree, with `names.csv` that maps the new names to the old ones.

    Identities are numbered from 1 in ascending order over all splits; distractors stay 0 and junk -1. Cameras keep
    their numbers. The frame in a name is the index of the image among those of its identity. JPEG files keep their
    bytes; others, and those that EXIF data turn, are encoded upright as JPEG of quality 95 (our choice), whatever
    `link` is.

    Args:
        data: the dataset, a folder or a YAML file, or an opened dataset.
        out: the tree, new or empty; or the finished tree of an earlier call, which is then left unchanged.
        link: copy files, or make hard or symbolic links to them.
        annotations: keypoints by the dataset's names, .npz or PATN .csv; written with the new names as
            `annotations.npz` of the tree.
        progress: show a bar on a terminal.
        follow_links: also copy images that symbolic links in the dataset's folder point to outside it.
        keep_unreadable: copy or link images that would have to be encoded but cannot be read, rather than raise.

    Raises:
        BadInput: an unreadable dataset, image or annotation file; synthetic images; links out of the dataset; a
            destination that cannot be written or linked to.
    """
    dataset = open_dataset(data)
    require_apart("--out", out, dataset.root)
    splits = dataset.read_all()
    for split in splits.values():
        if split.synthetic.any():
            raise BadInput(f"{data}: {split.names[split.synthetic][0]} is synthetic; import the real dataset")
    _require_numbers(data, splits)
    if not follow_links:
        dataset.require_own_images(splits)
    known = np.unique(np.concatenate([split.pids for split in splits.values()]))
    names = _market_names(splits, known[known > 0])
    rows = None if annotations is None else _translated(read_annotations(annotations), splits, names, annotations)
    table = _table(dataset, splits, names)
    images = [
        _Image(split.path(i), f"{FOLDERS[name]}/{names[name][i]}", _is_kept(split.path(i)))
        for name, split in splits.items() for i in range(len(split))
    ]  # fmt: skip
    if not _is_written(out, table, images, link, rows):
        with atomic_directory(out) as folder:
            for name in splits:
                (folder / FOLDERS[name]).mkdir()
            for image in ProgressBar(images, "import", shown=progress):
                encoded = None if image.is_kept else _encoded(image.source, keep_unreadable)
                if encoded is None:
                    _copy_or_link(image.source, folder / image.file, link)
                else:
                    (folder / image.file).write_bytes(encoded)
            (folder / TABLE_NAME).write_text(table, encoding="utf-8", newline="")
            if rows is not None:
                write_npz(folder / ANNOTATIONS_NAME, rows.names, rows.xy, rows.visibility, rows.source)
    reencoded = sum(not image.is_kept for image in images)
    notes = tuple(dict.fromkeys(note for split in splits.values() for note in split.notes))
    counts = {name: len(split) for name, split in splits.items()}
    return ImportSummary(out, counts, int((known > 0).sum()), reencoded, 0 if rows is None else len(rows), notes)


def old_names(tree: Path) -> dict[str, str]:
    """Paths below the dataset's root, by the paths below a tree that `write_market_tree` wrote.

    Raises:
        BadInput: the tree has no table of names, or another one.
    """
    rows = csv.DictReader(io.StringIO(read_text(tree / TABLE_NAME, "table of names")))
    if not {"new", "old"} <= set(rows.fieldnames or ()):
        raise BadInput(f"{tree / TABLE_NAME}: no table of new and old names; needed the one that import writes")
    return {row["new"]: row["old"] for row in rows}


def _require_numbers(data: Path | Dataset, splits: Mapping[SplitName, Split]) -> None:
    """Raises `BadInput` for identities or cameras that a Market-1501 file name cannot hold."""
    for name, split in splits.items():
        for what, wrong in (("camera", split.camids < 1), ("identity", (split.pids < 1) & (name == "train"))):
            if wrong.any():
                row = int(np.flatnonzero(wrong)[0])
                number = (split.camids if what == "camera" else split.pids)[row]
                raise BadInput(f"{data}: {split.file(row)} has {what} {number}; needed numbers from 1")


def _market_names(splits: Mapping[SplitName, Split], known: np.ndarray) -> dict[SplitName, list[str]]:
    """The new names of each split; `known` holds all identities that are neither distractor nor junk."""
    counts: dict[int, int] = defaultdict(int)
    names: dict[SplitName, list[str]] = {}
    for name, split in splits.items():
        names[name] = []
        pids = np.where(split.pids > 0, np.searchsorted(known, split.pids) + 1, split.pids)
        for pid, camid in zip(pids.tolist(), split.camids.tolist(), strict=True):
            box, frame = divmod(counts[pid], _FRAMES)
            counts[pid] += 1
            identity = f"{pid:04d}" if pid >= 0 else "-1"
            names[name].append(f"{identity}_c{camid}s1_{frame:06d}_{box:02d}.jpg")
    return names


def _translated(
    table: Annotations, splits: Mapping[SplitName, Split], names: Mapping[SplitName, Sequence[str]], path: Path
) -> Annotations:
    """The annotation rows that belong to an image, under its new name."""
    new = np.array([name for split in splits for name in names[split]], dtype=str)
    rows = np.concatenate([table.lookup(split.names) for split in splits.values()])
    if not (rows >= 0).any():
        example = next(iter(splits.values())).names[0]
        raise BadInput(f"{path}: annotates none of the {len(new)} images; needed names such as {example}")
    kept = rows >= 0
    translated = Annotations(new[kept], table.xy[rows[kept]], table.visibility[rows[kept]], table.source)
    require_somebody(translated, path)
    return translated


def _table(dataset: Dataset, splits: Mapping[SplitName, Split], names: Mapping[SplitName, Sequence[str]]) -> str:
    """The text of `names.csv`, with identities and cameras as the dataset's names have them."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["new", "old", "old_pid", "old_camid"])
    for name, split in splits.items():
        for i, (new, (pid, camid)) in enumerate(zip(names[name], dataset.labels(split), strict=True)):
            writer.writerow([f"{FOLDERS[name]}/{new}", split.file(i), pid, camid])
    return text.getvalue()


@dataclass(frozen=True)
class _Image:
    """An image to write.

    Attributes:
        source: its file in the dataset.
        file: its path below the tree.
        is_kept: whether its bytes are kept, rather than encoded anew.
    """

    source: Path
    file: str
    is_kept: bool


def _is_written(out: Path, table: str, images: Sequence[_Image], link: Link, rows: Annotations | None) -> bool:
    """Whether a folder already holds this tree, complete."""
    try:
        if read_bytes(out / TABLE_NAME, "table of names") != table.encode():
            return False
        if rows is not None:
            there = read_npz(out / ANNOTATIONS_NAME)
            pairs = [(getattr(there, name), getattr(rows, name)) for name in ("names", "xy", "visibility")]
            if not all(np.array_equal(a, b) for a, b in pairs):
                return False
        written = (out / TABLE_NAME).stat().st_mtime_ns
        return all(_is_placed(image, out / image.file, link, written) for image in images)
    except (BadInput, OSError):
        return False


def _is_placed(image: _Image, target: Path, link: Link, written: int) -> bool:
    """Whether an image is there; one that did not change since the time `written` is not encoded again to see."""
    if not image.is_kept:
        state = image.source.stat()
        if max(state.st_mtime_ns, state.st_ctime_ns) < written:
            return target.is_file()
        return target.read_bytes() == _encoded(image.source, keep_unreadable=False)
    if link == "symbolic":
        return target.readlink() == image.source.resolve()
    if link == "hard":
        return target.samefile(image.source)
    return filecmp.cmp(image.source, target, shallow=False)


def _is_kept(source: Path) -> bool:
    """Whether an image's bytes are kept: those of an upright JPEG, as others' readers may not turn it."""
    return _is_jpeg(source) and is_upright(source)


def _encoded(source: Path, keep_unreadable: bool) -> bytes | None:
    """An image as a JPEG's bytes; None for an unreadable one that is to be kept as it is."""
    try:
        return jpeg_bytes(read_image(source))
    except BadInput:
        if keep_unreadable:
            return None
        raise


def _is_jpeg(path: Path) -> bool:
    return path.suffix.lower() in (".jpg", ".jpeg")


def _copy_or_link(source: Path, target: Path, link: Link) -> None:
    open_regular(source, "image", MAX_BYTES).close()
    try:
        if link == "symbolic":
            target.symlink_to(source.resolve())
        elif link == "hard":
            os.link(source.resolve(), target)
        else:
            shutil.copyfile(source, target)
    except OSError as error:
        if link == "copy":
            raise
        raise BadInput(f"--link: {source} no {link} link possible ({error.strerror}); needed copy") from None
