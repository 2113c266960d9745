"""What the adapters to other libraries have in common: one sample stays one, and workers know the epoch."""

import torch

from xingaug.augment.transform import XingPose


class SharedEpoch:
    """A number that workers see change, also those that persist from epoch to epoch."""

    def __init__(self) -> None:
        """Starts at 0."""
        self._number = torch.zeros((), dtype=torch.int64).share_memory_()

    def set(self, epoch: int) -> None:
        """Makes it `epoch`, in every process."""
        self._number.fill_(epoch)

    def get(self) -> int:
        """The number."""
        return int(self._number)


class SampleAdapter:
    """The part of an adapter that holds the transform; comes beside the other library's own class."""

    def _hold(self, augment: XingPose) -> None:
        """Takes the transform, after the other class has been initialised.

        Raises:
            ValueError: it is not in mode "replace".
        """
        if augment.mode != "replace":
            raise ValueError(f"augment: mode '{augment.mode}', needed 'replace', for a sample stays one sample")
        self.augment = augment
        self._epoch = SharedEpoch()

    def set_epoch(self, epoch: int) -> None:
        """Draws as of `epoch` from now on."""
        self._epoch.set(epoch)
