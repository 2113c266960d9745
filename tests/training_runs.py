"""Tiny training runs."""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from xingaug.config import from_mapping
from xingaug.data.pairs import PairData, pairs_from_pedestrians
from xingaug.generators.discriminators import PatchDiscriminator, ResidualDiscriminator
from xingaug.training.batches import Batch, make_batch, rows_of_steps
from xingaug.training.config import TrainConfig
from xingaug.training.processes import Processes
from xingaug.training.trainer import Trainer

GENERATOR = {
    "width": 8, "blocks": 1, "query_channels": 4, "enhanced_width": 8, "candidates": 1, "decoder_widths": [4, 4],
    "pyramid": [1, 2], "texture_attention": 1,
}  # fmt: skip

SMALL: Mapping[str, Any] = {
    "data": {"identities": 3, "tracklets": 2, "poses": 3, "seed": 5},
    "perceptual": "none", "generator": GENERATOR, "steps": 4, "batch_size": 4, "discriminators": {"start": 0.5},
    "validation": {"identities": 0}, "sample_every": 2, "precision": "float32", "tensorboard": False,
}  # fmt: skip

NARROW = {
    "patch": partial(PatchDiscriminator, width=4),
    "residual": partial(ResidualDiscriminator, width=4),
}
"""Discriminators by their kinds."""

ALONE = Processes(0, 1, torch.device("cpu"))


def small_data() -> PairData:
    return pairs_from_pedestrians(3, 2, 3, seed=5, workers=1, progress=False).usable()


def stats_of(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]


def config(**changes: object) -> TrainConfig:
    return from_mapping(TrainConfig, {**SMALL, **changes})


def trainer(**changes: object) -> Trainer:
    return Trainer(config(**changes), ALONE)


def first_batch(asked: TrainConfig, data: PairData) -> Batch:
    rows = next(rows_of_steps(asked, data, 0, ALONE))
    return make_batch(data, rows, asked.network.size, ALONE.device, asked.photometric)
