"""Small ONNX networks that find coloured dots, or know images by heart: their right answer is known exactly."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from torch import Tensor

SIZE = (320, 240)
"""(height, width) of the networks' input: 1 / 1.25 of it is four times 64, so that a crop of 128x64 doubles."""

_LEVELS = (0.0, 0.5, 1.0)
COLOURS = np.array(
    [(r, g, b) for r in _LEVELS for g in _LEVELS for b in _LEVELS if 1.0 in (r, g, b)], np.float32
)[:17]  # fmt: skip
"""One colour per joint of COCO, no two in the same direction from black."""

MEAN, STD = np.array([123.675, 116.28, 103.53]) / 255, np.array([58.395, 57.12, 57.375]) / 255
"""As the families' configurations write them."""


class Graph:
    """An ONNX graph in the making; a call adds a node and returns the name of its output."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[TensorProto] = []

    def constant(self, values: np.ndarray) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def __call__(self, op: str, *inputs: str | np.ndarray, output: str | None = None, **attributes: object) -> str:
        names = [x if isinstance(x, str) else self.constant(x) for x in inputs]
        output = output or f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, names, [output], **attributes))
        return output

    def save(
        self, path: Path, outputs: list[str], batch: int | None, size: tuple[int, int] | None, half: bool = False
    ) -> Path:
        kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
        shape = [batch or "batch", 3, *(size or ("height", "width"))]
        images = helper.make_tensor_value_info("input", kind, shape)
        results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
        graph = helper.make_graph(self.nodes, "dots", [images], results, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        onnx.save(model, path)
        return path


def dots_network(
    path: Path,
    head: str,
    confidence: tuple[np.ndarray, np.ndarray],
    joints: list[int] | None = None,
    size: tuple[int, int] = SIZE,
    batch: int | None = None,
    says_size: bool = True,
    half: bool = False,
    split: float = 2.0,
    stride: int = 4,
    names: tuple[str, ...] = ("simcc_x", "simcc_y"),
) -> Path:
    """Writes a network that finds the centre of mass of each of the 17 colours.

    Args:
        path: ends in `.onnx`.
        head: `simcc`, a triangle round the joint on each axis, or `heatmaps`, a Gaussian of sigma 2 on the map.
        confidence: (17,) peaks along x and along y; heatmaps use those along x. 0 where the colour is not in the image.
        joints: which of the 17 each output channel is, -1 for none; all 17 in their order by default.
        size: (height, width) that it is made for.
        batch: fixed batch size, or any.
        says_size: whether the input's shape has the size.
        half: the input is float16.
        split: bins per pixel of SimCC.
        stride: pixels of the input per pixel of the maps.
        names: of SimCC's outputs, along x and along y; they come in alphabetical order.
    """
    g = Graph()
    images = g("Cast", "input", to=TensorProto.FLOAT)
    as_image = {"mean": MEAN.reshape(1, 3, 1, 1), "std": STD.reshape(1, 3, 1, 1)}
    rgb = g("Add", g("Mul", images, as_image["std"].astype(np.float32)), as_image["mean"].astype(np.float32))
    bright = g("Sqrt", g("ReduceSum", g("Mul", rgb, rgb), np.array([1]), keepdims=1))
    directions = COLOURS / np.linalg.norm(COLOURS, axis=1, keepdims=True)
    along = g("Conv", rgb, directions[:, :, None, None].astype(np.float32))
    cosine = g("Div", along, g("Add", bright, np.float32(1e-3)))
    mass = g("Mul", g("Cast", g("Greater", cosine, np.float32(0.98)), to=TensorProto.FLOAT), bright)  # (B, 17, H, W)
    if joints is not None:
        chosen = g("Gather", mass, np.maximum(joints, 0), axis=1)
        mass = g("Mul", chosen, (np.array(joints) >= 0).astype(np.float32)[None, :, None, None])
        confidence = (confidence[0][joints], confidence[1][joints])
    total = g("ReduceSum", mass, np.array([2, 3]), keepdims=0)
    found = g("Cast", g("Greater", total, np.float32(0.01)), to=TensorProto.FLOAT)
    safe = g("Max", total, np.float32(1e-6))
    place = []
    for axis, length in ((2, size[1]), (3, size[0])):  # sums along y, along x: centres x, y
        profile = g("ReduceSum", mass, np.array([axis]), keepdims=0)
        weighted = g("Mul", profile, np.arange(length, dtype=np.float32))
        place.append(g("Div", g("ReduceSum", weighted, np.array([2]), keepdims=0), safe))
    place = [g("Unsqueeze", p, np.array([2])) for p in place]
    peak = [g("Unsqueeze", g("Mul", found, c.astype(np.float32)), np.array([2])) for c in confidence]
    if head == "simcc":
        for p, c, length, name in zip(place, peak, (size[1], size[0]), names, strict=True):
            bins = np.arange(round(length * split), dtype=np.float32)
            far = g("Abs", g("Sub", g("Mul", p, np.float32(split)), bins))
            g("Mul", c, g("Relu", g("Sub", np.float32(1), far)), output=name)
        outputs = sorted(names)
    else:
        bells = []
        for p, length in zip(place, (size[1], size[0]), strict=True):
            n = length // stride
            off = g("Sub", g("Mul", p, np.float32((n - 1) / (length - 1))), np.arange(n, dtype=np.float32))
            bells.append(g("Exp", g("Mul", g("Mul", off, off), np.float32(-1 / 8))))
        flat = g("Mul", bells[0], peak[0])
        g("Mul", g("Unsqueeze", bells[1], np.array([3])), g("Unsqueeze", flat, np.array([2])), output="heatmaps")
        outputs = ["heatmaps"]
    return g.save(path, outputs, batch, size if says_size else None, half)


def constant_network(path: Path, outputs: list[np.ndarray], shape: tuple[int | None, ...] = (1, 3, 256, 192)) -> Path:
    """Writes a network that gives `outputs` whatever it sees."""
    g = Graph()
    zero = g("ReduceSum", g("Mul", "input", np.float32(0)), keepdims=0)
    names = [g("Add", output.astype(np.float32), zero, output=f"out{i}") for i, output in enumerate(outputs)]
    images = helper.make_tensor_value_info("input", TensorProto.FLOAT, [n or "any" for n in shape])
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]
    graph = helper.make_graph(g.nodes, "constant", [images], results, g.constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def dots(xy: np.ndarray, size: tuple[int, int] = (128, 64), brightness: float = 1.0) -> Tensor:
    """A black image (3, H, W) with one pixel of its colour at each of 17 whole-numbered places; negative is none."""
    image = torch.zeros(3, *size)
    for (x, y), colour in zip(xy.astype(int), COLOURS, strict=True):
        if x >= 0:
            image[:, y, x] = torch.from_numpy(colour) * brightness
    return image


def places(rng: np.random.Generator, size: tuple[int, int] = (128, 64), step: int = 6) -> np.ndarray:
    """(17, 2) whole-numbered (x, y), at least `step` pixels apart along one axis, also near the edges."""
    rows, columns = (size[0] - 1) // step, (size[1] - 1) // step
    cells = rng.permutation(rows * columns)[:17]
    return np.stack([cells % columns * step + 2, cells // columns * step + 2], 1).astype(np.float32)


def memory_network(path: Path, crops: Sequence[np.ndarray], xy: np.ndarray, confidence: np.ndarray) -> Path:
    """Writes a network like RTMPose (256x192, SimCC, two bins a pixel) that knows crops and their joints by heart.

    It shrinks what it sees by 16 and answers with the joints of the most similar of its crops, which it remembers as
    the families' own pipelines show them: the crop's centre in the middle, 1.25 times the crop in the frame.

    Args:
        path: ends in `.onnx`.
        crops: N images (H, W, 3) uint8 of one size.
        xy: (N, 17, 2) pixels of the crops, COCO's joints.
        confidence: (N, 17) height of the peaks.
    """
    height, width = crops[0].shape[:2]
    scale = min(256 / height, 192 / width) / 1.25
    inner = (round(width * scale), round(height * scale))
    seen = np.empty((len(crops), 3, 16, 12), np.float32)
    for row, crop in zip(seen, crops, strict=True):
        frame = Image.new("RGB", (192, 256))
        resized = Image.fromarray(crop).resize(inner, Image.Resampling.BILINEAR)
        frame.paste(resized, ((192 - inner[0]) // 2, (256 - inner[1]) // 2))
        row[:] = ((np.asarray(frame) / 255 - MEAN) / STD).reshape(16, 16, 12, 16, 3).mean((1, 3)).transpose(2, 0, 1)
    known = seen.reshape(len(crops), -1)
    place = (xy + 0.5 - np.array([width, height]) / 2) * scale + np.array([96, 128]) - 0.5

    g = Graph()
    small = g("Flatten", g("AveragePool", "input", kernel_shape=[16, 16], strides=[16, 16]))
    product = g("MatMul", small, np.ascontiguousarray(known.T))
    nearest = g("ArgMax", g("Sub", product, (known**2).sum(1) / 2), axis=1, keepdims=0)
    peak = g("Unsqueeze", g("Gather", confidence.astype(np.float32), nearest), np.array([2]))
    for axis, (name, length) in enumerate((("simcc_x", 192), ("simcc_y", 256))):
        centre = g("Unsqueeze", g("Gather", (2 * place[..., axis]).astype(np.float32), nearest), np.array([2]))
        far = g("Abs", g("Sub", centre, np.arange(2 * length, dtype=np.float32)))
        g("Mul", peak, g("Exp", g("Neg", far)), output=name)
    return g.save(path, ["simcc_x", "simcc_y"], None, (256, 192))
