"""Pastes rendered persons onto the grounds of other images (our choice).

A person who is always seen in front of the same ground can be recognised by the ground. A generator that keeps the
ground keeps this shortcut too; here a share of its rendered persons is cut out and pasted onto another image's ground,
whose own person was removed.
"""

import copy
from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from xingaug.generators.core import batches
from xingaug.generators.fast import resolved_dtype
from xingaug.generators.ground import SourceSplit, split_of
from xingaug.generators.pose import SIGMA, PoseMaps, Poses
from xingaug.generators.render import filled
from xingaug.images import bytes_to_unit, signed_to_unit, unit_to_bytes, unit_to_signed
from xingaug.keypoints import Keypoints
from xingaug.poses.draws import keyed_uniform, keyed_uniforms

COUNT = 512
"""Default number of grounds: 13 MB at 128x64 (our choice)."""


class Grounds(nn.Module):
    """Images without their persons, and the network that segments the persons to paste onto them.

    Attributes:
        share: of the rendered persons that are pasted onto another ground.
    """

    pictures: Tensor

    def __init__(self, split: SourceSplit, pictures: Tensor, share: float, seed: int = 0) -> None:
        """Args as computed by `of`.

        Args:
            split: of the generator; a copy is kept, in the fastest type of its device.
            pictures: (K, 3, H, W) uint8, K at least 1.
            share: probability in [0, 1] that a rendered person is pasted onto another ground.
            seed: of the draws.

        Raises:
            ValueError: no pictures, or a share outside its range.
        """
        super().__init__()
        if not 0 <= share <= 1:
            raise ValueError(f"ground: {share}, needed a probability in [0, 1]")
        if not len(pictures):
            raise ValueError("ground: no images whose persons can be taken out; needed at least one with keypoints")
        device = next(split.parameters()).device
        self.split = copy.deepcopy(split).eval().requires_grad_(False).to(resolved_dtype("auto", device))
        self.maps = PoseMaps((pictures.shape[-2], pictures.shape[-1]))
        self.register_buffer("pictures", pictures, persistent=False)
        self.share, self.seed = float(share), seed
        self.to(device)

    @classmethod
    @torch.no_grad()
    def of(
        cls, generator: nn.Module, images: np.ndarray | Tensor, keypoints: Keypoints, share: float = 0.5, seed: int = 0
    ) -> Self:
        """Removes the persons from images.

        Args:
            generator: one that keeps the ground (`keep_ground`), on its device.
            images: at the generator's size, uint8 (K, H, W, 3), or a tensor (K, 3, H, W) in [0, 1]; `COUNT` of them
                are enough.
            keypoints: (K,) in the images' frame.
            share: as above.
            seed: as above.

        Raises:
            ValueError: a generator that keeps no ground, images of another size, or what `__init__` refuses.
        """
        split = _required_split(generator)
        device, (height, width) = next(split.parameters()).device, generator.size  # type: ignore[misc]
        wanted = (3, height, width) if isinstance(images, Tensor) else (height, width, 3)
        if tuple(images.shape[1:]) != wanted:
            raise ValueError(f"images: {tuple(images.shape)}, needed (K, {', '.join(map(str, wanted))})")
        maps = PoseMaps((height, width)).to(device)
        found = []
        for start in range(0, len(images), 32):
            part = slice(start, start + 32)
            some = images[part]
            units = some if isinstance(some, Tensor) else bytes_to_unit(torch.from_numpy(some))
            _, ground = split(unit_to_signed(units.to(device)), _means(maps, keypoints[part].to(device)))
            found.append(unit_to_bytes(signed_to_unit(ground.clamp(-1, 1))).permute(0, 3, 1, 2).contiguous())
        empty = torch.empty(0, 3, height, width, dtype=torch.uint8, device=device)
        return cls(split, torch.cat(found) if found else empty, share, seed)

    def describe(self) -> str:
        """A description for the log."""
        return f"a share of {self.share:g} on those of {len(self.pictures)} other images"

    @torch.no_grad()
    def forward(
        self, rendered: Tensor, targets: Keypoints, keys: Sequence[str], kept: np.ndarray | None = None
    ) -> Tensor:
        """Pastes some of the rendered persons onto other grounds.

        Args:
            rendered: (n, 3, H, W) float in [0, 1].
            targets: (n,) their poses, in their frame, on their device.
            keys: n names that key the draws: equal names get equal grounds.
            kept: (n,) bool, rows that may be pasted; None for all.

        Returns:
            (n, 3, H, W) in [0, 1]; a row does not depend on the rest of the batch.
        """
        draws = keyed_uniforms(self.seed, 0, keys, "ground", 2)
        rows = np.flatnonzero((draws[:, 0] < self.share) & (True if kept is None else kept))
        if not len(rows):
            return rendered
        device = rendered.device
        chosen = torch.from_numpy((draws[rows, 1] * len(self.pictures)).astype(np.int64)).to(device)
        here = torch.from_numpy(rows).to(device)
        persons, poses = rendered[here], targets[torch.from_numpy(rows)]
        mask = self._find(unit_to_signed(persons), _means(self.maps, poses))
        grounds = self.pictures[chosen].to(persons.dtype) / 255
        return rendered.index_copy(0, here, torch.lerp(grounds, persons, mask.to(persons.dtype)))

    def _find(self, images: Tensor, means: Tensor) -> Tensor:
        """Masks (n, 1, H, W), computed in batches of the core's fixed sizes."""
        with torch.autocast(images.device.type, enabled=False):
            found = [
                self.split.find(*(_laid_out(filled(x[a:b], size)) for x in (images, means)))[: b - a]
                for a, b, size in batches(len(images), images.device.type)
            ]
        return torch.cat(found).sigmoid()


def wanted_share(generator: nn.Module, share: float | None) -> float:
    """The share, or its default for None: 1 if the generator separates person and ground, else 0.

    On Market-1501 a share of 1 was far better than 0 (examples/results.md).

    Raises:
        ValueError: a share above 0 with a generator that does not separate person and ground.
    """
    if share is None:
        return float(split_of(generator) is not None)
    if share > 0:
        _required_split(generator)
    return share


def drawn_rows(names: Sequence[str], seed: int, count: int = COUNT) -> np.ndarray:
    """Rows of the images whose grounds are used, at most `count`, sorted; they depend on names and seed only."""
    return np.sort(np.argsort(keyed_uniform(seed, 0, names, "some"), kind="stable")[:count])


def _required_split(generator: nn.Module) -> SourceSplit:
    split = split_of(generator)
    if split is None:
        raise ValueError(
            "ground: this generator does not separate person and ground; needed one that does, such as "
            "market1501-augment, or ground 0"
        )
    return split


def _laid_out(x: Tensor) -> Tensor:
    """Forces channels last: a single row's layout is ambiguous, and other layouts round differently."""
    return x.contiguous(memory_format=torch.channels_last)


def _means(maps: PoseMaps, keypoints: Keypoints) -> Tensor:
    """(n, 18, H/4, W/4) means of the poses' heatmaps, on their device."""
    present = keypoints.visibility.float()
    poses = Poses.of_joints(keypoints.xy, present, keypoints.xy, present, SIGMA)
    return maps.means(poses, (maps.size[0], maps.size[1]))[:, : keypoints.xy.shape[-2]]
