"""CUHK03 by its new protocol (767 persons to train on, 700 to test), from extracted images.

```
images_detected/  images_labeled/             1_001_1_01.png: camera pair, person in it, view, number
cuhk03_new_protocol_config_detected.mat       the published protocol: filelist, train_idx, query_idx, gallery_idx
splits_new_detected.json                      the same as written by torchreid, read if there is no .mat
```
and the same with `_labeled`. The published cuhk-03.mat holds the images themselves; torchreid extracts it on first
use, which needs h5py.
"""

import re
from pathlib import Path

from xingaug.data.mat import read_mat
from xingaug.data.names import SplitName
from xingaug.data.readers.config import Kind
from xingaug.data.readers.lists import split_of
from xingaug.data.split import MissingSplit, Split
from xingaug.errors import BadInput
from xingaug.inputs import read_json

MARKERS = (
    "images_detected", "images_labeled", "cuhk03_release", "cuhk03_new_protocol_config_detected.mat",
    "cuhk03_new_protocol_config_labeled.mat",
)  # fmt: skip

_NAME = re.compile(r"(?P<pair>\d{1,9})_(?P<person>\d{3})_(?P<camid>[12])_\d{2}(?i:\.(?:jpe?g|png))", re.ASCII)
_GRAMMAR = "<camera pair>_<person>_<view>_<number>.png, as 1_001_1_01.png"


def read(root: Path, split: SplitName, kind: Kind = "detected") -> Split:
    """Reads one split; opens no image.

    An identity is 1000 times the camera pair plus the person in it, because the labels in the two protocol files are
    numbered separately for training and test. The camera is the view, 1 or 2.

    Args:
        root: the folder that holds images_detected and the protocol.
        split: which one.
        kind: which boxes.

    Raises:
        BadInput: the images are not extracted, the protocol is missing or damaged, or a name is not as published.
    """
    word = {"detected": "detected", "labelled": "labeled"}[kind]
    folder = f"images_{word}"
    if not (root / folder).is_dir():
        raise BadInput(f"{root}: holds no {folder}; needed the images of cuhk-03.mat as files named {_GRAMMAR}")
    protocol, table = (root / f"cuhk03_new_protocol_config_{word}.mat"), (root / f"splits_new_{word}.json")
    if protocol.exists():
        where, names = protocol, _from_mat(protocol, split)
    elif table.exists():
        where, names = table, _from_json(table, split)
    else:
        raise MissingSplit(f"{root}: holds neither {protocol.name} nor {table.name}, which say what the splits are")
    rows: dict[str, tuple[int, int]] = {}
    for name in names:
        found = _NAME.fullmatch(name)
        if found is None:
            raise BadInput(f"{where}: {split}: {name[:80]!r} is no name of CUHK03; needed {_GRAMMAR}")
        rows[f"{folder}/{name}"] = 1000 * int(found["pair"]) + int(found["person"]), int(found["camid"])
    return split_of(root, split, rows, where)


def _from_mat(path: Path, split: SplitName) -> list[str]:
    stored = read_mat(path, ("filelist", f"{split}_idx"), "protocol file of CUHK03")
    try:
        files, rows = stored["filelist"], stored[f"{split}_idx"]
        return [str(files[row - 1]) for row in rows.ravel().astype(int).tolist() if row > 0]
    except (KeyError, IndexError, ValueError) as error:
        needed = f"needed filelist and {split}_idx"
        raise BadInput(f"{path}: not a protocol file of CUHK03 ({error}); {needed}") from None


def _from_json(path: Path, split: SplitName) -> list[str]:
    """The file names in torchreid's list `[{"train": [[path, label, camera], ...], ...}]`; folders are ignored."""
    try:
        entries = read_json(path, "splits of CUHK03")[0][split]
        return [str(entry[0]).replace("\\", "/").rpartition("/")[2] for entry in entries]
    except (KeyError, IndexError, TypeError) as error:
        reason = f"no key {error}" if isinstance(error, KeyError) else str(error)
        raise BadInput(f"{path}: not torchreid's splits of CUHK03 ({reason}); needed a list with {split}") from None
