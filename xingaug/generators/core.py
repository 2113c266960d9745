"""The rendering core in batches of fixed sizes, each of them one graph on a CUDA device."""

import logging
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from xingaug.generators.base import PoseGenerator
from xingaug.generators.pose import SIGMA
from xingaug.generators.render import render

SIZES = (8, 16, 32, 64, 128, 256)
"""Rows of a batch on a CUDA device; what is between is filled up."""

CPU_SIZE = 8
"""Rows of a batch on a CPU. One size alone, so that an image's pixels do not depend on how many others there are."""

_LOG = logging.getLogger(__name__)
Rows = Callable[[Tensor, Tensor, Tensor], Tensor]


class Core:
    """Renders any number of persons by `render`, in batches whose size does not depend on how many they are.

    On a CUDA device each size is captured as a CUDA graph and replayed on the stream of the caller; where that fails it
    is compiled, and where that fails too it runs as it is. Which it is goes to the log, once. Networks that are no
    `PoseGenerator` are called with just the rows that are asked for.
    """

    def __init__(self, generator: nn.Module, sigma: float = SIGMA) -> None:
        """Args: `generator`, as `render` takes it; `sigma` of its heatmaps in pixels."""
        self.generator, self.sigma = generator, sigma
        self._prepared: dict[tuple[Any, ...], Rows] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """All but what was captured, which belongs to this object."""
        return {"generator": self.generator, "sigma": self.sigma}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A copy captures anew."""
        self.__init__(state["generator"], state["sigma"])  # type: ignore[misc]

    @torch.no_grad()
    def __call__(self, images: Tensor, xy: Tensor, visibility: Tensor) -> Tensor:
        """Renders rows.

        Args:
            images: (n, 3, H, W) float32 in [-1, 1].
            xy: (n, 2, 18, 2) pixels of source and target pose, finite.
            visibility: (n, 2, 18) in [0, 1].

        Returns:
            (n, 3, H, W) in [-1, 1].
        """
        with torch.autocast(images.device.type, enabled=False):  # or pixels would depend on where the call stands
            if not isinstance(self.generator, PoseGenerator):
                return self._eager(images, xy, visibility)
            parts = [
                self._part(images[start:end], xy[start:end], visibility[start:end], size)
                for start, end, size in batches(len(images), images.device.type)
            ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _eager(self, images: Tensor, xy: Tensor, visibility: Tensor) -> Tensor:
        return render(
            self.generator, images, xy[:, 0], visibility[:, 0], xy[:, 1], visibility[:, 1], self.sigma
        )  # fmt: skip

    def _part(self, images: Tensor, xy: Tensor, visibility: Tensor, size: int) -> Tensor:
        """At most `size` rows, rendered as so many."""
        if not images.is_cuda:
            return self._eager(*(filled(x, size) for x in (images, xy, visibility)))[: len(images)]
        parameter = next(self.generator.parameters())
        key = (size, images.shape[1:], images.device, parameter.data_ptr(), torch.cuda.current_stream().cuda_stream)
        with self._lock:  # the graph's own memory is written here and read by its replay
            if key not in self._prepared:
                self._prepared[key] = self._prepare(*(filled(x, size) for x in (images, xy, visibility)))
            return self._prepared[key](images, xy, visibility)

    def _prepare(self, *inputs: Tensor) -> Rows:
        """The fastest way that works for rows of these shapes."""
        rows = len(inputs[0])
        try:
            graph: Rows = _Graph(self._eager, inputs)
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
        else:
            _LOG.info("rendering: batches of %d by a CUDA graph", rows)
            return graph
        try:
            compiled = torch.compile(self._eager, dynamic=False)
            compiled(*inputs)
        except Exception as other:  # whatever a compiler brings up
            _LOG.warning("rendering: batches of %d as they are; no CUDA graph (%s), not compiled (%s)", rows, reason,
                         type(other).__name__)  # fmt: skip
            chosen: Rows = self._eager
        else:
            _LOG.warning("rendering: batches of %d compiled; no CUDA graph (%s)", rows, reason)
            chosen = compiled
        return lambda *given: chosen(*(filled(x, rows) for x in given))[: len(given[0])]


class _Graph:
    """A captured batch: its inputs lie in memory of its own."""

    def __init__(self, run: Rows, inputs: tuple[Tensor, ...]) -> None:
        """Args: `run` the core; `inputs` of the shapes that are to be captured."""
        self.inputs = [x.clone() for x in inputs]
        device = inputs[0].device
        aside = torch.cuda.Stream(device)
        aside.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(aside):
            for _ in range(3):  # libraries choose their algorithms before anything is captured
                run(*self.inputs)
        torch.cuda.current_stream(device).wait_stream(aside)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=aside, capture_error_mode="thread_local"):
            self.output = run(*self.inputs)

    def __call__(self, *given: Tensor) -> Tensor:
        """The rows that are given; what is left of earlier ones is rendered beside them and not looked at."""
        rows = len(given[0])
        for memory, values in zip(self.inputs, given, strict=True):
            memory[:rows].copy_(values)
        self.graph.replay()
        return self.output[:rows].clone()


def batches(rows: int, device: str) -> list[tuple[int, int, int]]:
    """How so many rows are cut: first, end, and the size of the batch that they are rendered in."""
    largest = SIZES[-1] if device == "cuda" else CPU_SIZE
    cuts = [(start, min(start + largest, rows)) for start in range(0, rows, largest)]
    return [(a, b, next(s for s in SIZES if s >= b - a) if device == "cuda" else CPU_SIZE) for a, b in cuts]


def filled(rows: Tensor, size: int) -> Tensor:
    """(n, ...) to (size, ...), the last row over and over where there are fewer."""
    missing = size - len(rows)
    return rows if not missing else torch.cat([rows, rows[-1:].expand(missing, *rows.shape[1:])])
