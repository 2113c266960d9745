"""XingPose: persons of a batch re-rendered in poses from a bank, on the batch's device."""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xingaug.augment.checks import (
    FrameCheck,
    Integers,
    check_images,
    checked_integer,
    checked_integers,
    checked_keys,
    usable,
)
from xingaug.augment.gate import QualityGate
from xingaug.augment.output import PoseDraw, Skipped, XingPoseOutput
from xingaug.augment.reuse import Rendered, ReuseCache, ReuseSchedule
from xingaug.errors import BadInput
from xingaug.images import signed_to_unit, unit_to_signed
from xingaug.keypoints import Keypoints, render_heatmaps
from xingaug.poses.bank import PoseBank
from xingaug.poses.draws import keyed_uniform
from xingaug.poses.placing import FITS, Fit, place
from xingaug.poses.samplers import parse_sampler, sample


class XingPose(nn.Module):
    """Re-renders persons of a batch in poses from a bank.

    Draws are keyed by (seed, epoch, image name), so that an image gets the same pose whatever the batch it sits in;
    no global random generator is read or moved. In eval mode the transform is the identity. Nothing is recorded for
    the gradient, autocast does not reach the generator, and only the drawn rows go through it. A surrounding model may
    be compiled: the transform runs outside its graphs.
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
        gate: QualityGate | None = None,
        reuse: int = 1,
        reuse_limit_mb: float = 2000,
        reuse_device: torch.device | str | None = None,
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
            gate: rendered images that it rejects leave their row real; None lets all through.
            reuse: epochs that select an image before it gets a new pose; till then its rendered image is kept, rounded
                to 8 bits, and served again. An image name must then stand for one and the same image and keypoints,
                the generator must stay as it is, and where images are rendered in other company, such as after a
                restart, values may differ by one level of 255.
            reuse_limit_mb: most memory of the kept images, in 10^6 bytes; those of 13,000 at 128x64 take 320.
            reuse_device: where they are kept; None is where they are rendered.

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
        if not isinstance(bank, PoseBank):
            raise ValueError(f"bank: {type(bank).__name__}, needed a PoseBank")
        if not 0 < sigma < float("inf"):
            raise ValueError(f"sigma: {sigma}, needed a number of pixels above 0")
        if checked_integer("reuse", reuse) < 1 or not reuse_limit_mb > 0:
            raise ValueError(f"reuse: {reuse} times in {reuse_limit_mb} MB, needed at least 1, and more than 0 MB")
        if gate is not None and not isinstance(gate, QualityGate):
            raise ValueError(f"gate: {type(gate).__name__}, needed a QualityGate or None")
        size = getattr(generator, "size", None)
        if (
            not isinstance(generator, nn.Module) or not isinstance(size, tuple | list) or len(size) != 2
            or not all(isinstance(side, int) and side > 0 for side in size)
        ):  # fmt: skip
            raise ValueError(
                f"generator: {type(generator).__name__} with size {size!r}, needed an nn.Module with "
                "size = (height, width), such as load_generator gives"
            )
        self.generator = generator.eval().requires_grad_(False)
        self.bank = bank
        self.p, self.sampler, self.mode, self.sigma = float(p), sampler, mode, float(sigma)
        self.seed = checked_integer("seed", seed)
        self.fit, self.gate, self.reuse = fit, gate, int(reuse)
        self.size: tuple[int, int] = (int(size[0]), int(size[1]))
        self._check_frame = FrameCheck()
        self._schedule = ReuseSchedule(self.seed, self.reuse)
        try:
            self._cache = ReuseCache(reuse_limit_mb, reuse_device) if self.reuse > 1 else None
        except RuntimeError as error:
            raise ValueError(f"reuse_device: '{reuse_device}': {str(error).splitlines()[0]}") from None
        self._cached_of = bank

    def train(self, mode: bool = True) -> "XingPose":
        """Switches the transform on or off; the generator stays in eval mode either way."""
        super().train(mode)
        self.generator.eval()
        return self

    def extra_repr(self) -> str:
        """The arguments, for `print(aug)`."""
        return (
            f"p={self.p}, sampler='{self.sampler}', seed={self.seed}, mode='{self.mode}', fit='{self.fit}', "
            f"reuse={self.reuse}, bank of {len(self.bank)}"
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
            epoch: a whole number; a new epoch brings new draws.
            draw: replays this draw instead of making one.

        Raises:
            ValueError: any argument that does not fit, named, with what came and what is needed.
        """
        return _outside_graphs(self._transformed)(images, keypoints, keys, pids, camids, epoch, draw)

    def _transformed(
        self,
        images: Tensor,
        keypoints: Keypoints,
        keys: Sequence[str] | None,
        pids: Integers | None,
        camids: Integers | None,
        epoch: int,
        draw: PoseDraw | None,
    ) -> XingPoseOutput:
        self._check(images, keypoints)
        if not self.training:
            return self._real(images, keypoints, PoseDraw.nothing(len(images)), Skipped())
        if draw is None:
            draw = self.draw(keypoints, keys, pids, camids, epoch, size=_size(images))
        return self._drawn(images, keypoints, draw, keys, pids)

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
        batch, epoch = len(keypoints), checked_integer("epoch", epoch)
        if self.p == 0 or batch == 0:
            return PoseDraw.nothing(batch)
        names = checked_keys(keys, batch)
        identities, cameras = checked_integers("pids", pids, batch), checked_integers("camids", camids, batch)
        selected = torch.from_numpy(keyed_uniform(self.seed, epoch, names, "p") < self.p)
        poses = keypoints.to("cpu").resize(size or self.bank.frame, self.bank.frame)
        candidates = (selected & usable(poses)).nonzero()[:, 0]
        chosen = [names[i] for i in candidates.tolist()]
        generations = self._schedule.generations(chosen, epoch, self.p)
        rows = torch.full((batch,), -1)
        for generation in np.unique(generations).tolist():
            these = np.flatnonzero(generations == generation)
            here = candidates[these]
            rows[here] = sample(
                self.bank,
                self.sampler,
                poses[here],
                [chosen[i] for i in these.tolist()],
                None if identities is None else identities[here.numpy()],
                None if cameras is None else cameras[here.numpy()],
                self.seed,
                generation,
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

    def render(
        self,
        images: Tensor,
        keypoints: Keypoints,
        draw: PoseDraw,
        keys: Sequence[str] | None = None,
        pids: Integers | None = None,
    ) -> XingPoseOutput:
        """Renders a draw, in train and eval mode alike.

        Args:
            images: as in `forward`.
            keypoints: as in `forward`.
            draw: of these rows.
            keys: as in `forward`; without them nothing is kept for reuse or served.
            pids: as in `forward`; the quality gate counts by them.

        Raises:
            ValueError: as in `forward`.
        """
        self._check(images, keypoints)
        return self._drawn(images, keypoints, draw, keys, pids)

    @torch.no_grad()
    def _drawn(
        self,
        images: Tensor,
        keypoints: Keypoints,
        draw: PoseDraw,
        keys: Sequence[str] | None,
        pids: Integers | None,
    ) -> XingPoseOutput:
        batch = len(images)
        if len(draw.selected) != batch:
            raise ValueError(f"draw: of {len(draw.selected)} rows, needed {batch}, one per image")
        last = int(draw.bank_rows.max()) if batch else -1
        if last >= len(self.bank):
            raise ValueError(f"draw: bank row {last}, this bank has {len(self.bank)}; replay with the draw's own bank")
        names = None if keys is None else checked_keys(keys, batch)
        identities = checked_integers("pids", pids, batch)
        able = usable(keypoints).cpu()
        rows = ((draw.bank_rows >= 0) & able).nonzero()[:, 0]
        unusable = int((draw.selected & ~able).sum())
        no_pose = int((draw.selected & able & (draw.bank_rows < 0)).sum())
        if not len(rows):
            return self._real(images, keypoints, draw, Skipped(unusable, no_pose))
        here = rows.to(images.device)
        persons = keypoints[here]
        poses = self.poses(draw.bank_rows[rows], persons, _size(images)).to(images.device)
        rendered = self._rendered(
            images[here], persons, poses, draw.bank_rows[rows].tolist(),
            None if names is None else [names[i] for i in rows.tolist()],
            None if identities is None else identities[rows.numpy()],
        )  # fmt: skip
        scores = {name: torch.full((batch,), torch.nan) for name in rendered[0].scores}
        for name, values in scores.items():
            values[rows] = torch.tensor([row.scores[name] for row in rendered])
        kept = [number for number, row in enumerate(rendered) if row.kept]
        skipped = Skipped(unusable, no_pose, len(rendered) - len(kept))
        if not kept:
            return self._real(images, keypoints, draw, skipped, scores)
        pictures = _as_unit(torch.stack([rendered[i].image.to(images.device) for i in kept]))
        pictures = _resized(pictures, _size(images)).clamp(0, 1).to(images.dtype)
        return self._assembled(images, keypoints, here[kept], pictures, poses[kept], draw, skipped, scores)

    def _rendered(
        self,
        images: Tensor,
        persons: Keypoints,
        poses: Keypoints,
        bank_rows: Sequence[int],
        names: Sequence[str] | None,
        pids: np.ndarray | None,
    ) -> list[Rendered]:
        """Each of `images` (n, 3, H, W) in its pose, from the cache where it holds it; all in the images' frame."""
        size = _size(images)
        asked = [(row, size) for row in bank_rows]
        cache = None if names is None else self._cache
        if cache is not None and self._cached_of is not self.bank:
            cache.clear()
            self._cached_of = self.bank
        found: dict[Any, Rendered] = {}
        # What an entry is known by: with a cache the name and the pose, so that twins in a batch are rendered once.
        keys = [*range(len(asked))] if cache is None or names is None else [*zip(names, asked, strict=True)]
        if cache is not None:
            held = {key: cache.get(*key) for key in keys}
            found = {key: rendered for key, rendered in held.items() if rendered is not None}
        new = [keys.index(key) for key in dict.fromkeys(keys) if key not in found]
        if new:
            made = self._made(images[new], persons[new], poses[new], None if pids is None else pids[new])
            for number, (image, kept, scores) in zip(new, made, strict=True):
                found[keys[number]] = rendered = Rendered(asked[number], image, kept, scores)
                if cache is not None and names is not None:
                    cache.put(names[number], rendered)
        return [found[key] for key in keys]

    def _made(
        self, images: Tensor, persons: Keypoints, poses: Keypoints, pids: np.ndarray | None
    ) -> list[tuple[Tensor, bool, dict[str, float]]]:
        """Each image rendered (3, h, w), whether the gate lets it through, and what it saw."""
        size = _size(images)
        sources = _resized(images.float(), self.size)
        starts, ends = persons.resize(size, self.size), poses.resize(size, self.size)
        with torch.autocast(sources.device.type, enabled=False):  # or pixels would depend on where the call stands
            made = self._generated(sources, starts, ends)
            if self.reuse > 1:
                made = _as_bytes(made)
            if self.gate is None:
                return [(image, True, {}) for image in made]
            verdict = self.gate(sources, _as_unit(made), ends, pids)
        scores = [
            dict(zip(verdict.scores, values, strict=True))
            for values in zip(*(column.tolist() for column in verdict.scores.values()), strict=True)
        ]
        return list(zip(made, verdict.kept.tolist(), scores, strict=True))

    def _generated(self, sources: Tensor, starts: Keypoints, ends: Keypoints) -> Tensor:
        """What the generator makes, (n, 3, h, w) float32 in [0, 1]; everything in its own frame."""
        parameter = next(self.generator.parameters(), None)
        # A fast form of ours takes full precision, whatever it computes in.
        is_fast = getattr(self.generator, "is_fast", False)
        dtype = torch.float32 if parameter is None or is_fast else parameter.dtype
        if self.generator.training:
            self.generator.eval()
        maps = [render_heatmaps(joints, self.size, self.sigma).to(dtype) for joints in (starts, ends)]
        generated = self.generator(unit_to_signed(sources).to(dtype), *maps)
        if generated.shape != sources.shape:
            raise ValueError(f"generator: gave {tuple(generated.shape)}, needed {tuple(sources.shape)}")
        return signed_to_unit(generated.float()).clamp(0, 1)

    def _assembled(
        self,
        images: Tensor,
        keypoints: Keypoints,
        rows: Tensor,
        rendered: Tensor,
        poses: Keypoints,
        draw: PoseDraw,
        skipped: Skipped,
        scores: Mapping[str, Tensor],
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
            return XingPoseOutput(out, Keypoints(xy, visibility), is_synthetic, sources, draw, skipped, scores)
        wide = images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()
        layout = torch.channels_last if wide else torch.contiguous_format
        out = torch.cat([images.detach(), rendered]).contiguous(memory_format=layout)
        both = Keypoints(
            torch.cat([keypoints.xy, poses.xy]),
            torch.cat([keypoints.visibility, poses.visibility]),
        )
        is_synthetic = torch.cat([is_synthetic, torch.ones_like(rows, dtype=torch.bool)])
        return XingPoseOutput(out, both, is_synthetic, torch.cat([sources, rows]), draw, skipped, scores)

    @staticmethod
    def _real(
        images: Tensor,
        keypoints: Keypoints,
        draw: PoseDraw,
        skipped: Skipped,
        scores: Mapping[str, Tensor] | None = None,
    ) -> XingPoseOutput:
        """The batch as it came, outside the gradient."""
        sources = torch.arange(len(images), device=images.device)
        synthetic = torch.zeros_like(sources, dtype=torch.bool)
        if images.requires_grad:
            images = images.detach()  # as where rows were rendered
        return XingPoseOutput(images, keypoints, synthetic, sources, draw, skipped, scores or {})

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
        self._check_frame(keypoints, _size(images))


def _outside_graphs(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, not to be traced by `torch.compile`; asked for at the call, because its import takes seconds."""
    return torch.compiler.disable(function) if "torch._dynamo" in sys.modules else function


def _size(images: Tensor) -> tuple[int, int]:
    return images.shape[-2], images.shape[-1]


def _resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear with antialiasing; the images themselves where they have that size."""
    if _size(images) == size:
        return images
    return F.interpolate(images, size=size, mode="bilinear", antialias=True, align_corners=False)


def _as_bytes(images: Tensor) -> Tensor:
    """[0, 1] to uint8 of the same shape."""
    return (images * 255).round().to(torch.uint8)


def _as_unit(images: Tensor) -> Tensor:
    """Uint8 to float32 in [0, 1] of the same shape; such images as they are."""
    return images.float() / 255 if images.dtype == torch.uint8 else images
