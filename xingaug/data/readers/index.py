"""The files of a folder that match a pattern; the index of a large folder is cached.

Measured with 100,000 files on one core: scanning and matching takes 0.6 s in one folder and 0.9 s in 4,000 folders;
from the cache 0.04 s and 0.1 s.
"""

import contextlib
import hashlib
import os
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xingaug.data.names import masks_among
from xingaug.data.readers.template import Template
from xingaug.data.split import MissingSplit
from xingaug.errors import BadInput
from xingaug.files import atomic_write
from xingaug.images import SUFFIXES

CACHE_FROM = 10_000
"""Number of files from which an index is cached (our choice)."""

_FORMAT = 2
_SETTLED_NS = 2_000_000_000  # a folder changed more recently than this might change again with the same time stamp
_EXAMPLES = 3


@dataclass(frozen=True, eq=False)
class Index:
    """The images of a folder that match a pattern.

    Attributes:
        names: (N,) str, sorted paths below the folder.
        pids: (N,) int64, or str if the pattern says text.
        camids: (N,) int64 or str; all 1 if the pattern has no camera.
        strays: the first few files that do not match or are not images (masks, a .png beside a .jpg, included).
        stray_count: how many such files there are.
    """

    names: np.ndarray
    pids: np.ndarray
    camids: np.ndarray
    strays: np.ndarray
    stray_count: int


def read_index(folder: Path, template: Template) -> Index:
    """The index of a folder, from the cache if no folder in it has changed since.

    The cache is in `$XDG_CACHE_HOME/xingaug/index`, by default below `~/.cache`. A folder's modification time shows
    whether a file was added, removed or renamed; an index is cached only if all these times are two seconds old.

    Raises:
        MissingSplit: no such folder.
        BadInput: it cannot be read.
    """
    if not folder.is_dir():
        raise MissingSplit(f"{folder}: no such folder, in which images should fit '{template.text}'")
    cached = _cache_file(folder, template)
    found = _load(cached, folder)
    if found is not None:
        return found
    start = time.time_ns()
    try:
        files, folders = _scan(folder, template.depth)
        times = _times(folder, folders)
    except OSError as error:
        raise BadInput(f"{error.filename or folder}: cannot be read ({error.strerror})") from None
    index = _match(files, template)
    if len(files) >= CACHE_FROM and times.max() < start - _SETTLED_NS:
        _store(cached, index, folders, times)
    return index


def _scan(folder: Path, depth: int) -> tuple[list[str], list[str]]:
    """Paths below `folder` of the files in it and up to `depth` folders down, and of those folders; none hidden."""
    files: list[str] = []
    folders = [""]
    for inner in folders:  # grows during the loop
        level = inner.count("/")
        with os.scandir(f"{folder}/{inner}") as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if not entry.is_dir():
                    files.append(inner + entry.name)
                elif level < depth:
                    folders.append(f"{inner}{entry.name}/")
    return files, folders


def _times(folder: Path, folders: list[str]) -> np.ndarray:
    """(F, 2) int64 nanoseconds: when each folder's list of files and when anything about it was last changed."""
    stats = [os.stat(f"{folder}/{inner}") for inner in folders]
    return np.array([(stat.st_mtime_ns, stat.st_ctime_ns) for stat in stats], dtype=np.int64)


def _match(files: list[str], template: Template) -> Index:
    files.sort()
    masks = masks_among([name for name in files if name.lower().endswith(SUFFIXES)])
    images = (name.lower().endswith(SUFFIXES) and name not in masks for name in files)
    found = [template.fields(name) if is_image else None for name, is_image in zip(files, images, strict=True)]
    strays = [name for name, fields in zip(files, found, strict=True) if fields is None]
    columns = []
    for field in ("pid", "camid"):
        kind = template.kinds.get(field)
        if kind is None:
            columns.append(np.ones(len(files) - len(strays), np.int64))
        else:
            texts = [fields[field] for fields in found if fields]
            columns.append(np.array([*map(int, texts)], np.int64) if kind == "number" else np.array(texts, dtype=str))
    names = np.array([name for name, fields in zip(files, found, strict=True) if fields], dtype=str)
    return Index(names, columns[0], columns[1], np.array(strays[:_EXAMPLES], dtype=str), len(strays))


def _cache_file(folder: Path, template: Template) -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    key = f"{_FORMAT}\0{folder.resolve()}\0{template.text}"
    return home / "xingaug" / "index" / f"{hashlib.sha256(os.fsencode(key)).hexdigest()}.npz"


def _load(path: Path, folder: Path) -> Index | None:
    """The cached index; None if it is damaged or a folder has changed."""
    try:
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as stored:
            if not np.array_equal(_times(folder, stored["folders"].tolist()), stored["times"]):
                return None
            names, pids, camids, strays = (stored[key] for key in ("names", "pids", "camids", "strays"))
            return Index(names, pids, camids, strays, int(stored["stray_count"]))
    except (OSError, EOFError, KeyError, ValueError, TypeError, AttributeError, zipfile.BadZipFile):
        return None


def _store(path: Path, index: Index, folders: list[str], times: np.ndarray) -> None:
    # Without the cache the next call only takes longer.
    ignore = contextlib.suppress(BadInput, OSError, UnicodeError)
    with ignore, atomic_write(path) as temporary, temporary.open("wb") as handle:
        np.savez(handle, folders=np.array(folders, dtype=str), times=times, **vars(index))
