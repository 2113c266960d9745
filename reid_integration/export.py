"""A trained re-ID network as a file, for `--reid`, the gate and `identity_network`."""

import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reid_integration.config import ReidConfig
from reid_integration.models import build_model
from reid_integration.result import RESOLVED, RESULT, WEIGHTS
from xingaug.commands.parser import Parser
from xingaug.config import load_config
from xingaug.errors import BadInput, WorkFailed, guarded
from xingaug.files import atomic_write
from xingaug.generators.export import require_onnx, write_onnx
from xingaug.programs import load_program, run_program

ENDINGS = (".onnx", ".pt2")
TOLERANCE = 1e-3
"""Largest difference to torch's features that a file may have, relative to the largest feature (our choice)."""


class Features(nn.Module):
    """A torchreid model with its preparation: images (B, 3, H, W), RGB in [0, 1], of any size to features (B, D)."""

    def __init__(self, model: nn.Module, config: ReidConfig) -> None:
        """Args: `model`: put in eval mode; `config`: gives the size and the normalisation it was trained with."""
        super().__init__()
        self.model, self.size = model.eval(), config.image_size
        self.mean, self.std = (
            nn.Buffer(torch.tensor(values).view(1, 3, 1, 1)) for values in (config.data.norm_mean, config.data.norm_std)
        )

    def forward(self, images: Tensor) -> Tensor:
        """The features that the model is tested with."""
        resized = F.interpolate(images, self.size, mode="bilinear", align_corners=False)
        features: Tensor = self.model((resized - self.mean) / self.std)
        return features


def export_features(run: Path, out: Path) -> Path:
    """Writes the network of a run directory of `reid_integration.train`, or of a cell of a comparison.

    Args:
        run: holds config.yaml and model.safetensors.
        out: ends in .onnx, which runs without its code and can be shared, or .pt2, through which gradients go.

    Returns:
        `out`.

    Raises:
        BadInput: no finished run, another ending, or packages for ONNX that are not installed.
        WorkFailed: the written network's features differ from the model's; nothing is written.
    """
    if out.suffix not in ENDINGS:
        raise BadInput(f"{out}: needed a name that ends in {' or '.join(ENDINGS)}")
    for name in (RESOLVED, WEIGHTS, RESULT):
        if not (run / name).is_file():
            raise BadInput(f"{run}: has no {name}; needed the directory of a finished re-ID training")
    if out.suffix == ".onnx":
        require_onnx()
    config = load_config(ReidConfig, run / RESOLVED)
    model, test = replace(config.model, load_weights=str(run / WEIGHTS)), replace(config.test, evaluate=True, poses=0)
    config = replace(config, model=model, test=test, augment=None)
    network = Features(build_model(config, classes=2, device=torch.device("cpu")), config).requires_grad_(False)
    images = torch.rand(3, 3, *config.image_size, generator=torch.Generator().manual_seed(0))
    free = {0: torch.export.Dim("batch"), 2: torch.export.Dim("height"), 3: torch.export.Dim("width")}
    with TemporaryDirectory() as directory:
        written = Path(directory) / out.name  # its ending tells what it is
        if out.suffix == ".onnx":
            write_onnx(network, (images,), ("images",), "features", written, (free,))
        else:
            torch.export.save(torch.export.export(network, (images,), dynamic_shapes=(free,)), written)
        _require_same(network, written, out, images)
        with atomic_write(out) as temporary:
            shutil.copyfile(written, temporary)
    return out


def _require_same(network: nn.Module, written: Path, out: Path, images: Tensor) -> None:
    """Raises `WorkFailed` unless the written network gives the same features, for other numbers and sizes too."""
    smaller = F.interpolate(images, scale_factor=0.5)
    for given in (images[:1], images[:2], smaller):
        with torch.no_grad():
            expected = network(given)
            found = run_program(load_program(written, "a re-ID network"), str(out), given)
        difference = float((found - expected).abs().max() / expected.abs().max())
        if not difference <= TOLERANCE:
            raise WorkFailed(f"{out}: its features differ from the model's by {difference:.2g}, above {TOLERANCE}")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = Parser(
        prog="python -m reid_integration.export",
        description="Writes the network of a finished re-ID training as a file for `xingaug evaluate --reid`, the "
        "quality gate's `features` and `identity_network` (.pt2).",
        epilog="example: python -m reid_integration.export runs/reid judge.onnx",
    )
    parser.add_argument("run", type=Path, help="directory of reid_integration.train, or of a cell of a comparison")
    parser.add_argument("out", type=Path, help="the file, .onnx or .pt2")
    given = parser.parse_words(arguments)
    return guarded(lambda: print(export_features(given.run, given.out)))


if __name__ == "__main__":
    sys.exit(main())
