"""The rendering core in batches of fixed sizes, each of them one graph on a CUDA device."""

import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from xingaug.generators.base import PoseGenerator
from xingaug.generators.fast import Dtype, resolved_dtype
from xingaug.generators.openvino_core import PRECISIONS, OpenVinoCore, is_installed, require_openvino
from xingaug.generators.pose import SIGMA
from xingaug.generators.render import render

SIZES = (8, 16, 32, 64, 128, 256)
"""Rows of a batch on a CUDA device; what is between is filled up."""

Runtime = Literal["auto", "torch", "openvino"]
RUNTIMES: tuple[Runtime, ...] = ("auto", "torch", "openvino")
"""What computes; "auto" is OpenVINO where it is installed and takes the generator, which it computes sooner."""

OPENVINO_PAYS = 1000
"""Images from which on its conversion, once for a generator, costs less than it saves (our estimate)."""

CPU_SIZE = 8
"""Rows of a batch on a CPU. One size alone, so that an image's pixels do not depend on how many others there are."""

_LOG = logging.getLogger(__name__)
Rows = Callable[[Tensor, Tensor, Tensor], Tensor]


class Core:
    """Renders any number of persons by `render`, in batches whose size does not depend on how many they are.

    On a CUDA device each size is captured as a CUDA graph and replayed on the stream of the caller; where that fails it
    is compiled, and where that fails too it runs as it is. Which it is goes to the log, once. Networks that are no
    `PoseGenerator` are called with just the rows that are asked for, in the type that they have.
    """

    def __init__(
        self,
        generator: nn.Module,
        sigma: float = SIGMA,
        dtype: torch.dtype | Dtype | None = None,
        runtime: Runtime = "torch",
    ) -> None:
        """Takes what it renders with.

        Args:
            generator: as `render` takes it.
            sigma: of its heatmaps in pixels.
            dtype: that a `PoseGenerator` computes in; it stays as it is, and a fast copy renders for it where that is
                another. "auto" is bfloat16 where the device has it, else float32, but leaves alone what is in half
                precision already; None renders with the generator itself.
            runtime: what computes it. "auto" is OpenVINO for a generator that was loaded from a file, on a CPU, where
                that is installed, else torch.

        Raises:
            ValueError: a dtype that is not floating point, or an unknown runtime.
        """
        if dtype not in (None, "auto"):
            resolved_dtype(dtype, "cpu")
        if runtime not in RUNTIMES:
            raise ValueError(f"runtime: '{runtime}', needed one of {', '.join(RUNTIMES)}")
        self.generator, self.sigma, self.dtype, self.runtime = generator, sigma, dtype, runtime
        self._threads = torch.get_num_threads()
        self._made: tuple[tuple[Any, ...], PoseGenerator | OpenVinoCore] | None = None
        self._prepared: dict[tuple[Any, ...], Rows] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """All but what was made of the generator, which belongs to this object."""
        return {name: getattr(self, name) for name in ("generator", "sigma", "dtype", "runtime")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A copy prepares anew."""
        self.__init__(**state)  # type: ignore[misc]

    def plan(self) -> tuple[Literal["torch", "openvino"], torch.dtype, torch.device]:
        """What will compute, in which type, where.

        Raises:
            BadInput: OpenVINO was asked for, but is not installed, or does not take the generator.
        """
        generator = self.generator
        parameter = next(generator.parameters(), torch.empty(0))
        device, stored = parameter.device, parameter.dtype
        if not isinstance(generator, PoseGenerator):
            return "torch", stored, device
        keeps = self.dtype is None or (self.dtype == "auto" and stored != torch.float32)
        dtype = stored if keeps else resolved_dtype(self.dtype or stored, device)
        if self.runtime == "openvino":
            require_openvino(device, dtype)
            return "openvino", dtype, device
        fits = device.type == "cpu" and dtype in PRECISIONS and bool(generator.content_hash)
        return "openvino" if self.runtime == "auto" and fits and is_installed() else "torch", dtype, device

    def describe(self) -> str:
        """The plan in words, such as "bfloat16 by torch on cpu"."""
        runtime, dtype, device = self.plan()
        return f"{str(dtype).removeprefix('torch.')} by {runtime} on {device.type}"

    def engine(self) -> "nn.Module | OpenVinoCore":
        """What renders: the generator itself, or what was made of it, which follows its weights and its device."""
        generator = self.generator
        runtime, dtype, device = self.plan()
        if not isinstance(generator, PoseGenerator) or (runtime, dtype) == ("torch", generator.dtype):
            return generator
        tensors = [*generator.parameters(), *generator.buffers()]
        state = (runtime, dtype, device, sum(0 if x.is_inference() else x._version for x in tensors))
        with self._lock:
            if self._made is None or self._made[0] != state:
                _LOG.info("rendering: %s", self.describe())
                made = (
                    generator.optimize(dtype) if runtime == "torch"
                    else OpenVinoCore(generator, dtype, self._threads, self.sigma)
                )  # fmt: skip
                self._made, self._prepared = (state, made), {}
            return self._made[1]

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
        network = self.engine()
        if isinstance(network, OpenVinoCore):
            return network(images, xy, visibility)
        run = partial(_rendered, network, self.sigma)
        with torch.autocast(images.device.type, enabled=False):  # or pixels would depend on where the call stands
            if not isinstance(network, PoseGenerator):
                return run(images, xy, visibility)
            parts = [
                self._part(network, run, (images[start:end], xy[start:end], visibility[start:end]), size)
                for start, end, size in batches(len(images), images.device.type)
            ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _part(self, network: nn.Module, run: Rows, rows: tuple[Tensor, Tensor, Tensor], size: int) -> Tensor:
        """At most `size` rows, rendered as so many."""
        images = rows[0]
        if not images.is_cuda:
            return run(*(filled(x, size) for x in rows))[: len(images)]
        parameter = next(network.parameters())
        key = (size, images.shape[1:], images.device, parameter.data_ptr(), torch.cuda.current_stream().cuda_stream)
        with self._lock:  # the graph's own memory is written here and read by its replay
            if key not in self._prepared:
                self._prepared[key] = self._prepare(run, *(filled(x, size) for x in rows))
            return self._prepared[key](*rows)

    def _prepare(self, run: Rows, *inputs: Tensor) -> Rows:
        """The fastest way that works for rows of these shapes."""
        rows = len(inputs[0])
        try:
            graph: Rows = _Graph(run, inputs)
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
        else:
            _LOG.info("rendering: batches of %d by a CUDA graph", rows)
            return graph
        try:
            compiled = torch.compile(run, dynamic=False)
            compiled(*inputs)
        except Exception as other:  # whatever a compiler brings up
            _LOG.warning("rendering: batches of %d as they are; no CUDA graph (%s), not compiled (%s)", rows, reason,
                         type(other).__name__)  # fmt: skip
            chosen: Rows = run
        else:
            _LOG.warning("rendering: batches of %d compiled; no CUDA graph (%s)", rows, reason)
            chosen = compiled
        return lambda *given: chosen(*(filled(x, rows) for x in given))[: len(given[0])]


def _rendered(network: nn.Module, sigma: float, images: Tensor, xy: Tensor, visibility: Tensor) -> Tensor:
    return render(network, images, xy[:, 0], visibility[:, 0], xy[:, 1], visibility[:, 1], sigma)


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
