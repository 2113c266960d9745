"""One split of a dataset as arrays, independent of its layout, and its images."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from xingaug.data.names import FOLDERS, NAME, SplitName
from xingaug.errors import BadInput
from xingaug.images import image_size, read_image


class MissingSplit(BadInput):
    """A readable dataset that does not have this split, such as one for training only."""


@dataclass(frozen=True, eq=False)
class Split:
    """One split as arrays, sorted by name.

    Attributes:
        root: the folder of the dataset.
        split: which of its splits.
        names: (N,) unicode, the images' names: paths below `folder` with forward slashes.
        pids: (N,) int64, identities, from 1; 0 is a distractor, -1 junk.
        camids: (N,) int64, cameras, from 1.
        folder: the folder of the names below `root`; "" is `root` itself, None the split's folder in Market-1501.
        notes: sentences for the user on what was skipped or numbered.
        renderings: paths below `root` that a manifest beside the images lists as rendered.
    """

    root: Path
    split: SplitName
    names: np.ndarray
    pids: np.ndarray
    camids: np.ndarray
    folder: str | None = None
    notes: tuple[str, ...] = ()
    renderings: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        """Refuses names that cannot be written as UTF-8.

        Raises:
            BadInput: a file name is not UTF-8.
        """
        wrong = next((name for name in self.names.tolist() if not is_text(name)), None)
        if wrong is not None:
            raise BadInput(f"{self.root}: {wrong}: a file name that is not UTF-8; rename the file")

    def __len__(self) -> int:
        """Number of images."""
        return len(self.names)

    @property
    def synthetic(self) -> np.ndarray:
        """(N,) bool: the images that are marked as rendered, by their names or by the manifest."""
        found = [NAME.fullmatch(name.rpartition("/")[2]) for name in self.names.tolist()]
        named = [name is not None and name["synthetic"] is not None for name in found]
        return np.array([is_ or self.file(i) in self.renderings for i, is_ in enumerate(named)], dtype=bool)

    def path(self, index: int) -> Path:
        """The file of image `index`."""
        return self.root / self.file(index)

    def file(self, index: int) -> str:
        """The path of image `index` below `root`, with forward slashes."""
        folder = FOLDERS[self.split] if self.folder is None else self.folder
        return f"{folder}/{self.names[index]}" if folder else str(self.names[index])

    def labels(self) -> list[tuple[str, str]]:
        """N times identity and camera, as text."""
        return list(zip(map(str, self.pids.tolist()), map(str, self.camids.tolist()), strict=True))

    def read(self, index: int) -> np.ndarray:
        """Image `index` as uint8 (H, W, 3).

        Raises:
            BadInput: the file cannot be read; the message has the path and the reason.
        """
        return read_image(self.path(index))

    def select(self, chosen: np.ndarray | Sequence[int] | Sequence[bool]) -> "Split":
        """The images at the indices `chosen`, in that order, or those where the mask `chosen` (N,) is true."""
        rows = np.asarray(chosen)
        if not rows.size and rows.dtype != bool:
            rows = rows.astype(np.int64)
        return replace(self, names=self.names[rows], pids=self.pids[rows], camids=self.camids[rows])


def is_text(name: str) -> bool:
    """Whether a file name can be written as UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def image_sizes(split: Split) -> np.ndarray:
    """(N, 2) int64 (height, width) of the images, upright; reads their headers only.

    Raises:
        BadInput: an image cannot be read.
    """
    return np.array([image_size(split.path(i)) for i in range(len(split))], np.int64).reshape(-1, 2)


def read_images(split: Split, size: tuple[int, int] | None = None) -> np.ndarray:
    """Decodes all images of a split, on several threads.

    Args:
        split: the images.
        size: (height, width) to resize to; None requires all images to have the same size.

    Returns:
        uint8 (N, H, W, 3).

    Raises:
        BadInput: an image cannot be read, sizes differ, or there is no image to take the size from.
    """
    if size is None:
        if not len(split):
            folder = split.folder or FOLDERS[split.split]
            raise BadInput(f"{split.root}: no image selected from {folder}; needed at least one")
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

    # Pillow releases the GIL while it decodes.
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for _ in pool.map(decode, range(len(split))):
            pass  # raises what `decode` raised, and cancels the rest
    return images
