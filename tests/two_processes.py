"""What each process of a shared run does in test_processes.py; writes what it saw to OUT/<rank>.json.

Started by torchrun as `two_processes.py OUT with-statistics|without-statistics`.
"""

import hashlib
import json
import sys
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn
from training_runs import NARROW, config, small_data

from xingaug.data.pairs import PairData
from xingaug.training.loop import batches
from xingaug.training.processes import processes_of
from xingaug.training.trainer import KINDS, Trainer

ASKED = {"discriminators": {"start": 0.4, "appearance": "residual", "loss": "bce"}, "losses": {"r1": 0.5}}


def frozen_norm(layer: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """A batch norm that asks no batch; nor may dropout draw, which it does for each process."""
    return F.batch_norm(x, layer.running_mean, layer.running_var, layer.weight, layer.bias, False, 0.0, layer.eps)


def follow(trainer: Trainer, data: PairData) -> list[dict[str, object]]:
    """Trains, and notes the losses, the pairs and a hash of the weights after every step."""
    seen: list[dict[str, object]] = []
    for batch in batches(trainer, data):
        logged = trainer.train_step(batch)
        digest = hashlib.sha256()
        for module in (trainer.generator, trainer.discriminators, trainer.average):
            for value in module.state_dict().values():
                digest.update(value.detach().contiguous().numpy().tobytes())
        seen.append({"logged": logged, "names": batch.names, "weights": digest.hexdigest()})
    return seen


def main(out: Path, statistics: str) -> None:
    if statistics == "without-statistics":
        nn.BatchNorm2d.forward = frozen_norm  # type: ignore[method-assign]
        nn.Dropout.forward = lambda self, x: x  # type: ignore[assignment, method-assign]
    KINDS.update(NARROW)
    with processes_of("cpu") as processes:
        seen = follow(Trainer(config(**ASKED), processes), small_data())
        (out / f"{processes.rank}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
