"""VeRi-776 and sets laid out like it: vehicles under numbered cameras.

```
image_train/  image_query/  image_test/       0001_c001_00016450_0.jpg: vehicle, camera, frame, number
name_train.txt  name_query.txt  name_test.txt  the names of each split; without them it is the whole folder
```
"""

import os
import re
from pathlib import Path

from xingaug.data.names import SplitName, image_files
from xingaug.data.readers.lists import numbered_lines, split_of
from xingaug.data.split import MissingSplit, Split
from xingaug.errors import BadInput

MARKERS = ("image_train", "image_query")
PARTS: dict[SplitName, str] = {"train": "train", "query": "query", "gallery": "test"}

_NAME = re.compile(r"(?P<pid>\d{1,15})_c(?P<camid>\d{1,9})_\d+_\d+(?i:\.(?:jpe?g|png))", re.ASCII)
_GRAMMAR = "<vehicle>_c<camera>_<frame>_<number>.jpg, as 0001_c001_00016450_0.jpg"


def read(root: Path, split: SplitName) -> Split:
    """Reads the index of one split; opens no image.

    Args:
        root: the folder that holds image_train, image_query and image_test.
        split: which one.

    Raises:
        BadInput: the folder is missing or empty, or a name is not as published.
    """
    folder, listed = root / f"image_{PARTS[split]}", root / f"name_{PARTS[split]}.txt"
    if not folder.is_dir():
        raise MissingSplit(f"{folder}: no such folder, which holds the images of the split {split}")
    notes: tuple[str, ...] = ()
    if os.path.lexists(listed):
        places = [(f"{listed}:{number}", name) for number, name in numbered_lines(listed)]
    else:
        files = image_files(folder)
        notes, places = files.note(folder), [(str(folder), name) for name in files.images]
    rows: dict[str, tuple[int, int]] = {}
    for where, name in places:
        found = _NAME.fullmatch(name)
        if found is None:
            raise BadInput(f"{where}: {name[:80]!r} is no name of VeRi; needed {_GRAMMAR}")
        rows[f"{folder.name}/{name}"] = int(found["pid"]), int(found["camid"])
    return split_of(root, split, rows, listed if os.path.lexists(listed) else folder, notes=notes)
