"""Which images of a dataset are renderings, by the manifest that `xingaug augment --layout same` writes beside them."""

from pathlib import Path

from xingaug.data.names import MANIFEST_NAME
from xingaug.errors import BadInput
from xingaug.inputs import open_regular, parse_json

MAX_MANIFEST_BYTES = 5_000_000_000
"""Largest manifest that is read, about four million images (our choice)."""

MAX_LINE = 20_000
"""Longest line of a manifest in bytes."""


def renderings_below(root: Path) -> frozenset[str]:
    """The rendered images of a dataset.

    Args:
        root: the dataset's folder.

    Returns:
        Paths below `root`, with forward slashes; none without a manifest, or with a file of that name that is not ours.
    """
    path, found = root / MANIFEST_NAME, set[str]()
    if not path.exists():
        return frozenset()
    try:
        with open_regular(path, "manifest", MAX_MANIFEST_BYTES) as stream:
            while line := stream.readline(MAX_LINE + 1):
                fields = parse_json(line.decode(), str(path))
                found.add(str(fields["file"]))
                if not {"source", "bank_row", "generator"} <= set(fields):
                    return frozenset()
    except (BadInput, UnicodeDecodeError, TypeError, KeyError):
        return frozenset()
    return frozenset(found)
