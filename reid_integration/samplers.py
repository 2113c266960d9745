"""Which training images a batch holds, where synthetic images on disk stand beside the real ones."""

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler


class MixedIdentities(Sampler[int]):
    """P x K batches in which each identity has the same share of synthetic rows; every identity once an epoch.

    Drawn from NumPy's global generator, as torchreid's own sampler is. An identity with fewer images of a kind than
    asked for gives some of them twice, one without any of a kind gives the other.
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
            share: of these, rounded to whole rows, that are synthetic.
        """
        labels, marked = np.asarray(pids), np.asarray(synthetic, bool)
        self.identities, self.instances = batch_size // instances, instances
        self.synthetic_rows = round(share * instances)
        self.groups = [(np.flatnonzero(mine & marked), np.flatnonzero(mine & ~marked)) for mine in _each(labels)]

    def __len__(self) -> int:
        """Rows of an epoch, in whole batches."""
        return len(self.groups) // self.identities * self.identities * self.instances

    def __iter__(self) -> Iterator[int]:
        """Rows of the dataset, batch after batch, those of an identity together."""
        for group in np.random.permutation(len(self.groups))[: len(self) // self.instances]:
            made, real = self.groups[group]
            count = 0 if not len(made) else self.instances if not len(real) else self.synthetic_rows
            for rows, wanted in ((made, count), (real, self.instances - count)):
                if wanted:
                    yield from np.random.choice(rows, wanted, replace=len(rows) < wanted).tolist()


def _each(labels: np.ndarray) -> Iterator[np.ndarray]:
    """(N,) bool for each identity: which images are its."""
    for pid in np.unique(labels):
        yield labels == pid
