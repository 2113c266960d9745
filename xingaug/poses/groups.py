"""Draws from poses that are sorted into groups."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np


@dataclass(frozen=True, eq=False)
class Groups:
    """The usable poses of a bank, grouped by a label such as cluster or camera.

    Attributes:
        values: (G,) label of each group, ascending.
        sizes: (G,) number of poses in each.
        members: (U,) positions of the poses, group by group, ascending within one.
        starts: (G,) index in `members` where each group begins.
        group_of: (U,) index in `values` of each pose's group.
        rank_of: (U,) index of each pose within its group.
    """

    values: np.ndarray
    sizes: list[int]
    members: np.ndarray
    starts: list[int]
    group_of: np.ndarray
    rank_of: np.ndarray

    @classmethod
    def of(cls, labels: np.ndarray) -> "Groups":
        """Groups poses by `labels` (U,)."""
        values, group_of, sizes = np.unique(labels, return_inverse=True, return_counts=True)
        members = np.argsort(group_of, kind="stable")
        starts = sizes.cumsum() - sizes
        rank_of = np.empty(len(members), np.int64)
        rank_of[members] = np.arange(len(members)) - np.repeat(starts, sizes)
        return cls(values, sizes.tolist(), members, starts.tolist(), group_of, rank_of)

    def draw(self, groups: Sequence[int], number: float, forbidden: Sequence[int]) -> int:
        """Draws a pose from some of the groups, each pose equally likely.

        Args:
            groups: (g,) indices in `values`, each once.
            number: a uniform random number in [0, 1).
            forbidden: (f,) positions that are never drawn; few, or none.

        Returns:
            The position of the pose; -1 if there is none.
        """
        begins = [0, *accumulate(map(self.sizes.__getitem__, groups))]
        skipped = []
        for position in forbidden:
            group = int(self.group_of[position])
            if group in groups:
                skipped.append(begins[groups.index(group)] + int(self.rank_of[position]))
        others = begins[-1] - len(skipped)
        if not others:
            return -1
        index = int(number * others)
        for skip in sorted(skipped):
            index += index >= skip
        which = bisect_right(begins, index) - 1
        return int(self.members[self.starts[groups[which]] + index - begins[which]])

    @cached_property
    def every(self) -> np.ndarray:
        """(G,) the indices in `values`."""
        return np.arange(len(self.sizes))

    def holding_others(self, forbidden: Sequence[int]) -> np.ndarray:
        """(g,) indices in `values` of the groups that have a pose besides those at the `forbidden` (f,) positions."""
        within = [int(self.group_of[position]) for position in forbidden]
        full = [group for group in set(within) if within.count(group) == self.sizes[group]]
        return np.delete(self.every, full) if full else self.every
