"""The small blocks of XingGAN++: pooling pyramid, enhanced attention, crossed attention, convolution stacks.

Shapes: B images, C channels, a feature grid of h x w = N positions, S keys after pooling, d channels of a query.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv_block(inputs: int, hidden: int, outputs: int, dropout: float, last_norm: bool) -> nn.Sequential:
    """Two 3x3 convolutions at one resolution (METHOD: XingGAN, T blocks).

    Args:
        inputs: channels in.
        hidden: channels between the convolutions.
        outputs: channels out.
        dropout: probability after the first ReLU; 0 leaves the layer out.
        last_norm: whether a BatchNorm follows the second convolution.
    """
    layers: list[nn.Module] = [_conv3(inputs, hidden), nn.BatchNorm2d(hidden), nn.ReLU(inplace=True)]
    if dropout > 0:
        layers.append(nn.Dropout(dropout))
    layers.append(_conv3(hidden, outputs, bias=not last_norm))
    if last_norm:
        layers.append(nn.BatchNorm2d(outputs))
    return nn.Sequential(*layers)


def _conv3(inputs: int, outputs: int, bias: bool = False) -> nn.Conv2d:
    # Zero padding: reflection costs a copy of every feature map and measures no better at these sizes (our choice).
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)


class ImageStem(nn.Module):
    """Image to appearance code at a quarter of the resolution, without a full-resolution convolution (our choice)."""

    def __init__(self, width: int) -> None:
        """Args: `width`: channels C of the code."""
        super().__init__()
        self.fine = nn.Sequential(
            nn.PixelUnshuffle(2), _conv3(12, width // 2), nn.BatchNorm2d(width // 2), nn.ReLU(inplace=True)
        )
        self.coarse = nn.Sequential(
            nn.Conv2d(width // 2, width, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        )

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) to the code (B, C, h, w) and finer features (B, C/2, H/2, W/2)."""
        fine = self.fine(image)
        return self.coarse(fine), fine


class HeatmapStem(nn.Module):
    """Both poses to a shape code: the maps are smooth (sigma 6 px), so a 4x4 mean loses nothing (our choice)."""

    def __init__(self, width: int, joints: int = 18) -> None:
        """Args: `width`: channels C of the code; `joints`: maps per pose."""
        super().__init__()
        self.mix = nn.Sequential(
            _conv3(2 * joints, width), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
            _conv3(width, width), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
        )  # fmt: skip

    def forward(self, source_heatmaps: Tensor, target_heatmaps: Tensor) -> tuple[Tensor, Tensor]:
        """Two (B, 18, H, W) to the code (B, C, h, w) and the reduced maps (B, 36, h, w)."""
        maps = F.avg_pool2d(torch.cat([source_heatmaps, target_heatmaps], 1), 4)
        return self.mix(maps), maps


def region_bounds(length: int, regions: int) -> list[tuple[int, int]]:
    """Start and end of each of `regions` parts of `length`, as adaptive average pooling cuts them."""
    return [(i * length // regions, -((i + 1) * length // -regions)) for i in range(regions)]


def pyramid_matrix(grid: tuple[int, int], widths: tuple[int, ...], full: bool) -> tuple[Tensor, Tensor]:
    """Average pooling over a pyramid of sub-regions, as one matrix (METHOD: XingGAN++ 1).

    Args:
        grid: (h, w) of the features.
        widths: regions along the width, one entry a level; along the height there are twice as many.
        full: whether the unpooled positions are keys too.

    Returns:
        The matrix (S, N), whose rows sum to 1, and the regions' centres (S, 2) as (y, x) in [0, 1].
    """
    height, width = grid
    levels = [(2 * g, g) for g in widths] + ([grid] if full else [])
    rows, centres = [], []
    for rows_of_level, columns_of_level in levels:
        for top, bottom in region_bounds(height, min(rows_of_level, height)):
            for left, right in region_bounds(width, min(columns_of_level, width)):
                weight = torch.zeros(height, width)
                weight[top:bottom, left:right] = 1 / ((bottom - top) * (right - left))
                rows.append(weight.flatten())
                centres.append([(top + bottom) / 2 / height, (left + right) / 2 / width])
    return torch.stack(rows), torch.tensor(centres)


def sine_positions(centres: Tensor, channels: int) -> Tensor:
    """Fixed two-dimensional sine code: (S, 2) in [0, 1] to (S, channels), half for y and half for x.

    Frequencies double from half a period over the picture (our choice; the sources say only "sine").
    """
    frequencies = math.pi * 2.0 ** torch.linspace(0, 5, channels // 4)
    angles = centres[:, :, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1)


class EnhancedAttention(nn.Module):
    """Lets the correlation vectors of the keys correct one another (METHOD: XingGAN++ 2, after AiATrack).

    It is tied to the number of queries N, hence to the feature grid.
    """

    positions: Tensor

    def __init__(self, queries: int, centres: Tensor, width: int = 64) -> None:
        """Builds the module.

        Args:
            queries: N, the number of query positions.
            centres: (S, 2) where the keys are, (y, x) in [0, 1].
            width: D, channels of a token in the inner attention, divisible by 4.
        """
        super().__init__()
        self.project = nn.Linear(queries, width)
        self.norm_token = nn.LayerNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.norm_value = nn.LayerNorm(queries)
        self.out = nn.Linear(queries, queries, bias=False)
        self.scale = nn.Parameter(torch.zeros(()))  # begins as the identity
        self.register_buffer("positions", sine_positions(centres, width), persistent=False)

    def forward(self, logits: Tensor) -> Tensor:
        """Logits (B, N, S) to corrected logits (B, N, S)."""
        tokens = logits.transpose(1, 2)  # (B, S, N): one token a key
        z = self.norm_token(self.project(tokens)) + self.positions  # (B, S, D)
        mixed = F.scaled_dot_product_attention(self.query(z), self.key(z), self.norm_value(tokens))  # (B, S, N)
        mixed = mixed + self.out(mixed)
        return logits + self.scale * mixed.transpose(1, 2)


class CrossedAttention(nn.Module):
    """One direction of the crossed attention: queries of one branch, keys of the other (METHOD: SA and AS).

    The update goes to the branch that asks: x <- x + gamma * v(x) softmax(q(x)^T k(other))^T, with keys and values
    pooled over the pyramid when `pool` is given.
    """

    pool: Tensor | None

    def __init__(
        self,
        channels: int,
        grid: tuple[int, int],
        *,
        query_channels: int,
        pyramid: tuple[int, ...] | None,
        full_resolution: bool,
        scaled: bool,
        enhanced: bool,
        enhanced_width: int,
    ) -> None:
        """See `XingGANPlusPlusConfig` for the arguments; `pyramid=None` leaves pooling out."""
        super().__init__()
        self.query = nn.Conv2d(channels, query_channels, 1)
        self.key = nn.Conv2d(channels, query_channels, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(()))
        self.factor = query_channels**-0.5 if scaled else 1.0
        matrix, centres = pyramid_matrix(grid, pyramid or (), full=pyramid is None or full_resolution)
        self.register_buffer("pool", matrix if pyramid is not None else None, persistent=False)
        self.enhance = EnhancedAttention(grid[0] * grid[1], centres, enhanced_width) if enhanced else None

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        """Both (B, C, h, w); returns the updated `x`."""
        query = self.query(x).flatten(2).transpose(1, 2)  # (B, N, d)
        key = self._tokens(self.key(other))  # (B, S, d)
        value = self._tokens(self.value(x))  # (B, S, C)
        if self.enhance is None:
            update = F.scaled_dot_product_attention(query, key, value, scale=self.factor)
        else:
            logits = self.enhance(query @ key.transpose(1, 2) * self.factor)  # (B, N, S)
            update = logits.softmax(-1).to(value.dtype) @ value
        return x + self.gamma * update.transpose(1, 2).reshape(x.shape)

    def _tokens(self, features: Tensor) -> Tensor:
        """(B, C, h, w) to key tokens (B, S, C), pooled when there is a pyramid."""
        tokens = features.flatten(2).transpose(1, 2)
        return tokens if self.pool is None else self.pool.to(tokens.dtype) @ tokens


class ShuffleDecoder(nn.Module):
    """Code to full resolution by two pixel shuffles: all heavy convolutions run at low resolution (our choice)."""

    def __init__(self, inputs: int, widths: tuple[int, int], outputs: int, skip: int = 0) -> None:
        """Builds the decoder.

        Args:
            inputs: channels of the code.
            widths: channels at half and at full resolution.
            outputs: channels out.
            skip: channels of the features that join at half resolution; 0 for none.
        """
        super().__init__()
        self.up1 = _shuffle_up(inputs, widths[0])
        self.up2 = _shuffle_up(widths[0] + skip, widths[1])
        self.out = _conv3(widths[1], outputs, bias=True)

    def forward(self, code: Tensor, skip: Tensor | None = None) -> Tensor:
        """(B, C, h, w), and at choice (B, skip, H/2, W/2), to (B, outputs, H, W)."""
        half = self.up1(code)
        return self.out(self.up2(half if skip is None else torch.cat([half, skip], 1)))


def _shuffle_up(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        _conv3(inputs, 4 * outputs), nn.BatchNorm2d(4 * outputs), nn.ReLU(inplace=True), nn.PixelShuffle(2)
    )
