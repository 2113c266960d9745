"""What `XingPose` decides for a batch, and what it gives back."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from xingaug.keypoints import Keypoints


@dataclass(frozen=True, eq=False)
class PoseDraw:
    """What chance decided for a batch; `XingPose.render` replays it exactly.

    Attributes:
        selected: (B,) bool on the CPU, the rows that `p` chose.
        bank_rows: (B,) int64 on the CPU, the bank's row that gives the pose; -1 where the row stays real, be it that
            it was not selected, its keypoints are not usable, or the sampler found no valid pose.

    Raises:
        ValueError: the two do not fit each other.
    """

    selected: Tensor
    bank_rows: Tensor

    def __post_init__(self) -> None:
        """Checks shapes and types, and that only selected rows have a pose."""
        selected, rows = self.selected, self.bank_rows
        if selected.ndim != 1 or selected.dtype != torch.bool:
            raise ValueError(f"selected: {selected.dtype} {tuple(selected.shape)}, needed bool (B,)")
        if rows.shape != selected.shape or rows.dtype != torch.int64:
            raise ValueError(f"bank_rows: {rows.dtype} {tuple(rows.shape)}, needed int64 {tuple(selected.shape)}")
        object.__setattr__(self, "selected", selected.cpu())
        object.__setattr__(self, "bank_rows", rows.cpu())
        if bool(((self.bank_rows >= 0) & ~self.selected).any()):
            raise ValueError("bank_rows: a row that is not selected has a pose; needed -1 there")

    @classmethod
    def nothing(cls, batch: int) -> "PoseDraw":
        """A draw that leaves all of `batch` rows real."""
        return cls(torch.zeros(batch, dtype=torch.bool), torch.full((batch,), -1))


@dataclass(frozen=True)
class Skipped:
    """How many selected rows stayed real, and why.

    Attributes:
        unusable_keypoints: rows with fewer than `keypoints.MIN_VISIBLE` visible joints.
        no_pose: rows for which the sampler found no valid pose in the bank.
        rejected: rows whose rendered image the quality gate did not let through.
    """

    unusable_keypoints: int = 0
    no_pose: int = 0
    rejected: int = 0


@dataclass(frozen=True, eq=False)
class XingPoseOutput:
    """A batch after the transform; N is B, or B plus the number of synthetic rows in mode "append".

    Attributes:
        images: (N, 3, H, W), dtype, device, range and memory format of the input; the input itself where nothing
            was rendered.
        keypoints: (N,) in the images' frame; of a synthetic row, those of the pose it was rendered in.
        is_synthetic: (N,) bool on the images' device.
        sources: (N,) int64 on the images' device, the input row that each row comes from. It carries labels along:
            `pids[out.sources]`.
        draw: replay with `aug(images, keypoints, draw=out.draw)`.
        skipped: counts of the selected rows that stayed real.
        scores: what the quality gate saw, by name, each (B,) float32 on the CPU; NaN in rows that were not rendered.
            Empty without a gate.
    """

    images: Tensor
    keypoints: Keypoints
    is_synthetic: Tensor
    sources: Tensor
    draw: PoseDraw
    skipped: Skipped
    scores: Mapping[str, Tensor] = field(default_factory=dict)
