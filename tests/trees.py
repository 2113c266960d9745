"""Tiny datasets in their published layouts: names, folders and list files as they are, images of one colour."""

import json
from pathlib import Path

import numpy as np
from scipy.io import savemat

from xingaug.data.split import Split
from xingaug.images import write_image

MSMT17 = {
    "train": ["0000/0000_000_01_0303morning_0015_0.jpg 0", "0000/0000_001_14_0303morning_0016_0.jpg 0",
              "0001/0001_000_05_0303noon_0152_1.jpg 1"],
    "val": ["0000/0000_010_02_0303morning_0040_0.jpg 0"],
    "query": ["0000/0000_000_03_0113morning_1002_0_ex.jpg 0"],
    "gallery": ["0000/0000_001_15_0113morning_1003_0.jpg 0", "0001/0001_002_01_0114noon_0007_1.jpg 1"],
}  # fmt: skip
CUHK03 = {
    "train": ["1_001_1_01.png", "1_001_2_06.png", "5_047_1_02.png"],
    "query": ["1_002_1_01.png"],
    "gallery": ["1_002_2_07.png", "2_001_2_06.png"],
}
VERI = {
    "train": ["0001_c001_00016450_0.jpg", "0001_c020_00016460_0.jpg", "0003_c002_00016470_1.jpg"],
    "query": ["0002_c002_00030600_0.jpg"],
    "test": ["0002_c002_00030600_0.jpg", "0002_c010_00030670_0.jpg", "0005_c019_00012345_0.jpg"],
}
DEEPFASHION = {
    "train": ["fashionMENDenimid0000008001_1front.jpg", "fashionMENDenimid0000008001_2side.jpg",
              "fashionMENDenimid0000008002_1front.jpg", "fashionWOMENTees_Tanksid0000762504_4full.jpg",
              "fashionWOMENTees_Tanksid0000762504_7additional.jpg"],
    "test": ["fashionMENDenimid0000056501_1front.jpg", "fashionMENDenimid0000056501_7additional.jpg"],
}  # fmt: skip


class Painter:
    """Writes images that all differ."""

    def __init__(self, size: tuple[int, int] = (128, 64)) -> None:
        self.size, self.count = size, 0

    def __call__(self, path: Path) -> None:
        if not path.exists():
            self.count += 1
            colour = np.random.default_rng(self.count).integers(0, 256, 3, np.uint8)
            write_image(path, np.broadcast_to(colour, (*self.size, 3)).copy())


def write_msmt17(root: Path, version: int = 1) -> Path:
    paint = Painter()
    folders = {1: ("train", "test"), 2: ("mask_train_v2", "mask_test_v2")}[version]
    for part, lines in MSMT17.items():
        folder = folders[part in ("query", "gallery")]
        for line in lines:
            paint(root / folder / line.split(" ")[0])
        (root / f"list_{part}.txt").write_text("\n".join(lines) + "\n")
    return root


def write_cuhk03(root: Path, protocol: str = "mat") -> Path:
    """`protocol`: "mat" as published, or "json" as torchreid writes it; detected and labelled alike, but for one."""
    paint = Painter()
    for word in ("detected", "labeled"):
        splits = CUHK03 if word == "detected" else {**CUHK03, "train": CUHK03["train"][:2]}
        everything = sorted({name for names in splits.values() for name in names})
        for name in everything:
            paint(root / f"images_{word}" / name)
        if protocol == "json":
            entries = {
                part: [[f"/home/somebody/cuhk03/images_{word}/{name}", i, int(name[6]) - 1] for i, name in enumerate(v)]
                for part, v in splits.items()
            }
            (root / f"splits_new_{word}.json").write_text(json.dumps([entries]))
            continue
        cells = np.empty((len(everything), 1), dtype=object)
        cells[:, 0] = everything
        indices = {f"{part}_idx": np.array([[everything.index(n) + 1] for n in v]) for part, v in splits.items()}
        labels = np.arange(len(everything))[:, None] + 1.0
        camera = np.array([[float(name[6])] for name in everything])
        savemat(
            root / f"cuhk03_new_protocol_config_{word}.mat",
            {"filelist": cells, "labels": labels, "camId": camera, **indices},
        )
    return root


def write_veri(root: Path, lists: bool = True) -> Path:
    paint = Painter((60, 80))
    for part, names in VERI.items():
        for name in names:
            paint(root / f"image_{part}" / name)
        if lists:
            (root / f"name_{part}.txt").write_text("\r\n".join(names) + "\r\n")
    return root


def write_deepfashion(root: Path) -> Path:
    paint = Painter((256, 176))
    for part, names in DEEPFASHION.items():
        pairs = [(a, b) for a in names for b in names if a != b and a.split("_")[:-1] == b.split("_")[:-1]]
        (root / part).mkdir(parents=True)
        (root / f"fasion-resize-pairs-{part}.csv").write_text("from,to\n" + "".join(f"{a},{b}\n" for a, b in pairs))
        rows = []
        for name in names:
            paint(root / part / name)
            rows.append(f"{name}: {[10 * joint + 20 for joint in range(18)]}: {[88 + joint for joint in range(18)]}\n")
        text = "name:keypoints_y:keypoints_x\n" + "".join(rows)
        (root / f"fasion-resize-annotation-{part}.csv").write_text(text)
    return root


def write_crops(root: Path, **splits: list[str]) -> Path:
    """Images at paths below one folder a split; other files get a byte."""
    paint = Painter()
    for split, names in splits.items():
        (root / split).mkdir(parents=True, exist_ok=True)
        for name in names:
            path = root / split / name
            if path.suffix in (".jpg", ".png"):
                paint(path)
            else:
                path.write_bytes(b"x")
    return root


def describe(file: Path, root: Path | str, **patterns: str) -> Path:
    """A YAML file for `write_crops`."""
    lines = ["layout: pattern", f"root: {root}"]
    lines += [f'{split}: {{folder: {split}, pattern: "{pattern}"}}' for split, pattern in patterns.items()]
    file.write_text("\n".join(lines) + "\n")
    return file


def rows(split: Split) -> list[tuple[str, int, int]]:
    return list(zip(split.names.tolist(), split.pids.tolist(), split.camids.tolist(), strict=True))
