"""The finished parts of a run over many images, so that a killed run continues where it stopped.

The work is split into parts of consecutive images. A part is one file, written atomically when all of its images are
done, and recomputed as a whole if it is missing: each image then has the same neighbours in its batch as in an
uninterrupted run.
"""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xingaug.errors import BadInput
from xingaug.files import atomic_write, locked
from xingaug.inputs import read_arrays
from xingaug.keypoints import JOINTS
from xingaug.runs import require_own, require_same_or_write

_CONFIG, _LOCK = "config.json", ".lock"


@dataclass(frozen=True, eq=False)
class PosePart:
    """Results for n images.

    Attributes:
        xy: (n, 18, 2) float32 pixels.
        visibility: (n, 18) float32; all 0 if nobody was found.
        outside: (n,) int64, number of joints found outside the image; they count as missing.
        unreadable: (n,) unicode, why an image could not be read; empty if it could.
    """

    xy: np.ndarray
    visibility: np.ndarray
    outside: np.ndarray
    unreadable: np.ndarray


class Parts:
    """The folder of a run's parts."""

    def __init__(self, folder: Path) -> None:
        """Uses `folder`, which need not exist."""
        self.folder = folder

    @contextmanager
    def claimed(self, facts: Mapping[str, Any], restart: bool = False) -> Iterator[None]:
        """Holds the folder for this process while the block runs.

        Args:
            facts: everything that the parts depend on, as JSON.
            restart: discard existing parts.

        Raises:
            BadInput: the folder holds something else, parts with other facts, is in use, or cannot be written.
        """
        hint = "parts of the work go there; remove it or name another --out"
        require_own(self.folder, _CONFIG, hint)
        with locked(self.folder / _LOCK, f"{self.folder}: another process is annotating; wait for it to end"):
            for leftover in self.folder.glob("*" if restart else ".*.tmp"):
                if leftover.name != _LOCK:
                    leftover.unlink()
            hint = "use the same to continue, or --restart to start over"
            require_same_or_write(self.folder / _CONFIG, facts, hint)
            try:
                yield
            except BaseException:
                if not any(self.folder.glob("*.npz")):  # nothing to continue from
                    self.remove()
                raise

    def read(self, number: int, count: int) -> PosePart | None:
        """Part `number`, of `count` images; None if it is missing or damaged, as after a power cut."""
        try:
            stored = read_arrays(self._path(number), "part of the work")
            part = PosePart(*(stored[key] for key in ("xy", "visibility", "outside", "unreadable")))
        except (BadInput, KeyError):
            return None
        shapes = [(count, len(JOINTS), 2), (count, len(JOINTS)), (count,), (count,)]
        there = [(array.shape, array.dtype.kind) for array in (part.xy, part.visibility, part.outside, part.unreadable)]
        return part if there == list(zip(shapes, "ffiU", strict=True)) else None

    def write(self, number: int, part: PosePart) -> None:
        """Writes a finished part."""
        with atomic_write(self._path(number)) as temporary, temporary.open("wb") as handle:
            np.savez(handle, **vars(part))

    def remove(self) -> None:
        """Deletes the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:09d}.npz"
