"""XingGAN++: two crossed branches, appearance and shape (Tang, Shao, Sebe, Van Gool, TPAMI 2025, arXiv 2501.08900).

Read from top to bottom: the configuration, one stage, the texture attention, the fusion, the generator.
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xingaug.generators.checks import check_inputs
from xingaug.generators.layers import CrossedAttention, HeatmapStem, ImageStem, ShuffleDecoder, conv_block


@dataclass(frozen=True)
class XingGANPlusPlusConfig:
    """Every switch and size of the generator; the defaults are `xinggan_pp_small`.

    Attributes:
        size: (height, width) of the images in pixels, both divisible by 4.
        width: C, channels of both codes (paper 256).
        blocks: T, number of stages (paper 9).
        dropout: inside a stage (paper 0.5).
        residual: whether a stage adds its input to what its convolutions give (our choice).
        shape_guided: SA, the appearance branch asks the shape branch.
        appearance_guided: AS, the shape branch asks the appearance branch.
        multi_scale: pool keys and values over the pyramid (EMSA, EMAS).
        pyramid: regions along the width at each level, twice as many along the height (our choice).
        full_resolution: keep the unpooled positions as keys too (our choice: no).
        query_channels: d of queries and keys (released code: 32).
        scaled: divide logits by sqrt(d) (our choice; the released XingGAN does not).
        enhanced: the inner attention EA on the logits; ties the network to `size`.
        enhanced_width: D, channels of a token in EA (AiATrack: 64).
        dense_fusion: decode from the codes of all stages (DCCF), not of the last alone.
        candidates: RGB candidates of each branch (paper 10).
        decoder_widths: channels at half and at full resolution.
        texture_attention: heads that carry the source's pixels and fine features to their places in the target pose,
            one more candidate each; 0 leaves it out, as in the paper (our choice).
    """

    size: tuple[int, int] = (128, 64)
    width: int = 96
    blocks: int = 4
    dropout: float = 0.0
    residual: bool = True
    shape_guided: bool = True
    appearance_guided: bool = True
    multi_scale: bool = True
    pyramid: tuple[int, ...] = (1, 2, 4, 8)
    full_resolution: bool = False
    query_channels: int = 32
    scaled: bool = True
    enhanced: bool = True
    enhanced_width: int = 64
    dense_fusion: bool = True
    candidates: int = 4
    decoder_widths: tuple[int, int] = (48, 24)
    texture_attention: int = 2

    def __post_init__(self) -> None:
        """Checks what types alone cannot."""
        if len(self.size) != 2 or min(self.size) < 8 or any(side % 4 for side in self.size):
            raise ValueError(f"size: {self.size}, needed (height, width), both divisible by 4 and at least 8")
        for name in ("width", "enhanced_width"):
            if getattr(self, name) < 4 or getattr(self, name) % 4:
                raise ValueError(f"{name}: {getattr(self, name)}, needed a positive multiple of 4")
        if min(self.blocks, self.candidates, self.query_channels, *self.decoder_widths) < 1:
            raise ValueError("blocks, candidates, query_channels and decoder_widths: needed at least 1")
        if self.multi_scale and (not self.pyramid or min(self.pyramid) < 1):
            raise ValueError(f"pyramid: {self.pyramid}, needed at least one level of at least 1 region")
        if self.texture_attention < 0 or not 0 <= self.dropout < 1:
            raise ValueError("texture_attention: needed at least 0; dropout: needed in [0, 1)")

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) of the codes: a quarter of the image's size."""
        return self.size[0] // 4, self.size[1] // 4


class Stage(nn.Module):
    """One of the T stages: convolutions in each branch, then both crossed attentions (METHOD: T blocks)."""

    def __init__(self, config: XingGANPlusPlusConfig, first: bool) -> None:
        """Args: `config`; `first`: the shape code of the first stage has C channels, of later ones 2C."""
        super().__init__()
        c = config.width
        self.residual = config.residual
        self.appearance = conv_block(c, c, c, config.dropout, last_norm=True)
        self.shape = conv_block(c if first else 2 * c, c, c, config.dropout, last_norm=False)
        self.shape_to_appearance = _crossed(config) if config.shape_guided else None
        self.appearance_to_shape = _crossed(config) if config.appearance_guided else None

    def forward(self, appearance: Tensor, shape: Tensor) -> tuple[Tensor, Tensor]:
        """Appearance (B, C, h, w) and shape (B, C or 2C, h, w) to the next appearance and shape (B, 2C, h, w)."""
        x_i = self.appearance(appearance)
        x_p = self.shape(shape)
        if self.residual:
            x_i = x_i + appearance
            x_p = x_p + shape[:, -x_p.shape[1] :]  # of concat(appearance, shape) the shape half
        # Both directions read x_i and x_p from before the update.
        next_appearance = x_i if self.shape_to_appearance is None else self.shape_to_appearance(x_i, x_p)
        next_shape = x_p if self.appearance_to_shape is None else self.appearance_to_shape(x_p, x_i)
        return next_appearance, torch.cat([next_appearance, next_shape], 1)


def _crossed(config: XingGANPlusPlusConfig) -> CrossedAttention:
    return CrossedAttention(
        config.width,
        config.grid,
        query_channels=config.query_channels,
        pyramid=config.pyramid if config.multi_scale else None,
        full_resolution=config.full_resolution,
        scaled=config.scaled,
        enhanced=config.enhanced,
        enhanced_width=config.enhanced_width,
    )


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
        value = torch.cat([pixels.to(features.dtype), features], -1).unsqueeze(1).expand(-1, self.heads, -1, -1)
        moved = F.scaled_dot_product_attention(query, key, value).transpose(2, 3)  # (B, heads, 48 + C, N)
        candidates = F.pixel_shuffle(moved[:, :, :48].reshape(b * self.heads, 48, h, w), 4)
        skip = F.pixel_shuffle(moved[:, :, 48:].mean(1).reshape(b, -1, h, w), 2)
        return candidates.unflatten(0, (b, self.heads)), skip

    def _split(self, features: Tensor) -> Tensor:
        """(B, heads * d, h, w) to (B, heads, N, d)."""
        return features.flatten(2).unflatten(1, (self.heads, -1)).transpose(2, 3)


class CoAttentionFusion(nn.Module):
    """Candidates of both branches and of the source, weighted by attention maps that sum to 1 (METHOD: DCCF)."""

    def __init__(self, config: XingGANPlusPlusConfig) -> None:
        """Args: `config` of the generator."""
        super().__init__()
        c, self.candidates = config.width, config.candidates
        stages = config.blocks if config.dense_fusion else 1
        self.dense = config.dense_fusion
        self.squeeze_appearance = nn.Conv2d(stages * c, c, 1)
        self.squeeze_shape = nn.Conv2d(stages * 2 * c, c, 1)
        skip = c // 4 if config.texture_attention else 0
        self.decode_appearance = ShuffleDecoder(c, config.decoder_widths, 3 * config.candidates, skip)
        self.decode_shape = ShuffleDecoder(c, config.decoder_widths, 3 * config.candidates, skip)
        maps = 2 * config.candidates + 1 + config.texture_attention
        self.decode_maps = ShuffleDecoder(2 * c, config.decoder_widths, maps, skip)

    def forward(
        self, appearances: list[Tensor], shapes: list[Tensor], image: Tensor, moved: Tensor | None, skip: Tensor | None
    ) -> Tensor:
        """Decodes and fuses.

        Args:
            appearances: T times (B, C, h, w).
            shapes: T times (B, 2C, h, w).
            image: (B, 3, H, W), the source, itself a candidate.
            moved: (B, heads, 3, H, W), candidates of the texture attention, or None.
            skip: (B, C/4, H/2, W/2), its features, or None.

        Returns:
            (B, 3, H, W) in [-1, 1].
        """
        first = 0 if self.dense else -1
        appearance = self.squeeze_appearance(torch.cat(appearances[first:], 1))
        shape = self.squeeze_shape(torch.cat(shapes[first:], 1))
        rgb = [
            self.decode_appearance(appearance, skip).tanh().unflatten(1, (self.candidates, 3)),
            self.decode_shape(shape, skip).tanh().unflatten(1, (self.candidates, 3)),
            image.unsqueeze(1),
        ]
        if moved is not None:
            rgb.append(moved)
        maps = self.decode_maps(torch.cat([appearance, shape], 1), skip).float().softmax(1)  # (B, K, H, W)
        candidates = torch.cat([r.float() for r in rgb], 1)  # (B, K, 3, H, W)
        return (maps.unsqueeze(2) * candidates).sum(1)


class XingGANPlusPlus(nn.Module):
    """The generator: source image, source pose and target pose in; the person in the target pose out.

    Attributes:
        config: what it was built from.
        content_hash: tells its stored weights and configuration apart; empty unless it was loaded from a file.
    """

    content_hash: str

    def __init__(self, **config: Any) -> None:
        """Args: `config`: the fields of `XingGANPlusPlusConfig`."""
        super().__init__()
        self.config = XingGANPlusPlusConfig(**config)
        self.content_hash = ""
        self.image_stem = ImageStem(self.config.width)
        self.heatmap_stem = HeatmapStem(self.config.width)
        self.stages = nn.ModuleList(Stage(self.config, first=t == 0) for t in range(self.config.blocks))
        self.texture = TextureAttention(self.config) if self.config.texture_attention else None
        self.fusion = CoAttentionFusion(self.config)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the images it was built for."""
        return self.config.size

    def settings(self) -> dict[str, Any]:
        """The configuration as plain data, for storing."""
        return asdict(self.config)

    def forward(self, source: Tensor, source_heatmaps: Tensor, target_heatmaps: Tensor) -> Tensor:
        """Renders the source person in the target pose.

        Args:
            source: (B, 3, H, W) float in [-1, 1].
            source_heatmaps: (B, 18, H, W) float in [0, 1].
            target_heatmaps: (B, 18, H, W) float in [0, 1].

        Returns:
            (B, 3, H, W) float32 in [-1, 1].

        Raises:
            ValueError: an argument of another shape, type, size or range.
        """
        check_inputs(source, source_heatmaps, target_heatmaps, self._required_size())
        code, fine = self.image_stem(source)  # (B, C, h, w), (B, C/2, H/2, W/2)
        shape, maps = self.heatmap_stem(source_heatmaps, target_heatmaps)  # (B, C, h, w), (B, 36, h, w)
        appearance = code
        appearances, shapes = [], []
        for stage in self.stages:
            appearance, shape = stage(appearance, shape)  # (B, C, h, w), (B, 2C, h, w)
            appearances.append(appearance)
            shapes.append(shape)
        moved, skip = None, None
        if self.texture is not None:
            moved, skip = self.texture(source, fine, code, maps, shape)
        return self.fusion(appearances, shapes, source, moved, skip)

    def _required_size(self) -> tuple[int, int] | None:
        """The one size that fits, where a module is tied to the grid; None where any multiple of 4 does."""
        return self.size if self.config.enhanced or self.config.multi_scale else None
