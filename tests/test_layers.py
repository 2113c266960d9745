"""The layers of XingGAN++ against slow, obvious versions of the same sums, written in loops."""

import math

import pytest
import torch
from networks import rng
from torch import Tensor

from xingaug.generators.layers import (
    KeyTokens,
    Linears,
    Norms,
    patch_side,
    pyramid_matrix,
    region_bounds,
    sine_positions,
    weighted_sum,
)
from xingaug.generators.xinggan_pp import CrossedAttention, EnhancedAttention
from xingaug.generators.xinggan_pp_config import XingGANPlusPlusConfig


def config_of(grid: tuple[int, int], **settings: object) -> XingGANPlusPlusConfig:
    small = {"size": (4 * grid[0], 4 * grid[1]), "width": 8, "query_channels": 4, "enhanced_width": 8}
    return XingGANPlusPlusConfig.of(**{**small, "pyramid": (1, 2), **settings})


@pytest.mark.parametrize(("length", "regions"), [(16, 4), (16, 3), (11, 4), (5, 5), (7, 2)])
def test_regions_are_those_of_adaptive_pooling(length: int, regions: int) -> None:
    x = torch.arange(length, dtype=torch.float64)
    expected = torch.nn.functional.adaptive_avg_pool1d(x[None, None], regions)[0, 0]
    got = torch.stack([x[a:b].mean() for a, b in region_bounds(length, regions)])
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("grid", [(8, 4), (9, 5)])
def test_pyramid_matrix_averages_each_region(grid: tuple[int, int]) -> None:
    height, width = grid
    matrix, centres = pyramid_matrix(grid, (1, 2), full=True)
    features = torch.rand(height * width, generator=rng())
    picture = features.reshape(grid)
    expected, middles = [], []
    for rows, columns in ((2, 1), (4, 2), grid):
        for top, bottom in region_bounds(height, rows):
            for left, right in region_bounds(width, columns):
                total = 0.0
                for y in range(top, bottom):
                    for x in range(left, right):
                        total += float(picture[y, x])
                expected.append(total / ((bottom - top) * (right - left)))
                middles.append([(top + bottom) / 2 / height, (left + right) / 2 / width])
    torch.testing.assert_close(matrix @ features, torch.tensor(expected), rtol=0, atol=1e-5)
    torch.testing.assert_close(centres, torch.tensor(middles))
    torch.testing.assert_close(matrix.sum(1), torch.ones(len(matrix)))


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("pyramid", [None, (1, 2)])
def test_key_tokens_follow_the_grid(pyramid: tuple[int, ...] | None, full: bool) -> None:
    tokens = KeyTokens((8, 4), pyramid, full)
    for grid in ((8, 4), (9, 5)):  # one that it was built for, one that it was not
        code = torch.rand(2, 2, grid[0] * grid[1], 3, generator=rng())
        matrix = torch.eye(grid[0] * grid[1]) if pyramid is None else pyramid_matrix(grid, pyramid, full)[0]
        expected = torch.stack([(code[1, 0] * weights[:, None]).sum(0) for weights in matrix])
        torch.testing.assert_close(tokens(code, grid)[1, 0], expected, rtol=0, atol=1e-5)


def linear(layers: Linears, direction: int, x: Tensor) -> Tensor:
    """One of the layers side by side, on (inputs,)."""
    kept = min(direction, len(layers.weight) - 1)
    out = layers.weight[kept] @ x
    return out if layers.bias is None else out + layers.bias[kept, 0]


def pooled_linear(layers: Linears, direction: int, code: Tensor, weights: Tensor) -> Tensor:
    """The weighted sum over positions of what a layer makes of them."""
    projected = [w * linear(layers, direction, position) for w, position in zip(weights, code, strict=True)]
    return torch.stack(projected).sum(0)


def norm(layers: Norms, direction: int, x: Tensor) -> Tensor:
    kept = min(direction, len(layers.weight) - 1)
    normed = (x - x.mean()) / (x.var(unbiased=False) + 1e-5).sqrt()
    return normed * layers.weight[kept, 0, 0] + layers.bias[kept, 0, 0]


def slow_correction(ea: EnhancedAttention, direction: int, tokens: Tensor) -> Tensor:
    """AiATrack's sums, one image, one key at a time; (S, M) correlation vectors to what is added to them."""
    keys, queries = tokens.shape
    z = [
        norm(ea.norm_token, direction, linear(ea.project, direction, t)) + ea.positions[s] for s, t in enumerate(tokens)
    ]
    values = [norm(ea.norm_value, direction, token) for token in tokens]
    pairs = [linear(ea.ask, direction, each).chunk(2) for each in z]
    rows = []
    for s in range(keys):
        scores = torch.stack([pairs[s][0] @ pairs[t][1] / math.sqrt(len(pairs[s][0])) for t in range(keys)])
        weights = scores.exp() / scores.exp().sum()
        mixed = sum(weights[t] * values[t] for t in range(keys))
        assert isinstance(mixed, Tensor)
        assert mixed.shape == (queries,)
        scale = ea.scale[min(direction, len(ea.scale) - 1), 0, 0, 0]
        rows.append(scale * (mixed + linear(ea.out, direction, mixed)))
    return torch.stack(rows)


def slow_enhanced(ea: EnhancedAttention, direction: int, query: Tensor, key: Tensor) -> Tensor:
    """Queries (N, d) and keys (S, d) to corrected logits (S, N); patches and their interpolation by hand."""
    (height, width), k = ea.grid, ea.stride
    rows, columns = math.ceil(height / k), math.ceil(width / k)
    patches = []
    for r in range(rows):
        for c in range(columns):
            members = [
                query[y * width + x]
                for y in range(r * k, min(r * k + k, height))
                for x in range(c * k, min(c * k + k, width))
            ]
            patches.append(torch.stack(members).mean(0))
    tokens = torch.stack([torch.stack([one @ patch for patch in patches]) for one in key])
    correction = slow_correction(ea, direction, tokens)

    def between(position: int, count: int) -> list[tuple[int, float]]:
        """The two patches whose centres lie around a position, and their shares."""
        at = max(0.0, (position + 0.5) / k - 0.5)
        low = min(int(at), count - 1)
        return [(low, 1 - (at - low)), (min(low + 1, count - 1), at - low)]

    corrected = torch.empty(len(key), height * width)
    for s in range(len(key)):
        for n in range(height * width):
            corrected[s, n] = key[s] @ query[n]
            if k == 1:
                corrected[s, n] += correction[s, n]
                continue
            for r, share_r in between(n // width, rows):
                for c, share_c in between(n % width, columns):
                    corrected[s, n] += share_r * share_c * correction[s, r * columns + c]
    return corrected


def test_the_sum_of_training_is_that_of_inference_and_has_its_gradients() -> None:
    logits = torch.randn(2, 4, 3, 5, generator=rng(1)).contiguous(memory_format=torch.channels_last).requires_grad_()
    learned, source = (torch.randn(2, channels, 3, 5, generator=rng(channels)) for channels in (9, 3))
    learned.requires_grad_()
    with torch.no_grad():
        inferred = weighted_sum(logits, [learned, source])
    trained = weighted_sum(logits, [learned, source])
    plain = (logits.softmax(1).unsqueeze(2) * torch.cat([learned, source], 1).unflatten(1, (4, 3))).sum(1)
    torch.testing.assert_close(trained, inferred, rtol=0, atol=1e-6)
    torch.testing.assert_close(trained, plain, rtol=0, atol=1e-6)
    weights = torch.randn(plain.shape, generator=rng(3))
    found, expected = (torch.autograd.grad(image, (logits, learned), weights) for image in (trained, plain))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
        assert a.abs().max() > 0.1


@pytest.mark.parametrize(
    ("grid", "limit", "side"), [((4, 3), 12, 1), ((4, 4), 4, 2), ((5, 3), 8, 2), ((64, 44), 512, 3), ((3, 9), 1, 9)]
)
def test_patches_are_as_small_as_the_limit_allows(grid: tuple[int, int], limit: int, side: int) -> None:
    assert patch_side(grid, limit) == side
    assert math.ceil(grid[0] / side) * math.ceil(grid[1] / side) <= limit


@pytest.mark.parametrize(("grid", "limit"), [((4, 3), 12), ((4, 4), 4), ((5, 3), 8)])
def test_enhanced_attention_equals_the_slow_version_and_begins_as_the_identity(
    grid: tuple[int, int], limit: int
) -> None:
    _, centres = pyramid_matrix(grid, (1, 2), full=False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ea = EnhancedAttention(config_of(grid, enhanced_queries=limit), 2, centres)
    query = torch.randn(2, 2, grid[0] * grid[1], 4, generator=rng(1))
    key = torch.randn(2, 2, len(centres), 4, generator=rng(2))
    with torch.no_grad():
        plain = 0.7 * key @ query.transpose(2, 3)
        torch.testing.assert_close(ea(query, key, 0.7), plain, rtol=0, atol=1e-5)
        ea.scale.fill_(0.8)
        expected = torch.stack(
            [torch.stack([slow_enhanced(ea, i, query[i, b], 0.7 * key[i, b]) for b in (0, 1)]) for i in (0, 1)]
        )
        torch.testing.assert_close(ea(query, key, 0.7), expected, rtol=0, atol=1e-5)
        assert (expected - plain).abs().max() > 0.1
    with pytest.raises(ValueError, match="query: 3 positions, this enhanced attention was built for"):
        ea(query[:, :, :3], key, 1.0)
    started = EnhancedAttention(config_of(grid, enhanced_start=0.5), 1, centres)
    assert float(started.scale.detach()) == 0.5


@pytest.mark.parametrize(("branches", "shared"), [((0, 1), False), ((0, 1), True), ((0,), False), ((1,), False)])
@pytest.mark.parametrize("enhanced", [True, False])
@pytest.mark.parametrize("pooled", [True, False])
def test_crossed_attention_equals_the_slow_version(
    branches: tuple[int, ...], shared: bool, enhanced: bool, pooled: bool
) -> None:
    grid = (4, 3)
    config = config_of(
        grid, shape_guided=0 in branches, appearance_guided=1 in branches, shared_projections=shared,
        enhanced=enhanced, enhanced_start=0.5, multi_scale=pooled, scaled=pooled,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        attention = CrossedAttention(config)
    attention.gamma.data.fill_(0.7)
    codes = torch.randn(2, 1, 12, 8, generator=rng(1))
    matrix = pyramid_matrix(grid, (1, 2), full=False)[0] if pooled else torch.eye(12)
    factor = 1 / math.sqrt(4) if pooled else 1.0
    expected = codes.clone()
    with torch.no_grad():
        for direction, branch in enumerate(branches):
            x, other = codes[branch, 0], codes[1 - branch, 0]
            # Projected first and pooled then, as the paper says it; the layers do it the other way round.
            keys = torch.stack([pooled_linear(attention.key, direction, other, weights) for weights in matrix])
            values = torch.stack([pooled_linear(attention.value, direction, x, weights) for weights in matrix])
            queries = torch.stack([linear(attention.query, direction, position) for position in x])
            logits = torch.stack([torch.stack([q @ key * factor for q in queries]) for key in keys])  # (S, N)
            if attention.enhance is not None:
                logits = slow_enhanced(attention.enhance, direction, queries, keys * factor)
            for n in range(12):
                weights = logits[:, n].exp() / logits[:, n].exp().sum()
                expected[branch, 0, n] += 0.7 * sum(w * v for w, v in zip(weights, values, strict=True))
        torch.testing.assert_close(attention(codes, grid), expected, rtol=0, atol=1e-5)


def test_sine_positions_tell_places_apart() -> None:
    centres = pyramid_matrix((8, 4), (2,), full=True)[1]
    codes = sine_positions(centres, 16)
    distances = torch.cdist(codes, codes) + torch.eye(len(codes))
    same = torch.cdist(centres, centres) < 1e-6
    assert (distances[~same] > 0.05).all()
