"""XingPose: persons of a batch re-rendered in poses from a bank, on the batch's device."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
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
from xingaug.augment.grounds import Grounds
from xingaug.augment.output import PoseDraw, Skipped, XingPoseOutput, keep, merge, resized
from xingaug.augment.references import References
from xingaug.augment.reuse import RenderedRows, Request, ReuseCache, ReuseSchedule, as_bytes, as_unit
from xingaug.errors import BadInput
from xingaug.generators.core import Core, Runtime
from xingaug.generators.fast import Dtype
from xingaug.images import signed_to_unit, unit_to_signed
from xingaug.keypoints import Keypoints
from xingaug.poses.bank import PoseBank
from xingaug.poses.draws import keyed_uniform
from xingaug.poses.placing import FITS, Fit, place
from xingaug.poses.references import require_fit
from xingaug.poses.samplers import parse_sampler, sample
from xingaug.programs import put_in_eval_mode


class XingPose(nn.Module):
    """Re-renders persons of a batch in poses from a bank.

    Draws are keyed by (seed, epoch, image name), so that an image gets the same pose in any batch; no global RNG is
    read or advanced. In eval mode the transform is the identity. It runs without gradients and autocast, and only the
    selected rows go through the generator. A surrounding model may be compiled: the transform runs outside its graphs.
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
        dtype: torch.dtype | Dtype | None = "auto",
        runtime: Runtime = "auto",
        grounds: Grounds | None = None,
        references: References | None = None,
    ) -> None:
        """Takes ownership of the generator: it is put in eval mode and its parameters are frozen (requires_grad False).

        Args:
            generator: gen(source (B, 3, H, W) in [-1, 1], source_heatmaps (B, 18, H, W), target_heatmaps) ->
                (B, 3, H, W) in [-1, 1], with `gen.size` = (height, width).
            bank: where poses come from. It stays on the CPU; `to(device)` moves the generator only.
            p: probability of re-rendering, per row.
            sampler: a name in `xingaug.poses.samplers.SAMPLERS`, or a mixture such as "uniform=3,near=1".
            seed: of every draw.
            mode: "replace" replaces the source by the synthetic image; "append" adds it at the end of the batch.
            sigma: of the heatmaps that the generator was trained with, in pixels at `gen.size` (PATN: 6).
            fit: "frame" keeps a pose's position in its frame, "source" moves and scales it to the source (`place`).
            gate: rows whose rendered image it rejects stay real; None accepts all.
            reuse: epochs that select an image before it gets a new pose; until then its rendered image, rounded to 8
                bits, is returned from a cache. An image name must then always stand for the same image and keypoints,
                and the generator must not change; in another batch composition, such as after a restart, values may
                differ by one level of 255.
            reuse_limit_mb: most memory of the cached images, in 10^6 bytes; 13,000 of them at 128x64 take 320.
            reuse_device: of the cache; None is where images are rendered.
            dtype: that a generator of this package computes in, as for `Core`; "auto" is bfloat16 where the device has
                it, else float32, and None the generator's own. Other networks stay as they are.
            runtime: of the generator, as for `Core`: "torch", "openvino", or "auto".
            grounds: paste a share of the persons onto other images' grounds, after the gate; None keeps their own.
            references: images of which the one nearest to the target pose is rendered, if it is of the row's person and
                camera; None always renders the row's own. Needs fit "frame".

        Raises:
            ValueError: an argument outside its range, an unknown sampler, mode, fit, dtype or runtime, a generator
                without `size`.
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
        if grounds is not None and not isinstance(grounds, Grounds):
            raise ValueError(f"grounds: {type(grounds).__name__}, needed Grounds or None")
        if references is not None and not isinstance(references, References):
            raise ValueError(f"references: {type(references).__name__}, needed References or None")
        require_fit("image" if references is None else "camera", fit)
        size = getattr(generator, "size", None)
        if (
            not isinstance(generator, nn.Module) or not isinstance(size, tuple | list) or len(size) != 2
            or not all(isinstance(side, int) and side > 0 for side in size)
        ):  # fmt: skip
            raise ValueError(
                f"generator: {type(generator).__name__} with size {size!r}, needed an nn.Module with "
                "size = (height, width), such as load_generator gives"
            )
        if references is not None and tuple(references.size) != tuple(size):
            raise ValueError(f"references: of {tuple(references.size)}, needed the generator's {tuple(size)}")
        put_in_eval_mode(generator)
        self.generator = generator.requires_grad_(False)
        self.bank = bank
        self.p, self.sampler, self.mode, self.sigma = float(p), sampler, mode, float(sigma)
        self.seed = checked_integer("seed", seed)
        self.fit, self.gate, self.grounds, self.reuse = fit, gate, grounds, int(reuse)
        self.references = references
        self.size: tuple[int, int] = (int(size[0]), int(size[1]))
        self.core = Core(self.generator, self.sigma, dtype, runtime)
        self._check_frame = FrameCheck()
        self._schedule = ReuseSchedule(self.seed, self.reuse)
        try:
            self._cache = ReuseCache(reuse_limit_mb, reuse_device) if self.reuse > 1 else None
        except RuntimeError as error:
            raise ValueError(f"reuse_device: '{reuse_device}': {str(error).splitlines()[0]}") from None
        self._cached_of = (bank, references)

    def train(self, mode: bool = True) -> "XingPose":
        """Switches the transform on or off; generator, gate and grounds stay in eval mode either way."""
        self.training = mode
        for network in self.children():
            put_in_eval_mode(network)
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
            keys: B image names as in the bank, so that an image never gets its own pose. Needed unless p is 0, or
                `draw` is given and there are neither references nor grounds, which are chosen by name.
            pids: B identities, as in the file names.
            camids: B cameras.
            epoch: an integer; a new epoch gives new draws.
            draw: replays this draw instead of making one.

        Raises:
            ValueError: any argument that does not fit, named, with its value and what is needed.
        """
        return _outside_graphs(self._augment)(images, keypoints, keys, pids, camids, epoch, draw)

    def _augment(
        self,
        images: Tensor,
        keypoints: Keypoints,
        keys: Sequence[str] | None,
        pids: Integers | None,
        camids: Integers | None,
        epoch: int,
        draw: PoseDraw | None,
    ) -> XingPoseOutput:
        """Draws, gathers rows, renders and merges."""
        persons = self._check(images, keypoints)
        if not self.training:
            return keep(images, keypoints, PoseDraw.nothing(len(images)), Skipped())
        if draw is None:
            draw = self.draw(persons, keys, pids, camids, epoch, size=_size(images))
        return self._render(images, keypoints, persons, draw, keys, pids)

    def chosen(self, keys: Sequence[str], epoch: int = 0) -> np.ndarray:
        """(B,) bool: the images that `p` chooses to be re-rendered in an epoch, by their keys alone."""
        return keyed_uniform(self.seed, epoch, list(keys), "p") < self.p

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
        selected = self.chosen(names, epoch)
        poses = keypoints.to("cpu").resize(size or self.bank.frame, self.bank.frame)
        candidates = np.flatnonzero(selected & usable(poses).numpy())
        chosen = [names[i] for i in candidates.tolist()]
        generations = self._schedule.generations(chosen, epoch, self.p)
        rows = np.full(batch, -1, np.int64)
        for generation in np.unique(generations).tolist():
            these = np.flatnonzero(generations == generation)
            here = candidates[these]
            rows[here] = sample(
                self.bank,
                self.sampler,
                poses[here],
                [chosen[i] for i in these.tolist()],
                None if identities is None else identities[here],
                None if cameras is None else cameras[here],
                self.seed,
                generation,
            )
        return PoseDraw(torch.from_numpy(selected), torch.from_numpy(rows))

    def poses(self, bank_rows: Tensor, sources: Keypoints, size: tuple[int, int]) -> Keypoints:
        """Places poses of the bank for the persons that are rendered in them.

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
            keys: as in `forward`; without them nothing is reused. Needed with references or grounds.
            pids: as in `forward`; the quality gate counts by them.

        Raises:
            ValueError: as in `forward`.
        """
        return self._render(images, keypoints, self._check(images, keypoints), draw, keys, pids)

    @torch.no_grad()
    def _render(
        self,
        images: Tensor,
        keypoints: Keypoints,
        persons: Keypoints,
        draw: PoseDraw,
        keys: Sequence[str] | None,
        pids: Integers | None,
    ) -> XingPoseOutput:
        """Renders a draw; `persons` are the keypoints on the CPU, where rows are chosen."""
        batch, size = len(images), _size(images)
        if len(draw.selected) != batch:
            raise ValueError(f"draw: of {len(draw.selected)} rows, needed {batch}, one per image")
        selected, bank_rows = draw.selected.numpy(), draw.bank_rows.numpy()
        last = int(bank_rows.max()) if batch else -1
        if last >= len(self.bank):
            raise ValueError(f"draw: bank row {last}, this bank has {len(self.bank)}; replay with the draw's own bank")
        by_name = self.references is not None or self.grounds is not None
        names = checked_keys(keys, batch) if by_name or keys is not None else None
        identities = checked_integers("pids", pids, batch)
        able = usable(persons).numpy()
        rows = np.flatnonzero((bank_rows >= 0) & able)
        skipped = Skipped(int((selected & ~able).sum()), int((selected & able & (bank_rows < 0)).sum()))
        if not len(rows):
            return keep(images, keypoints, draw, skipped)
        chosen = persons[rows]
        request = Request(
            rows, bank_rows[rows], chosen, self.poses(torch.from_numpy(bank_rows[rows]), chosen, size),
            None if names is None else [names[i] for i in rows.tolist()],
            None if identities is None else identities[rows],
        )  # fmt: skip
        result = (
            self._reuse(images, request)
            if self._cache is not None and names is not None
            else self._render_rows(images, request)
        )
        scores = {name: torch.full((batch,), torch.nan) for name in result.scores}
        for name, values in result.scores.items():
            scores[name][torch.from_numpy(rows)] = values
        kept = np.flatnonzero(result.kept)
        skipped = replace(skipped, rejected=len(rows) - len(kept))
        if not len(kept):
            return keep(images, keypoints, draw, skipped, scores)
        pictures = result.images if len(kept) == len(rows) else result.images[torch.from_numpy(kept).to(images.device)]
        pictures = resized(as_unit(pictures), size).clamp(0, 1).to(images.dtype)
        return merge(
            images, keypoints, rows[kept], pictures, request.poses[kept], draw, skipped, scores, self.mode == "append"
        )

    def _render_rows(self, images: Tensor, request: Request) -> RenderedRows:
        """Gathers the requested rows and renders them; the gate judges the results."""
        size, device = _size(images), images.device
        sources = resized(images.index_select(0, torch.from_numpy(request.rows).to(device)).float(), self.size)
        starts, ends = request.persons.resize(size, self.size), request.poses.resize(size, self.size)
        if self.references is not None:
            assert request.names is not None
            taken_from = self.bank.names[request.bank_rows].tolist()
            sources, starts = self.references.replace(sources, starts, request.names, ends, taken_from)
        xy = torch.stack([starts.xy, ends.xy], 1).to(device, non_blocking=True)
        visibility = torch.stack([starts.visibility, ends.visibility], 1).to(device, non_blocking=True)
        if self.generator.training:  # a surrounding model's train() reaches it
            put_in_eval_mode(self.generator)
        result = self.core(unit_to_signed(sources), xy, visibility)
        if result.shape != sources.shape:
            raise ValueError(f"generator: gave {tuple(result.shape)}, needed {tuple(sources.shape)}")
        result = signed_to_unit(result.float()).clamp(0, 1)
        if self.reuse > 1:
            result = as_bytes(result)
        kept, scores = np.ones(len(result), bool), {}
        if self.gate is not None:
            with torch.autocast(device.type, enabled=False):
                verdict = self.gate(sources, as_unit(result), ends.to(device), request.pids)
            kept = verdict.kept.cpu().numpy()
            scores = {name: values.cpu().float() for name, values in verdict.scores.items()}
        if self.grounds is not None:
            assert request.names is not None
            keys = [f"{name} {row}" for name, row in zip(request.names, request.bank_rows.tolist(), strict=True)]
            result = self.grounds(as_unit(result), ends.to(device), keys, kept)
            result = as_bytes(result) if self.reuse > 1 else result
        return RenderedRows(result, kept, scores)

    def _reuse(self, images: Tensor, request: Request) -> RenderedRows:
        """As `_render_rows`, but with the cache, and duplicates in a batch are rendered once."""
        cache, names, size = self._cache, request.names, _size(images)
        assert cache is not None
        assert names is not None
        if self._cached_of != (self.bank, self.references):
            cache.clear()
            self._cached_of = (self.bank, self.references)
        keys = [(name, (row, size)) for name, row in zip(names, request.bank_rows.tolist(), strict=True)]
        entries = {key: found for key in keys if (found := cache.get(*key)) is not None}
        new = np.array([keys.index(key) for key in dict.fromkeys(keys) if key not in entries], np.int64)
        if len(new):
            result = self._render_rows(images, request[new])
            rendered = result.rows([keys[i][1] for i in new.tolist()])
            for i, entry in zip(new.tolist(), rendered, strict=True):
                entries[keys[i]] = entry
                cache.put(names[i], entry)
        return RenderedRows.of([entries[key] for key in keys], images.device)

    def _check(self, images: Tensor, keypoints: Keypoints) -> Keypoints:
        """Checks a batch, with one clear error for each fault; returns the keypoints on the CPU."""
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
        persons = keypoints.to("cpu")
        self._check_frame(persons, _size(images))
        return persons


def _outside_graphs(function: Callable[..., Any]) -> Callable[..., Any]:
    """Excludes a function from `torch.compile`, looked up at the call because its import takes seconds."""
    return torch.compiler.disable(function) if "torch._dynamo" in sys.modules else function


def _size(images: Tensor) -> tuple[int, int]:
    return images.shape[-2], images.shape[-1]
