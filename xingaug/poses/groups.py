"""Drawing from poses that are sorted into groups."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np


@dataclass(frozen=True, eq=False)
class Groups:
    """The usable poses of a bank sorted by what they have in common.

    Attributes:
        values: (G,) what the poses of each group have in common, ascending.
        sizes: (G,) poses in each.
        members: (U,) positions of the poses, group by group, ascending within one.
        starts: (G,) where each group begins in `members`.
        group_of: (U,) index in `values` of each pose.
        place_of: (U,) how many poses of its group come before it.
    """

    values: np.ndarray
    sizes: list[int]
    members: np.ndarray
    starts: list[int]
    group_of: np.ndarray
    place_of: np.ndarray

    @classmethod
    def of(cls, labels: np.ndarray) -> "Groups":
        """Sorts poses by `labels` (U,)."""
        values, group_of, sizes = np.unique(labels, return_inverse=True, return_counts=True)
        members = np.argsort(group_of, kind="stable")
        starts = sizes.cumsum() - sizes
        place_of = np.empty(len(members), np.int64)
        place_of[members] = np.arange(len(members)) - np.repeat(starts, sizes)
        return cls(values, sizes.tolist(), members, starts.tolist(), group_of, place_of)

    def draw(self, groups: Sequence[int], number: float, forbidden: Sequence[int]) -> int:
        """A pose of some of the groups, each equally likely.

        Args:
            groups: (g,) indices in `values`, each once.
            number: in [0, 1), what decides.
            forbidden: (f,) positions that are never drawn; few, or none.

        Returns:
            Its position; -1 where there is none.
        """
        begins = [0, *accumulate(map(self.sizes.__getitem__, groups))]
        skipped = []
        for position in forbidden:
            group = int(self.group_of[position])
            if group in groups:
                skipped.append(begins[groups.index(group)] + int(self.place_of[position]))
        others = begins[-1] - len(skipped)
        if not others:
            return -1
        place = int(number * others)
        for skip in sorted(skipped):
            place += place >= skip
        which = bisect_right(begins, place) - 1
        return int(self.members[self.starts[groups[which]] + place - begins[which]])

    @cached_property
    def every(self) -> np.ndarray:
        """(G,) the indices in `values`."""
        return np.arange(len(self.sizes))

    def holding_others(self, forbidden: Sequence[int]) -> np.ndarray:
        """(g,) indices in `values` of the groups that hold a pose beside those at the `forbidden` (f,) positions."""
        within = [int(self.group_of[position]) for position in forbidden]
        full = [group for group in set(within) if within.count(group) == self.sizes[group]]
        return np.delete(self.every, full) if full else self.every
