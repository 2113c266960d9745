"""Samplers: which pose of the bank a source image is rendered in.

Every sampler draws by (seed, epoch, image name), so that an image gets the same pose whatever the batch, the order and
the number of workers. None draws an unusable pose, nor one that was seen in the source image itself.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from xingaug.errors import BadInput
from xingaug.keypoints import Keypoints
from xingaug.poses.bank import PoseBank
from xingaug.poses.descriptor import shapes_of
from xingaug.poses.draws import keyed_uniform

NEAR_POOL = 32
"""`near` looks at so many nearest poses, and draws from the upper half (our choice)."""

FAR_TRIES = 8
"""`far` takes the least similar of so many uniform draws (our choice)."""


@dataclass(frozen=True, eq=False)
class Sources:
    """The images that poses are drawn for.

    Attributes:
        keypoints: (B,) persons.
        keys: (B,) image names.
        pids: (B,) identities, or None.
        camids: (B,) cameras, or None.

    Raises:
        ValueError: lengths differ.
    """

    keypoints: Keypoints
    keys: Sequence[str]
    pids: Sequence[int] | np.ndarray | Tensor | None = None
    camids: Sequence[int] | np.ndarray | Tensor | None = None

    def __post_init__(self) -> None:
        """Checks that there is one of each for every image."""
        if self.keypoints.shape != (len(self.keys),):
            raise ValueError(f"keypoints: batch shape {self.keypoints.shape}, needed ({len(self.keys)},) to fit keys")
        for name, values in (("pids", self.pids), ("camids", self.camids)):
            if values is not None and len(values) != len(self.keys):
                raise ValueError(f"{name}: {len(values)} of them, needed {len(self.keys)} to fit keys")


Sampler = Callable[[PoseBank, Sources, int, int], np.ndarray]


def uniform(bank: PoseBank, sources: Sources, seed: int, epoch: int) -> np.ndarray:
    """Every usable pose is equally likely.

    Reason: it hands each identity the pose distribution of the whole data set, and assumes nothing.

    Returns:
        (B,) int64 rows; -1 where no other image's usable pose exists.
    """
    return _draw_uniform(bank, sources.keys, keyed_uniform(seed, epoch, sources.keys, "uniform"))


def near(bank: PoseBank, sources: Sources, seed: int, epoch: int) -> np.ndarray:
    """One of the poses most similar to the source's: the upper half, by OKS, of the 32 nearest, each equally likely.

    Reason: the less the body has to turn, the less the generator has to invent, so images are at their most faithful.
    To a source without a torso all poses are equally near: it is given a uniform draw.

    Returns:
        (B,) int64 rows; -1 where no other image's usable pose exists.
    """
    numbers = keyed_uniform(seed, epoch, sources.keys, "near")
    rows = _draw_uniform(bank, sources.keys, numbers)
    searchable = _has_torso(sources.keypoints) & (rows >= 0)
    own = np.array([len(bank.positions_named(key)) for key in sources.keys], dtype=np.int64)
    # Grouped, because the number asked for changes what is searched: it must depend on the image alone.
    for extra in np.unique(own[searchable]).tolist():
        group = np.flatnonzero(searchable & (own == extra))
        hits = bank.search(sources.keypoints[torch.from_numpy(group)], k=min(NEAR_POOL + extra, len(bank.usable_rows)))
        for index, found in zip(group.tolist(), hits.indices.numpy(), strict=True):
            own_rows = bank.usable_rows[bank.positions_named(sources.keys[index])]
            pool = found[~np.isin(found, own_rows)][:NEAR_POOL]
            upper = pool[: (len(pool) + 1) // 2]
            rows[index] = upper[int(numbers[index] * len(upper))]
    return rows


def far(bank: PoseBank, sources: Sources, seed: int, epoch: int) -> np.ndarray:
    """The least similar, by OKS, of 8 uniform draws.

    Reason: it shows the re-ID model what this image says least about, without ending at the few odd poses that are the
    farthest from everything. To a source without a torso all poses are equally far: it is given a uniform draw.

    Returns:
        (B,) int64 rows; -1 where no other image's usable pose exists.
    """
    keys = sources.keys
    streams = [keyed_uniform(seed, epoch, keys, f"far/{attempt}") for attempt in range(FAR_TRIES)]
    drawn = np.stack([_draw_uniform(bank, keys, numbers) for numbers in streams], axis=1)
    similarity = bank.oks(sources.keypoints, np.maximum(drawn, 0))
    # The first of equals; a row of -1 is -1 throughout.
    return drawn[np.arange(len(drawn)), similarity.argmin(axis=1)]


SAMPLERS: dict[str, Sampler] = {"uniform": uniform, "near": near, "far": far}


def sample(
    bank: PoseBank,
    sampler: str,
    keypoints: Keypoints,
    keys: Sequence[str],
    pids: Sequence[int] | np.ndarray | Tensor | None = None,
    camids: Sequence[int] | np.ndarray | Tensor | None = None,
    seed: int = 0,
    epoch: int = 0,
) -> Tensor:
    """Draws a pose for each source image.

    Args:
        bank: the poses.
        sampler: a name in `SAMPLERS`.
        keypoints: (B,) persons of the source images, on any device.
        keys: (B,) names of the source images.
        pids: (B,) their identities, for samplers that go by them.
        camids: (B,) their cameras, for samplers that go by them.
        seed: of the run.
        epoch: of the run.

    Returns:
        (B,) int64 on the CPU: rows of the bank; -1 where no usable pose of another image exists.

    Raises:
        BadInput: no such sampler.
        ValueError: lengths differ.
    """
    if sampler not in SAMPLERS:
        raise BadInput(f"sampler: {sampler!r}, needed one of {', '.join(SAMPLERS)}")
    return torch.from_numpy(SAMPLERS[sampler](bank, Sources(keypoints, keys, pids, camids), seed, epoch))


def _draw_uniform(bank: PoseBank, keys: Sequence[str], numbers: np.ndarray) -> np.ndarray:
    """(B,) rows: the usable ones that are not the source's own, indexed by the uniform `numbers` (B,); -1 for none."""
    drawn = np.full(len(keys), -1, np.int64)
    for index, key in enumerate(keys):
        own = bank.positions_named(key)
        others = len(bank.usable_rows) - len(own)
        if others:
            position = int(numbers[index] * others)
            for skipped in own:  # ascending: counts the position past the source's own poses
                position += position >= skipped
            drawn[index] = bank.usable_rows[position]
    return drawn


def _has_torso(keypoints: Keypoints) -> np.ndarray:
    return shapes_of(keypoints.xy.cpu().numpy(), keypoints.visibility.cpu().numpy()).has_torso
