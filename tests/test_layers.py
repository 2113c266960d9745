"""The layers of XingGAN++ against slow, obvious versions of the same sums, written in loops."""

import math

import pytest
import torch
from networks import rng
from torch import Tensor

from xingaug.generators.layers import (
    CrossedAttention,
    EnhancedAttention,
    KeyTokens,
    patch_side,
    pyramid_matrix,
    region_bounds,
    sine_positions,
)


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
        code = torch.rand(2, 3, *grid, generator=rng())
        matrix = torch.eye(grid[0] * grid[1]) if pyramid is None else pyramid_matrix(grid, pyramid, full)[0]
        expected = torch.stack([(code[0].flatten(1) * weights).sum(1) for weights in matrix])
        torch.testing.assert_close(tokens(code)[0], expected, rtol=0, atol=1e-5)


def slow_correction(ea: EnhancedAttention, tokens: Tensor) -> Tensor:
    """METHOD: XingGAN++ 2, one image, one key at a time; (S, M) correlation vectors to what is added to them."""
    keys, queries = tokens.shape
    z = [ea.norm_token(ea.project.weight @ t + ea.project.bias) + ea.positions[s] for s, t in enumerate(tokens)]
    values = [ea.norm_value(token) for token in tokens]
    rows = []
    for s in range(keys):
        asks = ea.query.weight @ z[s]
        scores = torch.stack([asks @ (ea.key.weight @ z[t]) / math.sqrt(len(asks)) for t in range(keys)])
        weights = scores.exp() / scores.exp().sum()
        mixed = sum(weights[t] * values[t] for t in range(keys))
        assert isinstance(mixed, Tensor)
        assert mixed.shape == (queries,)
        rows.append(ea.scale * (mixed + ea.out.weight @ mixed))
    return torch.stack(rows)


def slow_enhanced(ea: EnhancedAttention, query: Tensor, key: Tensor) -> Tensor:
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
    correction = slow_correction(ea, tokens)

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
        ea = EnhancedAttention(grid, centres, width=8, limit=limit)
    query = torch.randn(2, grid[0] * grid[1], 4, generator=rng(1))
    key = torch.randn(2, len(centres), 4, generator=rng(2))
    with torch.no_grad():
        plain = key @ query.transpose(1, 2)
        torch.testing.assert_close(ea(query, key), plain, rtol=0, atol=1e-6)
        ea.scale.fill_(0.8)
        expected = torch.stack([slow_enhanced(ea, q, k) for q, k in zip(query, key, strict=True)])
        torch.testing.assert_close(ea(query, key), expected, rtol=0, atol=1e-5)
        assert (expected - plain).abs().max() > 0.1
    with pytest.raises(ValueError, match="query: 3 positions, this enhanced attention was built for"):
        ea(query[:, :3], key)
    started = EnhancedAttention(grid, centres, width=8, limit=limit, start=0.5)
    assert float(started.scale.detach()) == 0.5


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("enhanced", [True, False])
@pytest.mark.parametrize("pyramid", [None, (1, 2)])
def test_crossed_attention_equals_the_slow_version(
    scaled: bool, enhanced: bool, pyramid: tuple[int, ...] | None
) -> None:
    grid, channels, d = (4, 3), 8, 4
    tokens = KeyTokens(grid, pyramid, full_resolution=False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        enhance = EnhancedAttention(grid, tokens.centres, width=8, start=0.5) if enhanced else None
        attention = CrossedAttention(channels, d, scaled, enhance)
    attention.gamma.data.fill_(0.7)
    x, other = torch.randn(1, channels, *grid, generator=rng(1)), torch.randn(1, channels, *grid, generator=rng(2))

    def at(linear: torch.nn.Linear, features: Tensor, n: int) -> Tensor:
        return linear.weight @ features[0].flatten(1)[:, n] + linear.bias

    positions = range(grid[0] * grid[1])
    matrix = torch.eye(len(positions)) if pyramid is None else pyramid_matrix(grid, pyramid, full=False)[0]
    with torch.no_grad():
        # Projected first and pooled then, as METHOD says it; the layers do it the other way round.
        keys, values = [], []
        for weights in matrix:
            keys.append(torch.stack([w * at(attention.key, other, n) for n, w in enumerate(weights)]).sum(0))
            values.append(torch.stack([w * at(attention.value, x, n) for n, w in enumerate(weights)]).sum(0))
        factor = 1 / math.sqrt(d) if scaled else 1.0
        queries = torch.stack([at(attention.query, x, n) for n in positions])
        logits = torch.stack([torch.stack([queries[n] @ key * factor for n in positions]) for key in keys])  # (S, N)
        if attention.enhance is not None:
            logits = slow_enhanced(attention.enhance, queries, torch.stack(keys) * factor)
        expected = x.clone()
        for n in positions:
            weights = logits[:, n].exp() / logits[:, n].exp().sum()
            update = torch.stack([w * v for w, v in zip(weights, values, strict=True)]).sum(0)
            expected[0, :, n // grid[1], n % grid[1]] += 0.7 * update
        torch.testing.assert_close(attention(x, tokens(x), tokens(other)), expected, rtol=0, atol=1e-5)


def test_sine_positions_tell_places_apart() -> None:
    centres = pyramid_matrix((8, 4), (2,), full=True)[1]
    codes = sine_positions(centres, 16)
    distances = torch.cdist(codes, codes) + torch.eye(len(codes))
    same = torch.cdist(centres, centres) < 1e-6
    assert (distances[~same] > 0.05).all()
