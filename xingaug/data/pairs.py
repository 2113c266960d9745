"""Training pairs: two images of one identity, held in memory as bytes, drawn by (seed, epoch, index)."""

import csv
import hashlib
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from xingaug.data.annotations import annotated_training, keypoints_of
from xingaug.data.split import Split, read_images
from xingaug.errors import BadInput
from xingaug.images import read_image
from xingaug.inputs import read_text
from xingaug.keypoints import MIN_VISIBLE

IDENTITIES_PER_SCENE = 50
"""Number of rendered persons that share the scenes of six cameras (our choice)."""


class DiskImages:
    """Images that stay on disk: indexed like an array, and decoded on access."""

    def __init__(self, paths: Sequence[Path], size: tuple[int, int], grey: bool = False) -> None:
        """Args: `paths` of the images; `size`: (height, width) to bring them to; `grey`: one channel, as masks have."""
        self.paths, self.size, self.grey = np.array(paths, dtype=object), size, grey
        self.shape = (len(paths), *size) if grey else (len(paths), *size, 3)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Uint8 (B, H, W, 3), or (B, H, W) for masks."""
        with ThreadPoolExecutor() as pool:
            images = np.stack(list(pool.map(lambda path: read_image(path, self.size), self.paths[rows])))
        return images[..., 0] if self.grey else images

    def select(self, rows: np.ndarray) -> "DiskImages":
        """The images of some rows."""
        return DiskImages(list(self.paths[rows]), self.size, self.grey)


@dataclass(frozen=True)
class PairData:
    """Images and which of them can be paired: those of one group but different blocks, or listed pairs.

    Attributes:
        images: (N, H, W, 3) uint8.
        xy: (N, 18, 2) float32, pixels.
        visibility: (N, 18) float32.
        masks: (N, H, W) uint8, 255 on the person; None where there are none.
        pids: (N,) int64, the persons.
        groups: (N,) int64, images of one group may be paired.
        names: (N,) str.
        blocks: (N,) int64, images of one group and block may not be paired; None where each is its own block.
        listed: (P, 2) rows (source, target) of the pairs to draw from; None to pair within groups.
        same_camera: share of the pairs, in [0, 1], drawn from one camera regardless of groups; needs `camids`.
        camids: (N,) int64, cameras; None if unknown.
    """

    images: np.ndarray | DiskImages
    xy: np.ndarray
    visibility: np.ndarray
    masks: np.ndarray | DiskImages | None
    pids: np.ndarray
    groups: np.ndarray
    names: np.ndarray
    blocks: np.ndarray | None = None
    listed: np.ndarray | None = None
    same_camera: float = 0.0
    camids: np.ndarray | None = None

    def __len__(self) -> int:
        """Number of images."""
        return len(self.names)

    def union_masks(self, sources: np.ndarray, targets: np.ndarray) -> np.ndarray | None:
        """(B, H, W) uint8, 255 where either image of a pair shows the person; None without masks.

        The background that the person uncovers has to be generated in the target too.
        """
        return None if self.masks is None else np.maximum(self.masks[sources], self.masks[targets])

    def select(self, chosen: np.ndarray) -> "PairData":
        """Selects some of the images; a listed pair is kept if both of its images are.

        Args:
            chosen: (N,) bool.
        """
        rows = np.flatnonzero(chosen)
        listed = self.listed
        if listed is not None:
            listed = (np.cumsum(chosen) - 1)[listed[chosen[listed].all(1)]]
        columns = {name: getattr(self, name)[rows] for name in ("xy", "visibility", "pids", "groups", "names")}
        for name in ("blocks", "camids"):
            columns[name] = None if getattr(self, name) is None else getattr(self, name)[rows]
        masks = None if self.masks is None else _rows_of(self.masks, rows)
        return replace(self, **columns, images=_rows_of(self.images, rows), masks=masks, listed=listed)

    def content_hash(self) -> str:
        """SHA-256 of names, persons, keypoints and listed pairs, to tell whether a run goes on with them."""
        digest = hashlib.sha256("\n".join(self.names.tolist()).encode(errors="surrogateescape"))
        for values in (self.pids, self.groups, self.xy, self.visibility, self.listed):
            digest.update(b"none" if values is None else np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()

    def tracks(self) -> np.ndarray:
        """(N,) int64, a number for each combination of person and camera."""
        return _tracks(self.pids, np.zeros_like(self.pids) if self.camids is None else self.camids)

    def usable(self, min_visible: int = MIN_VISIBLE) -> "PairData":
        """The images with enough visible joints that have a partner with enough visible joints.

        Args:
            min_visible: number of joints, 1 to 18.

        Raises:
            BadInput: there is no such image.
        """
        keep = (self.visibility > 0).sum(1) >= min_visible
        if self.listed is not None:
            paired = self.listed[keep[self.listed].all(1)]
            keep &= np.isin(np.arange(len(self)), paired)
        else:
            rows = np.flatnonzero(keep)
            _, _, others = _partners(self.groups[rows], None if self.blocks is None else self.blocks[rows])
            keep[rows[others == 0]] = False
        if not keep.any():
            raise BadInput(f"pairs: none of {len(self)} images has a partner and {min_visible} visible joints")
        chosen = self.select(keep)
        if chosen._lacks_same_camera:
            raise BadInput("data.same_camera: no person has two images from one camera; needed 0")
        return chosen

    @property
    def _lacks_same_camera(self) -> bool:
        """Whether pairs of one camera are wanted and there are none."""
        return self.same_camera > 0 and len(np.unique(self.tracks())) == len(self)

    def hold_out(self, identities: int, seed: int) -> tuple["PairData", "PairData | None"]:
        """Splits off some persons for validation.

        Args:
            identities: how many persons; 0 splits off none.
            seed: seed of the choice.

        Returns:
            The remaining persons, and the held-out ones.

        Raises:
            BadInput: nobody would be left, or one of the two parts has no listed pair, or none of one camera.
        """
        if identities == 0:
            return self, None
        persons = np.unique(self.pids)
        if identities >= len(persons):
            raise BadInput(
                f"validation.identities: {identities} held out of {len(persons)} persons with pairs; needed fewer, "
                f"such as {max(1, len(persons) // 5)}"
            )
        held = np.isin(self.pids, np.random.default_rng([seed, 2]).permutation(persons)[:identities])
        parts = self.select(~held), self.select(held)
        if any(part.listed is not None and not len(part.listed) for part in parts):
            raise BadInput("data.pairs: the list leaves no pair to train on or none to hold out; needed both")
        if any(part._lacks_same_camera for part in parts):
            raise BadInput(
                f"data.same_camera: of the persons trained on or of the {identities} held out (validation.identities) "
                "none has two images from one camera; needed 0, or another number held out"
            )
        return parts

    def draw(self, count: int, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draws the pairs of an epoch.

        Args:
            count: number of pairs.
            seed: seed of the run.
            epoch: counts from 0; the same (seed, epoch) gives the same pairs in every process.

        Returns:
            Rows of the sources and of the targets (count,) int64, never equal, and whether to mirror (count,) bool.
        """
        rng = np.random.default_rng([seed, epoch])
        if self.listed is not None:
            sources, targets = self.listed[rng.integers(len(self.listed), size=count)].T
            return sources, targets, rng.random(count) < 0.5
        sources, targets = _draw(self.groups, self.blocks, count, rng)
        if self.same_camera:
            near = rng.random(count) < self.same_camera
            near_sources, near_targets = _draw(self.tracks(), None, count, rng)
            sources, targets = np.where(near, near_sources, sources), np.where(near, near_targets, targets)
        return sources, targets, rng.random(count) < 0.5


def _tracks(pids: np.ndarray, camids: np.ndarray) -> np.ndarray:
    numbers: np.ndarray = np.unique(np.stack([pids, camids]), axis=1, return_inverse=True)[1].ravel()
    return numbers


def _rows_of(stored: np.ndarray | DiskImages, rows: np.ndarray) -> np.ndarray | DiskImages:
    return stored.select(rows) if isinstance(stored, DiskImages) else stored[rows]


def _draw(
    groups: np.ndarray, blocks: np.ndarray | None, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Rows (count,) of sources and of targets: uniform over groups, then over their images that have a partner."""
    order, ends, others = _partners(groups, blocks)
    order = order[others[order] > 0]
    _, starts, sizes = np.unique(groups[order], return_index=True, return_counts=True)
    group = rng.integers(len(starts), size=count)
    sources = order[starts[group] + rng.integers(sizes[group])]
    # The partners of an image begin after the end of its block and wrap round to the start of the group.
    second = (ends[sources] + rng.integers(others[sources])) % sizes[group]
    return sources, order[starts[group] + second]


def _partners(groups: np.ndarray, blocks: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Who may be paired with whom.

    Returns:
        Rows sorted by group and block (N,); and for each row where its block ends in its group, and how many partners
        it has.
    """
    blocks = np.arange(len(groups)) if blocks is None else blocks
    order = np.lexsort((blocks, groups))
    _, start, group, size = np.unique(groups[order], return_index=True, return_inverse=True, return_counts=True)
    pairs = np.stack([groups[order], blocks[order]])
    _, first, block, length = np.unique(pairs, axis=1, return_index=True, return_inverse=True, return_counts=True)
    ends, others = np.empty(len(groups), np.int64), np.empty(len(groups), np.int64)
    ends[order] = first[block] + length[block] - start[group]
    others[order] = size[group] - length[block]
    return order, ends, others


def pairs_from_tree(
    root: Path,
    annotations: Path,
    within: Literal["camera", "identity", "cross-camera"] = "camera",
    size: tuple[int, int] = (128, 64),
    pairs: Path | None = None,
    memory_bytes: int = 8_000_000_000,
    masks: Path | None = None,
    same_camera: float = 0.0,
) -> PairData:
    """Reads the training split of a dataset; masks are used if every image has a PNG beside it.

    Args:
        root: the dataset, a folder or a YAML file.
        annotations: `.npz` or PATN `.csv`.
        within: pair images of one identity from one camera, from any, or from two different ones.
        size: (height, width) to resize images, keypoints and masks to.
        pairs: CSV with the header `from,to` that lists the pairs instead.
        memory_bytes: if the decoded images would take more, they stay on disk.
        masks: a folder of PNG files named like the images, white on the person, instead of those beside the images.
        same_camera: with `within` "identity" or "cross-camera", the share of the pairs that is from one camera.

    Raises:
        BadInput: unreadable input; an image without a mask in `masks`; a listed pair whose images are unknown, have no
            keypoints or show two persons.
    """
    split, table = annotated_training(root, annotations)
    keypoints = keypoints_of(table, split, size)
    groups = _tracks(split.pids, split.camids) if within == "camera" else split.pids
    paths = [split.path(i) for i in range(len(split))]
    fits = len(split) * size[0] * size[1] * 4 <= memory_bytes  # three channels and perhaps a mask
    data = PairData(
        read_images(split, size) if fits else DiskImages(paths, size),
        keypoints.xy.numpy(),
        keypoints.visibility.numpy(),
        None,
        split.pids,
        groups,
        split.names,
        blocks=split.camids if within == "cross-camera" else None,
        listed=None if pairs is None else _listed_rows(pairs, split),
        same_camera=same_camera,
        camids=split.camids,
    )
    files = _masks_beside(split) if masks is None else _masks_in(masks, split)
    if files is None:
        return data
    on_disk = DiskImages(files, size, grey=True)
    return replace(data, masks=on_disk[np.arange(len(split))] if fits else on_disk)


def read_pairs(path: Path) -> list[tuple[str, str]]:
    """Reads a CSV with the header `from,to`.

    Raises:
        BadInput: unreadable, another header, a row that is not two names, or no pair.
    """
    try:
        rows = list(csv.reader(io.StringIO(read_text(path, "list of pairs"), newline="")))
    except csv.Error as error:
        raise BadInput(f"{path}: cannot read the pairs ({error})") from None
    if not rows or [cell.strip() for cell in rows[0]] != ["from", "to"]:
        raise BadInput(f"{path}: line 1: expected the header from,to")
    for number, row in enumerate(rows[1:], 2):
        if len(row) != 2:
            raise BadInput(f"{path}: line {number}: {len(row)} fields, expected two image names")
    if len(rows) == 1:
        raise BadInput(f"{path}: no pair after the header")
    return [(a.strip(), b.strip()) for a, b in rows[1:]]


def _listed_rows(path: Path, split: Split) -> np.ndarray:
    """Rows (P, 2) of the pairs that a CSV lists; a pair without keypoints is an error."""
    index = {name: i for i, name in enumerate(split.names.tolist())}
    rows = []
    for number, pair in enumerate(read_pairs(path), 2):
        for name in pair:
            if name not in index:
                raise BadInput(f"{path}: line {number}: '{name}' is no training image with keypoints")
        rows.append([index[name] for name in pair])
        if split.pids[rows[-1][0]] != split.pids[rows[-1][1]] or rows[-1][0] == rows[-1][1]:
            raise BadInput(f"{path}: line {number}: '{pair[0]}' and '{pair[1]}', expected two images of one person")
    return np.array(rows)


def read_masks(split: Split, size: tuple[int, int]) -> np.ndarray | None:
    """Person masks (N, H, W) uint8 that lie beside the images as PNG; None unless every image has one."""
    paths = _masks_beside(split)
    return None if paths is None else np.stack([read_image(path, size)[..., 0] for path in paths])


def _masks_beside(split: Split) -> list[Path] | None:
    """The PNG beside each image; None if an image has none, or is a PNG itself."""
    images = [split.path(i) for i in range(len(split))]
    masks = [path.with_suffix(".png") for path in images]
    return masks if all(mask != path and mask.is_file() for mask, path in zip(masks, images, strict=True)) else None


def _masks_in(folder: Path, split: Split) -> list[Path]:
    """The PNG of each image in a folder of masks."""
    masks = [Path(folder) / Path(name).with_suffix(".png") for name in split.names.tolist()]
    missing = next((mask for mask in masks if not mask.is_file()), None)
    if missing is not None:
        raise BadInput(f"{folder}: no mask {missing.name}; needed a PNG named as each of {len(masks)} images")
    return masks


def pairs_from_pedestrians(
    identities: int, tracklets: int, poses: int, seed: int, workers: int | None = None, progress: bool = True
) -> PairData:
    """Renders pedestrians for training: each identity in some cameras, each with one background and several poses.

    Args:
        identities: number of persons.
        tracklets: number of cameras in which each appears, at most 6.
        poses: number of images in each tracklet.
        seed: seed of persons, cameras, backgrounds and poses.
        workers: number of processes; None for one per core.
        progress: show a bar on a terminal.
    """
    from xingaug.data import pedestrians as ped

    requests, groups, names, pids, camids = [], [], [], [], []
    for i in range(identities):
        identity = ped.draw_identity(seed, i)
        # New scenes for every few persons, so that the generator does not memorise six backgrounds.
        cameras = [ped.make_camera(c, seed + i // IDENTITIES_PER_SCENE) for c in range(ped.CAMERAS)]
        chosen = np.random.default_rng([seed, i]).permutation(ped.CAMERAS)[:tracklets]
        for t, c in enumerate(chosen):
            background = ped.draw_background(seed, i, cameras[c], 0)
            for p in range(poses):
                pose = ped.draw_pose((seed, i, t, p), ped.PoseDistribution.any(), cameras[c].pitch_deg)
                requests.append((identity, pose, cameras[c], background))
                groups.append(i * tracklets + t)
                pids.append(i)
                camids.append(c + 1)
                names.append(f"{i:05d}_c{c + 1}_{p:03d}")
    rendered = ped.render_many(requests, workers=workers, progress=progress)
    return PairData(
        rendered.images, rendered.xy, rendered.visibility, rendered.masks, np.array(pids), np.array(groups),
        np.array(names), camids=np.array(camids),
    )  # fmt: skip
