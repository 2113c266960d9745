"""Rendering an image once and serving it several times, because rendering costs more than a small network's step."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xingaug.keypoints import Keypoints
from xingaug.poses.draws import keyed_uniform

_LOG = logging.getLogger(__name__)


class ReuseSchedule:
    """When an image is given a new pose: after `reuse` epochs that selected it.

    How many epochs before one have selected an image follows from (seed, name) alone, without memory of what was
    rendered: the sequence is the same with any workers, in any order, and after a restart. Images change their pose at
    different times, for the first is counted from a number of its own; so every step renders about as many, but for the
    first epochs, when nothing is there to be served.
    """

    def __init__(self, seed: int, reuse: int) -> None:
        """Remembers counts that were made, to go on from.

        Args:
            seed: of the draws.
            reuse: epochs that an image keeps its pose for, from 1.
        """
        self.seed, self.reuse = seed, reuse
        self._p = 0.0
        self._served: dict[str, tuple[int, int]] = {}  # name -> (epoch, times that it was selected before)

    def generations(self, names: Sequence[str], epoch: int, p: float) -> np.ndarray:
        """The number that stands for the epoch when a pose is drawn: it changes with the pose.

        Args:
            names: (B,) image names.
            epoch: of the run.
            p: probability of being selected in an epoch.

        Returns:
            (B,) int64; the epoch itself where nothing is reused.
        """
        if self.reuse == 1:
            return np.full(len(names), epoch, np.int64)
        own = (keyed_uniform(self.seed, 0, names, "reuse") * self.reuse).astype(np.int64)
        return (self._served_before(names, epoch, p) + own) // self.reuse

    def _served_before(self, names: Sequence[str], epoch: int, p: float) -> np.ndarray:
        """(B,) in how many of the epochs before `epoch` each image was selected."""
        if p != self._p:
            self._served.clear()
            self._p = p
        known = [self._served.get(name, (0, 0)) for name in names]
        since = np.array([then if then <= epoch else 0 for then, _ in known], np.int64)
        counts = np.array([count if then <= epoch else 0 for then, count in known], np.int64)
        for past in range(int(since.min()) if len(since) else epoch, epoch):
            rows = np.flatnonzero(since <= past)
            counts[rows] += keyed_uniform(self.seed, past, [names[i] for i in rows.tolist()], "p") < p
        self._served.update((name, (epoch, count)) for name, count in zip(names, counts.tolist(), strict=True))
        return counts


Pose = tuple[int, tuple[int, int]]
"""What an image was rendered from beside itself: the bank's row and the size of the frame."""


@dataclass(frozen=True, eq=False)
class Rendered:
    """One rendered image as it is kept.

    Attributes:
        pose: what it was rendered from.
        image: (3, h, w) uint8 at the generator's size.
        kept: whether the quality gate lets it through.
        scores: what the gate saw.
    """

    pose: Pose
    image: Tensor
    kept: bool
    scores: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Request:
    """The n rows of a batch that are to be rendered.

    Attributes:
        rows: (n,) of the batch.
        bank_rows: (n,) poses of the bank.
        persons: (n,) on the CPU, in the images' frame.
        poses: (n,) on the CPU, in the images' frame, as they are placed.
        names: n image names, if they are known.
        pids: (n,) identities, if they are known.
    """

    rows: np.ndarray
    bank_rows: np.ndarray
    persons: Keypoints
    poses: Keypoints
    names: list[str] | None
    pids: np.ndarray | None

    def __getitem__(self, some: np.ndarray) -> "Request":
        """Some of them."""
        names = None if self.names is None else [self.names[i] for i in some.tolist()]
        pids = None if self.pids is None else self.pids[some]
        return Request(self.rows[some], self.bank_rows[some], self.persons[some], self.poses[some], names, pids)


@dataclass(frozen=True, eq=False)
class Made:
    """What came of n rows.

    Attributes:
        images: (n, 3, h, w) at the generator's size, uint8 or float32 in [0, 1].
        kept: (n,) bool: whether the quality gate lets them through.
        scores: what the gate saw, by name, each (n,) float32 on the CPU.
    """

    images: Tensor
    kept: np.ndarray
    scores: Mapping[str, Tensor]

    def rows(self, poses: Sequence[Pose]) -> list[Rendered]:
        """Each by itself, to be kept."""
        columns = {name: values.tolist() for name, values in self.scores.items()}
        return [
            Rendered(pose, self.images[i], bool(self.kept[i]), {name: values[i] for name, values in columns.items()})
            for i, pose in enumerate(poses)
        ]

    @classmethod
    def of(cls, rendered: Sequence[Rendered], device: torch.device) -> "Made":
        """All of them as one; where nothing is to be shown, any pixels stand."""
        shape = next((entry.image.shape for entry in rendered if entry.kept), rendered[0].image.shape)
        blank = torch.zeros(shape, dtype=torch.uint8, device=device)
        images = torch.stack([entry.image.to(device) if entry.kept else blank for entry in rendered])
        names = rendered[0].scores
        scores = {name: torch.tensor([entry.scores[name] for entry in rendered]) for name in names}
        return cls(images, np.array([entry.kept for entry in rendered]), scores)


def as_bytes(images: Tensor) -> Tensor:
    """[0, 1] to uint8 of the same shape."""
    return (images * 255).round().to(torch.uint8)


def as_unit(images: Tensor) -> Tensor:
    """Uint8 to float32 in [0, 1] of the same shape; such images as they are."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


class ReuseCache:
    """The newest rendered image of each source image, under a memory limit; when it is full, further ones are not kept.

    What is not kept is rendered again when it is asked for, to the same pixels but for rounding: a value may come out
    one level of 255 higher or lower. Copies and pickles of a cache are empty.
    """

    def __init__(self, limit_mb: float, device: torch.device | str | None = None) -> None:
        """Makes an empty one.

        Args:
            limit_mb: most memory of all images, in 10^6 bytes.
            device: where they lie; None leaves them where they were rendered.
        """
        self.limit, self.size = int(limit_mb * 1e6), 0  # bytes
        self.device = None if device is None else torch.device(device)
        self._images: dict[str, Rendered] = {}
        self._told = False

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the images."""
        return {**vars(self), "size": 0, "_images": {}}

    def __len__(self) -> int:
        """Images that are held."""
        return len(self._images)

    def clear(self) -> None:
        """Forgets all images."""
        self._images.clear()
        self.size = 0

    def get(self, name: str, pose: tuple[int, tuple[int, int]]) -> Rendered | None:
        """What image `name` was rendered to in that pose, if it is held."""
        found = self._images.get(name)
        return found if found is not None and found.pose == pose else None

    def put(self, name: str, rendered: Rendered) -> None:
        """Holds a rendered image in place of the one before, without its pixels if they are never to be shown."""
        old = self._images.pop(name, None)
        self.size -= 0 if old is None else old.image.nbytes
        image = rendered.image if rendered.kept else rendered.image[:0]
        if self.size + image.nbytes > self.limit:
            if not self._told:
                self._told = True
                _LOG.warning(
                    "reuse: %d images fill the limit of %g MB; others are rendered in every epoch that selects them",
                    len(self), self.limit / 1e6,
                )  # fmt: skip
            return
        self.size += image.nbytes
        # A copy, because a row of a batch would hold all of it.
        image = image.to(self.device or image.device, copy=True)
        self._images[name] = Rendered(rendered.pose, image, rendered.kept, rendered.scores)
