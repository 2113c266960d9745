"""The draw and the output of `XingPose` for a batch."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from xingaug.keypoints import Keypoints


@dataclass(frozen=True, eq=False)
class PoseDraw:
    """The random choices for a batch; `XingPose.render` replays them exactly, with grounds given the same keys.

    Attributes:
        selected: (B,) bool on the CPU, the rows that `p` chose.
        bank_rows: (B,) int64 on the CPU, the pose's row in the bank; -1 where the row stays real because it was not
            selected, its keypoints are not usable, or the sampler found no valid pose.

    Raises:
        ValueError: the two do not fit together.
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
        if ((self.bank_rows.numpy() >= 0) & ~self.selected.numpy()).any():
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
        rejected: rows whose rendered image the quality gate rejected.
    """

    unusable_keypoints: int = 0
    no_pose: int = 0
    rejected: int = 0


@dataclass(frozen=True, eq=False)
class XingPoseOutput:
    """A batch after the transform; N is B, or B plus the number of synthetic rows in mode "append".

    Attributes:
        images: (N, 3, H, W), dtype, device, range and memory format of the input; the input itself if nothing was
            rendered.
        keypoints: (N,) in the images' frame; for a synthetic row, the pose it was rendered in.
        is_synthetic: (N,) bool on the images' device.
        sources: (N,) int64 on the images' device, the input row that each row comes from. Use it to index labels:
            `pids[out.sources]`.
        draw: replay with `aug(images, keypoints, draw=out.draw)`, with references or grounds also the same `keys`.
        skipped: counts of the selected rows that stayed real.
        scores: of the quality gate, by name, each (B,) float32 on the CPU; NaN in rows that were not rendered.
            Empty without a gate.
    """

    images: Tensor
    keypoints: Keypoints
    is_synthetic: Tensor
    sources: Tensor
    draw: PoseDraw
    skipped: Skipped
    scores: Mapping[str, Tensor] = field(default_factory=dict)


def keep(
    images: Tensor,
    keypoints: Keypoints,
    draw: PoseDraw,
    skipped: Skipped,
    scores: Mapping[str, Tensor] | None = None,
) -> XingPoseOutput:
    """The unchanged batch, detached."""
    sources = torch.arange(len(images), device=images.device)
    synthetic = torch.zeros_like(sources, dtype=torch.bool)
    if images.requires_grad:
        images = images.detach()  # as if rows were rendered
    return XingPoseOutput(images, keypoints, synthetic, sources, draw, skipped, scores or {})


def merge(
    images: Tensor,
    keypoints: Keypoints,
    rows: np.ndarray,
    rendered: Tensor,
    poses: Keypoints,
    draw: PoseDraw,
    skipped: Skipped,
    scores: Mapping[str, Tensor],
    append: bool,
) -> XingPoseOutput:
    """Replaces source rows by synthetic ones, or appends these to the batch.

    Args:
        images: (B, 3, H, W).
        keypoints: (B,).
        rows: (n,) of the batch.
        rendered: (n, 3, H, W) of those.
        poses: (n,) target poses, on the CPU.
        draw: of the batch.
        skipped: of the batch.
        scores: of the batch.
        append: append instead of replacing.
    """
    device = images.device
    here, poses = torch.from_numpy(rows).to(device, non_blocking=True), poses.to(device)
    sources = torch.arange(len(images), device=device)
    is_synthetic = torch.zeros_like(sources, dtype=torch.bool)
    if not append:
        out = images.detach().clone().index_copy_(0, here, rendered)  # keeps the memory format
        xy = keypoints.xy.index_copy(0, here, poses.xy)
        visibility = keypoints.visibility.index_copy(0, here, poses.visibility)
        is_synthetic.index_fill_(0, here, True)
        return XingPoseOutput(out, Keypoints._derived(xy, visibility), is_synthetic, sources, draw, skipped, scores)
    wide = images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()
    layout = torch.channels_last if wide else torch.contiguous_format
    out = torch.cat([images.detach(), rendered]).contiguous(memory_format=layout)
    both = Keypoints._derived(
        torch.cat([keypoints.xy, poses.xy]), torch.cat([keypoints.visibility, poses.visibility])
    )  # fmt: skip
    is_synthetic = torch.cat([is_synthetic, torch.ones_like(here, dtype=torch.bool)])
    return XingPoseOutput(out, both, is_synthetic, torch.cat([sources, here]), draw, skipped, scores)


def resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resizes bilinearly with antialiasing; returns the images themselves if they have that size."""
    if (images.shape[-2], images.shape[-1]) == size:
        return images
    return F.interpolate(images, size=size, mode="bilinear", antialias=True, align_corners=False)
