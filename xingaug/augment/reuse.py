"""Renders an image once and returns it several times, because rendering costs more than a small network's step."""

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
    """When an image gets a new pose: after `reuse` epochs that selected it.

    How many earlier epochs have selected an image depends only on (seed, name), not on what was rendered: the sequence
    is the same with any number of workers, in any order, and after a restart. Each image has its own random offset, so
    images change their poses in different epochs and every step renders about as many, except in the first epochs, when
    the cache is empty.
    """

    def __init__(self, seed: int, reuse: int) -> None:
        """Starts without any counts.

        Args:
            seed: of the draws.
            reuse: epochs that an image keeps its pose for, from 1.
        """
        self.seed, self.reuse = seed, reuse
        self._p = 0.0
        self._selected: dict[str, tuple[int, int]] = {}  # name -> (epoch, times that it was selected before)

    def generations(self, names: Sequence[str], epoch: int, p: float) -> np.ndarray:
        """The number that replaces the epoch in the draw of a pose: it changes when the pose is to change.

        Args:
            names: (B,) image names.
            epoch: of the run.
            p: probability of being selected in an epoch.

        Returns:
            (B,) int64; the epoch itself without reuse.
        """
        if self.reuse == 1:
            return np.full(len(names), epoch, np.int64)
        own = (keyed_uniform(self.seed, 0, names, "reuse") * self.reuse).astype(np.int64)
        return (self._selected_before(names, epoch, p) + own) // self.reuse

    def _selected_before(self, names: Sequence[str], epoch: int, p: float) -> np.ndarray:
        """(B,) the number of epochs before `epoch` that selected each image."""
        if p != self._p:
            self._selected.clear()
            self._p = p
        known = [self._selected.get(name, (0, 0)) for name in names]
        since = np.array([then if then <= epoch else 0 for then, _ in known], np.int64)
        counts = np.array([count if then <= epoch else 0 for then, count in known], np.int64)
        for past in range(int(since.min()) if len(since) else epoch, epoch):
            rows = np.flatnonzero(since <= past)
            counts[rows] += keyed_uniform(self.seed, past, [names[i] for i in rows.tolist()], "p") < p
        self._selected.update((name, (epoch, count)) for name, count in zip(names, counts.tolist(), strict=True))
        return counts


Pose = tuple[int, tuple[int, int]]
"""The target pose of a rendered image: the bank's row and the size of the frame."""


@dataclass(frozen=True, eq=False)
class Rendered:
    """One rendered image in the cache.

    Attributes:
        pose: its target pose.
        image: (3, h, w) uint8 at the generator's size.
        kept: whether it passes the quality gate.
        scores: of the gate.
    """

    pose: Pose
    image: Tensor
    kept: bool
    scores: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Request:
    """The n rows of a batch to render.

    Attributes:
        rows: (n,) of the batch.
        bank_rows: (n,) poses of the bank.
        persons: (n,) on the CPU, in the images' frame.
        poses: (n,) target poses on the CPU, placed in the images' frame.
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
        """A subset of the rows."""
        names = None if self.names is None else [self.names[i] for i in some.tolist()]
        pids = None if self.pids is None else self.pids[some]
        return Request(self.rows[some], self.bank_rows[some], self.persons[some], self.poses[some], names, pids)


@dataclass(frozen=True, eq=False)
class RenderedRows:
    """The n rendered rows.

    Attributes:
        images: (n, 3, h, w) at the generator's size, uint8 or float32 in [0, 1].
        kept: (n,) bool: whether they pass the quality gate.
        scores: of the gate, by name, each (n,) float32 on the CPU.
    """

    images: Tensor
    kept: np.ndarray
    scores: Mapping[str, Tensor]

    def rows(self, poses: Sequence[Pose]) -> list[Rendered]:
        """Splits into single images, for the cache."""
        columns = {name: values.tolist() for name, values in self.scores.items()}
        return [
            Rendered(pose, self.images[i], bool(self.kept[i]), {name: values[i] for name, values in columns.items()})
            for i, pose in enumerate(poses)
        ]

    @classmethod
    def of(cls, rendered: Sequence[Rendered], device: torch.device) -> "RenderedRows":
        """Joins single images; rejected ones get arbitrary pixels."""
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
    """Uint8 to float32 in [0, 1] of the same shape; float images unchanged."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


class ReuseCache:
    """The newest rendered image of each source image, up to a memory limit; when it is full, new ones are not cached.

    An image that is not cached is rendered again in every epoch that selects it, to the same pixels up to rounding: a
    value may differ by one level of 255. Copies and pickles of a cache are empty.
    """

    def __init__(self, limit_mb: float, device: torch.device | str | None = None) -> None:
        """Creates an empty cache.

        Args:
            limit_mb: most memory of all images, in 10^6 bytes.
            device: that stores them; None leaves them where they were rendered.
        """
        self.limit, self.size = int(limit_mb * 1e6), 0  # bytes
        self.device = None if device is None else torch.device(device)
        self._images: dict[str, Rendered] = {}
        self._warned = False

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the images."""
        return {**vars(self), "size": 0, "_images": {}}

    def __len__(self) -> int:
        """Number of cached images."""
        return len(self._images)

    def clear(self) -> None:
        """Removes all images."""
        self._images.clear()
        self.size = 0

    def get(self, name: str, pose: tuple[int, tuple[int, int]]) -> Rendered | None:
        """The rendering of image `name` in that pose, if it is cached."""
        found = self._images.get(name)
        return found if found is not None and found.pose == pose else None

    def put(self, name: str, rendered: Rendered) -> None:
        """Caches a rendered image in place of the previous one, without pixels if the gate rejected it."""
        old = self._images.pop(name, None)
        self.size -= 0 if old is None else old.image.nbytes
        image = rendered.image if rendered.kept else rendered.image[:0]
        if self.size + image.nbytes > self.limit:
            if not self._warned:
                self._warned = True
                _LOG.warning(
                    "reuse: %d images fill the limit of %g MB; others are rendered in every epoch that selects them",
                    len(self), self.limit / 1e6,
                )  # fmt: skip
            return
        self.size += image.nbytes
        # A copy, because a view of one row would keep the whole batch in memory.
        image = image.to(self.device or image.device, copy=True)
        self._images[name] = Rendered(rendered.pose, image, rendered.kept, rendered.scores)
