"""File names in the grammar of Market-1501, and the folders of its splits."""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from xingaug.errors import BadInput

SplitName = Literal["train", "query", "gallery"]

MANIFEST_NAME = "manifest.jsonl"
"""File of a generated dataset with a line for each rendered image."""

FOLDERS: dict[SplitName, str] = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
"""The folder of each split below the root of the dataset."""

NAME = re.compile(
    r"(?P<pid>-1|\d{4}|[1-9]\d{4,14})_c(?P<camid>[1-9]\d{0,8})s(?P<sequence>\d{1,9})_(?P<frame>\d{6})_(?P<box>\d{2})"
    r"(?:\.jpg)?"  # 24 files of the published test set end in .jpg.jpg
    r"(?:_x(?P<synthetic>\d{3,9}))?(?i:\.(?:jpe?g|png))",
    re.ASCII,
)
"""`0002_c1s1_000451_03.jpg`: identity, camera, sequence, frame, box; `_x007` before `.jpg` marks a synthetic image.

Published names have identities of 4 digits, cameras of one digit and the suffix .jpg; other datasets need more.
"""

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
"""Suffixes of images in a Market-1501 tree and in other published layouts, in upper or lower case."""

JUNK, DISTRACTOR = -1, 0
GRAMMAR = "<4-digit identity or -1>_c<camera>s<sequence>_<6-digit frame>_<2-digit box>.jpg, as 0002_c1s1_000451_03.jpg"


@dataclass(frozen=True)
class ImageName:
    """The fields of a file name.

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
    """Parses a file name.

    Raises:
        BadInput: it does not follow the grammar.
    """
    found = NAME.fullmatch(name)
    if found is None:
        raise BadInput(f"{name!r}: not a Market-1501 file name; needed {GRAMMAR}")
    pid, camid, sequence, frame, box = (int(found[key]) for key in ("pid", "camid", "sequence", "frame", "box"))
    return ImageName(pid, camid, sequence, frame, box, None if found["synthetic"] is None else int(found["synthetic"]))


def paths_agree(a: str, b: str) -> bool:
    """Whether two paths can mean the same file: they are equal, or one ends with `/` and the other."""
    return a == b or a.endswith(f"/{b}") or b.endswith(f"/{a}")


class Alike:
    """Names by their last part, to find those that mean the same file as another path."""

    def __init__(self, names: Iterable[str]) -> None:
        """Args: `names`: file names or paths."""
        self._by_last_part: dict[str, list[str]] = {}
        for name in names:
            self._by_last_part.setdefault(name.rpartition("/")[2], []).append(name)

    def of(self, path: str) -> list[str]:
        """The names that agree with a path (`paths_agree`)."""
        return [name for name in self._by_last_part.get(path.rpartition("/")[2], []) if paths_agree(path, name)]


def ends_among(paths: Iterable[str], names: Iterable[str]) -> set[str]:
    """The names (file names or paths) that equal one of `paths` or are the end of one."""
    known = set(names)
    depths = {name.count("/") for name in known}
    parts = (os.path.abspath(path).split("/") for path in paths)
    return {end for path in parts for depth in depths if (end := "/".join(path[-1 - depth :])) in known}


@dataclass(frozen=True)
class Files:
    """What a folder of published images holds.

    Attributes:
        images: names of its images, sorted.
        others: names of everything else that is neither a mask nor hidden, sorted.
    """

    images: list[str]
    others: list[str]

    def note(self, folder: Path) -> tuple[str, ...]:
        """A sentence on the entries that are skipped, if any."""
        if not self.others:
            return ()
        examples = ", ".join(self.others[:3]) + ", ..." * (len(self.others) > 3)
        return (f"{folder}: {len(self.others)} entries are no images ({', '.join(IMAGE_SUFFIXES)}): {examples}",)


def image_files(folder: Path) -> Files:
    """Lists a folder without its subfolders; a .png beside an image of the same name is its mask.

    Raises:
        BadInput: the folder cannot be read, or two images differ only in the suffix.
    """
    images: list[str] = []
    others: list[str] = []
    try:
        for name in sorted(os.listdir(folder)):
            if not name.startswith("."):
                (images if name.lower().endswith(IMAGE_SUFFIXES) else others).append(name)
    except OSError as error:
        raise BadInput(f"{folder}: cannot be listed ({error.strerror}); needed a folder that can be read") from None
    pictures = [name for name in images if not name.lower().endswith(".png")]
    stems = {name.rpartition(".")[0]: name for name in pictures}
    if len(stems) < len(pictures):
        double = next(name for name in pictures if stems[name.rpartition(".")[0]] != name)
        both = f"{double} and {stems[double.rpartition('.')[0]]}"
        raise BadInput(f"{folder}: {both} differ only in the suffix; needed one image per name")
    masks = masks_among(images)
    return Files([name for name in images if name not in masks], others)


def masks_among(images: Sequence[str]) -> set[str]:
    """The names or paths that are a .png beside an image of the same name in another format."""
    stems = {name.rpartition(".")[0] for name in images if not name.lower().endswith(".png")}
    return {name for name in images if name.lower().endswith(".png") and name.rpartition(".")[0] in stems}
