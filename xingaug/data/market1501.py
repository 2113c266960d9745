"""Market-1501 and every dataset laid out like it."""

from pathlib import Path

import numpy as np

from xingaug.data.names import (
    DISTRACTOR,
    FOLDERS,
    GRAMMAR,
    IMAGE_SUFFIXES,
    JUNK,
    NAME,
    ImageName,
    SplitName,
    image_files,
    parse_name,
)  # fmt: skip
from xingaug.data.split import MissingSplit, Split, image_sizes, read_images
from xingaug.errors import BadInput

__all__ = ["FOLDERS", "ImageName", "Split", "SplitName", "image_sizes", "parse_name", "read_images", "read_split"]


def read_split(root: Path, split: SplitName) -> Split:
    """Reads the index of one split by the standard protocol; opens no image.

    Junk (-1) is dropped from `train` and `gallery`; distractors (0000) are dropped from `train` and stay in `gallery`;
    `query` is not filtered. Images end in .jpg, .jpeg or .png, in upper or lower case; a .png beside a .jpg is its
    mask. Hidden files are skipped, and so are other files (Thumbs.db), which the split's notes mention.

    Args:
        root: the folder that holds bounding_box_train, query and bounding_box_test.
        split: which one.

    Raises:
        BadInput: the folder is missing or holds no image of the split, or an image has a name outside the grammar.
        ValueError: no such split.
    """
    if split not in FOLDERS:
        raise ValueError(f"split: {split!r}, needed one of {', '.join(FOLDERS)}")
    root = Path(root)
    folder = root / FOLDERS[split]
    if not folder.is_dir():
        raise MissingSplit(_explain_missing(root, FOLDERS[split]))
    files = image_files(folder)
    names = files.images
    matches = [NAME.fullmatch(name) for name in names]
    strange = [name for name, found in zip(names, matches, strict=True) if found is None]
    if strange:
        what = f"{len(strange)} of {len(names)} names are not Market-1501 file names, the first {strange[0]!r}"
        raise BadInput(f"{folder}: {what}; needed {GRAMMAR}, or a YAML file with their pattern as the dataset")
    pids = np.array([int(found["pid"]) for found in matches if found], dtype=np.int64)
    camids = np.array([int(found["camid"]) for found in matches if found], dtype=np.int64)
    keep = {"train": pids > DISTRACTOR, "query": pids >= JUNK, "gallery": pids != JUNK}[split]
    if not keep.any():
        only = f"only {len(names)} junk or distractor images" if names else f"no {', '.join(IMAGE_SUFFIXES)}"
        raise BadInput(f"{folder}: {only}, the split is empty; needed images named {GRAMMAR}")
    kept = np.array(names, dtype=str)[keep]
    return Split(root, split, kept, pids[keep], camids[keep], notes=files.note(folder))


def _explain_missing(root: Path, folder: str) -> str:
    """One line on why `root` is not the root of a dataset, with a suggestion if one can be found."""
    holds = "bounding_box_train, query and bounding_box_test"
    if not root.is_dir():
        return f"{root}: no such folder; needed the dataset's root, which holds {holds}"
    inner = [child for child in sorted(root.iterdir()) if (child / folder).is_dir()]
    if inner:
        return f"{root}: holds no {folder}; did you mean {inner[0]}? The root holds {holds}"
    if (root.absolute().parent / folder).is_dir():
        return f"{root}: holds no {folder}; did you mean {root.absolute().parent}? The root holds {holds}"
    return (
        f"{root}: holds no {folder}; needed the dataset's root, which holds {holds}, the folder of another known "
        "dataset, or a YAML file that describes one"
    )
