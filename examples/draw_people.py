"""Draws persons the generator has never seen, with its results: source, target pose, generated, true.

python examples/draw_people.py people.png
"""

import sys
from pathlib import Path

import numpy as np
import torch

import xingaug
from xingaug.data import pedestrians as ped
from xingaug.generators.many import render_images
from xingaug.images import write_image
from xingaug.keypoints import Keypoints
from xingaug.report.figures import skeleton

SEED = 7


def main(path: Path, rows: int = 2, groups: int = 3) -> np.ndarray:
    """Writes the picture; returns its pixels (H, W, 3) uint8."""
    requests = []
    for index in range(rows * groups):
        camera = ped.make_camera(index % ped.CAMERAS, SEED)
        background = ped.draw_background(SEED, index, camera, 0)
        for number in range(2):
            pose = ped.draw_pose((SEED, index, number), ped.PoseDistribution.any(), camera.pitch_deg)
            requests.append((ped.draw_identity(SEED, index), pose, camera, background))
    drawn = ped.render_many(requests)
    keypoints = Keypoints(torch.from_numpy(drawn.xy), torch.from_numpy(drawn.visibility))
    generator = xingaug.load_generator("pedestrians-small")
    sources, true = drawn.images[0::2], drawn.images[1::2]
    generated = render_images(generator, sources, keypoints[0::2], keypoints[1::2])
    poses = [skeleton(p.xy.numpy(), p.visibility.numpy(), ped.SIZE, scale=1) for p in keypoints[1::2]]
    cells = [np.concatenate(four, 1) for four in zip(sources, poses, generated, true, strict=True)]
    framed = [np.pad(cell, ((4, 4), (6, 6), (0, 0)), constant_values=255) for cell in cells]
    lines = [np.concatenate(framed[row * groups : (row + 1) * groups], 1) for row in range(rows)]
    picture = np.concatenate(lines, 0)
    write_image(path, picture)
    return picture


if __name__ == "__main__":
    main(Path(sys.argv[1]))
