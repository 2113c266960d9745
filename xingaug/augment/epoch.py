"""The number of the epoch, where transforms run in worker processes."""

import torch


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
