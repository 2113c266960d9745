"""A wrapper round a training loader whose batches come re-rendered, on a GPU while the step before is still running."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from xingaug.augment.transform import XingPose
from xingaug.keypoints import Keypoints

_LOG = logging.getLogger(__name__)


class RenderingLoader:
    """Gives the batches of a loader with their drawn rows re-rendered; everything else is the wrapped loader's.

    Batches are mappings: `images` (B, 3, H, W) float in [0, 1], `xy` (B, 18, 2) and `visibility` (B, 18) in their
    frame, `keys` B image names, and where a sampler goes by them `pids` and `camids` (B,). They come back on the
    generator's device with `is_synthetic` (B,) bool added; in mode "append" every other field follows its rows. A
    loader of other batches overrides `rendered`.

    Every pass is an epoch, counted from 0. On a CUDA device the next batch is rendered on a stream of its own while the
    step with this one runs; the sequence is the same.

    Attributes:
        epoch: number of the next pass.
    """

    def __init__(self, loader: DataLoader[Any], augment: XingPose) -> None:
        """Wraps a loader.

        Args:
            loader: its batches should lie on the CPU, in pinned memory for a GPU.
            augment: draws and renders, on its generator's device.
        """
        self.loader, self.augment = loader, augment
        self.epoch = 0

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        """`dataset`, `sampler`, `batch_sampler`, `batch_size`, ... of the wrapped loader."""
        if name == "loader":  # not there yet while the object is unpickled
            raise AttributeError(name)
        return getattr(self.loader, name)

    @property
    def device(self) -> torch.device:
        """Where batches are rendered."""
        parameter = next(self.augment.generator.parameters(), None)
        return torch.device("cpu") if parameter is None else parameter.device

    def set_epoch(self, epoch: int) -> None:
        """Makes the next pass that epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Any]:
        """One epoch of batches."""
        epoch, self.epoch = self.epoch, self.epoch + 1
        if self.device.type == "cuda":
            yield from self._ahead(epoch)
        else:
            for step, batch in enumerate(self.loader):
                yield self.rendered(batch, epoch, step)
        if self.augment.gate is not None:
            _LOG.info("epoch %d: %s", epoch, self.augment.gate.summary())

    def rendered(self, batch: Any, epoch: int, step: int) -> Any:
        """One batch, re-rendered.

        Args:
            batch: of the wrapped loader.
            epoch: of the draws.
            step: number of the batch in the epoch.
        """
        device = self.device
        images = batch["images"].to(device, non_blocking=True)
        keypoints = Keypoints(batch["xy"], batch["visibility"]).to(device)
        out = self.augment(images, keypoints, batch["keys"], batch.get("pids"), batch.get("camids"), epoch)
        kept = {name: take(values, out.sources) for name, values in batch.items()}
        placed = {"xy": out.keypoints.xy, "visibility": out.keypoints.visibility, "is_synthetic": out.is_synthetic}
        return {**kept, "images": out.images, **placed}

    def _ahead(self, epoch: int) -> Iterator[Any]:
        """As the loop on a CPU, one batch ahead on another stream."""
        stream, waiting = torch.cuda.Stream(self.device), None
        stream.wait_stream(torch.cuda.current_stream(self.device))
        for step, batch in enumerate(self.loader):
            with torch.cuda.stream(stream):
                following = self.rendered(batch, epoch, step), stream.record_event()
            if waiting is not None:
                yield self._handed_over(*waiting)
            waiting = following
        if waiting is not None:
            yield self._handed_over(*waiting)

    def _handed_over(self, batch: Any, done: torch.cuda.Event) -> Any:
        """The batch, for use on the caller's stream."""
        stream = torch.cuda.current_stream(self.device)
        stream.wait_event(done)
        for values in batch.values() if isinstance(batch, Mapping) else batch:
            if isinstance(values, Tensor) and values.is_cuda:
                values.record_stream(stream)  # its memory is not free again before the step is through with it
        return batch


def take(values: Any, sources: Tensor) -> Any:
    """One field of a batch for the rows of the rendered batch.

    Args:
        values: a tensor, array or sequence with an entry for each row; anything else is left as it is.
        sources: (N,) the row that each comes from.
    """
    if isinstance(values, Tensor):
        return values[sources.to(values.device)]
    if isinstance(values, np.ndarray):
        return values[sources.cpu().numpy()]
    if isinstance(values, Sequence) and not isinstance(values, str):
        return [values[row] for row in sources.tolist()]
    return values
