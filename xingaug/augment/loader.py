"""A wrapper round a training loader that re-renders its batches, on a GPU while the previous step is running."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from xingaug.augment.transform import XingPose
from xingaug.keypoints import Keypoints

_LOG = logging.getLogger(__name__)


class RenderingLoader:
    """Yields a loader's batches with their selected rows re-rendered; everything else is the wrapped loader's.

    Batches are mappings: `images` (B, 3, H, W) float in [0, 1], `xy` (B, 18, 2) and `visibility` (B, 18) in their
    frame, `keys` B image names, and for samplers that need them `pids` and `camids` (B,). They are yielded on the
    generator's device with `is_synthetic` (B,) bool added; in mode "append" every other field is extended to the new
    rows. For other batches override `rendered`.

    Every iteration is an epoch, counted from 0. On a CUDA device the next batch is rendered in a thread, on its own
    stream, while the step with this one runs; the sequence is the same.

    Attributes:
        epoch: of the next iteration.
    """

    def __init__(self, loader: DataLoader[Any], augment: XingPose) -> None:
        """Wraps a loader.

        Args:
            loader: its batches should be on the CPU, in pinned memory for a GPU.
            augment: draws and renders, on its generator's device.
        """
        self.loader, self.augment = loader, augment
        self.epoch = 0
        self._stream: torch.cuda.Stream | None = None

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        """`dataset`, `sampler`, `batch_sampler`, `batch_size`, ... of the wrapped loader."""
        if name == "loader":  # not set yet while the object is unpickled
            raise AttributeError(name)
        return getattr(self.loader, name)

    @property
    def device(self) -> torch.device:
        """Where batches are rendered."""
        parameter = next(self.augment.generator.parameters(), None)
        return torch.device("cpu") if parameter is None else parameter.device

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch of the next iteration, for the wrapped loader's samplers too (`DistributedSampler`)."""
        self.epoch = epoch
        grouped = getattr(self.loader, "batch_sampler", None)
        holders: tuple[Any, ...] = (
            self.loader,
            getattr(self.loader, "sampler", None),
            grouped,
            getattr(grouped, "sampler", None),
        )
        notified: list[Any] = []
        for holder in holders:
            if hasattr(holder, "set_epoch") and not any(holder is other for other in notified):
                notified.append(holder)
                holder.set_epoch(epoch)

    def __iter__(self) -> Iterator[Any]:
        """One epoch of batches."""
        epoch, self.epoch = self.epoch, self.epoch + 1
        gate = self.augment.gate
        before = None if gate is None else gate.counts.copy()
        if self.device.type == "cuda":
            yield from self._prefetched(epoch)
        else:
            for step, batch in enumerate(self.loader):
                yield self.rendered(batch, epoch, step)
        if gate is not None and before is not None:
            counts = gate.counts.since(before)
            _LOG.info("epoch %d: %s", epoch, counts.summary())
            _LOG.debug("epoch %d: share kept of each identity: %s", epoch, counts.shares())

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
        placed = {
            "images": out.images, "xy": out.keypoints.xy, "visibility": out.keypoints.visibility,
            "is_synthetic": out.is_synthetic,
        }  # fmt: skip
        if self.augment.mode == "replace":
            return {**batch, **placed}
        rows = len(images)
        others = {name: take(values, out.sources, rows, name) for name, values in batch.items() if name not in placed}
        return {**others, **placed}

    def _prefetched(self, epoch: int) -> Iterator[Any]:
        """Same as the CPU loop, but renders one batch ahead on another stream.

        In a thread, because drawing and rendering a batch makes the host wait for the device at times.
        """
        if self._stream is None:
            self._stream = torch.cuda.Stream(self.device)
        waiting: Future[Any] | None = None
        with ThreadPoolExecutor(1, thread_name_prefix="rendering") as pool:
            for step, batch in enumerate(self.loader):
                # The wrapped loader may have copied the batch to the device, on this thread's stream.
                ready = torch.cuda.current_stream(self.device).record_event()
                following = pool.submit(self._on_stream, batch, epoch, step, ready)
                if waiting is not None:
                    yield self._on_current_stream(*waiting.result())
                waiting = following
            if waiting is not None:
                yield self._on_current_stream(*waiting.result())

    def _on_stream(self, batch: Any, epoch: int, step: int, ready: torch.cuda.Event) -> tuple[Any, torch.cuda.Event]:
        """Renders the batch after `ready`, and records an event at the end."""
        assert self._stream is not None
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(ready)
            for tensor in tensors_in(batch):
                if tensor.is_cuda:
                    tensor.record_stream(self._stream)
            return self.rendered(batch, epoch, step), self._stream.record_event()

    def _on_current_stream(self, batch: Any, done: torch.cuda.Event) -> Any:
        """Makes the batch usable on the caller's stream."""
        stream = torch.cuda.current_stream(self.device)
        stream.wait_event(done)
        for tensor in tensors_in(batch):
            if tensor.is_cuda:
                tensor.record_stream(stream)  # keeps its memory from being reused before the step is done with it
        return batch


def tensors_in(batch: Any) -> Iterator[Tensor]:
    """Every tensor in a batch of mappings, sequences, data classes."""
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, Mapping):
        for values in batch.values():
            yield from tensors_in(values)
    elif is_dataclass(batch) and not isinstance(batch, type):
        yield from tensors_in(vars(batch))
    elif isinstance(batch, Sequence) and not isinstance(batch, str):
        for values in batch:
            yield from tensors_in(values)


def take(values: Any, sources: Tensor, rows: int, name: str = "field") -> Any:
    """Indexes one field of a collated batch by the rows of the rendered batch.

    Args:
        values: a tensor, array or list with an entry for each row, or a mapping or sequence of such fields, as
            `default_collate` makes them; a string, None or 0-d tensor belongs to no row and is returned as it is.
        sources: (N,) the row that each comes from.
        rows: of the collated batch.
        name: of the field, for the error.

    Raises:
        ValueError: a field of another length.
    """
    if values is None or isinstance(values, str | int | float) or (isinstance(values, Tensor) and not values.ndim):
        return values
    if isinstance(values, Mapping):
        return {key: take(part, sources, rows, f"{name}.{key}") for key, part in values.items()}
    if isinstance(values, tuple | list) and values and isinstance(values[0], Tensor | Mapping | tuple | list):
        return [take(part, sources, rows, f"{name}[{i}]") for i, part in enumerate(values)]
    if not isinstance(values, Tensor | np.ndarray | tuple | list) or len(values) != rows:
        came = f"of {len(values)} entries" if hasattr(values, "__len__") else type(values).__name__
        raise ValueError(f"batch: {name} is {came}, needed one for each of {rows} rows to follow them in mode 'append'")
    if isinstance(values, Tensor):
        return values[sources.to(values.device)]
    if isinstance(values, np.ndarray):
        return values[sources.cpu().numpy()]
    return [values[row] for row in sources.tolist()]
