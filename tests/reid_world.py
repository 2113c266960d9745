"""A tiny dataset in Market-1501 layout, random noise with made-up keypoints, and a stand-in generator."""

import numpy as np
import torch
from torch import nn

from reid_integration.compare import CompareConfig
from xingaug.data.annotations import write_npz
from xingaug.images import write_image

# x and y of an upright person in a 128x64 frame, in the order of xingaug.keypoints.JOINTS
BODY = np.array(
    [
        (32, 15), (32, 26), (24, 28), (20, 44), (19, 58), (40, 28), (44, 44), (45, 58), (27, 64), (26, 88), (26, 112),
        (37, 64), (38, 88), (38, 112), (30, 13), (34, 13), (28, 14), (36, 14),
    ],
    np.float32,
)  # fmt: skip
COLOUR = (0.9, 0.5, 0.1)


class StandIn(nn.Module):
    """Paints every image in one colour."""

    size = (128, 64)
    content_hash = "stand-in"

    def __init__(self):
        super().__init__()
        self.colour = nn.Parameter(torch.tensor(COLOUR) * 2 - 1)

    def forward(self, source, source_heatmaps, target_heatmaps):
        assert source.shape[1:] == (3, *self.size)
        assert source_heatmaps.shape[1:] == target_heatmaps.shape[1:] == (18, *self.size)
        return self.colour[:, None, None].expand_as(source).clone()


def write_tree(root, identities=6, per_identity=4, size=(128, 64), seed=0, annotations=True):
    """Writes identities 2, 5, 8, ... for training and as many others for testing; cameras 1 to 3."""
    rng = np.random.default_rng(seed)
    names = []

    def write(folder, pid, camid, number, suffix=""):
        name = f"{pid:04d}_c{camid}s1_{number:06d}_00{suffix}.jpg"
        colour = np.random.default_rng(abs(pid)).integers(0, 256, 3)
        noise = rng.integers(-40, 41, (*size, 3))
        write_image(root / folder / name, np.clip(colour + noise, 0, 255).astype(np.uint8))
        names.append(name)

    for i in range(identities):
        for k in range(per_identity):
            write("bounding_box_train", 2 + 3 * i, 1 + k % 3, k)
        write("query", 3 + 3 * i, 1, 0)
        write("bounding_box_test", 3 + 3 * i, 2, 1)
        write("bounding_box_test", 3 + 3 * i, 1, 2)
    write("bounding_box_test", 0, 2, 9)
    scale = np.array([size[1] / 64, size[0] / 128], np.float32)
    xy = (BODY + rng.normal(0, 2, (len(names), 18, 2)) + 0.5) * scale - 0.5
    if annotations:
        write_npz(root / "annotations.npz", names, xy.astype(np.float32), np.ones((len(names), 18), np.float32))
    return root


def settings(root, out, **changes):
    """Plain configuration of a small, quick run on `root`."""
    tree = {
        "model": {"name": "osnet_x0_25", "pretrained": False},
        "data": {
            "root": str(root.parent), "sources": root.name, "targets": [root.name], "height": 32, "width": 16,
            "workers": 0, "transforms": ["random_flip", "random_crop", "random_erase"], "save_dir": str(out),
        },
        "train": {"batch_size": 8, "max_iterations": 4, "lr_scheduler": "cosine"},
    }  # fmt: skip
    for key, value in changes.items():
        section, _, name = key.partition("__")
        if name:
            tree.setdefault(section, {})[name] = value
        else:
            tree[section] = value
    return tree


def comparison(tree, tmp_path, **changes):
    """A small comparison on `tree`."""
    values = {
        "out": tmp_path / "compare",
        "common": settings(tree, "unused", train__batch_size=8) | {"train": {"batch_size": 8}},
        "arms": {"real": {}, "xinggan_pose": {"augment": {"p": 1.0}}},
        "seeds": [1, 2],
        "iterations": 2,
    }
    values["common"]["data"].pop("save_dir")
    return CompareConfig(**(values | changes))
