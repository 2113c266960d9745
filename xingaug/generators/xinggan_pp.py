"""XingGAN++: two crossed branches, appearance and shape (Tang, Shao, Sebe, Van Gool, TPAMI 2025, arXiv 2501.08900).

Read from top to bottom: the configuration, one stage, the texture attention, the fusion, the generator.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xingaug.generators.base import PoseGenerator
from xingaug.generators.checks import check_size
from xingaug.generators.layers import (
    CrossedAttention,
    EnhancedAttention,
    ImageStem,
    KeyTokens,
    PoseStem,
    ShuffleDecoder,
    attend,
    conv_block,
)
from xingaug.generators.pose import Poses
from xingaug.generators.warp import Carry, FlowCorrection, LimbWarp
from xingaug.generators.xinggan import decoder, map_decoder

HINTS = 4
"""Channels that the limb warp adds: its image, and how near a limb each pixel is."""


@dataclass(frozen=True)
class XingGANPlusPlusConfig:
    """Every switch and size of the generator; the defaults are `xinggan_pp_small`, `sizes.py` has the paper's.

    Attributes:
        size: (height, width) of the images in pixels, both divisible by 4 and at least 8.
        width: C, channels of both codes (paper 256).
        blocks: T, number of stages (paper 9).
        dropout: inside a stage (paper 0.5).
        residual: whether a stage adds its input to what its convolutions give (our choice).
        wide_shape: whether the shape branch keeps 2C channels between its convolutions, as released, or C (our choice).
        padding: of the stages' convolutions; "reflect" as released, "zeros" saves a copy of every map (our choice).
        stem: "released" is XingGAN's encoder; "light" works on quarter-size heatmaps, unshuffled pixels (our choice).
        decoder: "released" is XingGAN's, "light" computes at low resolution and shuffles (our choice).
        decoder_widths: channels of the light decoder of the candidates at half and at full resolution.
        map_widths: likewise of the attention maps, which are smoother.
        shape_guided: SA, the appearance branch asks the shape branch.
        appearance_guided: AS, the shape branch asks the appearance branch.
        shared_projections: one query, key, value, gamma and EA for both directions, as in the released XingGAN
            (our choice: each direction its own).
        query_channels: d of queries and keys (released code: 32).
        scaled: divide logits by sqrt(d) (our choice; the released XingGAN does not).
        multi_scale: pool keys and values over the pyramid (EMSA, EMAS).
        pyramid: regions along the width at each level, with multi_scale (our choice).
        pyramid_aspect: how many times as many regions there are along the height (our choice).
        full_resolution: keep the unpooled positions as keys too (our choice: no).
        enhanced: the inner attention EA on the logits; ties the network to `size`.
        enhanced_width: D (with EA alone, as the next three), channels of a token in EA (AiATrack: 64).
        enhanced_queries: the most queries EA works on; a larger grid is pooled to patches for it (our choice).
        enhanced_start: initial factor on EA's corrections; 0 begins as the identity (our choice).
        dense_fusion: decode from the codes of all stages (DCCF), not of the last alone.
        fusion_wiring: how DCCF, where it is on, joins the codes of a branch: "concat" of all into a 1x1 convolution, or
            a "weighted" mean with one learned weight a stage before it (our choice: concat).
        candidates: RGB candidates of each branch (paper 10).
        texture_attention: heads that carry the source's pixels and fine features to their places in the target pose,
            one more candidate each; 0 leaves it out, as in the paper (our choice).
        limb_warp: whether the source's limbs, laid over the target's skeleton, are a candidate and a hint
            (`generators.warp`; our choice, not in the paper).
        flow: whether the network corrects the limb warp, where it is on, by displacements; it is three candidates then
            (likewise).
    """

    size: tuple[int, int] = (128, 64)
    width: int = 96
    blocks: int = 3
    dropout: float = 0.0
    residual: bool = True
    wide_shape: bool = False
    padding: Literal["zeros", "reflect"] = "zeros"
    stem: Literal["light", "released"] = "light"
    decoder: Literal["light", "released"] = "light"
    decoder_widths: tuple[int, int] = (32, 16)
    map_widths: tuple[int, int] = (16, 8)
    shape_guided: bool = True
    appearance_guided: bool = True
    shared_projections: bool = False
    query_channels: int = 32
    scaled: bool = True
    multi_scale: bool = True
    pyramid: tuple[int, ...] = (1, 2, 4, 8)
    pyramid_aspect: int = 2
    full_resolution: bool = False
    enhanced: bool = True
    enhanced_width: int = 64
    enhanced_queries: int = 128
    enhanced_start: float = 0.0
    dense_fusion: bool = True
    fusion_wiring: Literal["concat", "weighted"] = "concat"
    candidates: int = 4
    texture_attention: int = 2
    limb_warp: bool = True
    flow: bool = True

    def __post_init__(self) -> None:
        """Checks what types alone cannot."""
        check_size(self.size)
        for name in ("width", "enhanced_width"):
            if getattr(self, name) < 4 or getattr(self, name) % 4:
                raise ValueError(f"{name}: {getattr(self, name)}, needed a positive multiple of 4")
        for name in ("blocks", "candidates", "query_channels", "pyramid_aspect", "enhanced_queries"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)}, needed at least 1")
        for name in ("decoder_widths", "map_widths"):
            if len(getattr(self, name)) != 2 or min(getattr(self, name)) < 1:
                raise ValueError(f"{name}: {getattr(self, name)}, needed two numbers of channels, at least 1")
        if not math.isfinite(self.enhanced_start):
            raise ValueError(f"enhanced_start: {self.enhanced_start}, needed a finite number")
        if self.multi_scale and (not self.pyramid or min(self.pyramid) < 1):
            raise ValueError(f"pyramid: {self.pyramid}, needed at least one level of at least 1 region")
        if self.texture_attention < 0 or not 0 <= self.dropout < 1:
            raise ValueError("texture_attention: needed at least 0; dropout: needed in [0, 1)")
        choices = {
            "padding": ("zeros", "reflect"),
            "stem": ("light", "released"),
            "decoder": ("light", "released"),
            "fusion_wiring": ("concat", "weighted"),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: {getattr(self, name)!r}, needed {' or '.join(known)}")
        if (self.stem == "released" or self.decoder == "released") and self.width % 8:
            raise ValueError(f"width: {self.width}, needed a multiple of 8 with the released stem or decoder")
        if self.decoder == "released" and self.texture_attention:
            raise ValueError(f"texture_attention: {self.texture_attention}, needed 0 with decoder: released")
        if self.limb_warp and "released" in (self.stem, self.decoder):
            raise ValueError("limb_warp: true, needed false with the released stem or decoder")

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) of the codes: a quarter of the image's size."""
        return self.size[0] // 4, self.size[1] // 4

    @property
    def warps(self) -> int:
        """Candidates that the limb warp and its correction make."""
        return 0 if not self.limb_warp else FlowCorrection.candidates if self.flow else 1


class Stage(nn.Module):
    """One of the T stages: convolutions in each branch, then both crossed attentions (METHOD: T blocks)."""

    def __init__(self, config: XingGANPlusPlusConfig, first: bool) -> None:
        """Args: `config`; `first`: the shape code of the first stage has C channels, of later ones 2C."""
        super().__init__()
        c = config.width
        wide = c if first else 2 * c
        hidden = wide if config.wide_shape else c
        self.residual = config.residual
        self.appearance = conv_block(c, c, c, config.dropout, last_norm=True, padding=config.padding)
        self.shape = conv_block(wide, hidden, c, config.dropout, last_norm=False, padding=config.padding)
        pyramid = config.pyramid if config.multi_scale else None
        self.tokens = KeyTokens(config.grid, pyramid, config.full_resolution, config.pyramid_aspect)
        crossed = [self._direction(config) for _ in range(1 if config.shared_projections else 2)]
        self.shape_to_appearance = crossed[0] if config.shape_guided else None
        self.appearance_to_shape = crossed[-1] if config.appearance_guided else None

    def _direction(self, config: XingGANPlusPlusConfig) -> CrossedAttention:
        enhance = None
        if config.enhanced:
            enhance = EnhancedAttention(
                config.grid,
                self.tokens.centres,
                config.enhanced_width,
                config.enhanced_queries,
                config.enhanced_start,
            )
        return CrossedAttention(config.width, config.query_channels, config.scaled, enhance)

    def forward(self, appearance: Tensor, shape: Tensor) -> tuple[Tensor, Tensor]:
        """Appearance (B, C, h, w) and shape (B, C or 2C, h, w) to the next appearance and shape (B, 2C, h, w)."""
        x_i = self.appearance(appearance)
        x_p = self.shape(shape)
        if self.residual:
            x_i = x_i + appearance
            x_p = x_p + shape[:, -x_p.shape[1] :]  # of concat(appearance, shape) the shape half
        # Both directions read x_i and x_p from before the update.
        t_i, t_p = self.tokens(x_i), self.tokens(x_p)  # (B, S, C)
        next_appearance = x_i if self.shape_to_appearance is None else self.shape_to_appearance(x_i, t_i, t_p)
        next_shape = x_p if self.appearance_to_shape is None else self.appearance_to_shape(x_p, t_p, t_i)
        return next_appearance, torch.cat([next_appearance, next_shape], 1)


class TextureAttention(nn.Module):
    """Moves the source's 4x4 pixel blocks and fine features to where the target pose needs them (our choice).

    Codes at a quarter of the resolution wash out stripes and logos. Here the final shape code asks, at every target
    position, which source position shows the same piece of clothing, and what lies there is carried over unreduced.
    """

    def __init__(self, config: XingGANPlusPlusConfig, joints: int = 18) -> None:
        """Args: `config` of the generator; `joints`: maps per pose."""
        super().__init__()
        self.heads = config.texture_attention
        d = config.query_channels
        self.query = nn.Conv2d(2 * config.width, self.heads * d, 1)
        self.key = nn.Sequential(
            nn.Conv2d(config.width + 2 * joints, config.width, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(config.width, self.heads * d, 1),
        )
        self.skip_channels = config.width // 4
        self.reduce = nn.Conv2d(config.width // 2, self.skip_channels, 1)

    def forward(
        self, image: Tensor, fine: Tensor, source_code: Tensor, maps: Tensor, shape_code: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Carries pixels and features to the target pose.

        Args:
            image: (B, 3, H, W), the source.
            fine: (B, C/2, H/2, W/2), the stem's finer features.
            source_code: (B, C, h, w), appearance code before the first stage, aligned with the source.
            maps: (B, 36, h, w), both poses' heatmaps.
            shape_code: (B, 2C, h, w), the last stage's shape code.

        Returns:
            Candidates (B, heads, 3, H, W) and features (B, C/4, H/2, W/2).
        """
        b, _, h, w = source_code.shape
        query = self._split(self.query(shape_code))  # (B, heads, N, d)
        key = self._split(self.key(torch.cat([source_code, maps], 1)))
        pixels = F.pixel_unshuffle(image, 4).flatten(2).transpose(1, 2)  # (B, N, 48)
        features = F.pixel_unshuffle(self.reduce(fine), 2).flatten(2).transpose(1, 2)  # (B, N, C)
        value = torch.cat([pixels.to(features.dtype), features], -1).unsqueeze(1)  # (B, 1, N, 48 + C)
        value = value.expand(-1, self.heads, -1, -1)
        moved = attend(query, key, value, query.shape[-1] ** -0.5).transpose(2, 3)  # (B, heads, 48 + C, N)
        candidates = F.pixel_shuffle(moved[:, :, :48].reshape(b * self.heads, 48, h, w), 4)
        skip = F.pixel_shuffle(moved[:, :, 48:].mean(1).reshape(b, -1, h, w), 2)
        return candidates.unflatten(0, (b, self.heads)), skip

    def _split(self, features: Tensor) -> Tensor:
        """(B, heads * d, h, w) to (B, heads, N, d)."""
        return features.flatten(2).unflatten(1, (self.heads, -1)).transpose(2, 3)


class StageJoin(nn.Module):
    """What a branch decodes from: the codes of all stages (METHOD: DCCF), squeezed to C channels."""

    def __init__(self, config: XingGANPlusPlusConfig, channels: int) -> None:
        """Args: `config` of the generator; `channels` of one stage's code."""
        super().__init__()
        weighted = config.fusion_wiring == "weighted"
        self.logits = nn.Parameter(torch.zeros(config.blocks)) if weighted else None
        self.squeeze = nn.Conv2d((1 if weighted else config.blocks) * channels, config.width, 1)

    def forward(self, codes: list[Tensor]) -> Tensor:
        """T times (B, channels, h, w) to (B, C, h, w)."""
        if self.logits is None:
            return self.squeeze(torch.cat(codes, 1))
        return self.squeeze((torch.stack(codes, -1) * self.logits.softmax(0)).sum(-1))


class LastStage(nn.Module):
    """What a branch decodes from without DCCF, as in XingGAN: the last stage's code, the shape's squeezed to C."""

    def __init__(self, config: XingGANPlusPlusConfig, channels: int) -> None:
        """Args: `config` of the generator; `channels` of one stage's code."""
        super().__init__()
        c = config.width
        squeeze = nn.Sequential(nn.Conv2d(channels, c, 1, bias=False), nn.BatchNorm2d(c), nn.ReLU(inplace=True))
        self.squeeze = squeeze if channels != c else nn.Identity()

    def forward(self, codes: list[Tensor]) -> Tensor:
        """T times (B, channels, h, w) to (B, C, h, w)."""
        code: Tensor = self.squeeze(codes[-1])
        return code


def weighted_sum(logits: Tensor, candidates: list[Tensor]) -> Tensor:
    """Candidates weighted by the softmax over their maps (METHOD: co-attention fusion).

    Args:
        logits: (B, K, H, W) of the maps.
        candidates: K images in all, each tensor (B, 3 k, H, W).

    Returns:
        (B, 3, H, W) float32.
    """
    # Plane by plane in full precision: with channels last each product would be over three numbers.
    planes = torch.cat([c.float().contiguous() for c in candidates], 1).unflatten(1, (-1, 3))  # (B, K, 3, H, W)
    maps = logits.float().contiguous().softmax(1)
    return (maps.unsqueeze(2) * planes).sum(1)


class CoAttentionFusion(nn.Module):
    """Candidates of both branches and of the source, weighted by attention maps that sum to 1 (METHOD: DCCF)."""

    def __init__(self, config: XingGANPlusPlusConfig) -> None:
        """Args: `config` of the generator."""
        super().__init__()
        c, self.candidates = config.width, config.candidates
        self.dense = config.dense_fusion
        join = StageJoin if self.dense else LastStage
        self.join_appearance, self.join_shape = join(config, c), join(config, 2 * c)
        both = 2 * c if self.dense else 3 * c  # without DCCF the maps see the last shape code unsqueezed
        maps = 2 * config.candidates + 1 + config.texture_attention + config.warps
        if config.decoder == "released":
            self.decode_appearance: nn.Module = decoder(c // 4, config.candidates)
            self.decode_shape: nn.Module = decoder(c // 4, config.candidates)
            self.decode_maps: nn.Module = map_decoder(both, c // 4, maps)
            return
        skip = (c // 4 if config.texture_attention else 0) + (4 * (HINTS + 3 * config.warps) if config.limb_warp else 0)
        self.decode_appearance = ShuffleDecoder(c, config.decoder_widths, 3 * config.candidates, skip, nn.Tanh())
        self.decode_shape = ShuffleDecoder(c, config.decoder_widths, 3 * config.candidates, skip, nn.Tanh())
        self.decode_maps = ShuffleDecoder(both, config.map_widths, maps, skip, nn.Identity())

    def forward(
        self, appearances: list[Tensor], shapes: list[Tensor], moved: list[Tensor], fine: list[Tensor]
    ) -> Tensor:
        """Decodes and fuses.

        Args:
            appearances: T times (B, C, h, w).
            shapes: T times (B, 2C, h, w).
            moved: candidates that are made of the source's pixels, the source itself among them; each (B, 3 k, H, W).
            fine: features (B, any, H/2, W/2) that join the light decoders; none, or as many as the network has.

        Returns:
            (B, 3, H, W) in [-1, 1].
        """
        appearance, shape = self.join_appearance(appearances), self.join_shape(shapes)
        features = (torch.cat(fine, 1),) if fine else ()
        rgb = [self.decode_appearance(appearance, *features), self.decode_shape(shape, *features), *moved]
        both = torch.cat([appearance, shape if self.dense else shapes[-1]], 1)  # (B, 2C or 3C, h, w)
        maps = self.decode_maps(both, *features)  # (B, K, H, W)
        return weighted_sum(maps, rgb)


class XingGANPlusPlus(PoseGenerator):
    """The generator: source image, source pose and target pose in; the person in the target pose out."""

    config: XingGANPlusPlusConfig

    def __init__(self, **config: Any) -> None:
        """Args: `config`: the fields of `XingGANPlusPlusConfig`."""
        super().__init__(XingGANPlusPlusConfig(**config))
        c = self.config
        self.image_stem = ImageStem(c.width, released=c.stem == "released")
        self.warp = LimbWarp(c.size) if c.limb_warp else None
        self.carry = Carry(c.size)
        self.flow = FlowCorrection(c.width, 4 * (HINTS + 3)) if c.limb_warp and c.flow else None
        hints = HINTS if c.limb_warp else 0
        self.heatmap_stem = PoseStem(c.size, c.width, released=c.stem == "released", hints=hints)
        self.stages = nn.ModuleList(Stage(c, first=t == 0) for t in range(c.blocks))
        self.texture = TextureAttention(c) if c.texture_attention else None
        self.fusion = CoAttentionFusion(c)

    @property
    def required_size(self) -> tuple[int, int] | None:
        """Its own where EA ties it to the grid."""
        return self.size if self.config.enhanced else None

    def render(self, images: Tensor, poses: Poses) -> Tensor:
        """As `PoseGenerator.render`."""
        size = (images.shape[-2], images.shape[-1])
        image = images.to(self.dtype)
        moved, fine, hints = [images], [], None
        if self.warp is not None:
            shift, nearness = self.warp(poses, size)  # (B, 2, H, W), (B, 1, H, W)
            warped = self.carry(images, shift)  # (B, 3, H, W)
            hints = torch.cat([warped, nearness], 1).to(self.dtype)  # (B, 4, H, W)
        code, finer = self.image_stem(image)  # (B, C, h, w), (B, C/2, H/2, W/2)
        shape, means = self.heatmap_stem(poses, size, self.dtype, hints)  # (B, C, h, w), (B, 36, h, w)
        appearance = code
        appearances, shapes = [], []
        for stage in self.stages:
            appearance, shape = stage(appearance, shape)  # (B, C, h, w), (B, 2C, h, w)
            appearances.append(appearance)
            shapes.append(shape)
        if hints is not None:
            more = []
            if self.flow is not None:
                shifts = self.flow(shift, shape, F.pixel_unshuffle(torch.cat([hints, image], 1), 2))
                corrected = self.carry(images, shifts)  # (B, 9, H, W)
                warped, more = corrected[:, :3], [corrected[:, 3:]]
            moved += [warped, *more]
            seen = torch.cat([warped, nearness, images, *more], 1).to(self.dtype)  # (B, 7 or 13, H, W)
            fine.append(F.pixel_unshuffle(seen, 2))  # (B, 28 or 52, H/2, W/2)
        if self.texture is not None:
            candidates, carried = self.texture(image, finer, code, means, shape)
            moved.append(candidates.flatten(1, 2))
            fine.append(carried)
        return self.fusion(appearances, shapes, moved, fine)
