"""Plans a run: a fixed list of synthetic images, known before the first one is rendered."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch

from xingaug.augment.checks import usable
from xingaug.augment.transform import XingPose
from xingaug.data.annotations import Annotations, bring_to
from xingaug.data.market1501 import Split
from xingaug.images import size_or_none
from xingaug.keypoints import Keypoints
from xingaug.offline.config import GenerateConfig
from xingaug.offline.manifest import MAX_COPIES, synthetic_name
from xingaug.poses.descriptor import Shapes
from xingaug.poses.draws import keyed_uniform
from xingaug.poses.references import Candidates, Reference


@dataclass(frozen=True, eq=False)
class Sources:
    """The images that can be re-rendered.

    Attributes:
        split: (N,) the images.
        keypoints: (N,) their keypoints, in a frame of the generator's size.
        unreadable: names of files that are not readable images.
        without_annotation: number of images without keypoints.
        unusable_keypoints: number of images with too few joints inside the image.
    """

    split: Split
    keypoints: Keypoints
    unreadable: list[str]
    without_annotation: int
    unusable_keypoints: int

    def __len__(self) -> int:
        """Number of images."""
        return len(self.split)


@dataclass(frozen=True, eq=False)
class Items:
    """Synthetic images to render, (M,) int64 each.

    Attributes:
        sources: index of the source, which gives name and labels.
        copies: number of the source's copy.
        bank_rows: row of the bank's pose.
        references: index of the image that is rendered, the source itself unless `GenerateConfig.reference` says more.
    """

    sources: np.ndarray
    copies: np.ndarray
    bank_rows: np.ndarray
    references: np.ndarray

    def __len__(self) -> int:
        """Number of images."""
        return len(self.sources)

    def __getitem__(self, chosen: slice | np.ndarray) -> "Items":
        """Selects some items."""
        return Items(*(getattr(self, column.name)[chosen] for column in fields(self)))

    @classmethod
    def of(cls, parts: Sequence["Items"]) -> "Items":
        """All items of several, one after the other."""
        return cls(*(np.concatenate([getattr(items, column.name) for items in parts]) for column in fields(cls)))

    def names(self, sources: Sources) -> list[str]:
        """Their file names."""
        real = sources.split.names
        return [
            synthetic_name(str(real[s]), c) for s, c in zip(self.sources.tolist(), self.copies.tolist(), strict=True)
        ]


def find_sources(train: Split, annotations: Annotations, size: tuple[int, int]) -> Sources:
    """Finds the images that can be re-rendered; joints outside an image count as missing.

    Args:
        train: the training images, all of them real.
        annotations: their keypoints, in pixels of each image.
        size: (height, width) of the generator.
    """
    rows = annotations.lookup(train.names)
    candidates = np.flatnonzero(rows >= 0)
    sizes = [size_or_none(train.path(index)) for index in candidates.tolist()]
    readable = np.array([size is not None for size in sizes], dtype=bool)
    unreadable = [str(name) for name in train.names[candidates[~readable]]]
    candidates = candidates[readable]
    frames = np.array([size for size in sizes if size is not None], dtype=np.int64).reshape(-1, 2)
    keypoints = bring_to(size, annotations.keypoints(rows[candidates]), frames, annotations.file)
    able = usable(keypoints).numpy()
    return Sources(
        split=train.select(candidates[able]),
        keypoints=keypoints[torch.from_numpy(able)],
        unreadable=unreadable,
        without_annotation=int((rows < 0).sum()),
        unusable_keypoints=int((~able).sum()),
    )


def copies_per_source(config: GenerateConfig, sources: Sources, train: Split) -> np.ndarray:
    """(N,) int64: number of copies of each source, before the cut by `budget`.

    Args:
        config: the configuration; `per_image`, `per_identity`, `budget` and `real` are used.
        sources: the images that can be re-rendered.
        train: all real training images; those without keypoints count as images of their identity too.
    """
    count = len(sources)
    if config.per_identity is None:
        spread = 1 if config.budget is None or not count else -(-config.budget // count)
        return np.full(count, min(config.per_image or spread, MAX_COPIES))
    requested = np.zeros(count, np.int64)
    for pid in np.unique(sources.split.pids):
        rows = np.flatnonzero(sources.split.pids == pid)
        present = 0 if config.real == "omit" else int((train.pids == pid).sum())
        lacking = max(0, config.per_identity - present)
        # The first images get one more if the number does not divide evenly.
        requested[rows] = lacking // len(rows) + (np.arange(len(rows)) < lacking % len(rows))
    return np.minimum(requested, MAX_COPIES)


def first_items(
    aug: XingPose, sources: Sources, requested: np.ndarray, budget: int | None, reference: Reference
) -> tuple[Items, np.ndarray, int]:
    """The requested synthetic images, with the copies of a source next to each other.

    Args:
        aug: the transform, with p = 1; copy n is drawn as in epoch n.
        sources: the images that can be re-rendered.
        requested: (N,) number of copies of each.
        budget: most images in all.
        reference: as `GenerateConfig.reference`.

    Returns:
        The items, (N,) the number of copies tried of each source, and the total number of copies for which the sampler
        found no valid pose.
    """
    items = _drawn(aug, sources, np.zeros_like(requested), requested, reference)
    without_pose = int(requested.sum()) - len(items)
    if budget is not None and len(items) > budget:
        turns = keyed_uniform(aug.seed, 0, sources.split.names.tolist(), "budget")
        order = np.lexsort((turns[items.sources], items.copies))
        items = items[np.sort(order[:budget])]
        requested = np.zeros_like(requested)
        np.maximum.at(requested, items.sources, items.copies + 1)
    return items, requested, without_pose


def replacements(
    aug: XingPose,
    sources: Sources,
    rejected: Items,
    tried: np.ndarray,
    of_identity: bool,
    reference: Reference,
) -> Items:
    """New copies to replace those that the gate rejected.

    Args:
        aug: as in `first_items`.
        sources: the images that can be re-rendered.
        rejected: the rejected images.
        tried: (N,) number of copies tried of each source; updated in place.
        of_identity: whether any source of the same identity may be used, the least tried first, or only the same one.
        reference: as `GenerateConfig.reference`.
    """
    ends = tried.copy()
    for pid in np.unique(sources.split.pids[rejected.sources]) if of_identity else ():
        rows = np.flatnonzero(sources.split.pids == pid)
        for _ in range(int((sources.split.pids[rejected.sources] == pid).sum())):
            ends[rows[np.argmin(ends[rows])]] += 1
    if not of_identity:
        ends += np.bincount(rejected.sources, minlength=len(sources))
    ends = np.minimum(ends, MAX_COPIES)
    items = _drawn(aug, sources, tried, ends, reference)
    tried[:] = ends
    return items


def _drawn(aug: XingPose, sources: Sources, starts: np.ndarray, ends: np.ndarray, reference: Reference) -> Items:
    """Copies `starts` to `ends` (exclusive) of each source, in the order of the sources; only those with a pose."""
    found = []
    for copy in range(int(starts.min(initial=0)), int(ends.max(initial=0))):
        rows = np.flatnonzero((starts <= copy) & (copy < ends))
        if not len(rows):
            continue
        split = sources.split.select(rows)
        draw = aug.draw(
            sources.keypoints[torch.from_numpy(rows)],
            split.names.tolist(),
            split.pids,
            split.camids,
            copy,
            size=aug.size,
        )
        found.append(np.stack([rows, np.full(len(rows), copy), draw.bank_rows.numpy()]))
    columns = np.concatenate(found, axis=1) if found else np.empty((3, 0), np.int64)
    columns = columns[:, columns[2] >= 0]
    columns = columns[:, np.lexsort((columns[1], columns[0]))]
    rows, copies, bank_rows = columns
    return Items(rows, copies, bank_rows, _references(aug, sources, rows, bank_rows, reference))


def _references(
    aug: XingPose, sources: Sources, rows: np.ndarray, bank_rows: np.ndarray, reference: Reference
) -> np.ndarray:
    """(M,) int64 the image to render for each pose of the bank that was drawn for a source, `rows`."""
    if reference == "image":
        return rows
    targets = aug.poses(torch.from_numpy(bank_rows), sources.keypoints[torch.from_numpy(rows)], aug.size)
    candidates = Candidates.of(Shapes.of(sources.keypoints), sources.split.pids, sources.split.camids)
    row_of = {name: row for row, name in enumerate(sources.split.names.tolist())}
    taken_from = np.array([row_of.get(name, -1) for name in aug.bank.names[bank_rows].tolist()], np.int64)
    return candidates.nearest(rows, Shapes.of(targets), taken_from)
