"""What the adapters to other libraries share: one sample in, one sample out, and workers know the epoch."""

import torch

from xingaug.augment.transform import XingPose


class SharedEpoch:
    """The epoch in shared memory, so that worker processes see it change, persistent ones too."""

    def __init__(self) -> None:
        """Starts at 0."""
        self._number = torch.zeros((), dtype=torch.int64).share_memory_()

    def set(self, epoch: int) -> None:
        """Sets it in every process."""
        self._number.fill_(epoch)

    def get(self) -> int:
        """The number."""
        return int(self._number)


class SampleAdapter:
    """Mixin of an adapter that holds the transform, beside the other library's own base class."""

    def _hold(self, augment: XingPose) -> None:
        """Stores the transform, after the other base class has been initialised.

        Raises:
            ValueError: it is not in mode "replace".
        """
        if augment.mode != "replace":
            raise ValueError(f"augment: mode '{augment.mode}', needed 'replace', for a sample stays one sample")
        self.augment = augment
        self._epoch = SharedEpoch()

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch of the draws from now on."""
        self._epoch.set(epoch)
