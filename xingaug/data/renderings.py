"""Which images of a dataset are renderings, by the manifest that `xingaug augment --layout same` writes beside them."""

import json
from pathlib import Path

from xingaug.data.names import MANIFEST_NAME
from xingaug.errors import BadInput
from xingaug.inputs import open_regular

MAX_MANIFEST_BYTES = 5_000_000_000
"""Largest manifest that is read, about four million images (our choice)."""

MAX_LINE = 20_000
"""Longest line of a manifest in bytes."""


def renderings_below(root: Path) -> frozenset[str]:
    """The rendered images of a dataset.

    Args:
        root: the dataset's folder.

    Returns:
        Paths below `root`, with forward slashes; none without a manifest, or with another program's file of that name.

    Raises:
        BadInput: a line is damaged after others that are ours.
    """
    path, found = root / MANIFEST_NAME, set[str]()
    if not path.exists():
        return frozenset()
    with open_regular(path, "manifest", MAX_MANIFEST_BYTES) as stream:
        while line := stream.readline(MAX_LINE + 1):
            file = _file_of(line)
            if file is None and found:
                raise BadInput(f"{path}, line {len(found) + 1}: damaged; needed a line for each rendered image")
            if file is None:
                return frozenset()
            found.add(file)
    return frozenset(found)


def _file_of(line: bytes) -> str | None:
    """The image that a line is about; None if it is not a line of ours."""
    try:
        fields = json.loads(line)
        return str(fields["file"]) if {"source", "bank_row", "generator"} <= fields.keys() else None
    except (ValueError, RecursionError, AttributeError, TypeError, KeyError):
        return None
