"""Training pairs: two images of one identity, held in memory as bytes, drawn by (seed, epoch, index)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from xingaug.data.annotations import annotated_training, keypoints_of
from xingaug.data.market1501 import Split, read_images
from xingaug.errors import BadInput
from xingaug.images import read_image
from xingaug.keypoints import MIN_VISIBLE

IDENTITIES_PER_SCENE = 50
"""Rendered persons that share the scenes of six cameras (our choice)."""


@dataclass(frozen=True)
class PairData:
    """Images that can be paired within a group.

    Attributes:
        images: (N, H, W, 3) uint8.
        xy: (N, 18, 2) float32, pixels.
        visibility: (N, 18) float32.
        masks: (N, H, W) uint8, 255 on the person; None where there are none.
        groups: (N,) int64, images of one group may be paired.
        names: (N,) str.
    """

    images: np.ndarray
    xy: np.ndarray
    visibility: np.ndarray
    masks: np.ndarray | None
    groups: np.ndarray
    names: np.ndarray

    def __len__(self) -> int:
        """Number of images."""
        return len(self.names)

    def usable(self) -> "PairData":
        """The images with enough visible joints whose group has at least two of them."""
        keep = (self.visibility > 0).sum(1) >= MIN_VISIBLE
        groups, inverse, counts = np.unique(np.where(keep, self.groups, -1), return_inverse=True, return_counts=True)
        keep &= (counts[inverse] >= 2) & (groups[inverse] >= 0)
        if not keep.any():
            raise BadInput(
                f"pairs: none of {len(self)} images has a partner in its group and {MIN_VISIBLE} visible joints"
            )
        masks = None if self.masks is None else self.masks[keep]
        return PairData(
            self.images[keep], self.xy[keep], self.visibility[keep], masks, self.groups[keep], self.names[keep]
        )

    def draw(self, count: int, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draws the pairs of an epoch.

        Args:
            count: number of pairs.
            seed: of the run.
            epoch: counts from 0; the same (seed, epoch) gives the same pairs, whoever asks.

        Returns:
            Rows of the sources and of the targets (count,) int64, never equal, and whether to mirror (count,) bool.
        """
        rng = np.random.default_rng([seed, epoch])
        order = np.argsort(self.groups, kind="stable")
        _, starts, sizes = np.unique(self.groups[order], return_index=True, return_counts=True)
        group = rng.integers(len(starts), size=count)
        first = rng.integers(sizes[group])
        second = (first + 1 + rng.integers(sizes[group] - 1)) % sizes[group]
        mirror = rng.random(count) < 0.5
        return order[starts[group] + first], order[starts[group] + second], mirror


def pairs_from_tree(
    root: Path,
    annotations: Path,
    within: Literal["camera", "identity"] = "camera",
    size: tuple[int, int] = (128, 64),
) -> PairData:
    """Reads the training split of a Market-1501 tree; masks are taken where every image has a PNG beside it.

    Args:
        root: the tree.
        annotations: `.npz` or PATN `.csv`.
        within: pair images of one identity under one camera, or under any.
        size: (height, width) to bring images, keypoints and masks to.
    """
    split, table = annotated_training(root, annotations)
    keypoints = keypoints_of(table, split, size)
    groups = split.pids if within == "identity" else split.pids * 100 + split.camids
    xy, visibility = keypoints.xy.numpy(), keypoints.visibility.numpy()
    return PairData(read_images(split, size), xy, visibility, read_masks(split, size), groups, split.names)


def read_masks(split: Split, size: tuple[int, int]) -> np.ndarray | None:
    """Person masks (N, H, W) uint8 that lie beside the images as PNG; None unless every image has one."""
    paths = [split.path(i).with_suffix(".png") for i in range(len(split))]
    if not all(path.is_file() for path in paths):
        return None
    return np.stack([read_image(path, size)[..., 0] for path in paths])


def pairs_from_pedestrians(
    identities: int, tracklets: int, poses: int, seed: int, workers: int | None = None, progress: bool = True
) -> PairData:
    """Renders pedestrians for training: each identity under some cameras, before one background, in several poses.

    Args:
        identities: number of persons.
        tracklets: cameras under which each appears, at most 6.
        poses: images in each tracklet.
        seed: of persons, cameras, backgrounds and poses.
        workers: processes; None for one a core.
        progress: show a bar on a terminal.
    """
    from xingaug.data import pedestrians as ped

    requests, groups, names = [], [], []
    for i in range(identities):
        identity = ped.draw_identity(seed, i)
        # Other scenes for every few persons, so that the generator does not learn six backgrounds by heart.
        cameras = [ped.make_camera(c, seed + i // IDENTITIES_PER_SCENE) for c in range(ped.CAMERAS)]
        chosen = np.random.default_rng([seed, i]).permutation(ped.CAMERAS)[:tracklets]
        for t, c in enumerate(chosen):
            background = ped.draw_background(seed, i, cameras[c], 0)
            for p in range(poses):
                pose = ped.draw_pose((seed, i, t, p), ped.PoseDistribution.any(), cameras[c].pitch_deg)
                requests.append((identity, pose, cameras[c], background))
                groups.append(i * tracklets + t)
                names.append(f"{i:05d}_c{c + 1}_{p:03d}")
    rendered = ped.render_many(requests, workers=workers, progress=progress)
    return PairData(
        rendered.images, rendered.xy, rendered.visibility, rendered.masks, np.array(groups), np.array(names)
    )
