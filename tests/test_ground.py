"""Person and ground of the source, and targets that are composed of them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xingaug.generators import XingGANPlusPlus, load_generator
from xingaug.generators.ground import SourceSplit, spread, widen
from xingaug.generators.store import load_start, save_generator
from xingaug.keypoints import Keypoints, render_heatmaps
from xingaug.training.composites import composite_target

SIZE = (64, 32)
STANDING = [
    (30.0, 18.0), (30.0, 28.0), (23.0, 29.0), (20.0, 44.0), (19.0, 58.0), (37.0, 29.0), (40.0, 44.0), (41.0, 58.0),
    (26.0, 62.0), (26.0, 86.0), (26.0, 110.0), (34.0, 62.0), (34.0, 86.0), (34.0, 110.0), (28.0, 16.0), (32.0, 16.0),
    (26.0, 17.0), (34.0, 17.0),
]  # fmt: skip


def small(seed: int = 0) -> XingGANPlusPlus:
    torch.manual_seed(seed)
    return XingGANPlusPlus(size=SIZE, width=16, blocks=1, keep_ground=True)


def inputs(count: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(3)
    xy = torch.rand(2 * count, 18, 2, generator=rng) * torch.tensor([SIZE[1] - 1.0, SIZE[0] - 1.0])
    maps = render_heatmaps(Keypoints(xy, torch.ones(2 * count, 18)), SIZE)
    return torch.rand(count, 3, *SIZE, generator=rng) * 2 - 1, maps[:count], maps[count:]


def slow_spread(known: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """One channel by loops: every level's weighted mean, laid under the finer one's."""
    levels = [(known, weight)]
    while levels[-1][0].shape[0] % 2 == 0 and levels[-1][0].shape[1] % 2 == 0 and len(levels) <= 5:
        k, w = levels[-1]
        h, v = k.shape[0] // 2, k.shape[1] // 2
        halves = [np.zeros((h, v)), np.zeros((h, v))]
        for y in range(h):
            for x in range(v):
                for half, full in zip(halves, (k, w), strict=True):
                    half[y, x] = full[2 * y : 2 * y + 2, 2 * x : 2 * x + 2].mean()
        levels.append((halves[0], halves[1]))
    filled = levels[-1][0] / np.maximum(levels[-1][1], 1e-3)
    for k, w in levels[-2::-1]:
        coarse = np.zeros_like(k)
        for y in range(k.shape[0]):
            for x in range(k.shape[1]):
                at = [min(max((p + 0.5) / 2 - 0.5, 0), n - 1) for p, n in zip((y, x), filled.shape, strict=True)]
                low = [int(a) for a in at]
                high = [min(i + 1, n - 1) for i, n in zip(low, filled.shape, strict=True)]
                part = [a - i for a, i in zip(at, low, strict=True)]
                for i, wy in ((low[0], 1 - part[0]), (high[0], part[0])):
                    for j, wx in ((low[1], 1 - part[1]), (high[1], part[1])):
                        coarse[y, x] += wy * wx * filled[i, j]
        filled = k + (1 - w) * coarse
    return filled


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000))
def test_spreading_is_the_slow_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    weight = (rng.random((8, 16)) < 0.5).astype(float)
    known = rng.uniform(-1, 1, (8, 16)) * weight
    fast = spread(
        torch.from_numpy(known).float().expand(1, 3, -1, -1), torch.from_numpy(weight).float().expand(1, 1, -1, -1)
    )
    np.testing.assert_allclose(fast[0, 0].numpy(), slow_spread(known, weight), atol=1e-5)


def test_what_is_no_hole_stays_to_the_bit() -> None:
    image, _, _ = inputs()
    hole = torch.zeros(2, 1, *SIZE)
    hole[:, :, 20:40, 10:20] = 1
    filled = SourceSplit().eval().fill(image, hole)
    seen = (hole == 0).expand_as(image)
    assert torch.equal(filled[seen], image[seen])
    assert (filled[~seen] != image[~seen]).all()
    assert torch.equal(SourceSplit().eval().fill(image, torch.zeros_like(hole)), image)


def test_a_mask_grows_by_two_pixels_to_every_side() -> None:
    mask = torch.zeros(1, 1, 9, 9)
    mask[0, 0, 4, 4] = 0.5
    assert widen(mask).sum() == 25 * 0.5
    assert (widen(mask)[0, 0, 2:7, 2:7] == 0.5).all()


def test_the_ground_takes_the_sources_place() -> None:
    network = small().eval()
    image, source, target = inputs()
    assert network.split is not None
    with torch.no_grad():
        torch.nn.init.constant_(network.split.mask.leave.bias, 50.0)  # everything is person
        everywhere = network(image, source, target)
        torch.nn.init.constant_(network.split.mask.leave.bias, -50.0)  # nobody: the ground is the source
        nowhere = network(image, source, target)
        mask, ground = network.split(image, torch.zeros(2, 18, SIZE[0] // 4, SIZE[1] // 4))
    assert mask.max() < 1e-6
    torch.testing.assert_close(ground, image, atol=1e-5, rtol=0)
    assert everywhere.shape == nowhere.shape == image.shape
    assert (everywhere - nowhere).abs().mean() > 1e-3


def test_the_split_learns_from_losses_of_its_own() -> None:
    network = small()
    image, source, target = inputs()
    network(image, source, target).abs().mean().backward()
    assert network.split is not None
    assert all(p.grad is None for p in network.split.parameters())
    means = torch.zeros(2, 18, SIZE[0] // 4, SIZE[1] // 4)
    hole = torch.ones(2, 1, *SIZE)
    (network.split.find(image, means).mean() + network.split.fill(image, hole).square().mean()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.split.parameters())


@pytest.mark.parametrize("texture", [0, 2])
def test_a_generator_without_ground_is_a_start(texture: int, tmp_path: Path) -> None:
    plain = XingGANPlusPlus(size=SIZE, width=16, blocks=1, texture_attention=texture).eval()
    path = save_generator(plain, tmp_path / "plain.safetensors")
    grown = XingGANPlusPlus(size=SIZE, width=16, blocks=1, texture_attention=texture, keep_ground=True).eval()
    grown.load_state_dict(load_start(path, grown))
    assert grown.split is not None
    torch.nn.init.constant_(grown.split.mask.leave.bias, -50.0)  # nobody: the ground is the source, as it was
    with torch.no_grad():
        torch.testing.assert_close(grown(*inputs()), plain(*inputs()), atol=2e-3, rtol=0)  # stored in half precision


def test_the_fast_form_is_the_same() -> None:
    network = small().eval()
    exact = network(*inputs())
    torch.testing.assert_close(network.optimize(torch.float32)(*inputs()), exact, atol=1e-4, rtol=0)
    half = network.optimize(torch.bfloat16)(*inputs())
    assert half.dtype == torch.float32
    assert (half - exact).square().mean() < 1e-3


def test_the_bundled_generator_keeps_what_nobody_stands_on() -> None:
    network = load_generator("market1501-augment")
    xy = torch.tensor(STANDING)[None] + torch.tensor([[[[0.0, 0.0]]], [[[14.0, 0.0]]]])  # and 14 pixels to the right
    maps = render_heatmaps(Keypoints(xy[:, 0], torch.ones(2, 18)), (128, 64))
    rng = torch.Generator().manual_seed(1)
    image = torch.nn.functional.interpolate(torch.rand(1, 3, 32, 16, generator=rng) - 0.5, (128, 64), mode="bicubic")
    image[:, :, 20:115, 24:36] = torch.tensor([0.9, -0.8, -0.8])[:, None, None]  # a red figure
    made = network(image, maps[:1], maps[1:])
    kept = (made - image).abs().amax(1)[0]
    assert kept[:, :8].median() < 0.1, "the ground beside the person is not the source's"
    redder = made[0, 0] - made[0, 1]
    assert redder[40:70, 40:48].mean() > redder[40:70, 4:12].mean() + 0.3, "the person is not where it was asked for"
    exact, half = made, network.optimize(torch.bfloat16)(image, maps[:1], maps[1:])
    assert 10 * torch.log10(4 / (half - exact).square().mean()) > 40


def test_what_it_needs_is_asked_for() -> None:
    with pytest.raises(ValueError, match="keep_ground: true, needed false without limb_warp"):
        XingGANPlusPlus(keep_ground=True, limb_warp=False)
    with pytest.raises(ValueError, match="needed sides divisible by 16 with keep_ground"):
        XingGANPlusPlus(keep_ground=True, size=(72, 40))


def test_a_composite_is_the_targets_person_in_the_sources_light() -> None:
    rng = torch.Generator().manual_seed(0)
    target, source, ground = (torch.rand(2, 3, 32, 16, generator=rng) * 0.6 - 0.3 for _ in range(3))
    source = source * 0.8 + 0.2
    mask = torch.zeros(2, 1, 32, 16)
    mask[:, :, 8:24, 4:12] = 1
    made = composite_target(target, mask, source, mask, ground, torch.tensor([True, False]))
    inside, outside = (mask > 0).expand_as(made), (mask == 0).expand_as(made)
    assert torch.equal(made[outside], ground[outside])
    assert torch.equal(made[1][inside[1]], target[1][inside[1]])
    for channel in range(3):
        have, want = made[0, channel, 8:24, 4:12], source[0, channel, 8:24, 4:12]
        assert abs(have.mean() - want.mean()) < 0.01
        assert abs(have.std() / want.std() - 1) < 0.05
