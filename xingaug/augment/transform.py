"""XingPose: persons of a batch re-rendered in poses from a bank, on the batch's device."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xingaug.augment.checks import (
    Integers,
    check_frame,
    check_images,
    checked_integers,
    checked_keys,
    usable,
)
from xingaug.errors import BadInput
from xingaug.images import signed_to_unit, unit_to_signed
from xingaug.keypoints import Keypoints, render_heatmaps
from xingaug.poses.bank import PoseBank
from xingaug.poses.draws import keyed_uniform
from xingaug.poses.placing import FITS, Fit, place
from xingaug.poses.samplers import parse_sampler, sample


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


@dataclass(frozen=True)
class Skipped:
    """How many selected rows stayed real, and why.

    Attributes:
        unusable_keypoints: rows with fewer than `keypoints.MIN_VISIBLE` visible joints.
        no_pose: rows for which the sampler found no valid pose in the bank.
    """

    unusable_keypoints: int = 0
    no_pose: int = 0


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
    """

    images: Tensor
    keypoints: Keypoints
    is_synthetic: Tensor
    sources: Tensor
    draw: PoseDraw
    skipped: Skipped


class XingPose(nn.Module):
    """Re-renders persons of a batch in poses from a bank.

    Draws are keyed by (seed, epoch, image name), so that an image gets the same pose whatever the batch it sits in;
    no global random generator is read or moved. In eval mode the transform is the identity. Nothing is recorded for
    the gradient, and only the drawn rows go through the generator.
    """

    def __init__(
        self,
        generator: nn.Module,
        bank: PoseBank,
        p: float = 0.5,
        sampler: str = "uniform",
        seed: int = 0,
        mode: Literal["replace", "append"] = "replace",
        sigma: float = 6.0,
        fit: Fit = "frame",
    ) -> None:
        """Takes the generator over: it is put in eval mode and its parameters are frozen (requires_grad False).

        Args:
            generator: gen(source (B, 3, H, W) in [-1, 1], source_heatmaps (B, 18, H, W), target_heatmaps) ->
                (B, 3, H, W) in [-1, 1], with `gen.size` = (height, width).
            bank: where poses come from. It stays on the CPU; `to(device)` moves the generator only.
            p: probability of re-rendering, per row.
            sampler: a name in `xingaug.poses.samplers.SAMPLERS`, or a mixture such as "uniform=3,near=1".
            seed: of every draw.
            mode: "replace" puts the synthetic image in its source's place; "append" adds it behind the batch.
            sigma: of the heatmaps that the generator was trained with, in pixels at `gen.size` (PATN: 6).
            fit: "frame" puts a pose where it was seen, "source" where and as large as the source stands (`place`).

        Raises:
            ValueError: an argument outside its range, an unknown sampler, mode or fit, a generator without `size`.
        """
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"p: {p}, needed a probability in [0, 1]")
        try:
            parse_sampler(sampler)
        except BadInput as error:
            raise ValueError(str(error)) from None
        if mode not in ("replace", "append"):
            raise ValueError(f"mode: '{mode}', needed 'replace' or 'append'")
        if fit not in FITS:
            raise ValueError(f"fit: '{fit}', needed one of {', '.join(FITS)}")
        size = getattr(generator, "size", None)
        if not isinstance(generator, nn.Module) or not isinstance(size, tuple | list) or len(size) != 2:
            raise ValueError(
                f"generator: {type(generator).__name__} with size {size!r}, needed an nn.Module with "
                "size = (height, width), such as load_generator gives"
            )
        self.generator = generator.eval().requires_grad_(False)
        self.bank = bank
        self.p, self.sampler, self.seed, self.mode, self.sigma = float(p), sampler, int(seed), mode, float(sigma)
        self.fit = fit
        self.size: tuple[int, int] = (int(size[0]), int(size[1]))

    def train(self, mode: bool = True) -> "XingPose":
        """Switches the transform on or off; the generator stays in eval mode either way."""
        super().train(mode)
        self.generator.eval()
        return self

    def extra_repr(self) -> str:
        """The arguments, for `print(aug)`."""
        return (
            f"p={self.p}, sampler='{self.sampler}', seed={self.seed}, mode='{self.mode}', fit='{self.fit}', "
            f"bank of {len(self.bank)}"
        )

    def forward(
        self,
        images: Tensor,
        keypoints: Keypoints,
        keys: Sequence[str] | None = None,
        pids: Integers | None = None,
        camids: Integers | None = None,
        epoch: int = 0,
        draw: PoseDraw | None = None,
    ) -> XingPoseOutput:
        """Draws poses and renders them; in eval mode returns the batch as it is.

        Args:
            images: (B, 3, H, W) float in [0, 1], any size, on the generator's device.
            keypoints: (B,) in the images' frame, on their device.
            keys: B image names as the bank knows them, so that an image is never given its own pose. Needed unless
                `draw` is given or p is 0.
            pids: B identities, as in the file names.
            camids: B cameras.
            epoch: a new epoch brings new draws.
            draw: replays this draw instead of making one.

        Raises:
            ValueError: any argument that does not fit, named, with what came and what is needed.
        """
        self._check(images, keypoints)
        if not self.training:
            nothing = PoseDraw(torch.zeros(len(images), dtype=torch.bool), torch.full((len(images),), -1))
            return self._real(images, keypoints, nothing, Skipped())
        if draw is None:
            draw = self.draw(keypoints, keys, pids, camids, epoch, size=_size(images))
        return self.render(images, keypoints, draw)

    def draw(
        self,
        keypoints: Keypoints,
        keys: Sequence[str] | None = None,
        pids: Integers | None = None,
        camids: Integers | None = None,
        epoch: int = 0,
        size: tuple[int, int] | None = None,
    ) -> PoseDraw:
        """Decides which rows are re-rendered in which pose, in train and eval mode alike.

        Args:
            keypoints: (B,).
            keys: as in `forward`.
            pids: as in `forward`.
            camids: as in `forward`.
            epoch: as in `forward`.
            size: (height, width) of the keypoints' frame; None is the bank's frame.

        Raises:
            ValueError: keys, pids or camids that do not fit.
        """
        if len(keypoints.shape) != 1:
            raise ValueError(f"keypoints: batch shape {keypoints.shape}, needed (B,)")
        batch = len(keypoints)
        rows = torch.full((batch,), -1)
        if self.p == 0 or batch == 0:
            return PoseDraw(torch.zeros(batch, dtype=torch.bool), rows)
        names = checked_keys(keys, batch)
        identities, cameras = checked_integers("pids", pids, batch), checked_integers("camids", camids, batch)
        selected = torch.from_numpy(np.asarray(keyed_uniform(self.seed, epoch, names, "p")) < self.p)
        poses = keypoints.to("cpu").resize(size or self.bank.frame, self.bank.frame)
        candidates = (selected & usable(poses)).nonzero()[:, 0]
        if len(candidates):
            rows[candidates] = torch.as_tensor(
                sample(
                    self.bank,
                    self.sampler,
                    poses[candidates],
                    [names[i] for i in candidates.tolist()],
                    None if identities is None else identities[candidates.numpy()],
                    None if cameras is None else cameras[candidates.numpy()],
                    self.seed,
                    epoch,
                )
            )
        return PoseDraw(selected, rows)

    def poses(self, bank_rows: Tensor, sources: Keypoints, size: tuple[int, int]) -> Keypoints:
        """Poses of the bank as they are placed for the persons that are rendered in them.

        Args:
            bank_rows: (B,) int64, none of them -1.
            sources: (B,) the persons, in a frame of `size`.
            size: (height, width).

        Returns:
            (B,) on the CPU, in a frame of `size`.
        """
        frame = self.bank.frame
        placed = place(self.bank.keypoints(bank_rows), sources.to("cpu").resize(size, frame), frame, self.fit)
        return placed.resize(frame, size)

    @torch.no_grad()
    def render(self, images: Tensor, keypoints: Keypoints, draw: PoseDraw) -> XingPoseOutput:
        """Renders a draw, in train and eval mode alike; arguments and errors as in `forward`."""
        self._check(images, keypoints)
        if len(draw.selected) != len(images):
            raise ValueError(f"draw: of {len(draw.selected)} rows, needed {len(images)}, one per image")
        last = int(draw.bank_rows.max()) if len(images) else -1
        if last >= len(self.bank):
            raise ValueError(f"draw: bank row {last}, this bank has {len(self.bank)}; replay with the draw's own bank")
        able = usable(keypoints).cpu()
        rows = ((draw.bank_rows >= 0) & able).nonzero()[:, 0]
        skipped = Skipped(
            unusable_keypoints=int((draw.selected & ~able).sum()),
            no_pose=int((draw.selected & able & (draw.bank_rows < 0)).sum()),
        )
        if not len(rows):
            return self._real(images, keypoints, draw, skipped)
        rendered, poses = self._rendered(images, keypoints, draw, rows)
        return self._assembled(images, keypoints, rows.to(images.device), rendered, poses, draw, skipped)

    def _rendered(self, images: Tensor, keypoints: Keypoints, draw: PoseDraw, rows: Tensor) -> tuple[Tensor, Keypoints]:
        """The synthetic images (n, 3, H, W) of `rows` (n,) and their keypoints, both in the images' frame."""
        here, device, size = rows.to(images.device), images.device, _size(images)
        poses = self.poses(draw.bank_rows[rows], keypoints[here], size).to(device)
        parameter = next(self.generator.parameters(), None)
        dtype = torch.float32 if parameter is None else parameter.dtype
        source = _resized(images[here].float(), self.size)
        source_maps = render_heatmaps(keypoints[here].resize(size, self.size), self.size, self.sigma)
        target_maps = render_heatmaps(poses.resize(size, self.size), self.size, self.sigma)
        if self.generator.training:
            self.generator.eval()
        generated = self.generator(unit_to_signed(source).to(dtype), source_maps.to(dtype), target_maps.to(dtype))
        if generated.shape != source.shape:
            raise ValueError(f"generator: gave {tuple(generated.shape)}, needed {tuple(source.shape)}")
        rendered = _resized(signed_to_unit(generated.float()), size).clamp(0, 1)
        return rendered.to(images.dtype), poses

    def _assembled(
        self,
        images: Tensor,
        keypoints: Keypoints,
        rows: Tensor,
        rendered: Tensor,
        poses: Keypoints,
        draw: PoseDraw,
        skipped: Skipped,
    ) -> XingPoseOutput:
        """Puts the synthetic rows in their sources' place or behind the batch."""
        sources = torch.arange(len(images), device=images.device)
        is_synthetic = torch.zeros_like(sources, dtype=torch.bool)
        if self.mode == "replace":
            out = images.detach().clone()  # keeps the memory format
            out[rows] = rendered
            xy, visibility = keypoints.xy.clone(), keypoints.visibility.clone()
            xy[rows], visibility[rows] = poses.xy, poses.visibility
            is_synthetic[rows] = True
            return XingPoseOutput(out, Keypoints(xy, visibility), is_synthetic, sources, draw, skipped)
        wide = images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()
        layout = torch.channels_last if wide else torch.contiguous_format
        out = torch.cat([images.detach(), rendered]).contiguous(memory_format=layout)
        both = Keypoints(
            torch.cat([keypoints.xy, poses.xy]),
            torch.cat([keypoints.visibility, poses.visibility]),
        )
        is_synthetic = torch.cat([is_synthetic, torch.ones_like(rows, dtype=torch.bool)])
        return XingPoseOutput(out, both, is_synthetic, torch.cat([sources, rows]), draw, skipped)

    @staticmethod
    def _real(images: Tensor, keypoints: Keypoints, draw: PoseDraw, skipped: Skipped) -> XingPoseOutput:
        """The batch as it came."""
        sources = torch.arange(len(images), device=images.device)
        return XingPoseOutput(images, keypoints, torch.zeros_like(sources, dtype=torch.bool), sources, draw, skipped)

    def _check(self, images: Tensor, keypoints: Keypoints) -> None:
        """Everything that can be wrong with a batch, one clear error each."""
        check_images(images)
        if not isinstance(keypoints, Keypoints):
            raise ValueError(f"keypoints: {type(keypoints).__name__}, needed xingaug.Keypoints")
        if keypoints.shape != (len(images),):
            raise ValueError(f"keypoints: batch shape {keypoints.shape}, needed ({len(images)},), one per image")
        if keypoints.device != images.device:
            raise ValueError(f"keypoints: on {keypoints.device}, images on {images.device}; use keypoints.to(device)")
        parameter = next(self.generator.parameters(), None)
        if parameter is not None and parameter.device != images.device:
            raise ValueError(f"images: on {images.device}, the generator on {parameter.device}; use aug.to(device)")
        check_frame(keypoints, _size(images))


def _size(images: Tensor) -> tuple[int, int]:
    return images.shape[-2], images.shape[-1]


def _resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear with antialiasing; the images themselves where they have that size."""
    if _size(images) == size:
        return images
    return F.interpolate(images, size=size, mode="bilinear", antialias=True, align_corners=False)
