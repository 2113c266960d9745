"""A generator as an ONNX file, which runs without torch."""

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from xingaug.errors import BadInput, WorkFailed
from xingaug.files import atomic_write
from xingaug.generators.base import PoseGenerator
from xingaug.generators.pose import Poses
from xingaug.generators.store import load_generator
from xingaug.keypoints import Keypoints, render_heatmaps

INPUTS = ("source", "source_heatmaps", "target_heatmaps")
OUTPUT = "generated_image"
TOLERANCE = 1e-3
"""Largest difference to torch's image that an export may have; images are in [-1, 1]."""


def export_onnx(name_or_path: str | Path, out: Path) -> dict[str, Any]:
    """Writes a generator as ONNX with a dynamic batch size and compares its images, by onnxruntime, with torch's.

    The file takes `source` (B, 3, H, W) float32 in [-1, 1], `source_heatmaps` and `target_heatmaps` (B, 18, H, W)
    float32 in [0, 1], and gives `generated_image` (B, 3, H, W) in [-1, 1]. It does not check its inputs.

    Args:
        name_or_path: as for `load_generator`.
        out: ends in `.onnx`.

    Returns:
        `written`, `megabytes`, `largest_difference` to torch over batches of 1 and 3, and `size` in pixels.

    Raises:
        BadInput: no such generator, another ending of `out`, or onnx, onnxscript, onnxruntime not installed.
        WorkFailed: onnxruntime's images differ from torch's by more than 1e-3; nothing is written.
    """
    out = Path(out)
    if out.suffix != ".onnx":
        raise BadInput(f"{out}: an exported generator is saved as .onnx")
    stored = load_generator(name_or_path, dtype=None)
    require_onnx()
    # Contiguous and with ordinary convolutions, as ONNX has no channels-last layout.
    generator = stored.optimize(torch.float32, channels_last=False)
    with atomic_write(out) as temporary:
        _export(generator, temporary)
        difference = _largest_difference(generator, temporary)
        if not difference <= TOLERANCE:
            raise WorkFailed(f"{out}: onnxruntime's images differ from torch's by {difference:.2g}, above {TOLERANCE}")
        megabytes = round(temporary.stat().st_size / 1e6, 2)
    return {"written": str(out), "megabytes": megabytes, "largest_difference": difference, "size": list(generator.size)}


def require_onnx() -> None:
    """Raises `BadInput` unless the packages that write and run ONNX are installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise BadInput(f"export: {error.name} is not installed; pip install 'xingaug[onnx]'") from None


def _export(generator: PoseGenerator, path: Path) -> None:
    batch = torch.export.Dim("batch", min=1)
    write_onnx(
        _Unchecked(generator), _inputs(generator.size, 2), INPUTS, OUTPUT, path, tuple({0: batch} for _ in INPUTS)
    )


def write_onnx(
    network: nn.Module, inputs: tuple[Tensor, ...], names: Sequence[str], output: str, path: Path, free: Any = None
) -> None:
    """Writes a network as ONNX, without the exporter's output.

    Args:
        network: to write.
        inputs: example inputs.
        names: of the inputs.
        output: its name.
        path: the file to write.
        free: dynamic axes, as `torch.onnx.export` takes them; None fixes all.
    """
    quiet = logging.getLogger("torch.onnx")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter warns about its own internals
            program = torch.onnx.export(
                network, inputs, dynamo=True, verbose=False, input_names=list(names), output_names=[output],
                dynamic_shapes=free,
            )  # fmt: skip
            assert program is not None
            program.save(path, external_data=False)
    finally:
        quiet.setLevel(level)


class _Unchecked(nn.Module):
    """A generator without its input checks, which read values: a graph cannot."""

    def __init__(self, generator: PoseGenerator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, source: Tensor, source_heatmaps: Tensor, target_heatmaps: Tensor) -> Tensor:
        return self.generator.render(source, Poses.of_heatmaps(source_heatmaps, target_heatmaps))


def _inputs(size: tuple[int, int], count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Noise as the source, and persons whose joints lie anywhere in the image."""
    rng = torch.Generator().manual_seed(count)
    source = torch.rand(count, 3, *size, generator=rng) * 2 - 1
    xy = torch.rand(2, count, 18, 2, generator=rng) * torch.tensor([size[1] - 1.0, size[0] - 1.0])
    heatmaps = render_heatmaps(Keypoints(xy, torch.ones(2, count, 18)), size)
    return source, heatmaps[0], heatmaps[1]


def _largest_difference(generator: PoseGenerator, path: Path) -> float:
    """The largest difference between torch's and onnxruntime's images."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = []
    for count in (1, 3):
        inputs = _inputs(generator.size, count)
        images = session.run(None, {name: x.numpy() for name, x in zip(INPUTS, inputs, strict=True)})[0]
        with torch.no_grad():
            found.append(np.abs(images - generator(*inputs).numpy()).max())
    return float(max(found))
