"""MSMT17, both published versions: list files beside the folders of images.

```
list_train.txt  list_val.txt  list_query.txt  list_gallery.txt      lines `0000/0000_000_01_0303morning_0015_0.jpg 0`
train/  test/                       version 1; of version 2 (blurred faces) they are mask_train_v2/ and mask_test_v2/
```
"""

import os
import re
from pathlib import Path

from xingaug.data.names import SplitName
from xingaug.data.readers.lists import numbered_lines, split_of, stays_inside
from xingaug.data.split import MissingSplit, Split
from xingaug.errors import BadInput

LISTS: dict[SplitName, str] = {"train": "list_train.txt", "query": "list_query.txt", "gallery": "list_gallery.txt"}
MARKERS = (*LISTS.values(), "mask_train_v2", "mask_test_v2")
FIRST_TEST_PID = 10_001
"""First identity of the test lists; those of the training lists start at 1 (our choice).

Labels in both start at 0 but mean different people.
"""

_LINE = re.compile(
    r"(?P<path>\S+/(?P<person>\d+)_\d+_(?P<camid>\d{1,9})_[^/\s]+(?i:\.(?:jpe?g|png))) (?P<label>\d{1,15})", re.ASCII
)
_IMAGE = re.compile(r"\d{4}_\d{3}_\d{2}_\d{4}[a-z]+_\d{4}_\d.*\.jpg", re.ASCII)
_FOLDERS = {"train": ("train", "mask_train_v2"), "test": ("test", "mask_test_v2")}


def read(root: Path, split: SplitName, with_val: bool = False) -> Split:
    """Reads the list of one split; opens no image.

    `train` is list_train.txt alone, as in torchreid and most published results.

    Args:
        root: the folder that holds the lists.
        split: which one.
        with_val: add list_val.txt to `train`; it shows the same people.

    Raises:
        MissingSplit: there is no list of the split.
        BadInput: the folder of a list's images is missing, or a line is not as published.
    """
    lacking = [file for file in LISTS.values() if not os.path.lexists(root / file)]
    if LISTS[split] in lacking:
        raise MissingSplit(
            f"{root}: is laid out as MSMT17 but lacks {', '.join(lacking)}, which say what its splits are; needed "
            "beside its folders of images, as they come with MSMT17_V1 and MSMT17_V2"
        )
    part = "train" if split == "train" else "test"
    lists = ["list_train.txt", "list_val.txt"] if split == "train" and with_val else [f"list_{split}.txt"]
    rows: dict[str, tuple[int, int]] = {}
    first = 1 if part == "train" else FIRST_TEST_PID
    for file in lists:
        folder = _image_folder(root, part) if (root / file).exists() else ""  # report a missing list first
        for number, line in numbered_lines(root / file):
            found = _LINE.fullmatch(line)
            if found is None or not stays_inside(found["path"]):
                needed = "needed <folder>/<person>_<n>_<camera>_<rest>.jpg <label>"
                raise BadInput(f"{root / file}:{number}: {line[:80]!r}; {needed}")
            name = f"{folder}/{found['path']}"
            if name in rows:
                raise BadInput(f"{root / file}:{number}: {found['path']} is listed twice")
            rows[name] = first + int(found["label"]), int(found["camid"])
    return split_of(root, split, rows, root / lists[0])


def is_without_lists(root: Path) -> bool:
    """Whether a folder holds images named as in version 1, whose folder names are too common to identify it."""
    for part in ("train", "test"):
        person = next((entry for entry in _entries(root / part) if re.fullmatch(r"\d{4}", entry)), None)
        if person is None or not any(_IMAGE.fullmatch(name) for name in _entries(root / part / person)[:9]):
            return False
    return True


def _entries(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _image_folder(root: Path, part: str) -> str:
    for folder in _FOLDERS[part]:
        if (root / folder).is_dir():
            return folder
    raise BadInput(f"{root}: holds neither {' nor '.join(_FOLDERS[part])}, where the listed images should lie")
