"""Building blocks of XingGAN++: convolutions, the pyramid of regions, stacked layers, batched products."""

import functools
import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Padding = Literal["zeros", "reflect"]


def conv_block(
    inputs: int, hidden: int, outputs: int, dropout: float, last_norm: bool, padding: Padding = "zeros"
) -> nn.Sequential:
    """Two 3x3 convolutions at one resolution.

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


def region_bounds(length: int, regions: int) -> list[tuple[int, int]]:
    """Start and end of each of `regions` parts of `length`, split as by adaptive average pooling."""
    return [(i * length // regions, -((i + 1) * length // -regions)) for i in range(regions)]


@functools.lru_cache(maxsize=64)
def pyramid_matrix(
    grid: tuple[int, int], widths: tuple[int, ...], full: bool, aspect: int = 2
) -> tuple[Tensor, Tensor]:
    """Average pooling over a pyramid of sub-regions, as one matrix.

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
    """The tokens attended to: every position of a feature map, or its means over a pyramid of sub-regions.

    Pooling is linear, so a code is pooled once, before the projections of both directions, which then run on S
    regions instead of N positions.
    """

    matrix: Tensor | None

    def __init__(
        self, grid: tuple[int, int], pyramid: tuple[int, ...] | None, full_resolution: bool, aspect: int = 2
    ) -> None:
        """Builds the pooling.

        Args:
            grid: (h, w) of the codes; other grids work too, at the cost of computing their matrix.
            pyramid: regions along the width at each level; None uses every position.
            full_resolution: whether the unpooled positions are keys too.
            aspect: how many times as many regions there are along the height.
        """
        super().__init__()
        self.grid, self.levels = tuple(grid), (tuple(pyramid or ()), pyramid is None or full_resolution, aspect)
        matrix, self.centres = pyramid_matrix(self.grid, *self.levels)
        self.register_buffer("matrix", None if pyramid is None else matrix, persistent=False)

    def forward(self, codes: Tensor, grid: tuple[int, int]) -> Tensor:
        """(branches, B, N, C) on a grid (h, w) to (branches, B, S, C)."""
        if self.matrix is None:
            return codes
        matrix = self.matrix if grid == self.grid else pyramid_matrix(grid, *self.levels)[0].to(codes.device)
        flat = codes.flatten(0, 1)
        return torch.bmm(matrix.to(codes.dtype).expand(flat.shape[0], -1, -1), flat).unflatten(0, codes.shape[:2])


def sine_positions(centres: Tensor, channels: int) -> Tensor:
    """Fixed two-dimensional sine code: (S, 2) in [0, 1] to (S, channels), half for y and half for x.

    Frequencies rise geometrically from half a period over the image to 16 (our choice; the sources say only "sine").
    """
    frequencies = math.pi * 2.0 ** torch.linspace(0, 5, channels // 4)
    angles = centres[:, :, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1)


class Linears(nn.Module):
    """Stacked linear layers, one for each direction; a single one is broadcast to all directions."""

    bias: nn.Parameter | None

    def __init__(self, count: int, inputs: int, outputs: int, bias: bool = True) -> None:
        """Args: `count` of layers; `inputs` and `outputs`: channels; `bias`: whether they have one."""
        super().__init__()
        layers = [nn.Linear(inputs, outputs, bias) for _ in range(count)]
        self.weight = nn.Parameter(torch.stack([layer.weight.detach() for layer in layers]))  # (count, outputs, inputs)
        biases = torch.stack([layer.bias.detach() for layer in layers])[:, None] if bias else None
        self.bias = None if biases is None else nn.Parameter(biases)  # (count, 1, outputs)

    def forward(self, x: Tensor, add: Tensor | None = None) -> Tensor:
        """(directions, B, n, inputs) to (directions, B, n, outputs); `add`, of that shape, replaces the bias."""
        flat, weight = x.flatten(1, 2), self.weight.transpose(1, 2).expand(x.shape[0], -1, -1)
        offset = self.bias if add is None else add.flatten(1, 2)
        out = torch.bmm(flat, weight) if offset is None else torch.baddbmm(offset, flat, weight)
        return out.unflatten(1, x.shape[1:3])

    def scale_outputs(self, factors: Tensor) -> None:
        """For inference: multiplies the outputs of each layer by its factor, (count, 1, 1)."""
        self.weight.data = self.weight.data * factors
        if self.bias is not None:
            self.bias.data = self.bias.data * factors


class Norms(nn.Module):
    """Stacked layer norms, one for each direction; a single one is broadcast to all directions."""

    def __init__(self, count: int, width: int) -> None:
        """Args: `count` of layers; `width`: channels."""
        super().__init__()
        self.width = width
        self.weight = nn.Parameter(torch.ones(count, 1, 1, width))
        self.bias = nn.Parameter(torch.zeros(count, 1, 1, width))

    def forward(self, x: Tensor, add: Tensor | None = None) -> Tensor:
        """(directions, B, n, width) to the same; `add` (n, width) is added to the result of every image."""
        normed = F.layer_norm(x, (self.width,))
        offset = self.bias if add is None else self.bias + add
        offset, weight = offset.to(normed.dtype), self.weight.to(normed.dtype)
        if torch.compiler.is_compiling():  # the compiler assumes another memory layout for addcmul than it has
            return normed * weight + offset
        return torch.addcmul(offset, normed, weight)


def times(left: Tensor, right: Tensor, factor: float) -> Tensor:
    """`factor` * left @ right in one operation, for (.., .., n, m) and (.., .., m, k)."""
    unread = left.new_empty((1, 1, 1))  # with beta 0
    product = torch.baddbmm(unread, left.flatten(0, 1), right.flatten(0, 1), beta=0, alpha=factor)
    return product.unflatten(0, left.shape[:2])


def attend(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """softmax(scale * q k^T) v of (.., .., N, d), (.., .., S, d), (.., .., S, c): (.., .., N, c).

    On a GPU torch picks its fastest kernel. On a CPU it has none for c other than d, and three explicit products are
    twice as fast as its fallback (measured).
    """
    if query.is_cuda:
        return F.scaled_dot_product_attention(query, key, value, scale=scale)
    attention = times(query, key.transpose(2, 3), scale).softmax(-1)
    return attention @ value


def patch_side(grid: tuple[int, int], limit: int) -> int:
    """The smallest side k for which at most `limit` patches of k x k cover a grid (h, w)."""
    return next(k for k in range(1, max(grid) + 1) if -(-grid[0] // k) * -(-grid[1] // k) <= limit)


@functools.lru_cache(maxsize=64)
def patch_matrices(grid: tuple[int, int], side: int) -> tuple[Tensor, Tensor]:
    """Means over patches of side x side, and bilinear interpolation back, as matrices (M, N) and (N, M).

    Patches at the far edges may reach beyond the grid (h, w); their means are over what is inside.
    """
    height, width = grid
    means = F.avg_pool2d(torch.eye(height * width).unflatten(1, (1, *grid)), side, ceil_mode=True)  # (N, 1, h', w')
    patches = torch.eye(means[0].numel()).unflatten(1, means.shape[1:])  # (M, 1, h', w')
    spread = F.interpolate(patches, scale_factor=float(side), mode="bilinear")[:, 0, :height, :width]
    return means.flatten(1).t().contiguous(), spread.flatten(1).t().contiguous()


def weighted_sum(logits: Tensor, candidates: list[Tensor]) -> Tensor:
    """Candidates weighted by the softmax over their maps.

    Args:
        logits: (B, K, H, W) of the maps.
        candidates: K images in all, each tensor (B, 3 k, H, W).

    Returns:
        (B, 3, H, W) float32.
    """
    # Contiguous, in full precision: with channels last each product would be over only three numbers.
    maps = logits.to(torch.float32, memory_format=torch.contiguous_format).softmax(1)
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        images = [image.to(torch.float32, memory_format=torch.contiguous_format) for image in candidates]
        summed: Tensor = _WeightedSum.apply(maps, *images)
        return summed
    planes = torch.cat(candidates, 1).float().contiguous().unflatten(1, (-1, 3))  # (B, K, 3, H, W)
    return (maps.unsqueeze(2) * planes).sum(1)


class _WeightedSum(torch.autograd.Function):
    """The same sum for training, which keeps no products and finds no gradients of candidates that need none."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, *candidates: Tensor) -> Tensor:
        ctx.save_for_backward(maps, *candidates)
        images = [image for group in candidates for image in group.split(3, 1)]
        summed = maps[:, :1] * images[0]
        for k, image in enumerate(images[1:], start=1):
            summed.addcmul_(maps[:, k : k + 1], image)
        return summed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), (maps, *candidates) = gradients, ctx.saved_tensors
        of_maps, of_candidates = [], []
        shares = maps.split([image.shape[1] // 3 for image in candidates], 1)  # (B, k, H, W) each
        for share, group, needed in zip(shares, candidates, ctx.needs_input_grad[1:], strict=True):
            colours = group.unflatten(1, (-1, 3)).unbind(2)
            product = colours[0] * gradient[:, :1]
            for colour, plane in enumerate(colours[1:], start=1):
                product.addcmul_(plane, gradient[:, colour : colour + 1])
            of_maps.append(product)
            of_candidates.append((share.unsqueeze(2) * gradient.unsqueeze(1)).flatten(1, 2) if needed else None)
        return torch.cat(of_maps, 1), *of_candidates
