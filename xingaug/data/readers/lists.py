"""Helpers for the readers of published list files."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from xingaug.data.names import SplitName
from xingaug.data.split import MissingSplit, Split
from xingaug.errors import BadInput
from xingaug.inputs import read_text


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The non-blank lines of a text file, stripped, with their line numbers from 1.

    Raises:
        MissingSplit: no such file.
        BadInput: it cannot be read.
    """
    if not os.path.lexists(path):
        raise MissingSplit(f"{path}: no such file, which lists the images of a split")
    for number, line in enumerate(read_text(path, "list of images").split("\n"), 1):
        if line.strip():
            yield number, line.strip()


def stays_inside(name: str) -> bool:
    """Whether a relative path with forward slashes stays below its folder."""
    return "\\" not in name and "\0" not in name and not {"", ".", ".."} & set(name.split("/"))


def split_of(
    root: Path,
    split: SplitName,
    rows: dict[str, tuple[int, int]],
    where: Path,
    folder: str = "",
    notes: tuple[str, ...] = (),
) -> Split:
    """A `Split` sorted by name.

    Args:
        root: the folder of the dataset.
        split: which split.
        rows: identity and camera by the path below `folder`.
        where: the file or folder that was read, for messages.
        folder: the folder of the images below `root`.
        notes: sentences on skipped files.

    Raises:
        BadInput: there is no image.
    """
    if not rows:
        raise BadInput(f"{where}: names no image, the split {split} is empty")
    names = sorted(rows)
    numbers = np.array([rows[name] for name in names], dtype=np.int64)
    return Split(root, split, np.array(names, dtype=str), numbers[:, 0], numbers[:, 1], folder, notes)
