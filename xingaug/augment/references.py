"""Renders persons from another of their images where that one shows them nearer to the target pose (our choice)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xingaug.data.names import Alike
from xingaug.images import bytes_to_unit, read_image
from xingaug.keypoints import Keypoints
from xingaug.poses.descriptor import Shapes
from xingaug.poses.references import Candidates


class References:
    """The real images of a training set, read when first needed and then kept: 25 kB each at 128x64."""

    def __init__(
        self,
        paths: Sequence[str | Path],
        names: Sequence[str],
        keypoints: Keypoints,
        pids: np.ndarray,
        camids: np.ndarray,
        size: tuple[int, int],
    ) -> None:
        """Describes the images.

        Args:
            paths: N files.
            names: N keys, as in `XingPose`.
            keypoints: (N,) on the CPU, in a frame of `size`.
            pids: (N,) identities.
            camids: (N,) cameras.
            size: (height, width) of the generator.

        Raises:
            ValueError: not as many of one as of another.
        """
        counts = [len(part) for part in (paths, names, keypoints.xy, pids, camids)]
        if len(set(counts)) > 1:
            raise ValueError(f"paths, names, keypoints, pids, camids: {counts} of them, needed as many of each")
        self.size = size
        self._paths, self._keypoints = [Path(path) for path in paths], keypoints
        self._row = {name: row for row, name in enumerate(names)}
        self._alike = Alike(self._row)
        self._candidates = Candidates.of(Shapes.of(keypoints), pids, camids)
        self._pictures: dict[int, Tensor] = {}  # (H, W, 3) uint8, by row

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the pictures, which a copy reads again."""
        return {**vars(self), "_pictures": {}}

    def __len__(self) -> int:
        """Number of images."""
        return len(self._paths)

    def replace(
        self, images: Tensor, persons: Keypoints, names: Sequence[str], targets: Keypoints, taken_from: Sequence[str]
    ) -> tuple[Tensor, Keypoints]:
        """Replaces images of which another one, of the same person and camera, is nearer to the target.

        Args:
            images: (n, 3, H, W) float in [0, 1], on any device.
            persons: (n,) on the CPU, in their frame.
            names: n keys; an unknown one keeps its image.
            targets: (n,) poses on the CPU, in their frame.
            taken_from: n keys of the images that they were taken from, or longer or shorter paths of these; no image is
                rendered in its own pose.

        Returns:
            Images and persons, replaced where another image is nearer.

        Raises:
            BadInput: an image that is needed cannot be read.
        """
        rows = np.array([self._row.get(name, -1) for name in names], np.int64)
        origins = np.array([self._row_agreeing(name) for name in taken_from], np.int64)
        known = np.flatnonzero(rows >= 0)
        found = self._candidates.nearest(rows[known], Shapes.of(targets[known]), origins[known])
        changed = found != rows[known]
        if not changed.any():
            return images, persons
        here, found = torch.from_numpy(known[changed]), found[changed]
        pictures = bytes_to_unit(torch.stack([self._picture(row) for row in found.tolist()]))
        others = self._keypoints[found]
        return (
            images.index_copy(0, here.to(images.device), pictures.to(images.device, images.dtype)),
            Keypoints(
                persons.xy.index_copy(0, here, others.xy.to(persons.xy.dtype)),
                persons.visibility.index_copy(0, here, others.visibility.to(persons.visibility.dtype)),
            ),
        )

    def _row_agreeing(self, name: str) -> int:
        """The row of an image that another file may name by a longer or shorter path; -1 if there is not just one."""
        alike = [name] if name in self._row else self._alike.of(name)
        return self._row[alike[0]] if len(alike) == 1 else -1

    def _picture(self, row: int) -> Tensor:
        if row not in self._pictures:
            self._pictures[row] = torch.tensor(read_image(self._paths[row], self.size))
        return self._pictures[row]
