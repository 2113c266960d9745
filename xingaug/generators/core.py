"""The rendering core in batches of fixed sizes, each of them one graph on a CUDA device."""

import ctypes
import logging
import os
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
from xingaug.generators.render import filled, render

SIZES = (8, 16, 32, 64, 128, 256)
"""Batch sizes on a CUDA device; other sizes are padded to the next one."""

Runtime = Literal["auto", "torch", "openvino"]
RUNTIMES: tuple[Runtime, ...] = ("auto", "torch", "openvino")
"""Inference runtimes; "auto" is OpenVINO, the faster one, where it is installed and supports the generator."""

OPENVINO_PAYS = 1000
"""Number of images from which on converting the generator for OpenVINO, once, pays (our estimate)."""

CPU_SIZE = 8
"""Batch size on a CPU. Only one, so that an image's pixels do not depend on how many others there are."""

_LOG = logging.getLogger(__name__)
Rows = Callable[[Tensor, Tensor, Tensor], Tensor]


class Core:
    """Renders any number of persons by `render`, in batches whose size does not depend on how many they are.

    On a CUDA device each size is captured as a CUDA graph and replayed on the caller's stream; where that fails it
    is compiled, and where that fails too it runs eagerly. Which one is logged, once. Networks that are not a
    `PoseGenerator` are called with the given rows, unpadded, in their own type.
    """

    def __init__(
        self,
        generator: nn.Module,
        sigma: float = SIGMA,
        dtype: torch.dtype | Dtype | None = None,
        runtime: Runtime = "torch",
    ) -> None:
        """Sets the generator and how it is computed.

        Args:
            generator: as `render` takes it.
            sigma: of its heatmaps in pixels.
            dtype: that a `PoseGenerator` computes in; if it differs from the generator's own, a fast copy renders and
                the generator stays as it is. "auto" is bfloat16 where the device has it, else float32, but keeps a
                generator that is in half precision already; None renders with the generator itself.
            runtime: one of `RUNTIMES`. "auto" is OpenVINO for a generator that was loaded from a file, on a CPU, where
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
        self._engine: tuple[tuple[Any, ...], PoseGenerator | OpenVinoCore] | None = None
        self._prepared: dict[tuple[Any, ...], Rows] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the prepared engine, which cannot be copied."""
        return {name: getattr(self, name) for name in ("generator", "sigma", "dtype", "runtime")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restores a copy, which prepares its own engine."""
        self.__init__(**state)  # type: ignore[misc]

    def plan(self) -> tuple[Literal["torch", "openvino"], torch.dtype, torch.device]:
        """The runtime, type and device that rendering will use.

        Raises:
            BadInput: OpenVINO was requested, but is not installed, or does not support the device or type.
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
        """The generator itself or its fast form, which is made anew when weights, device or process have changed."""
        generator = self.generator
        runtime, dtype, device = self.plan()
        if not isinstance(generator, PoseGenerator) or (runtime, dtype) == ("torch", generator.dtype):
            return generator
        tensors = [*generator.parameters(), *generator.buffers()]
        # A forked process has none of the threads of an engine that was prepared before it began.
        process = os.getpid() if runtime == "openvino" else 0
        state = (runtime, dtype, device, process, sum(0 if x.is_inference() else x._version for x in tensors))
        with self._lock:
            if self._engine is None or self._engine[0] != state:
                if self._engine is not None and self._engine[0][3] not in (0, os.getpid()):
                    # Never deleted, not even at the end: that would wait for threads that this process lacks.
                    ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._engine[1]))
                _LOG.info("rendering: %s", self.describe())
                built = (
                    generator.optimize(dtype) if runtime == "torch"
                    else OpenVinoCore(generator, dtype, self._threads, self.sigma)
                )  # fmt: skip
                self._engine, self._prepared = (state, built), {}
            return self._engine[1]

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
        with torch.autocast(images.device.type, enabled=False):  # or pixels would depend on the caller's autocast
            if not isinstance(network, PoseGenerator):
                return run(images, xy, visibility)
            parts = [
                self._part(network, run, (images[start:end], xy[start:end], visibility[start:end]), size)
                for start, end, size in batches(len(images), images.device.type)
            ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _part(self, network: nn.Module, run: Rows, rows: tuple[Tensor, Tensor, Tensor], size: int) -> Tensor:
        """Renders at most `size` rows, padded to `size`."""
        images = rows[0]
        if not images.is_cuda:
            return run(*(filled(x, size) for x in rows))[: len(images)]
        parameter = next(network.parameters())
        key = (size, images.shape[1:], images.device, parameter.data_ptr(), torch.cuda.current_stream().cuda_stream)
        with self._lock:  # a replay reads the graph's own memory, which this call writes
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
        except Exception as other:  # a compiler may raise anything
            _LOG.warning("rendering: batches of %d eagerly; no CUDA graph (%s), not compiled (%s)", rows, reason,
                         type(other).__name__)  # fmt: skip
            chosen: Rows = run
        else:
            _LOG.warning("rendering: batches of %d compiled; no CUDA graph (%s)", rows, reason)
            chosen = compiled
        return lambda *inputs: chosen(*(filled(x, rows) for x in inputs))[: len(inputs[0])]


def _rendered(network: nn.Module, sigma: float, images: Tensor, xy: Tensor, visibility: Tensor) -> Tensor:
    return render(network, images, xy[:, 0], visibility[:, 0], xy[:, 1], visibility[:, 1], sigma)


class _Graph:
    """A CUDA graph of one batch size, with its own input memory."""

    def __init__(self, run: Rows, inputs: tuple[Tensor, ...]) -> None:
        """Args: `run`: what to capture; `inputs`: of the shapes to capture."""
        self.inputs = [x.clone() for x in inputs]
        device = inputs[0].device
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            for _ in range(3):  # libraries choose their algorithms before anything is captured
                run(*self.inputs)
        torch.cuda.current_stream(device).wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=stream, capture_error_mode="thread_local"):
            self.output = run(*self.inputs)

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Renders the given rows; rows left over from earlier calls are rendered along and ignored."""
        rows = len(inputs[0])
        for memory, values in zip(self.inputs, inputs, strict=True):
            memory[:rows].copy_(values)
        self.graph.replay()
        return self.output[:rows].clone()


def batches(rows: int, device: str) -> list[tuple[int, int, int]]:
    """Splits rows into batches: start, end, and the padded batch size of each."""
    largest = SIZES[-1] if device == "cuda" else CPU_SIZE
    cuts = [(start, min(start + largest, rows)) for start in range(0, rows, largest)]
    return [(a, b, next(s for s in SIZES if s >= b - a) if device == "cuda" else CPU_SIZE) for a, b in cuts]
