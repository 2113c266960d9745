"""The generator against slow, obvious versions of the same sums, written in loops."""

import json
import math

import pytest
import torch
from torch import Tensor

from xingaug.errors import BadInput
from xingaug.generators import XingGANPlusPlus, load_generator, save_generator
from xingaug.generators.layers import (
    CrossedAttention,
    EnhancedAttention,
    pyramid_matrix,
    region_bounds,
    sine_positions,
)
from xingaug.generators.xinggan_pp import CoAttentionFusion, TextureAttention, XingGANPlusPlusConfig

TINY = {
    "size": (32, 16), "width": 8, "blocks": 2, "query_channels": 4, "enhanced_width": 8, "candidates": 2,
    "decoder_widths": (8, 4), "pyramid": (1, 2), "texture_attention": 1,
}  # fmt: skip

LADDER = {
    "SA only": {"appearance_guided": False, "multi_scale": False, "enhanced": False, "dense_fusion": False},
    "AS only": {"shape_guided": False, "multi_scale": False, "enhanced": False, "dense_fusion": False},
    "both": {"multi_scale": False, "enhanced": False, "dense_fusion": False},
    "+ multi-scale": {"enhanced": False, "dense_fusion": False},
    "+ EA": {"dense_fusion": False},
    "+ dense fusion": {},
}


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def seeded_network(**changes: object) -> XingGANPlusPlus:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = XingGANPlusPlus(**{**TINY, **changes})
        for name, parameter in network.named_parameters():
            if name.endswith(("gamma", "scale")):  # they begin at 0, which would hide what they scale
                parameter.data.fill_(0.7)
    return network


def inputs(count: int = 2, size: tuple[int, int] = (32, 16)) -> tuple[Tensor, Tensor, Tensor]:
    source = torch.rand(count, 3, *size, generator=rng(1)) * 2 - 1
    return source, torch.rand(count, 18, *size, generator=rng(2)), torch.rand(count, 18, *size, generator=rng(3))


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


def slow_enhanced(ea: EnhancedAttention, logits: Tensor) -> Tensor:
    """METHOD: XingGAN++ 2, one image, one key at a time."""
    queries, keys = logits.shape
    z, values = [], []
    for s in range(keys):
        token = logits[:, s]
        z.append(ea.norm_token(ea.project.weight @ token + ea.project.bias) + ea.positions[s])
        values.append(ea.norm_value(token))
    columns = []
    for s in range(keys):
        asks = ea.query.weight @ z[s]
        scores = torch.stack([asks @ (ea.key.weight @ z[t]) / math.sqrt(len(asks)) for t in range(keys)])
        weights = scores.exp() / scores.exp().sum()
        mixed = sum(weights[t] * values[t] for t in range(keys))
        assert isinstance(mixed, Tensor)
        assert mixed.shape == (queries,)
        columns.append(logits[:, s] + ea.scale * (mixed + ea.out.weight @ mixed))
    return torch.stack(columns, 1)


def test_enhanced_attention_equals_the_slow_version_and_begins_as_the_identity() -> None:
    _, centres = pyramid_matrix((4, 3), (1, 2), full=False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ea = EnhancedAttention(12, centres, width=8)
    logits = torch.randn(2, 12, len(centres), generator=rng())
    with torch.no_grad():
        assert torch.equal(ea(logits), logits)
        ea.scale.fill_(0.8)
        expected = torch.stack([slow_enhanced(ea, one) for one in logits])
        torch.testing.assert_close(ea(logits), expected, rtol=0, atol=1e-5)
        assert (expected - logits).abs().max() > 0.1


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("enhanced", [True, False])
@pytest.mark.parametrize("pyramid", [None, (1, 2)])
def test_crossed_attention_equals_the_slow_version(
    scaled: bool, enhanced: bool, pyramid: tuple[int, ...] | None
) -> None:
    grid, channels, d = (4, 3), 8, 4
    with torch.random.fork_rng():
        torch.manual_seed(0)
        attention = CrossedAttention(
            channels, grid, query_channels=d, pyramid=pyramid, full_resolution=False, scaled=scaled,
            enhanced=enhanced, enhanced_width=8,
        )  # fmt: skip
    attention.gamma.data.fill_(0.7)
    if attention.enhance is not None:
        attention.enhance.scale.data.fill_(0.5)
    x, other = torch.randn(1, channels, *grid, generator=rng(1)), torch.randn(1, channels, *grid, generator=rng(2))

    def at(conv: torch.nn.Conv2d, features: Tensor, n: int) -> Tensor:
        assert conv.bias is not None
        return conv.weight[:, :, 0, 0] @ features[0].flatten(1)[:, n] + conv.bias

    positions = range(grid[0] * grid[1])
    matrix = torch.eye(len(positions)) if pyramid is None else pyramid_matrix(grid, pyramid, full=False)[0]
    with torch.no_grad():
        keys, values = [], []
        for weights in matrix:
            keys.append(torch.stack([w * at(attention.key, other, n) for n, w in enumerate(weights)]).sum(0))
            values.append(torch.stack([w * at(attention.value, x, n) for n, w in enumerate(weights)]).sum(0))
        factor = 1 / math.sqrt(d) if scaled else 1.0
        logits = torch.stack(
            [torch.stack([at(attention.query, x, n) @ key * factor for key in keys]) for n in positions]
        )
        if attention.enhance is not None:
            logits = slow_enhanced(attention.enhance, logits)
        expected = x.clone()
        for n in positions:
            weights = logits[n].exp() / logits[n].exp().sum()
            update = torch.stack([w * v for w, v in zip(weights, values, strict=True)]).sum(0)
            expected[0, :, n // grid[1], n % grid[1]] += 0.7 * update
        torch.testing.assert_close(attention(x, other), expected, rtol=0, atol=1e-5)


def test_texture_attention_carries_whole_pixel_blocks() -> None:
    config = XingGANPlusPlusConfig(**TINY)
    texture = TextureAttention(config).eval()
    image = torch.rand(1, 3, 32, 16, generator=rng())
    grid = config.grid
    # With an even attention every 4x4 block is the mean of all blocks.
    for module in (texture.query, texture.key[-1]):
        assert isinstance(module, torch.nn.Conv2d)
        torch.nn.init.zeros_(module.weight)
        assert module.bias is not None
        torch.nn.init.zeros_(module.bias)
    code, fine = torch.rand(1, 8, *grid, generator=rng(1)), torch.rand(1, 4, 16, 8, generator=rng(2))
    maps, shape = torch.rand(1, 36, *grid, generator=rng(3)), torch.rand(1, 16, *grid, generator=rng(4))
    with torch.no_grad():
        candidates, skip = texture(image, fine, code, maps, shape)
    blocks = [image[0, :, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4] for y in range(grid[0]) for x in range(grid[1])]
    mean = torch.stack(blocks).mean(0)
    assert candidates.shape == (1, 1, 3, 32, 16)
    assert skip.shape == (1, 2, 16, 8)
    torch.testing.assert_close(candidates[0, 0], mean.repeat(1, grid[0], grid[1]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dense", [True, False])
def test_fusion_is_the_weighted_sum_of_its_candidates(dense: bool) -> None:
    config = XingGANPlusPlusConfig(**{**TINY, "dense_fusion": dense, "texture_attention": 0})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        fusion = CoAttentionFusion(config).eval()
    grid = config.grid
    appearances = [torch.randn(1, 8, *grid, generator=rng(t)) for t in range(2)]
    shapes = [torch.randn(1, 16, *grid, generator=rng(10 + t)) for t in range(2)]
    image = torch.rand(1, 3, 32, 16, generator=rng(5)) * 2 - 1
    with torch.no_grad():
        a = fusion.squeeze_appearance(torch.cat(appearances, 1) if dense else appearances[-1])
        s = fusion.squeeze_shape(torch.cat(shapes, 1) if dense else shapes[-1])
        from_a, from_s = fusion.decode_appearance(a).tanh()[0], fusion.decode_shape(s).tanh()[0]
        logits = fusion.decode_maps(torch.cat([a, s], 1))[0]
        candidates = [from_a[0:3], from_a[3:6], from_s[0:3], from_s[3:6], image[0]]
        total = sum(logits[k].exp() for k in range(5))
        expected = sum(logits[k].exp() / total * candidate for k, candidate in enumerate(candidates))
        got = fusion(appearances, shapes, image, None, None)[0]
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("changes", LADDER.values(), ids=LADDER)
def test_every_step_of_the_ablation_ladder_trains_every_parameter(changes: dict[str, object]) -> None:
    network = seeded_network(**changes).train()
    image = network(*inputs())
    assert image.shape == (2, 3, 32, 16)
    assert image.abs().max() <= 1
    image.square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    unused = [name for name, p in network.named_parameters() if p.grad is not None and not p.grad.any()]
    # A convolution's bias that shifts all keys alike cannot change a softmax.
    assert all(name.endswith("key.bias") or ".key.2.bias" in name for name in unused), unused


@pytest.mark.parametrize("size", [(128, 64), (36, 20), (64, 32)])
def test_sizes(size: tuple[int, int]) -> None:
    network = seeded_network(size=size).eval()
    with torch.no_grad():
        assert network(*inputs(1, size)).shape == (1, 3, *size)


def test_an_image_does_not_depend_on_its_batch() -> None:
    network = seeded_network().eval()
    source, first, second = inputs(4)
    with torch.no_grad():
        whole = network(source, first, second)
        alone = network(source[2:3], first[2:3], second[2:3])
    torch.testing.assert_close(whole[2:3], alone, rtol=0, atol=1e-5)


def test_sine_positions_tell_places_apart() -> None:
    centres = pyramid_matrix((8, 4), (2,), full=True)[1]
    codes = sine_positions(centres, 16)
    distances = torch.cdist(codes, codes) + torch.eye(len(codes))
    same = torch.cdist(centres, centres) < 1e-6
    assert (distances[~same] > 0.05).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s, a, b: (s[:, :2], a, b), r"source: shape \(2, 2, 32, 16\), needed \(B, 3, H, W\)"),
        (lambda s, a, b: (s, a[:, :17], b), r"source_heatmaps: shape .* needed \(B, 18, H, W\)"),
        (lambda s, a, b: (s, a, b[:1]), r"target_heatmaps: shape .* does not go with source"),
        (lambda s, a, b: ((s * 127).to(torch.uint8), a, b), r"source: torch.uint8, needed floating point"),
        (lambda s, a, b: (s * 255, a, b), r"source: values in .* needed \[-1, 1\]"),
        (lambda s, a, b: (s, a * float("nan"), b), r"source_heatmaps: values in .* no NaN"),
        (lambda s, a, b: (s, a, b - 0.5), r"target_heatmaps: values in .* needed \[0, 1\]"),
        (lambda s, a, b: (s[..., :12], a[..., :12], b[..., :12]), r"source: 32x12 pixels, .* built for 32x16"),
    ],
)
def test_bad_inputs(change, message: str) -> None:  # type: ignore[no-untyped-def]
    network = seeded_network().eval()
    with pytest.raises(ValueError, match=message):
        network(*change(*inputs()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": (30, 16)}, "size: .* divisible by 4"),
        ({"width": 6}, "width: 6"),
        ({"pyramid": ()}, "pyramid"),
        ({"texture_attention": -1}, "texture_attention"),
    ],
)
def test_bad_configurations(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        XingGANPlusPlus(**{**TINY, **changes})


def test_saved_and_loaded_generator_gives_the_same_images(tmp_path) -> None:  # type: ignore[no-untyped-def]
    network = seeded_network().eval()
    path = save_generator(network, tmp_path / "g.safetensors", {"note": "x"})
    loaded = load_generator(path)
    assert loaded.size == (32, 16)
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    with torch.no_grad():
        # Stored in half precision: less than one grey level of 255.
        torch.testing.assert_close(loaded(*inputs()), network(*inputs()), rtol=0, atol=2 / 255)
    assert load_generator(path).content_hash == loaded.content_hash
    assert json.loads(path.with_suffix(".json").read_text())["note"] == "x"
    network.fusion.squeeze_shape.weight.data += 0.1
    assert load_generator(save_generator(network, tmp_path / "h.safetensors")).content_hash != loaded.content_hash


def test_bad_generator_files(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(BadInput, match=r"generator 'nobody': no such file .* bundled: "):
        load_generator("nobody")
    path = save_generator(seeded_network(), tmp_path / "g.safetensors")
    other = save_generator(seeded_network(width=12), tmp_path / "other.safetensors")
    path.write_bytes(other.read_bytes())
    with pytest.raises(BadInput, match="weights do not fit the configuration"):
        load_generator(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(BadInput, match="not a readable safetensors file"):
        load_generator(path)
    path.with_suffix(".json").write_text("{}")
    with pytest.raises(BadInput, match="not a generator description"):
        load_generator(path)
    path.with_suffix(".json").unlink()
    with pytest.raises(BadInput, match=r"with its \.json beside it"):
        load_generator(path)
    with pytest.raises(BadInput, match=r"saved as \.safetensors"):
        save_generator(seeded_network(), tmp_path / "g.pth")
