"""Configuration of XingGAN++: a section for each component of the paper, and `variant` for our additions."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Self

from xingaug.generators.checks import MOST_BLOCKS, check_numbers, check_size


@dataclass(frozen=True)
class ConvolutionConfig:
    """The convolutions of a stage.

    Attributes:
        dropout: after the first of two (paper 0.5).
        residual: whether a stage adds its input to the output of its convolutions (our choice).
        wide_shape: whether the shape branch keeps 2C channels between its convolutions, as released, or C (our choice).
        padding: "reflect" as released; "zeros" saves a copy of every feature map (our choice).
    """

    dropout: float = 0.0
    residual: bool = True
    wide_shape: bool = False
    padding: Literal["zeros", "reflect"] = "zeros"

    def __post_init__(self) -> None:
        """Checks what types alone cannot."""
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: {self.dropout}, needed in [0, 1)")
        _require(self, "padding", ("zeros", "reflect"))


@dataclass(frozen=True)
class CrossingConfig:
    """The crossed attention, SA and AS.

    Attributes:
        shape_guided: SA, the appearance branch attends to the shape branch.
        appearance_guided: AS, the shape branch attends to the appearance branch.
        shared_projections: one query, key, value, gamma and EA for both directions, as in the released XingGAN
            (our choice: each direction its own).
        query_channels: d of queries and keys (released code: 32).
        scaled: divide logits by sqrt(d) (our choice; the released XingGAN does not).
    """

    shape_guided: bool = True
    appearance_guided: bool = True
    shared_projections: bool = False
    query_channels: int = 32
    scaled: bool = True

    def __post_init__(self) -> None:
        """Checks what types alone cannot."""
        _require_positive(self, "query_channels")


@dataclass(frozen=True)
class PoolingConfig:
    """The pyramid of regions, which turns SA and AS into the paper's EMSA and EMAS.

    Attributes:
        multi_scale: pool keys and values over the pyramid; else every position is a key.
        pyramid: regions along the width at each level (our choice).
        pyramid_aspect: how many times as many regions there are along the height (our choice).
        full_resolution: keep the unpooled positions as keys too (our choice: no).
    """

    multi_scale: bool = True
    pyramid: tuple[int, ...] = (1, 2, 4, 8)
    pyramid_aspect: int = 2
    full_resolution: bool = False

    def __post_init__(self) -> None:
        """Checks what types alone cannot."""
        _require_positive(self, "pyramid_aspect")
        if self.multi_scale and (not self.pyramid or min(self.pyramid) < 1 or len(self.pyramid) > 16):
            raise ValueError(f"pyramid: {self.pyramid}, needed 1 to 16 levels of at least 1 region")


@dataclass(frozen=True)
class EnhancementConfig:
    """The inner attention EA.

    Attributes:
        enhanced: whether to use it; the network then accepts only its own size.
        enhanced_width: D, channels of a token in EA (AiATrack: 64).
        enhanced_queries: the most queries EA works on; a larger grid is pooled to patches for it (our choice).
        enhanced_start: initial factor on EA's corrections; 0 begins as the identity (our choice).
    """

    enhanced: bool = True
    enhanced_width: int = 64
    enhanced_queries: int = 128
    enhanced_start: float = 0.0

    def __post_init__(self) -> None:
        """Checks what types alone cannot."""
        _require_multiple(self, "enhanced_width", 4)
        _require_positive(self, "enhanced_queries")
        if not math.isfinite(self.enhanced_start):
            raise ValueError(f"enhanced_start: {self.enhanced_start}, needed a finite number")


@dataclass(frozen=True)
class FusionConfig:
    """The co-attention fusion.

    Attributes:
        dense_fusion: decode from the codes of all stages (DCCF), not of the last alone.
        fusion_wiring: how DCCF joins the codes of a branch: "concat" of all into a 1x1 convolution, or a "weighted"
            mean with one learned weight a stage before it (our choice: concat).
        candidates: RGB candidates of each branch (paper 10).
    """

    dense_fusion: bool = True
    fusion_wiring: Literal["concat", "weighted"] = "concat"
    candidates: int = 4

    def __post_init__(self) -> None:
        """Checks what types alone cannot."""
        _require(self, "fusion_wiring", ("concat", "weighted"))
        _require_positive(self, "candidates")


@dataclass(frozen=True)
class VariantConfig:
    """Our additions to the paper; with the released stem and decoder it is the paper's network.

    Attributes:
        stem: "released" is XingGAN's encoder; "light" works on quarter-size heatmaps and unshuffled pixels.
        decoder: "released" is XingGAN's; "light" computes at low resolution and pixel-shuffles.
        decoder_widths: channels of the light decoder of the candidates at half and at full resolution.
        map_widths: the same of the attention maps, which are smoother.
        texture_attention: heads that move the source's pixels and fine features to the target pose, each giving one
            more candidate; 0 leaves it out.
        limb_warp: whether the source's limbs, warped onto the target's skeleton, are a candidate and an input
            (`generators.warp`).
        flow: whether the network corrects the limb warp, if on, by displacements, giving three candidates.
        keep_ground: whether the source is split into its person and its ground (`generators.ground`), and the ground
            takes the source's place among the candidates; needs the limb warp and sides divisible by 16.
    """

    stem: Literal["light", "released"] = "light"
    decoder: Literal["light", "released"] = "light"
    decoder_widths: tuple[int, int] = (32, 16)
    map_widths: tuple[int, int] = (16, 8)
    texture_attention: int = 2
    limb_warp: bool = True
    flow: bool = True
    keep_ground: bool = False

    def __post_init__(self) -> None:
        """Checks what types alone cannot."""
        for name in ("stem", "decoder"):
            _require(self, name, ("light", "released"))
        for name in ("decoder_widths", "map_widths"):
            widths = getattr(self, name)
            if len(widths) != 2 or min(widths) < 1 or max(widths) > 4096:
                raise ValueError(f"{name}: {widths}, needed two numbers of channels, at least 1 and at most 4096")
        if not 0 <= self.texture_attention <= 64:
            raise ValueError(f"texture_attention: {self.texture_attention}, needed in [0, 64]")
        if self.decoder == "released" and self.texture_attention:
            raise ValueError(f"texture_attention: {self.texture_attention}, needed 0 with decoder: released")
        if self.limb_warp and "released" in (self.stem, self.decoder):
            raise ValueError("limb_warp: true, needed false with the released stem or decoder")
        if self.keep_ground and not self.limb_warp:
            raise ValueError("keep_ground: true, needed false without limb_warp")

    @property
    def is_paper(self) -> bool:
        """Whether the network is exactly the paper's."""
        return self.stem == self.decoder == "released"

    @property
    def warps(self) -> int:
        """Number of candidates from the limb warp and its correction."""
        return 0 if not self.limb_warp else 3 if self.flow else 1

    @property
    def hints(self) -> int:
        """Channels that the limb warp adds: its image, how near a limb each pixel is, and the warped mask."""
        return 0 if not self.limb_warp else 5 if self.keep_ground else 4

    @property
    def source_channels(self) -> int:
        """Channels that are warped: the source and, if the ground is kept, its person's mask."""
        return 4 if self.keep_ground else 3


@dataclass(frozen=True)
class XingGANPlusPlusConfig:
    """Sizes of the generator, and a section for each component; the defaults are `xinggan_pp_small`.

    Names of settings are unique over all sections, so `nested` also accepts them flat, as earlier versions wrote them.

    Attributes:
        size: (height, width) of the images in pixels, both divisible by 4 and at least 8.
        width: C, channels of both codes (paper 256).
        blocks: T, number of stages (paper 9).
        convolutions: of a stage.
        crossing: SA and AS.
        pooling: turns them into EMSA and EMAS.
        enhancement: EA.
        fusion: DCCF.
        variant: our additions.
    """

    size: tuple[int, int] = (128, 64)
    width: int = 96
    blocks: int = 3
    convolutions: ConvolutionConfig = field(default_factory=ConvolutionConfig)
    crossing: CrossingConfig = field(default_factory=CrossingConfig)
    pooling: PoolingConfig = field(default_factory=PoolingConfig)
    enhancement: EnhancementConfig = field(default_factory=EnhancementConfig)
    fusion: FusionConfig = field(default_factory=FusionConfig)
    variant: VariantConfig = field(default_factory=VariantConfig)

    def __post_init__(self) -> None:
        """Checks what types alone cannot."""
        check_size(self.size)
        _require_multiple(self, "width", 4)
        if not 1 <= self.blocks <= MOST_BLOCKS:
            raise ValueError(f"blocks: {self.blocks}, needed at least 1 and at most {MOST_BLOCKS}")
        if "released" in (self.variant.stem, self.variant.decoder) and self.width % 8:
            raise ValueError(f"width: {self.width}, needed a multiple of 8 with the released stem or decoder")
        if self.variant.keep_ground and any(side % 16 for side in self.size):
            raise ValueError(f"size: {self.size}, needed sides divisible by 16 with keep_ground")
        check_numbers(self._numbers())

    def _numbers(self) -> int:
        """An upper estimate of the number of parameters."""
        positions = self.grid[0] * self.grid[1]
        keys = positions if self.pooling.full_resolution else 0
        keys += sum(
            min(n * self.pooling.pyramid_aspect, self.grid[0]) * min(n, self.grid[1]) for n in self.pooling.pyramid
        )
        queries = min(self.enhancement.enhanced_queries, positions) if self.enhancement.enhanced else 0
        inner = queries * (queries + self.enhancement.enhanced_width) + 2 * self.enhancement.enhanced_width**2
        stage = 66 * self.width**2 + 4 * self.width * self.crossing.query_channels + 2 * inner
        wide = max(*self.variant.decoder_widths, *self.variant.map_widths)
        ends = 36 * (3 * self.width + 4 * wide) * 4 * wide + 36 * self.width * (self.width + 100)
        texture = self.variant.texture_attention * self.width * self.crossing.query_channels * 3
        pooled = self.blocks * keys * positions if self.pooling.multi_scale else 0
        return self.blocks * stage + pooled + ends + texture + self.fusion.candidates * wide * 60

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) of the codes: a quarter of the image's size."""
        return self.size[0] // 4, self.size[1] // 4

    @classmethod
    def of(cls, **settings: Any) -> Self:
        """From settings that are nested in their sections or flat."""
        found = cls.nested(settings)
        for name, section in _SECTIONS.items():
            if isinstance(found.get(name), Mapping):
                found[name] = section(**found[name])
        return cls(**found)

    @classmethod
    def nested(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Moves flat settings, as earlier versions wrote them, into their sections; nested ones take precedence."""
        home = {inner.name: name for name, section in _SECTIONS.items() for inner in fields(section)}
        found = {name: value for name, value in settings.items() if name not in home}
        for name, value in settings.items():
            if name in home and isinstance(found.setdefault(home[name], {}), Mapping):
                found[home[name]] = {name: value, **found[home[name]]}
        return found


_SECTIONS: dict[str, type[Any]] = {
    "convolutions": ConvolutionConfig, "crossing": CrossingConfig, "pooling": PoolingConfig,
    "enhancement": EnhancementConfig, "fusion": FusionConfig, "variant": VariantConfig,
}  # fmt: skip


def _require(config: object, name: str, known: tuple[str, ...]) -> None:
    if getattr(config, name) not in known:
        raise ValueError(f"{name}: {getattr(config, name)!r}, needed {' or '.join(known)}")


def _require_positive(config: object, name: str) -> None:
    if not 1 <= getattr(config, name) <= 65536:
        raise ValueError(f"{name}: {getattr(config, name)}, needed at least 1 and at most 65536")


def _require_multiple(config: object, name: str, step: int) -> None:
    value = getattr(config, name)
    if not 0 < value <= 4096 or value % step:
        raise ValueError(f"{name}: {value}, needed a positive multiple of {step}, at most 4096")
