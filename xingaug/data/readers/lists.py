"""What the readers of published list files share."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from xingaug.data.names import SplitName
from xingaug.data.split import MissingSplit, Split
from xingaug.errors import BadInput


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file that are not blank, stripped, with their numbers from 1.

    Raises:
        MissingSplit: no such file.
        BadInput: it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise MissingSplit(f"{path}: no such file, which lists the images of a split") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise BadInput(f"{path}: cannot be read ({reason})") from None
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, line.strip()


def stays_inside(name: str) -> bool:
    """Whether a relative path with forward slashes leads nowhere but below its folder."""
    return "\\" not in name and "\0" not in name and not {"", ".", ".."} & set(name.split("/"))


def split_of(root: Path, split: SplitName, rows: dict[str, tuple[int, int]], where: Path, folder: str = "") -> Split:
    """A `Split` sorted by name.

    Args:
        root: of the dataset.
        split: which split.
        rows: identity and camera by the path below `folder`.
        where: the file or folder that was read, for messages.
        folder: below `root`.

    Raises:
        BadInput: there is no image.
    """
    if not rows:
        raise BadInput(f"{where}: names no image, the split {split} is empty")
    names = sorted(rows)
    numbers = np.array([rows[name] for name in names], dtype=np.int64)
    return Split(root, split, np.array(names, dtype=str), numbers[:, 0], numbers[:, 1], folder)
