"""What a run leaves behind while it trains: stats.jsonl, TensorBoard's files, and a checkpoint to go on from."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xingaug.errors import BadInput
from xingaug.files import atomic_write
from xingaug.tensors import read_tensors

CHECKPOINT = "checkpoint.pt"


class History:
    """Entries of a run, each in stats.jsonl and, its numbers, in TensorBoard's files."""

    def __init__(self, directory: Path, stats: str, iteration: int) -> None:
        """Opens the files; what was written after `iteration`, by a run that went no further than that, is dropped.

        Args:
            directory: of the run.
            stats: name of the file of entries.
            iteration: from which the run goes on; -1 to begin anew.
        """
        from torch.utils.tensorboard import SummaryWriter  # takes a second

        path = directory / stats
        kept = [line for line in _lines(path) if json.loads(line).get("iteration", 0) <= iteration]
        with atomic_write(path) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        self.entries: list[dict[str, Any]] = [json.loads(line) for line in kept]
        self._file = path.open("a", encoding="utf-8")
        self._events = SummaryWriter(str(directory / "tensorboard"), purge_step=max(0, iteration + 1))

    def write(self, entry: dict[str, Any], group: str) -> None:
        """Adds an entry, which has an iteration; its numbers stand under `group` in TensorBoard."""
        self.entries.append(entry)
        print(json.dumps(entry), file=self._file)
        for name, value in entry.items():
            if name != "iteration" and isinstance(value, int | float):
                self._events.add_scalar(f"{group}/{name}", value, entry["iteration"])

    def flush(self) -> None:
        """Before a checkpoint, after which nothing of it is done again."""
        self._file.flush()
        self._events.flush()

    def close(self) -> None:
        """Closes the files."""
        self._file.close()
        self._events.close()


def _lines(path: Path) -> list[str]:
    """Whole lines of a file that may be missing, or end in the middle of one."""
    if not path.exists():
        return []
    lines = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            json.loads(line)
        except ValueError:
            continue
        lines.append(line)
    return lines


def save_checkpoint(directory: Path, engine: Any, progress: dict[str, Any]) -> None:
    """Writes everything that a run needs to go on, in one step.

    Args:
        directory: of the run.
        engine: torchreid's, with model, optimiser and schedule.
        progress: plain numbers of the training loop.
    """
    scaler = getattr(engine.forward_backward, "scaler", None)
    numpy: Any = np.random.get_state()
    state = {
        "model": engine.model.state_dict(),
        "optimizer": engine.optimizer.state_dict(),
        "scheduler": engine.scheduler.state_dict(),
        "scaler": {} if scaler is None else scaler.state_dict(),
        "average": {} if engine.average is None else engine.average.model.state_dict(),
        "progress": progress,
        "python": random.getstate(),
        "numpy": [numpy[0], torch.from_numpy(numpy[1].astype(np.int64)), *map(float, numpy[2:])],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
    with atomic_write(directory / CHECKPOINT) as temporary:
        torch.save(state, temporary)


def load_checkpoint(directory: Path, engine: Any) -> dict[str, Any] | None:
    """Puts engine and global random generators to where a checkpoint left them.

    Returns:
        The training loop's numbers; None where there is no checkpoint.

    Raises:
        BadInput: a damaged one.
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
            engine.average.model.load_state_dict(state["average"])
    except BadInput as error:
        raise BadInput(f"{error}; remove the folder to start again") from None
    except Exception as error:  # what a damaged file raises differs
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise BadInput(f"{path}: not a checkpoint of this run ({reason}); remove the folder to start again") from None
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), int(position), int(has_gauss), cached))
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
    progress: dict[str, Any] = state["progress"]
    return progress
