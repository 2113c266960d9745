"""Samplers for training sets with synthetic images on disk beside the real ones."""

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler


class MixedIdentities(Sampler[int]):
    """P x K batches in which each identity has the same share of synthetic rows; every identity once an epoch.

    Drawn from NumPy's global RNG, like torchreid's own sampler. If an identity has too few images of a kind, some are
    repeated; if it has none of a kind, all rows are of the other.
    """

    def __init__(
        self, pids: Sequence[int], synthetic: Sequence[bool], batch_size: int, instances: int, share: float
    ) -> None:
        """Groups the images.

        Args:
            pids: (N,) identities.
            synthetic: (N,) which images are synthetic.
            batch_size: P x K.
            instances: K, rows of each identity.
            share: of the K rows that are synthetic, rounded to whole rows.
        """
        labels, marked = np.asarray(pids), np.asarray(synthetic, bool)
        self.identities, self.instances = batch_size // instances, instances
        self.synthetic_rows = round(share * instances)
        self.groups = [(np.flatnonzero(mine & marked), np.flatnonzero(mine & ~marked)) for mine in _each(labels)]

    def __len__(self) -> int:
        """Number of rows of an epoch, in whole batches."""
        return len(self.groups) // self.identities * self.identities * self.instances

    def __iter__(self) -> Iterator[int]:
        """Yields rows of the dataset, batch after batch, grouped by identity."""
        for group in np.random.permutation(len(self.groups))[: len(self) // self.instances]:
            synthetic, real = self.groups[group]
            count = 0 if not len(synthetic) else self.instances if not len(real) else self.synthetic_rows
            for rows, wanted in ((synthetic, count), (real, self.instances - count)):
                if wanted:
                    yield from np.random.choice(rows, wanted, replace=len(rows) < wanted).tolist()


def _each(labels: np.ndarray) -> Iterator[np.ndarray]:
    """Yields for each identity the mask (N,) of its images."""
    for pid in np.unique(labels):
        yield labels == pid
