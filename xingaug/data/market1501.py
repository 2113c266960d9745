"""Market-1501 and every dataset laid out like it: file names, splits, images."""

import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from xingaug.errors import BadInput
from xingaug.images import read_image

SplitName = Literal["train", "query", "gallery"]

FOLDERS: dict[SplitName, str] = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
"""The folder of each split below the root of the dataset."""

NAME = re.compile(
    r"(?P<pid>-1|\d{4})_c(?P<camid>[1-9])s(?P<sequence>\d+)_(?P<frame>\d{6})_(?P<box>\d{2})"
    r"(?:\.jpg)?"  # 24 files of the published test set end in .jpg.jpg
    r"(?:_x(?P<synthetic>\d{3,}))?\.jpg",
    re.ASCII,
)
"""`0002_c1s1_000451_03.jpg`: identity, camera, sequence, frame, box; `_x007` before `.jpg` marks a synthetic image."""

JUNK, DISTRACTOR = -1, 0
_GRAMMAR = "<4-digit identity or -1>_c<camera>s<sequence>_<6-digit frame>_<2-digit box>.jpg, as 0002_c1s1_000451_03.jpg"


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


@dataclass(frozen=True, eq=False)
class Split:
    """One split as arrays, sorted by name.

    Attributes:
        root: the folder of the dataset.
        split: which of its splits.
        names: (N,) unicode, file names without folder.
        pids: (N,) int64, identities as in the file names.
        camids: (N,) int64, cameras as in the file names, from 1.
    """

    root: Path
    split: SplitName
    names: np.ndarray
    pids: np.ndarray
    camids: np.ndarray

    def __len__(self) -> int:
        """Number of images."""
        return len(self.names)

    @property
    def synthetic(self) -> np.ndarray:
        """(N,) bool: the images that are marked as rendered."""
        return np.array([parse_name(name).synthetic is not None for name in self.names.tolist()], dtype=bool)

    def path(self, index: int) -> Path:
        """The file of image `index`."""
        return self.root / FOLDERS[self.split] / str(self.names[index])

    def read(self, index: int) -> np.ndarray:
        """Image `index` as uint8 (H, W, 3).

        Raises:
            BadInput: the file cannot be read; says the path and the reason.
        """
        return read_image(self.path(index))

    def select(self, chosen: np.ndarray | Sequence[int] | Sequence[bool]) -> "Split":
        """The images at the indices `chosen`, in that order, or those where the mask `chosen` (N,) is true."""
        rows = np.asarray(chosen)
        if not rows.size and rows.dtype != bool:
            rows = rows.astype(np.int64)
        return Split(self.root, self.split, self.names[rows], self.pids[rows], self.camids[rows])


def parse_name(name: str) -> ImageName:
    """Takes a file name apart.

    Raises:
        BadInput: it does not follow the grammar.
    """
    found = NAME.fullmatch(name)
    if found is None:
        raise BadInput(f"{name!r}: not a Market-1501 file name; needed {_GRAMMAR}")
    pid, camid, sequence, frame, box = (int(found[key]) for key in ("pid", "camid", "sequence", "frame", "box"))
    return ImageName(pid, camid, sequence, frame, box, None if found["synthetic"] is None else int(found["synthetic"]))


def read_split(root: Path, split: SplitName) -> Split:
    """Reads the index of one split by the standard protocol; opens no image.

    Junk (-1) is dropped from `train` and `gallery`; distractors (0000) are dropped from `train` and stay in `gallery`;
    `query` is taken as it is. Files that do not end in .jpg (Thumbs.db) and hidden files are passed over.

    Args:
        root: the folder that holds bounding_box_train, query and bounding_box_test.
        split: which one.

    Raises:
        BadInput: the folder is missing or holds no image of the split, or a .jpg has a name outside the grammar.
        ValueError: no such split.
    """
    if split not in FOLDERS:
        raise ValueError(f"split: {split!r}, needed one of {', '.join(FOLDERS)}")
    root = Path(root)
    folder = root / FOLDERS[split]
    if not folder.is_dir():
        raise BadInput(_explain_missing(root, FOLDERS[split]))
    names = sorted(name for name in os.listdir(folder) if name.lower().endswith(".jpg") and not name.startswith("."))
    matches = [NAME.fullmatch(name) for name in names]
    strange = [name for name, found in zip(names, matches, strict=True) if found is None]
    if strange:
        what = f"{len(strange)} of {len(names)} names are not Market-1501 file names, the first {strange[0]!r}"
        raise BadInput(f"{folder}: {what}; needed {_GRAMMAR}")
    pids = np.array([int(found["pid"]) for found in matches if found], dtype=np.int64)
    camids = np.array([int(found["camid"]) for found in matches if found], dtype=np.int64)
    keep = {"train": pids > DISTRACTOR, "query": pids >= JUNK, "gallery": pids != JUNK}[split]
    if not keep.any():
        only = f"only {len(names)} junk or distractor images" if names else "no .jpg"
        raise BadInput(f"{folder}: {only}, the split is empty; needed images named {_GRAMMAR}")
    return Split(root, split, np.array(names, dtype=str)[keep], pids[keep], camids[keep])


def image_sizes(split: Split) -> np.ndarray:
    """(N, 2) int64 (height, width) of the stored images; reads their headers only.

    Raises:
        BadInput: an image cannot be read.
    """
    sizes = np.empty((len(split), 2), np.int64)
    for i in range(len(split)):
        try:
            with Image.open(split.path(i)) as image:
                sizes[i] = image.height, image.width
        except (OSError, SyntaxError, ValueError) as error:
            raise BadInput(f"{split.path(i)}: not a readable image ({error})") from None
    return sizes


def read_images(split: Split, size: tuple[int, int] | None = None) -> np.ndarray:
    """Decodes all images of a split, on several threads.

    Args:
        split: the images.
        size: (height, width) to resize to; None needs all images to be of one size.

    Returns:
        uint8 (N, H, W, 3).

    Raises:
        BadInput: an image cannot be read, sizes differ, or there is no image to take the size from.
    """
    if size is None:
        if not len(split):
            raise BadInput(f"{split.root}: no image selected from {FOLDERS[split.split]}; needed at least one")
        size_of_all = split.read(0).shape[:2]
    else:
        size_of_all = size
    images = np.empty((len(split), *size_of_all, 3), np.uint8)

    def decode(index: int) -> None:
        image = read_image(split.path(index), size)
        if image.shape != images.shape[1:]:
            differs = f"{image.shape[0]}x{image.shape[1]}, the first image is {size_of_all[0]}x{size_of_all[1]}"
            raise BadInput(f"{split.path(index)}: {differs}; give a size to bring them to")
        images[index] = image

    # Pillow lets go of the interpreter lock while it decodes.
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for _ in pool.map(decode, range(len(split))):
            pass  # raises what `decode` raised, and cancels the rest
    return images


def _explain_missing(root: Path, folder: str) -> str:
    """One line on why `root` is not the root of a dataset, with the right one where it can be told."""
    holds = "bounding_box_train, query and bounding_box_test"
    if not root.is_dir():
        return f"{root}: no such folder; needed the dataset's root, which holds {holds}"
    inner = [child for child in sorted(root.iterdir()) if (child / folder).is_dir()]
    if inner:
        return f"{root}: holds no {folder}; did you mean {inner[0]}? The root holds {holds}"
    if (root.absolute().parent / folder).is_dir():
        return f"{root}: holds no {folder}; did you mean {root.absolute().parent}? The root holds {holds}"
    return f"{root}: holds no {folder}; needed the dataset's root, which holds {holds}"
