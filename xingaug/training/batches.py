"""Builds batches of pairs on the device from rows of the data: images, joints, masks."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xingaug.data.pairs import PairData
from xingaug.generators.pose import PoseMaps, Poses, draw_maps
from xingaug.images import bytes_to_unit, unit_to_signed
from xingaug.keypoints import Keypoints
from xingaug.training.config import Photometric, TrainConfig
from xingaug.training.masks import pose_mask
from xingaug.training.processes import Processes


@dataclass(frozen=True)
class Batch:
    """Pairs on the device.

    Attributes:
        source: (B, 3, H, W) in [-1, 1].
        target: (B, 3, H, W) in [-1, 1].
        xy: (B, 2, 18, 2) pixels of source and target.
        visibility: (B, 2, 18) in [0, 1].
        mask: (B, 1, H, W) in [0, 1], the pixels that count as person in the losses.
        persons: (B, 2, H, W) in [0, 1], masks of source and target; None where the data has none.
        across: (B,) bool, whether source and target are from two cameras.
        names: B times "source -> target".
    """

    source: Tensor
    target: Tensor
    xy: Tensor
    visibility: Tensor
    mask: Tensor
    persons: Tensor | None
    across: Tensor
    names: list[str]

    @property
    def joints(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Arguments of `render` after the images: xy and visibility of the source, then of the target."""
        return self.xy[:, 0], self.visibility[:, 0], self.xy[:, 1], self.visibility[:, 1]

    @cached_property
    def target_heatmaps(self) -> Tensor:
        """(B, 18, H, W) in [0, 1], drawn when a discriminator or a sample sheet first needs them."""
        size = (self.source.shape[-2], self.source.shape[-1])
        return draw_maps(Poses.of_joints(*self.joints), size)[:, self.xy.shape[2] :]

    @cached_property
    def source_means(self) -> Tensor:
        """(B, 18, H/4, W/4), 4x4 means of the source pose's maps."""
        size = (self.source.shape[-2], self.source.shape[-1])
        maps = PoseMaps(size).to(self.source.device)
        return maps.means(Poses.of_joints(*self.joints), size)[:, : self.xy.shape[2]]

    def parts(self, count: int) -> list["Batch"]:
        """Cuts the batch into equal parts."""
        if count == 1:
            return [self]
        size = len(self.names) // count
        taken = [slice(i * size, (i + 1) * size) for i in range(count)]
        return [Batch(**{f.name: _rows(getattr(self, f.name), rows) for f in fields(self)}) for rows in taken]


def _rows(column: Any, rows: slice) -> Any:
    """The rows of a column of a batch; None if the batch has no such column."""
    return None if column is None else column[rows]


@dataclass(frozen=True)
class PairRows:
    """Which pairs a batch holds.

    Attributes:
        sources: (B,) rows of the data.
        targets: (B,) rows of the data.
        mirror: (B,) bool.
        colour_seeds: (B,) seeds of the photometric changes.
    """

    sources: np.ndarray
    targets: np.ndarray
    mirror: np.ndarray
    colour_seeds: np.ndarray


def rows_of_steps(config: TrainConfig, data: PairData, first: int, processes: Processes) -> Iterator[PairRows]:
    """This process's share of the pairs of each step from `first` on; they depend only on (seed, epoch, index)."""
    per_epoch = max(1, config.pairs_per_epoch // config.batch_size)
    own = config.batch_size // processes.count
    drawn_epoch = -1
    for step in range(first, config.steps):
        epoch, index = divmod(step, per_epoch)
        if epoch != drawn_epoch:
            drawn = data.draw(per_epoch * config.batch_size, config.seed, epoch)
            seeds = np.random.default_rng([config.seed, epoch, 1]).integers(2**31, size=len(drawn[0]))
            drawn_epoch = epoch
        start = index * config.batch_size + processes.rank * own
        yield PairRows(*(column[start : start + own] for column in (*drawn, seeds)))


def make_batch(
    data: PairData,
    rows: PairRows,
    size: tuple[int, int],
    device: torch.device,
    photometric: Photometric | None = None,
) -> Batch:
    """Gathers pairs, changes their colours and mirrors the marked ones.

    Args:
        data: images and keypoints.
        rows: which pairs.
        size: (height, width) of the images.
        device: of the result.
        photometric: colour changes, the same for both images of a pair; None for none.
    """
    sources, targets = data.images[rows.sources], data.images[rows.targets]
    if photometric is not None:
        sources, targets = _change_colours(photometric, sources, targets, rows.colour_seeds)
    flip = _to_device(rows.mirror, device)
    # On the CPU, where checking their values needs no device synchronisation.
    keypoints = [_keypoints(data, chosen, rows.mirror, size) for chosen in (rows.sources, rows.targets)]
    persons = None
    if data.masks is None:
        mask = pose_mask(keypoints[1].to(device), size)
    else:
        masks = np.stack([data.masks[rows.sources], data.masks[rows.targets]], 1)
        persons = _mirrored(_to_device(masks, device).float() / 255, flip)
        mask = persons.amax(1, keepdim=True)  # both masks: the ground that the person uncovers is new as well
    cameras = data.groups if data.camids is None else data.camids
    across = cameras[rows.sources] != cameras[rows.targets]
    names = zip(data.names[rows.sources], data.names[rows.targets], strict=True)
    return Batch(
        _signed(sources, flip),
        _signed(targets, flip),
        _to_device(torch.stack([kp.xy for kp in keypoints], 1), device),
        _to_device(torch.stack([kp.visibility for kp in keypoints], 1), device),
        mask,
        persons,
        _to_device(across, device),
        [f"{source} -> {target}" for source, target in names],
    )


def _to_device(values: np.ndarray | Tensor, device: torch.device) -> Tensor:
    """Copies to the device; to a GPU from pinned memory, so that the host does not wait for the copy."""
    tensor = values if isinstance(values, Tensor) else torch.from_numpy(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def _signed(images: np.ndarray, flip: Tensor) -> Tensor:
    """(B, H, W, 3) uint8 to (B, 3, H, W) in [-1, 1], mirrored where marked."""
    signed = unit_to_signed(bytes_to_unit(_to_device(images, flip.device)))
    return _mirrored(signed, flip).contiguous(memory_format=torch.channels_last)


def _mirrored(images: Tensor, flip: Tensor) -> Tensor:
    return torch.where(flip[:, None, None, None], images.flip(-1), images)


def _keypoints(data: PairData, rows: np.ndarray, mirror: np.ndarray, size: tuple[int, int]) -> Keypoints:
    """Keypoints of rows of the data, mirrored where marked, on the CPU."""
    kp = Keypoints(torch.from_numpy(data.xy[rows]), torch.from_numpy(data.visibility[rows]))
    flip, mirrored = torch.from_numpy(mirror), kp.flip(size[1])
    xy = torch.where(flip[:, None, None], mirrored.xy, kp.xy)
    return Keypoints(xy, torch.where(flip[:, None], mirrored.visibility, kp.visibility))


def _change_colours(
    photometric: Photometric, sources: np.ndarray, targets: np.ndarray, seeds: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Changes both images of a pair by the same draw."""
    import os

    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # or its import looks online for a newer version
    import albumentations as A

    p = photometric
    jitter = A.ColorJitter(
        *((1 - amount, 1 + amount) for amount in (p.brightness, p.contrast, p.saturation)), (-p.hue, p.hue), p=p.p
    )
    change = A.Compose([jitter], additional_targets={"target": "image"})
    changed = np.empty_like(sources), np.empty_like(targets)
    for i, seed in enumerate(seeds):
        change.set_random_seed(int(seed))
        result = change(image=sources[i], target=targets[i])
        changed[0][i], changed[1][i] = result["image"], result["target"]
    return changed
