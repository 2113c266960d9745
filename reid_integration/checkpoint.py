"""The checkpoint that a run writes during training, to resume from."""

import copy
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xingaug.errors import BadInput
from xingaug.files import atomic_write
from xingaug.tensors import read_tensors

CHECKPOINT = "checkpoint.pt"


def checkpoint_of(engine: Any, progress: dict[str, Any]) -> dict[str, Any]:
    """Everything that a run needs to resume; the tensors are not copied.

    Args:
        engine: torchreid's, with model, optimiser and schedule.
        progress: plain numbers of the training loop.
    """
    scaler = getattr(engine.forward_backward, "scaler", None)
    numpy: Any = np.random.get_state()
    return {
        "model": engine.model.state_dict(),
        "optimizer": engine.optimizer.state_dict(),
        "scheduler": engine.scheduler.state_dict(),
        "scaler": {} if scaler is None else scaler.state_dict(),
        "average": {} if engine.average is None else engine.average.state_dict(),
        "progress": progress,
        "python": random.getstate(),
        "numpy": [numpy[0], torch.from_numpy(numpy[1].astype(np.int64)), *map(float, numpy[2:])],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def copy_on_cpu(value: Any) -> Any:
    """A copy of nested dicts, lists and tuples in which every tensor is a copy on the CPU."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        copied = copy.copy(value)  # keeps the `_metadata` of a state dict
        copied.update({key: copy_on_cpu(inner) for key, inner in value.items()})
        return copied
    if isinstance(value, list | tuple):
        return type(value)(copy_on_cpu(inner) for inner in value)
    return copy.deepcopy(value)


def save_checkpoint(directory: Path, checkpoint: dict[str, Any]) -> None:
    """Writes it into a run's directory atomically."""
    with atomic_write(directory / CHECKPOINT) as temporary:
        torch.save(checkpoint, temporary)


def load_checkpoint(directory: Path, engine: Any) -> dict[str, Any] | None:
    """Restores engine and global RNGs from a run's checkpoint.

    Returns:
        The training loop's numbers; None if there is no checkpoint.

    Raises:
        BadInput: the checkpoint is damaged.
    """
    path = directory / CHECKPOINT
    if not path.exists():
        return None
    try:
        state = read_tensors(path, "a checkpoint of this run")
        engine.model.load_state_dict(state["model"])
        engine.optimizer.load_state_dict(state["optimizer"])
        engine.scheduler.load_state_dict(state["scheduler"])
        if state["scaler"]:
            engine.forward_backward.scaler.load_state_dict(state["scaler"])
        if engine.average is not None:
            engine.average.load_state_dict(state["average"])
    except BadInput as error:
        raise BadInput(f"{error}; remove the folder to start again") from None
    except Exception:  # a damaged file may raise anything
        raise BadInput(
            f"{path}: not a checkpoint of this run, its arrays do not fit the model; remove the folder to start again"
        ) from None
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), int(position), int(has_gauss), cached))
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
    progress: dict[str, Any] = state["progress"]
    return progress
