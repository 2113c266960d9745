"""File names in the grammar of Market-1501, and the folders of its splits."""

import re
from dataclasses import dataclass
from typing import Literal

from xingaug.errors import BadInput

SplitName = Literal["train", "query", "gallery"]

FOLDERS: dict[SplitName, str] = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
"""The folder of each split below the root of the dataset."""

NAME = re.compile(
    r"(?P<pid>-1|\d{4}|[1-9]\d{4,})_c(?P<camid>[1-9]\d*)s(?P<sequence>\d+)_(?P<frame>\d{6})_(?P<box>\d{2})"
    r"(?:\.jpg)?"  # 24 files of the published test set end in .jpg.jpg
    r"(?:_x(?P<synthetic>\d{3,}))?\.jpg",
    re.ASCII,
)
"""`0002_c1s1_000451_03.jpg`: identity, camera, sequence, frame, box; `_x007` before `.jpg` marks a synthetic image.

Published names have identities of 4 digits and cameras of one; larger sets need more of both.
"""

JUNK, DISTRACTOR = -1, 0
GRAMMAR = "<4-digit identity or -1>_c<camera>s<sequence>_<6-digit frame>_<2-digit box>.jpg, as 0002_c1s1_000451_03.jpg"


@dataclass(frozen=True)
class ImageName:
    """What a file name says.

    Attributes:
        pid: identity; -1 is junk, 0 a distractor.
        camid: camera as in the file, from 1.
        sequence: recording of that camera.
        frame: frame number in the sequence.
        box: number of the detection in the frame.
        synthetic: number of the rendering of the source image, None for a real image.
    """

    pid: int
    camid: int
    sequence: int
    frame: int
    box: int
    synthetic: int | None


def parse_name(name: str) -> ImageName:
    """Takes a file name apart.

    Raises:
        BadInput: it does not follow the grammar.
    """
    found = NAME.fullmatch(name)
    if found is None:
        raise BadInput(f"{name!r}: not a Market-1501 file name; needed {GRAMMAR}")
    pid, camid, sequence, frame, box = (int(found[key]) for key in ("pid", "camid", "sequence", "frame", "box"))
    return ImageName(pid, camid, sequence, frame, box, None if found["synthetic"] is None else int(found["synthetic"]))
