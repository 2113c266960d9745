"""A first comparison on a dataset, without a configuration file: python -m reid_integration.compare --data DIR."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reid_integration.comparison import CompareConfig
from reid_integration.validation import held_out_rows
from xingaug.config import from_mapping, override
from xingaug.data.readers import read_split, require_market_tree
from xingaug.data.split import MissingSplit
from xingaug.errors import BadInput

SEEDS = (1, 2)
"""One says nothing (our choice)."""

ITERATIONS_PER_IDENTITY, FEWEST_ITERATIONS, MOST_ITERATIONS = 2.4, 300, 3000
"""Of each arm: 1,800 for Market-1501's 751 (`examples/results.md`), of whom 300 teach next to nothing (measured)."""

BATCH_SIZE = 64
"""Of all arms, or the number of training images where there are fewer."""

_SETTINGS: dict[str, Any] = {
    "model": {"name": "osnet_x0_25", "pretrained": False},
    "data": {"height": 128, "width": 64, "workers": 0, "transforms": ["random_flip", "random_crop", "random_erase"]},
    "train": {
        "optim": "adam", "lr": 2e-3, "batch_size": BATCH_SIZE, "lr_scheduler": "cosine", "warmup_iterations": 100,
        "ema": 0.99,
    },
    "loss": {"name": "softmax", "softmax": {"label_smooth": True}},
    "test": {"dist_metric": "cosine"},
}  # fmt: skip
"""As in configs/compare_market1501.yaml."""


def first_comparison(data: Path, overrides: Sequence[str] = ()) -> CompareConfig:
    """What a dataset is compared on where nobody says it.

    The arms are `real`, the real images alone; `duplicates`, those once more in half of the rows; and where the
    training folder holds synthetic images, as `xingaug augment` and `generate` write it, `offline` with these in half
    of the rows, else `online`, which renders in the loop. Iterations follow the number of persons. The result lies
    beside the dataset, in `<data>_compare`, and is whole after the first seed: what has been reached can be read there.

    Args:
        data: a Market-1501 tree with annotations.npz, and with query and gallery unless some identities are held out.
        overrides: `key=value` of `CompareConfig`.

    Raises:
        BadInput: another layout, no images to test on, no keypoints, or a wrong override.
    """
    require_market_tree(data, "a first comparison")
    train = read_split(data, "train")
    whole = data.resolve()
    arms: dict[str, Any] = {
        "real": {"synthetic": "none"},
        "duplicates": {"synthetic": "duplicates", "sampler": {"synthetic_share": 0.5}},
    }
    if train.synthetic.any():
        arms["offline"] = {"sampler": {"synthetic_share": 0.5}}
    else:
        arms["online"] = {
            "synthetic": "none",
            "augment": {"name": "xinggan_pose", "generator": "market1501-augment", "reuse": 4},
        }
    folder = {"root": str(whole.parent), "sources": [whole.name], "targets": [whole.name]}
    settings = {**_SETTINGS, "data": {**_SETTINGS["data"], **folder}}
    mapping = {
        "out": str(data.with_name(f"{whole.name}_compare") if data.name else whole.with_name(f"{whole.name}_compare")),
        "common": settings,
        "arms": arms,
        "against": ["real", "duplicates"],
        "iterations": _iterations(len(np.unique(train.pids))),
        "seeds": list(SEEDS),
        "synthetic": {"per_image": 1},
    }
    where = f"--data {data}"
    share = from_mapping(CompareConfig, override(mapping, overrides), where).validation
    trained = ~train.synthetic & ~held_out_rows(train.pids, share) if share else ~train.synthetic
    batch_size = min(BATCH_SIZE, max(2, int(trained.sum())))
    settings["train"] = {**_SETTINGS["train"], "batch_size": batch_size}
    config = from_mapping(CompareConfig, override(mapping, overrides), where)
    for split in () if config.validation else ("query", "gallery"):
        try:
            read_split(data, split)
        except MissingSplit as error:
            raise BadInput(
                f"{error}; it is tested on persons that are not trained on (validation=0.2 holds some of them out)"
            ) from None
    if not (data / "annotations.npz").is_file():
        raise BadInput(f"{data}: holds no annotations.npz, the keypoints of its images; xingaug annotate writes them")
    return config


def _iterations(identities: int) -> int:
    return min(max(round(ITERATIONS_PER_IDENTITY * identities), FEWEST_ITERATIONS), MOST_ITERATIONS)
