"""The result of a training run, as stored in its directory."""

import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from reid_integration.evaluation import ReidResult
from xingaug.errors import BadInput

RESULT, STATS, WEIGHTS, RESOLVED = "result.json", "stats.jsonl", "model.safetensors", "config.yaml"


def placeless(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A run's settings but for `data.save_dir`, its own place, which may be written in several ways."""
    data = settings.get("data")
    if not isinstance(data, Mapping):  # the file of another kind of run
        return dict(settings)
    return {**settings, "data": {key: value for key, value in data.items() if key != "save_dir"}}


@dataclass
class TrainResult:
    """The result of a run.

    Attributes:
        directory: holds config.yaml (resolved), stats.jsonl, model.safetensors and, once finished, result.json.
        results: figures for each target.
        iterations: number of optimiser steps.
        epochs: number of epochs started.
        train_seconds: wall time of the training loop without evaluations.
        evaluation_seconds: wall time of the last evaluation.
        images: training images.
        identities: training identities.
        synthetic_share: share of rendered rows among all rows trained on.
        skipped: numbers of selected rows that stayed real, by reason.
        sources: hash of the training images, and with rendering content hashes of generator and bank.
        machine: that it ran on.
        history: for each iteration: iteration, epoch, lr, the engine's loss terms, synthetic (share), seconds.
    """

    directory: Path
    results: dict[str, ReidResult] = field(default_factory=dict)
    iterations: int = 0
    epochs: int = 0
    train_seconds: float = 0.0
    evaluation_seconds: float = 0.0
    images: int = 0
    identities: int = 0
    synthetic_share: float = 0.0
    skipped: dict[str, int] = field(default_factory=dict)
    machine: str = ""
    sources: dict[str, str] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)

    @property
    def reid(self) -> ReidResult:
        """The figures for the first target."""
        return next(iter(self.results.values()))

    def to_mapping(self) -> dict[str, Any]:
        """Plain data for result.json, without the history."""
        plain = {name: value for name, value in vars(self).items() if name not in ("directory", "results", "history")}
        return {**plain, "results": {name: result.to_mapping() for name, result in self.results.items()}}

    @classmethod
    def load(cls, directory: Path) -> "TrainResult":
        """Reads a finished run.

        Raises:
            BadInput: result.json is missing or damaged.
        """
        path = Path(directory) / RESULT
        try:
            plain = json.loads(path.read_text(encoding="utf-8"))
            results = {name: ReidResult.from_mapping(data) for name, data in plain.pop("results").items()}
            lines = (Path(directory) / STATS).read_text(encoding="utf-8").splitlines()
            history = [entry for entry in map(json.loads, lines) if "lr" in entry]
            return cls(Path(directory), results, **plain, history=history)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadInput(
                f"{path}: not the result of a finished run ({error}); remove the folder to run again"
            ) from None


def machine_of(device: torch.device) -> str:
    """The GPU, or the processor and the number of threads, which timings depend on."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    known = Path("/proc/cpuinfo")
    lines = known.read_text(encoding="utf-8", errors="replace").splitlines() if known.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {threads} thread{'s' * (threads != 1)}"
