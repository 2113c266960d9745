"""A first comparison on a dataset, without a configuration file: python -m reid_integration.compare --data DIR."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reid_integration.comparison import CompareConfig
from xingaug.config import from_mapping, override
from xingaug.data.readers import read_split, require_market_tree
from xingaug.data.split import MissingSplit
from xingaug.errors import BadInput

ITERATIONS, SEEDS = 300, (1, 2)
"""Of each arm: minutes on two cores, and two seeds, as one says nothing (our choice)."""

_SETTINGS: dict[str, Any] = {
    "model": {"name": "osnet_x0_25", "pretrained": False},
    "data": {"height": 128, "width": 64, "workers": 0, "transforms": ["random_flip", "random_crop"]},
    "train": {"optim": "adam", "lr": 1e-3, "batch_size": 32, "lr_scheduler": "cosine"},
    "loss": {"name": "softmax", "softmax": {"label_smooth": True}},
    "test": {"dist_metric": "cosine"},
}


def first_comparison(data: Path, overrides: Sequence[str] = ()) -> CompareConfig:
    """What a dataset is compared on where nobody says it.

    The arms are `real`, the real images alone; `duplicates`, those once more in half of the rows; and where the
    training folder holds synthetic images, as `xingaug augment` and `generate` write it, `offline` with these in half
    of the rows, else `online`, which renders in the loop. The result lies beside the dataset, in `<data>_compare`.

    Args:
        data: a Market-1501 tree with annotations.npz, query and gallery.
        overrides: `key=value` of `CompareConfig`.

    Raises:
        BadInput: another layout, no images to test on, no keypoints, or a wrong override.
    """
    require_market_tree(data, "a first comparison")
    train = read_split(data, "train")
    for split in ("query", "gallery"):
        try:
            read_split(data, split)
        except MissingSplit as error:
            raise BadInput(f"{error}; it is tested on persons that are not trained on") from None
    if not (data / "annotations.npz").is_file():
        raise BadInput(f"{data}: holds no annotations.npz, the keypoints of its images; xingaug annotate writes them")
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
    mapping = {
        "out": str(data.with_name(f"{whole.name}_compare") if data.name else whole.with_name(f"{whole.name}_compare")),
        "common": {**_SETTINGS, "data": {**_SETTINGS["data"], **folder}},
        "arms": arms,
        "against": ["real", "duplicates"],
        "iterations": ITERATIONS,
        "seeds": list(SEEDS),
        "synthetic": {"per_image": 1},
    }
    return from_mapping(CompareConfig, override(mapping, overrides), f"--data {data}")
