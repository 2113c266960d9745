"""Rendering an image once and serving it several times, because rendering costs more than a small network's step."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

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


@dataclass(frozen=True, eq=False)
class Rendered:
    """One rendered image as it is kept.

    Attributes:
        pose: what it was rendered from beside the image itself: the bank's row and the size of the frame.
        image: (3, h, w) uint8 at the generator's size.
        kept: whether the quality gate lets it through.
        scores: what the gate saw.
    """

    pose: tuple[int, tuple[int, int]]
    image: Tensor
    kept: bool
    scores: Mapping[str, float]


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
