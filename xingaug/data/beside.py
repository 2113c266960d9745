"""Finds annotation files beside the images of a dataset, in any format that `xingaug annotate --from` reads."""

import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from xingaug.data.annotations import PATN_HEADER, Annotations
from xingaug.data.foreign import OPENPOSE_SUFFIX, READERS, SizesOf
from xingaug.data.listing import named_as, sizes_by_name
from xingaug.errors import BadInput
from xingaug.inputs import open_regular, read_bytes, read_json

_log = logging.getLogger(__name__)

_NPZ = ("annotations.npz", "keypoints.npz", "poses.npz")
_MAT = ("joints.mat",)
_HEAD = 4096
"""Bytes at the start of a file from which its format is detected."""


@dataclass(frozen=True, eq=False)
class Beside:
    """Annotations found beside the images.

    Attributes:
        annotations: the keypoints, under the dataset's image names.
        files: the files they were read from.
        kind: their format, a key of `READERS`.
    """

    annotations: Annotations
    files: tuple[Path, ...]
    kind: str

    @property
    def content(self) -> str:
        """SHA-256 of the files, hexadecimal."""
        digest = hashlib.sha256(self.kind.encode())
        for file in self.files:
            for part in sorted(file.glob(f"*{OPENPOSE_SUFFIX}")) if file.is_dir() else (file,):
                digest.update(os.fsencode(part.name) + b"\0" + hashlib.sha256(read_bytes(part)).digest())
        return digest.hexdigest()


def find_beside(folder: Path, names: Sequence[str], paths: Sequence[Path]) -> Beside | None:
    """Looks for annotations in the folder of a dataset, and for OpenPose files in its subfolders.

    The native .npz is tried first, then the formats in the order of `READERS`; a file that is damaged or annotates none
    of the images is skipped with a warning.

    Args:
        folder: the folder of the images or of their YAML file.
        names: names of the dataset's training images.
        paths: their files.
    """
    for kind, files in _candidates(folder):
        try:
            found = read_files(kind, files, names, paths)
        except BadInput as error:
            _log.warning("%s", error)
            continue
        return found
    return None


def read_given(path: Path, names: Sequence[str], paths: Sequence[Path]) -> Beside:
    """Reads an annotation file, or a folder of OpenPose files; the format is detected from the content.

    Raises:
        BadInput: no such file, an unknown format, or it annotates none of the images.
    """
    kind = _kind_of(path)
    if kind is None:
        raise BadInput(f"{path}: unknown annotations; needed those of {', '.join(READERS)}")
    return read_files(kind, (path,), names, paths)


def read_files(kind: str, files: Sequence[Path], names: Sequence[str], paths: Sequence[Path]) -> Beside:
    """Reads and joins files of one format; if several annotate the same image, the first one is used.

    Raises:
        BadInput: a file cannot be read, or none of the images is annotated.
    """
    tables = [_read(kind, file, sizes_by_name(names, paths), names, paths) for file in files]
    joined = _joined(tables)
    rows = joined.lookup(names)
    if not (rows >= 0).any():
        example = f"; such as {joined.names[0]}, an image is {names[0]}" if len(joined) else ""
        raise BadInput(f"{files[0]}: annotates none of the {len(names)} training images{example}")
    kept = rows[rows >= 0]
    of_images = replace(
        joined, names=joined.names[kept], xy=joined.xy[kept], visibility=joined.visibility[kept], file=str(files[0])
    )
    if not (of_images.visibility > 0).any():
        raise BadInput(f"{files[0]}: every joint of all {len(kept)} training images is missing")
    return Beside(of_images, tuple(files), kind)


def _read(kind: str, file: Path, sizes_of: SizesOf, names: Sequence[str], paths: Sequence[Path]) -> Annotations:
    annotations, report = READERS[kind](file, sizes_of)
    for line in report.lines():
        _log.warning("%s: %s", file, line)
    if kind == "openpose-json" and any(path.parent == file for path in paths):
        # One file per image in the image's folder: the same name in another folder is another image.
        named = np.array([f"{file.name}/{name}" for name in annotations.names.tolist()], dtype=str)
        annotations = replace(annotations, names=named)
    return named_as(annotations, names, paths)


def _joined(tables: Sequence[Annotations]) -> Annotations:
    names = np.concatenate([table.names for table in tables])
    first = np.sort(np.unique(names, return_index=True)[1])
    xy, visibility = (np.concatenate([getattr(table, key) for table in tables])[first] for key in ("xy", "visibility"))
    return Annotations(names[first], xy, visibility, tables[0].source)


def _candidates(folder: Path) -> Iterator[tuple[str, tuple[Path, ...]]]:
    """Formats and files in a folder, the native format first."""
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith(".")]
    for name in _NPZ:
        if (folder / name).is_file():
            yield "npz", (folder / name,)
    kinds = [(path, _or_none(_kind_of, path)) for path in files if path.suffix.lower() in (".csv", ".json")]
    csvs = tuple(path for path, kind in kinds if kind == "patn-csv")
    if csvs:
        yield "patn-csv", csvs
    openpose = tuple(_openpose_folders(folder))
    if openpose:
        yield "openpose-json", openpose
    for path, kind in kinds:
        if kind in ("coco-json", "alphapose-json"):
            yield kind, (path,)
    for name in _MAT:
        if (folder / name).is_file():
            yield "lsp-mat", (folder / name,)


def _or_none(read: Callable[[Path], str | None], path: Path) -> str | None:
    """What `read` finds in a file; None, with a warning, for one that cannot be read."""
    try:
        return read(path)
    except BadInput as error:
        _log.warning("%s", error)
        return None


def _openpose_folders(root: Path) -> Iterator[Path]:
    """Folders at any depth that hold OpenPose files; hidden folders and links are skipped."""
    for folder, inner, files in os.walk(root):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        first = min((name for name in files if name.endswith(OPENPOSE_SUFFIX)), default=None)
        if first is not None and '"people"' in (_or_none(_head, Path(folder) / first) or ""):
            yield Path(folder)


def _kind_of(path: Path) -> str | None:
    """The format of a file or folder, a key of `READERS`; None if unknown."""
    if path.is_dir():
        return "openpose-json" if any(path.glob(f"*{OPENPOSE_SUFFIX}")) else None
    suffix = path.suffix.lower()
    if suffix in (".npz", ".mat"):
        return {".npz": "npz", ".mat": "lsp-mat"}[suffix]
    head = _head(path)
    if suffix == ".csv":
        return "patn-csv" if head.startswith(PATN_HEADER) else None
    if suffix == ".json":
        return _kind_of_json(path, head)
    return None


def _head(path: Path) -> str:
    with open_regular(path, "annotation file") as stream:
        return stream.read(_HEAD).decode("utf-8", "replace").lstrip("\ufeff").lstrip()


def _kind_of_json(path: Path, head: str) -> str | None:
    if '"people"' in head:
        return None  # OpenPose output for one image; the folder is read as a whole
    if head.startswith("["):
        return "alphapose-json" if '"image_id"' in head and '"keypoints"' in head else None
    try:
        data = read_json(path, "annotation file")
    except BadInput:
        return None
    known = (
        isinstance(data, dict) and isinstance(data.get("images"), list) and isinstance(data.get("annotations"), list)
    )
    return "coco-json" if known else None
