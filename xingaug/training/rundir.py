"""The run directory: configuration, environment, figures, checkpoints, sample sheets."""

import json
import os
import platform
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torchvision

from xingaug import __version__
from xingaug.config import to_yaml
from xingaug.errors import BadInput
from xingaug.files import atomic_write, claimed_directory
from xingaug.runs import require_own, require_same_config, require_same_or_write
from xingaug.stats import StatsLog
from xingaug.tensors import read_tensors
from xingaug.training.processes import Processes

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

KEPT = 2
"""How many checkpoints are kept beside the best one."""


class RunDirectory:
    """Paths of a run's files, and the writing of them."""

    def __init__(self, path: Path) -> None:
        """Args: `path`: the directory, not created yet."""
        self.path = path
        self.config = path / "config.yaml"
        self.made_of = path / "made_of.json"
        self.stats = path / "stats.jsonl"
        self.best = path / "checkpoints" / "best.pt"
        self.generator = path / "generator.safetensors"
        self.best_generator = path / "best.safetensors"

    def claimed(self, is_first: bool) -> AbstractContextManager[None]:
        """Locks the directory for the run's first process while a block runs; `BadInput` if another run has it."""
        return claimed_directory(self.path, "training") if is_first else nullcontext()

    def require_own(self, config: "DataclassInstance") -> None:
        """Raises `BadInput` unless the directory can be created, or holds a run of the same configuration."""
        require_own(self.path, self.config.name, "name another directory")
        if self.config.exists():
            require_same_config(self.config, config, "name another directory")

    def require_data(self, facts: Mapping[str, Any]) -> None:
        """Raises `BadInput` unless the run, if it has begun, was begun with this data; writes nothing."""
        if self.made_of.exists():
            require_same_or_write(self.made_of, facts, "name another directory")

    def describe(self, config: "DataclassInstance", processes: Processes, facts: Mapping[str, Any]) -> None:
        """Writes the resolved configuration, the facts of `require_data` and the environment."""
        with atomic_write(self.config) as temporary:
            temporary.write_text(to_yaml(config))
        require_same_or_write(self.made_of, facts, "name another directory")
        with atomic_write(self.path / "environment.json") as temporary:
            temporary.write_text(json.dumps(environment(processes), indent=1) + "\n")

    def checkpoints(self) -> list[Path]:
        """The kept checkpoints, the latest last."""
        return sorted(self.best.parent.glob("[0-9]*.pt"))

    def save_checkpoint(self, state: dict[str, Any], is_best: bool = False) -> None:
        """Writes a checkpoint atomically, and removes all but the last two and the best."""
        path = self.best.with_name(f"{state['step']:08d}.pt")
        with atomic_write(path) as temporary:
            torch.save(state, temporary)
        if is_best:
            with atomic_write(self.best) as temporary:
                temporary.unlink()
                _link_or_copy(path, temporary)
        for old in self.checkpoints()[:-KEPT]:
            old.unlink()


def read_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """The state that `RunDirectory.save_checkpoint` wrote, on a device.

    Raises:
        BadInput: a damaged file.
    """
    try:
        state: dict[str, Any] = read_tensors(path, "a checkpoint of this training", device)
    except BadInput as error:
        raise BadInput(f"{error}; remove it to resume from the previous one") from None
    return state


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        target.write_bytes(source.read_bytes())


def environment(processes: Processes) -> dict[str, Any]:
    """What the run's figures may depend on, beside its configuration."""
    cuda = torch.cuda.get_device_name(processes.device) if processes.device.type == "cuda" else None
    return {
        "command": sys.argv,
        "xingaug": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "processes": processes.count,
        "gpu": cuda,
    }


class Log(StatsLog):
    """Figures of every step in `stats.jsonl` and, if tensorboard is installed, in its event files."""

    def __init__(self, run: RunDirectory, step: int, tensorboard: bool) -> None:
        """Args: `run`; `step`: from which the run continues; `tensorboard`: whether to write its files."""
        super().__init__(run.stats, "step", step, tensorboard)

    def add(self, step: int, figures: dict[str, float]) -> None:
        """Writes one line, with five significant digits."""
        self.write({"step": step, **{name: float(f"{value:.5g}") for name, value in figures.items()}})
