"""The small blocks of XingGAN++: pooling pyramid, enhanced attention, crossed attention, convolution stacks.

Shapes: B images, C channels, a feature grid of h x w = N positions, S keys after pooling, d channels of a query.
"""

import functools
import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xingaug.generators.pose import PoseMaps, Poses
from xingaug.generators.xinggan import encoder

Padding = Literal["zeros", "reflect"]


def conv_block(
    inputs: int, hidden: int, outputs: int, dropout: float, last_norm: bool, padding: Padding = "zeros"
) -> nn.Sequential:
    """Two 3x3 convolutions at one resolution (METHOD: XingGAN, T blocks).

    Args:
        inputs: channels in.
        hidden: channels between the convolutions.
        outputs: channels out.
        dropout: probability after the first ReLU; 0 leaves the layer out.
        last_norm: whether a BatchNorm follows the second convolution.
        padding: of both convolutions, "zeros" or "reflect".
    """
    layers: list[nn.Module] = [conv3(inputs, hidden, padding=padding), nn.BatchNorm2d(hidden), nn.ReLU(inplace=True)]
    if dropout > 0:
        layers.append(nn.Dropout(dropout))
    layers.append(conv3(hidden, outputs, bias=not last_norm, padding=padding))
    if last_norm:
        layers.append(nn.BatchNorm2d(outputs))
    return nn.Sequential(*layers)


def conv3(inputs: int, outputs: int, bias: bool = False, padding: Padding = "zeros") -> nn.Conv2d:
    """A 3x3 convolution that keeps height and width."""
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias, padding_mode=padding)


class ImageStem(nn.Module):
    """Image to appearance code at a quarter of the resolution: light (our choice), or XingGAN's encoder."""

    def __init__(self, width: int, released: bool = False) -> None:
        """Args: `width`: channels C of the code; `released`: whether it is XingGAN's encoder."""
        super().__init__()
        if released:
            layers = encoder(3, width // 4)
            self.fine, self.coarse = layers[:6], layers[6:]
            return
        # Unshuffled pixels instead of a convolution at full resolution.
        self.fine = nn.Sequential(
            nn.PixelUnshuffle(2), conv3(12, width // 2), nn.BatchNorm2d(width // 2), nn.ReLU(inplace=True)
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


class PoseStem(nn.Module):
    """Both poses to a shape code: light (our choice), or XingGAN's encoder.

    The maps are smooth (sigma 6 px), so that the light stem loses nothing by beginning with their 4x4 means.
    """

    def __init__(
        self, size: tuple[int, int], width: int, joints: int = 18, released: bool = False, hints: int = 0
    ) -> None:
        """Builds the stem.

        Args:
            size: (height, width) of the images.
            width: channels C of the code.
            joints: maps per pose.
            released: whether it is XingGAN's encoder.
            hints: channels of a picture of the target pose that the light stem sees too; 0 for none.
        """
        super().__init__()
        self.released = released
        self.draw = PoseMaps(size)
        self.mix = encoder(2 * joints, width // 4) if released else nn.Sequential(
            conv3(2 * joints + 16 * hints, width), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
            conv3(width, width), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
        )  # fmt: skip

    def forward(
        self, poses: Poses, size: tuple[int, int], dtype: torch.dtype, hints: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """To the code (B, C, h, w) and the maps' 4x4 means (B, 36, h, w).

        Args:
            poses: of source and target.
            size: (height, width) of the images.
            dtype: of both results.
            hints: at choice (B, hints, H, W).
        """
        means = self.draw.means(poses, size).to(dtype)
        if self.released:
            return self.mix(self.draw(poses, size).to(dtype)), means
        return self.mix(means if hints is None else torch.cat([means, F.pixel_unshuffle(hints, 4)], 1)), means


def region_bounds(length: int, regions: int) -> list[tuple[int, int]]:
    """Start and end of each of `regions` parts of `length`, as adaptive average pooling cuts them."""
    return [(i * length // regions, -((i + 1) * length // -regions)) for i in range(regions)]


@functools.lru_cache(maxsize=64)
def pyramid_matrix(
    grid: tuple[int, int], widths: tuple[int, ...], full: bool, aspect: int = 2
) -> tuple[Tensor, Tensor]:
    """Average pooling over a pyramid of sub-regions, as one matrix (METHOD: XingGAN++ 1).

    Args:
        grid: (h, w) of the features.
        widths: regions along the width, one entry a level.
        full: whether the unpooled positions are keys too.
        aspect: how many times as many regions there are along the height.

    Returns:
        The matrix (S, N), whose rows sum to 1, and the regions' centres (S, 2) as (y, x) in [0, 1].
    """
    height, width = grid
    levels = [(aspect * g, g) for g in widths] + ([grid] if full else [])
    rows, centres = [], []
    for rows_of_level, columns_of_level in levels:
        for top, bottom in region_bounds(height, min(rows_of_level, height)):
            for left, right in region_bounds(width, min(columns_of_level, width)):
                weight = torch.zeros(height, width)
                weight[top:bottom, left:right] = 1 / ((bottom - top) * (right - left))
                rows.append(weight.flatten())
                centres.append([(top + bottom) / 2 / height, (left + right) / 2 / width])
    return torch.stack(rows), torch.tensor(centres)


class KeyTokens(nn.Module):
    """What can be asked: every position of a feature map, or its means over a pyramid of sub-regions (METHOD: EMSA).

    Pooling is linear, so that a code is pooled once, before the 1x1 convolutions of both directions, and those run on
    S regions instead of N positions.
    """

    matrix: Tensor | None

    def __init__(
        self, grid: tuple[int, int], pyramid: tuple[int, ...] | None, full_resolution: bool, aspect: int = 2
    ) -> None:
        """Builds the pooling.

        Args:
            grid: (h, w) of the codes; other grids are taken too, at the cost of a matrix made on the way.
            pyramid: regions along the width at each level; None takes every position.
            full_resolution: whether the pyramid has the unpooled positions too.
            aspect: how many times as many regions there are along the height.
        """
        super().__init__()
        self.grid, self.levels = grid, (tuple(pyramid or ()), pyramid is None or full_resolution, aspect)
        matrix, self.centres = pyramid_matrix(grid, *self.levels)
        self.register_buffer("matrix", None if pyramid is None else matrix, persistent=False)

    def forward(self, code: Tensor) -> Tensor:
        """(B, C, h, w) to (B, S, C)."""
        tokens = code.flatten(2).transpose(1, 2)  # (B, N, C)
        if self.matrix is None:
            return tokens
        matrix = self.matrix
        if tuple(code.shape[2:]) != self.grid:
            matrix = pyramid_matrix((code.shape[2], code.shape[3]), *self.levels)[0]
        return matrix.to(tokens) @ tokens


def sine_positions(centres: Tensor, channels: int) -> Tensor:
    """Fixed two-dimensional sine code: (S, 2) in [0, 1] to (S, channels), half for y and half for x.

    Frequencies go in equal ratios from half a period over the picture to 16 (our choice; the sources say only "sine").
    """
    frequencies = math.pi * 2.0 ** torch.linspace(0, 5, channels // 4)
    angles = centres[:, :, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1)


def attend(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """softmax(scale * q k^T) v of (..., N, d), (..., S, d), (..., S, c): (..., N, c).

    On a GPU torch picks its fastest kernel. On a CPU it has none for c other than d, and three products are twice as
    fast as what it falls back to (measured).
    """
    if query.is_cuda:
        return F.scaled_dot_product_attention(query, key, value, scale=scale)
    return (query @ (key * scale).transpose(-2, -1)).softmax(-1) @ value


class EnhancedAttention(nn.Module):
    """Lets the correlation vectors of the keys correct one another (METHOD: XingGAN++ 2, after AiATrack).

    It is tied to the number of queries: its weights grow with that number's square. So that large grids stay
    affordable, it works on the mean queries of k x k patches, where k is the smallest that leaves at most `limit`
    patches M, and its corrections go back to the N positions by bilinear interpolation (our choice); k = 1 is the
    method to the letter.
    """

    positions: Tensor

    def __init__(
        self, grid: tuple[int, int], centres: Tensor, width: int = 64, limit: int = 512, start: float = 0.0
    ) -> None:
        """Builds the module.

        Args:
            grid: (h, w) of the queries.
            centres: (S, 2) where the keys are, (y, x) in [0, 1].
            width: D, channels of a token in the inner attention, divisible by 4.
            limit: the most queries M that it works on.
            start: initial factor on the corrections; 0 begins as the identity.
        """
        super().__init__()
        self.grid, self.stride = grid, patch_side(grid, limit)
        self.patch_grid = (-(-grid[0] // self.stride), -(-grid[1] // self.stride))
        queries = self.patch_grid[0] * self.patch_grid[1]
        self.project = nn.Linear(queries, width)
        self.norm_token = nn.LayerNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.norm_value = nn.LayerNorm(queries)
        self.out = nn.Linear(queries, queries, bias=False)
        self.scale = nn.Parameter(torch.full((), start))
        self.register_buffer("positions", sine_positions(centres, width), persistent=False)

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        """Queries (B, N, d) and scaled keys (B, S, d) to corrected logits (B, S, N), one row a key."""
        if query.shape[1] != self.grid[0] * self.grid[1]:
            raise ValueError(f"query: {query.shape[1]} positions, this enhanced attention was built for {self.grid}")
        correction = self.correct(key @ self._patches(query).transpose(1, 2))  # (B, S, M)
        if self.stride > 1:
            maps = correction.unflatten(2, self.patch_grid)
            maps = F.interpolate(maps, scale_factor=float(self.stride), mode="bilinear")
            # Patches at the far edges may reach beyond the grid.
            correction = maps[:, :, : self.grid[0], : self.grid[1]].flatten(2)  # (B, S, N)
        return torch.baddbmm(correction, key, query.transpose(1, 2))

    def correct(self, tokens: Tensor) -> Tensor:
        """What EA adds to correlation vectors (B, S, M): one token a key, its features are its M correlations."""
        z = self.norm_token(self.project(tokens)) + self.positions.to(tokens.dtype)  # (B, S, D)
        mixed = attend(self.query(z), self.key(z), self.norm_value(tokens), z.shape[-1] ** -0.5)  # (B, S, M)
        return self.scale * (mixed + self.out(mixed))

    def _patches(self, query: Tensor) -> Tensor:
        """(B, N, d) to the mean queries of the patches (B, M, d)."""
        if self.stride == 1:
            return query
        maps = query.unflatten(1, self.grid).permute(0, 3, 1, 2)  # (B, d, h, w)
        return F.avg_pool2d(maps, self.stride, ceil_mode=True).flatten(2).transpose(1, 2)


def patch_side(grid: tuple[int, int], limit: int) -> int:
    """The smallest side k of square patches that leaves at most `limit` of them on a grid (h, w)."""
    return next(k for k in range(1, max(grid) + 1) if -(-grid[0] // k) * -(-grid[1] // k) <= limit)


class CrossedAttention(nn.Module):
    """One direction of the crossed attention: queries of one branch, keys of the other (METHOD: SA and AS).

    The update goes to the branch that asks: x <- x + gamma * v(x) softmax(q(x)^T k(other))^T.
    """

    def __init__(self, channels: int, query_channels: int, scaled: bool, enhance: EnhancedAttention | None) -> None:
        """Builds one direction.

        Args:
            channels: C of both codes.
            query_channels: d of queries and keys.
            scaled: divide the logits by sqrt(d).
            enhance: the inner attention on the logits, or None.
        """
        super().__init__()
        self.query = nn.Linear(channels, query_channels)
        self.key = nn.Linear(channels, query_channels)
        self.value = nn.Linear(channels, channels)
        self.gamma = nn.Parameter(torch.zeros(()))
        self.factor = query_channels**-0.5 if scaled else 1.0
        self.enhance = enhance

    def forward(self, x: Tensor, own_tokens: Tensor, other_tokens: Tensor) -> Tensor:
        """The updated code.

        Args:
            x: (B, C, h, w), the code that asks.
            own_tokens: (B, S, C), `x` as `KeyTokens` gives it, of which values are made.
            other_tokens: (B, S, C), the other branch's code, of which keys are made.
        """
        query = self.query(x.flatten(2).transpose(1, 2))  # (B, N, d)
        key = self.key(other_tokens)  # (B, S, d)
        value = self.value(own_tokens)  # (B, S, C)
        if self.enhance is None:
            update = attend(query, key, value, self.factor)  # (B, N, C)
        else:
            attention = self.enhance(query, key * self.factor).softmax(1)  # (B, S, N)
            update = attention.transpose(1, 2) @ value
        return x + self.gamma * update.transpose(1, 2).reshape(x.shape)


class ShuffleDecoder(nn.Module):
    """Code to full resolution by two pixel shuffles: all heavy convolutions run at low resolution (our choice)."""

    def __init__(self, inputs: int, widths: tuple[int, int], outputs: int, skip: int, last: nn.Module) -> None:
        """Builds the decoder.

        Args:
            inputs: channels of the code.
            widths: channels at half and at full resolution.
            outputs: channels out.
            skip: channels of the features that join at half resolution; 0 for none.
            last: what the outputs go through, such as a tanh.
        """
        super().__init__()
        self.up1 = shuffle_up(inputs, widths[0])
        self.up2 = shuffle_up(widths[0] + skip, widths[1])
        self.out = nn.Sequential(conv3(widths[1], outputs, bias=True), last)

    def forward(self, code: Tensor, skip: Tensor | None = None) -> Tensor:
        """(B, C, h, w), and at choice (B, skip, H/2, W/2), to (B, outputs, H, W)."""
        half = self.up1(code)
        return self.out(self.up2(half if skip is None else torch.cat([half, skip], 1)))


def shuffle_up(inputs: int, outputs: int) -> nn.Sequential:
    """(B, inputs, h, w) to (B, outputs, 2h, 2w), computed at the lower resolution."""
    return nn.Sequential(
        conv3(inputs, 4 * outputs), nn.BatchNorm2d(4 * outputs), nn.ReLU(inplace=True), nn.PixelShuffle(2)
    )
