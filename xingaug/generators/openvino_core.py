"""A generator run by OpenVINO: on a CPU, in batches of one fixed size, one thread for each batch.

The graph is converted through ONNX, which takes a while, and cached in `$XDG_CACHE_HOME/xingaug/openvino` (by default
below `~/.cache`) under a hash of the network and of the code that built it.
"""

import hashlib
import importlib.metadata
import logging
import os
import queue
import tempfile
import xml.etree.ElementTree as ET
from collections import deque
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from xingaug.errors import BadInput, WorkFailed
from xingaug.files import atomic_write
from xingaug.generators.base import PoseGenerator
from xingaug.generators.fast import has_amx
from xingaug.generators.pose import Poses
from xingaug.generators.render import filled
from xingaug.generators.signal_stack import signal_stack_kept

ROWS = 16 if has_amx() else 4
"""Batch size, to which batches are padded: 16 with AMX (measured: 8 is slower, 32 no faster), else 4, as quick an image
as 8 and 16 (measured on an AMD EPYC with AVX-512) and with fewer rows wasted."""

LEAST_PSNR = 40.0
"""PSNR in decibels that a graph must reach on noise, against torch's images in full precision."""

_NEEDED = ("openvino", "onnx", "onnxscript")
PRECISIONS = {torch.float32: "f32", torch.bfloat16: "bf16"}
"""The types that it computes in, with OpenVINO's names for them."""

_LOG = logging.getLogger(__name__)


def is_installed() -> bool:
    """Whether OpenVINO and the packages that convert a generator are installed."""
    return all(find_spec(name) is not None for name in _NEEDED)


def require_openvino(device: torch.device, dtype: torch.dtype) -> None:
    """Raises `BadInput` unless everything is installed, the device is a CPU and the type one of `PRECISIONS`."""
    if device.type != "cpu" or dtype not in PRECISIONS:
        raise BadInput(f"runtime: 'openvino', on {device} in {dtype}; needed a CPU, in float32 or bfloat16")
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise BadInput(f"runtime: 'openvino', but {missing[0]} is not installed; pip install 'xingaug[openvino]'")


class OpenVinoCore:
    """Renders any number of persons; an image's pixels depend neither on the rest of its batch nor on the threads."""

    def __init__(self, generator: PoseGenerator, dtype: torch.dtype, threads: int, sigma: float) -> None:
        """Converts the generator, or loads the cached result of an earlier conversion.

        Args:
            generator: on the CPU.
            dtype: float32, or bfloat16, where coordinates still stay in full precision.
            threads: batches computed at the same time.
            sigma: of the heatmaps in pixels.

        Raises:
            WorkFailed: its images differ too much from torch's.
        """
        self.sigma, self.dtype = sigma, dtype
        self.exact = generator.optimize(torch.float32, channels_last=False)
        inputs = self._inputs(*_example(generator.size))
        with signal_stack_kept():
            compiled = self._compiled(inputs, threads)
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(threads):
            self._idle.put(compiled.create_infer_request())
        self._require_torchs_images(inputs)

    def _compiled(self, inputs: tuple[Tensor, ...], threads: int) -> Any:
        import openvino

        core = openvino.Core()
        data = _cached(_digest(self.exact, inputs), lambda: _converted(core, self.exact, inputs))
        model = core.read_model(model=data["xml"], weights=data["bin"])
        settings = {
            "INFERENCE_PRECISION_HINT": PRECISIONS[self.dtype],
            "NUM_STREAMS": threads, "INFERENCE_NUM_THREADS": threads,
            "ENABLE_CPU_PINNING": False,  # leave the choice of cores to the system: other processes use them too
        }  # fmt: skip
        return core.compile_model(model, "CPU", settings)

    def __call__(self, images: Tensor, xy: Tensor, visibility: Tensor) -> Tensor:
        """As `Core.__call__`."""
        started: deque[tuple[Any, list[np.ndarray], int]] = deque()
        found: list[Tensor] = []
        for start in range(0, len(images), ROWS):
            rows = [x[start : start + ROWS] for x in (images, xy, visibility)]
            count = len(rows[0])
            inputs = [_array(x) for x in self._inputs(*(filled(x, ROWS) for x in rows))]
            request = self._request(started, found)
            request.start_async(inputs, share_inputs=True)
            started.append((request, inputs, count))  # keeps the arrays alive while they are read
        while started:
            found.append(self._finish(*started.popleft()))
        return torch.cat(found) if found else torch.empty_like(images)

    def _request(self, started: "deque[tuple[Any, list[np.ndarray], int]]", found: list[Tensor]) -> Any:
        """An idle request; if there is none, the oldest one of this call is finished first."""
        while True:
            try:
                return self._idle.get(block=not started)
            except queue.Empty:
                found.append(self._finish(*started.popleft()))

    def _finish(self, request: Any, _inputs: list[np.ndarray], count: int) -> Tensor:
        request.wait()
        images = torch.from_numpy(request.get_output_tensor().data[:count].copy())
        self._idle.put(request)
        return images

    def _inputs(self, images: Tensor, xy: Tensor, visibility: Tensor) -> tuple[Tensor, ...]:
        poses = Poses.of_joints(xy[:, 0], visibility[:, 0], xy[:, 1], visibility[:, 1], self.sigma)
        return (images.float(), *self.exact.pose_inputs(poses, self.exact.size))

    def _require_torchs_images(self, inputs: tuple[Tensor, ...]) -> None:
        request = self._idle.get()
        request.infer([_array(x) for x in inputs])
        images = request.get_output_tensor().data.copy()
        self._idle.put(request)
        expected = self.exact.translate(*inputs).numpy()
        psnr = -10 * np.log10(max(float(np.square((images - expected) / 2).mean()), 1e-12))
        if not psnr >= LEAST_PSNR:
            raise WorkFailed(
                f"openvino: its images are {psnr:.1f} dB from torch's, below {LEAST_PSNR}; take runtime torch"
            )
        _LOG.info("openvino: %.1f dB from torch's images in float32", psnr)


def _converted(core: Any, exact: PoseGenerator, inputs: tuple[Tensor, ...]) -> dict[str, bytes]:
    """The graph as OpenVINO's XML and weights, with coordinates marked to stay in full precision."""
    import openvino

    from xingaug.generators.export import write_onnx

    _LOG.warning("openvino: converting the generator, once; this takes some seconds")
    names = ["images", *(f"seen_{i}" for i in range(len(inputs) - 1))]
    with tempfile.TemporaryDirectory(prefix="xingaug-openvino-") as folder:
        directory = Path(folder)
        write_onnx(_Translation(exact), inputs, names, "image", directory / "graph.onnx")
        model = core.read_model(directory / "graph.onnx")
        exact_nodes = _coordinates(model)
        openvino.serialize(model, directory / "graph.xml", directory / "graph.bin")
        tree = ET.parse(directory / "graph.xml")
        for layer in tree.getroot().iterfind("layers/layer"):
            if layer.get("name") in exact_nodes:
                _mark(layer)
        return {"xml": ET.tostring(tree.getroot()), "bin": (directory / "graph.bin").read_bytes()}


def _coordinates(model: Any) -> set[str]:
    """Names of the operations between the last convolutions and the coordinates that images are sampled at.

    In bfloat16 a coordinate is off by up to half a pixel, so they stay in full precision.
    """
    found: set[str] = set()
    samplers = [op for op in model.get_ordered_ops() if op.get_type_name() == "GridSample"]
    ahead = [op.input_value(1).get_node() for op in samplers]
    while ahead:
        op = ahead.pop()
        name = op.get_friendly_name()
        if name in found or op.get_type_name() in ("Convolution", "Constant", "Parameter"):
            continue
        found.add(name)
        ahead += [op.input_value(i).get_node() for i in range(op.get_input_size())]
    return found | {op.get_friendly_name() for op in samplers}


def _mark(layer: ET.Element) -> None:
    """Marks a layer to keep its precision; the attribute has another name from OpenVINO 2026 on."""
    info = layer.find("rt_info")
    if info is None:
        info = ET.Element("rt_info")
        layer.insert(0 if layer.find("data") is None else 1, info)
    release = int(importlib.metadata.version("openvino").split(".")[0])
    about = {"name": "DisablePrecisionConversion", "value": "dynamic:f16"} if release >= 2026 else {"name": "precise"}
    ET.SubElement(info, "attribute", {**about, "version": "0"})


class _Translation(nn.Module):
    """A generator called with images and its `pose_inputs`."""

    def __init__(self, generator: PoseGenerator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, images: Tensor, *seen: Tensor) -> Tensor:
        return self.generator.translate(images, *seen)


def _example(size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Noise as images, and persons whose joints lie anywhere."""
    rng = torch.Generator().manual_seed(0)
    images = torch.rand(ROWS, 3, *size, generator=rng) * 2 - 1
    xy = torch.rand(ROWS, 2, 18, 2, generator=rng) * torch.tensor([size[1] - 1.0, size[0] - 1.0])
    return images, xy, torch.ones(ROWS, 2, 18)


def _array(tensor: Tensor) -> np.ndarray:
    array: np.ndarray = tensor.contiguous().numpy()
    return array


def _digest(exact: PoseGenerator, inputs: tuple[Tensor, ...]) -> str:
    """A hash of everything that the graph depends on."""
    digest = hashlib.sha256(repr((exact.config, [tuple(x.shape) for x in inputs])).encode())
    for name, tensor in exact.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().data)
    for name in ("torch", *_NEEDED):
        digest.update(importlib.metadata.version(name).encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _cached(digest: str, make: Any) -> dict[str, bytes]:
    """The cached graph of this digest; if it is missing or damaged it is made and cached."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = home / "xingaug" / "openvino" / f"{digest}.safetensors"
    try:
        with safe_open(path, "np") as file:
            parts, metadata = {name: file.get_tensor(name).tobytes() for name in ("xml", "bin")}, file.metadata()
        if metadata and metadata.get("sha256") == _hash_of(parts):
            return parts
    except (SafetensorError, OSError, ValueError):
        pass  # missing or damaged
    parts = make()
    tensors = {name: torch.frombuffer(bytearray(data), dtype=torch.uint8) for name, data in parts.items()}
    try:
        with atomic_write(path) as temporary:
            temporary.write_bytes(save(tensors, {"sha256": _hash_of(parts)}))
    except (BadInput, OSError) as error:
        _LOG.warning("openvino: the graph cannot be cached in %s (%s)", path.parent, type(error).__name__)
    return parts


def _hash_of(parts: dict[str, bytes]) -> str:
    return hashlib.sha256(b"".join(parts[name] for name in ("xml", "bin"))).hexdigest()
