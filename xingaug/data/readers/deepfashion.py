"""DeepFashion in-shop as PATN prepares it for pose transfer: images of 256x176 and lists of pairs.

```
train/  test/                                  fashionMENDenimid0000008001_1front.jpg
fasion-resize-pairs-train.csv                  header from,to: `pairs` of a training configuration
fasion-resize-annotation-train.csv             keypoints by file name: `annotations`
```
and the same with `-test`. A name is "fashion", the group and kind of garment, "id", the item (8 digits), the piece of
clothing (2 digits), "_", the number and the view.
"""

import os
import re
from itertools import islice
from pathlib import Path

from xingaug.data.names import SplitName, image_files
from xingaug.data.readers.lists import split_of
from xingaug.data.split import MissingSplit, Split
from xingaug.errors import BadInput

MARKERS = (
    "fasion-resize-pairs-train.csv", "fasion-resize-pairs-test.csv", "fasion-resize-annotation-train.csv",
    "fasion-resize-annotation-test.csv",
)  # fmt: skip
FOLDERS: dict[SplitName, str] = {"train": "train", "gallery": "test"}

_NAME = re.compile(
    r"fashion(?:WO)?MEN[A-Za-z_]*?id(?P<item>\d{8})(?P<clothes>\d{2})_\d+[a-z]+(?i:\.(?:jpe?g|png))", re.ASCII
)
_GRAMMAR = "such as fashionMENDenimid0000008001_1front.jpg"


def read(root: Path, split: SplitName) -> Split:
    """Reads the names of one split; opens no image. Names have no folder, as in PATN's lists.

    The identity is the item, numbered over all groups. The piece of clothing is used as the camera, so that images of
    one item and one "camera" show the same clothes, as PATN's pairs do.

    Args:
        root: the folder that holds train, test and the lists.
        split: train, or gallery for the test images; there is no query.

    Raises:
        MissingSplit: there is no such split.
        BadInput: the folder is empty, or a name is not as PATN writes it.
    """
    if split not in FOLDERS:
        raise MissingSplit(f"{root}: DeepFashion in-shop pairs have no split {split}; needed train or gallery")
    folder = root / FOLDERS[split]
    if not folder.is_dir():
        raise MissingSplit(f"{folder}: no such folder, which holds the images of the split {split}")
    rows: dict[str, tuple[int, int]] = {}
    files = image_files(folder)
    for name in files.images:
        found = _NAME.fullmatch(name)
        if found is None:
            raise BadInput(f"{folder}: {name[:80]!r} is no name of PATN's DeepFashion; needed {_GRAMMAR}")
        rows[name] = int(found["item"]), int(found["clothes"])
    return split_of(root, split, rows, folder, folder.name, files.note(folder))


def is_without_lists(root: Path) -> bool:
    """Whether a folder holds the images without the lists in `MARKERS`, which are not needed to read it."""
    try:
        return any(_NAME.fullmatch(name) for name in islice(os.listdir(root / FOLDERS["train"]), 9))
    except OSError:
        return False
