"""The batch transforms against slow loops that follow torchreid's code, and their promises on randomness."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms.v2 import functional as v2

from xingaug.augment import batch
from xingaug.keypoints import FLIP_ORDER, Keypoints, render_heatmaps

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FUNCTIONS = {
    "flip": batch.flip,
    "pad_crop": batch.pad_crop,
    "erase": batch.erase,
    "color_jitter": batch.color_jitter,
    "random_patch": batch.random_patch,
}
WITH_P = ("flip", "pad_crop", "erase", "random_patch")


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_images(count: int = 8, size: tuple[int, int] = (32, 16), seed: int = 1) -> Tensor:
    return torch.rand((count, 3, *size), generator=rng(seed))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_same_rng_same_images_and_no_global_randomness(name: str) -> None:
    images = random_images()
    kept, state = images.clone(), torch.get_rng_state()
    first, second = FUNCTIONS[name](images, rng(3)), FUNCTIONS[name](images, rng(3))
    assert torch.equal(first, second)
    assert not torch.equal(first, FUNCTIONS[name](images, rng(4)))
    assert torch.equal(images, kept)
    assert torch.equal(torch.get_rng_state(), state)
    assert first.shape == images.shape
    assert first.dtype == images.dtype


@pytest.mark.parametrize("name", FUNCTIONS)
def test_number_of_draws_does_not_depend_on_the_images(name: str) -> None:
    left, right = rng(), rng()
    FUNCTIONS[name](random_images(seed=1), left)
    FUNCTIONS[name](torch.zeros(8, 3, 64, 32), right)
    assert torch.equal(left.get_state(), right.get_state())


@pytest.mark.parametrize("name", WITH_P)
def test_p_of_zero_changes_nothing(name: str) -> None:
    images = random_images()
    assert torch.equal(FUNCTIONS[name](images, rng(), p=0.0), images)


@pytest.mark.parametrize("name", WITH_P)
def test_half_of_the_samples_are_changed_each_on_its_own(name: str) -> None:
    images = random_images(400)
    changed = (FUNCTIONS[name](images, rng(), p=0.5) != images).flatten(1).any(1)
    assert 150 < changed.sum() < 250


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("size", [(1, 1), (3, 2), (128, 64)])
def test_any_size_and_an_empty_batch(name: str, size: tuple[int, int]) -> None:
    out = FUNCTIONS[name](random_images(20, size), rng())
    assert out.shape == (20, 3, *size)
    assert out.isfinite().all()
    assert FUNCTIONS[name](random_images(0, size), rng()).shape == (0, 3, *size)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_dtype_is_kept(name: str, dtype: torch.dtype) -> None:
    assert FUNCTIONS[name](random_images().to(dtype), rng()).dtype == dtype


def test_flip_with_p_of_one_mirrors_all() -> None:
    images = random_images()
    assert torch.equal(batch.flip(images, rng(), p=1.0), images.flip(-1))


def dots(keypoints: Keypoints, size: tuple[int, int]) -> Tensor:
    """Images with one bright spot at each joint's place, each joint alone: (B * 18, 3, H, W)."""
    spots = render_heatmaps(keypoints, size, sigma=2.0).flatten(0, 1)[:, None]
    return spots.expand(-1, 3, -1, -1).contiguous()


@pytest.mark.parametrize("name", ["flip", "pad_crop"])
def test_keypoints_go_along(name: str) -> None:
    size, count = (64, 32), 18
    place = torch.rand(count, 2, generator=rng(5)) * torch.tensor([20.0, 50.0]) + torch.tensor([6.0, 7.0])
    # Person i shows joint i alone, so that left and right can be told apart.
    keypoints = Keypoints(place[:, None].expand(-1, 18, -1), torch.eye(18))
    images = dots(keypoints, size).unflatten(0, (count, 18)).sum(1)
    moved, joints = FUNCTIONS[name](images, rng(1), keypoints=keypoints)
    assert torch.equal(moved, FUNCTIONS[name](images, rng(1)))
    changed = (moved != images).flatten(1).any(1)
    assert 3 < changed.sum() < 15
    for row in range(count):
        joint = FLIP_ORDER.index(row) if name == "flip" and changed[row] else row
        assert joints.present[row].nonzero()[:, 0].tolist() == [joint]
        y, x = divmod(int(moved[row, 0].argmax()), size[1])
        assert (joints.xy[row, joint] - torch.tensor([float(x), float(y)])).abs().max() < 0.76


def test_joints_outside_the_crop_become_missing() -> None:
    corners = Keypoints(
        torch.tensor([[0.0, 0.0], [31.0, 63.0]]).repeat(9, 1)[None].expand(40, -1, -1), torch.ones(40, 18)
    )
    _, joints = batch.pad_crop(torch.zeros(40, 3, 64, 32), rng(), p=1, keypoints=corners)
    lost = 1 - joints.visibility.mean(1)
    assert (lost == 0.5).sum() + (lost == 1).sum() > 30
    assert joints.inside((64, 32))[joints.present].all()


def test_pad_crop_is_a_crop_of_the_enlarged_image() -> None:
    images = random_images(6, (32, 16))
    out = batch.pad_crop(images, rng(), p=1.0)
    places = set()
    for image, cropped in zip(images, out, strict=True):
        enlarged = v2.resize(image, [36, 18], antialias=True)
        found = [
            (top, left)
            for top in range(5)
            for left in range(3)
            if torch.allclose(enlarged[:, top : top + 32, left : left + 16], cropped, atol=1e-6)
        ]
        assert len(found) == 1
        places.add(found[0])
    assert len(places) > 1


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([(128, 64), (24, 40)]))
def test_erase_leaves_one_rectangle_of_torchreids_proportions(seed: int, size: tuple[int, int]) -> None:
    images = random_images(4, size, seed)
    out = batch.erase(images, rng(seed), p=1.0, fill=(2.0, 3.0, 4.0))
    for image, erased in zip(images, out, strict=True):
        hole = (erased != image).any(0)
        rows, columns = hole.any(1).nonzero()[:, 0], hole.any(0).nonzero()[:, 0]
        h, w = len(rows), len(columns)
        assert hole.sum() == h * w
        assert int(rows[-1] - rows[0]) == h - 1
        assert torch.equal(erased[:, hole], torch.tensor([[2.0], [3.0], [4.0]]).expand(3, h * w))
        # Rounding to whole pixels may move each side by a half.
        area = size[0] * size[1]
        assert (h + 0.5) * (w + 0.5) >= 0.02 * area
        assert (h - 0.5) * (w - 0.5) <= 0.4 * area
        assert (h - 0.5) / (w + 0.5) <= 1 / 0.3
        assert (h + 0.5) / (w - 0.5) >= 0.3


def test_erase_reaches_every_edge() -> None:
    hole = (batch.erase(torch.zeros(2000, 3, 16, 8), rng(), p=1.0) != 0).any(1).any(0)
    assert hole.all()


def test_color_jitter_is_torchvisions_per_sample() -> None:
    images = random_images(12)
    out = batch.color_jitter(images, rng(5))
    draws = [torch.rand(12, generator=draw, dtype=torch.float64) for draw in [rng(5)] for _ in range(3)]
    brightness, contrast = 0.8 + 0.4 * draws[0], 0.85 + 0.3 * draws[1]
    assert 0 < (draws[2] < 0.5).sum() < 12
    for i, image in enumerate(images):
        if draws[2][i] < 0.5:
            expected = v2.adjust_contrast(v2.adjust_brightness(image, float(brightness[i])), float(contrast[i]))
        else:
            expected = v2.adjust_brightness(v2.adjust_contrast(image, float(contrast[i])), float(brightness[i]))
        assert torch.allclose(out[i], expected, atol=1e-5)


def test_random_patch_pastes_pixels_of_the_batch_in_a_rectangle() -> None:
    # Sample i is the constant i + 1, so that what was pasted says whose it is; 0 is the black corner of a turned patch.
    images = (torch.arange(40.0) + 1).view(-1, 1, 1, 1).expand(-1, 3, 64, 32).contiguous() / 64
    out = batch.random_patch(images, rng(), p=1.0)
    donors = set()
    for i, image in enumerate(out):
        values = set((image * 64).round().int().unique().tolist()) - {0}
        assert i + 1 in values or len(values) == 1
        assert len(values) <= 2
        donors |= values - {i + 1}
        share = (image != images[i]).any(0).float().mean()
        assert share <= 0.5 * 1.1
    assert len(donors) > 5


def test_rectangles_follow_torchreids_rule() -> None:
    images = torch.zeros(200, 3, 32, 16)
    heights, widths = batch._rectangles(images, rng(7), area=(0.02, 0.4), ratio=0.3)
    source = rng(7)
    areas = torch.rand(200, batch.ATTEMPTS, generator=source, dtype=torch.float64)
    ratios = torch.rand(200, batch.ATTEMPTS, generator=source, dtype=torch.float64)
    for i in range(200):
        expected = (0, 0)
        for attempt in range(batch.ATTEMPTS):
            area = (0.02 + 0.38 * float(areas[i, attempt])) * 32 * 16
            ratio = 0.3 + (1 / 0.3 - 0.3) * float(ratios[i, attempt])
            h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if w < 16 and h < 32:
                expected = (h, w)
                break
        assert (int(heights[i]), int(widths[i])) == expected


def test_chain_without_names_resizes_and_normalises() -> None:
    images = random_images(4, (20, 10))
    out = batch.build_batch_chain([], (32, 16), MEAN, STD)(images, rng())
    expected = v2.normalize(v2.resize(images, [32, 16], antialias=True), list(MEAN), list(STD))
    assert torch.allclose(out, expected)


def test_chain_follows_torchreids_order() -> None:
    images = random_images()
    chain = batch.build_batch_chain(list(batch.TRANSFORMS)[::-1], (32, 16), MEAN, STD)
    source = rng(2)
    expected = images
    for step in (batch.flip, batch.pad_crop, batch.random_patch, batch.color_jitter):
        expected = step(expected, source)
    expected = batch.erase(batch.normalize(expected, MEAN, STD), source, fill=MEAN)
    assert torch.equal(chain(images, rng(2)), expected)


def test_chain_takes_one_name_as_torchreid_does() -> None:
    images = random_images()
    one, listed = (batch.build_batch_chain(names, (32, 16), MEAN, STD) for names in ("random_flip", ["random_flip"]))
    assert torch.equal(one(images, rng()), listed(images, rng()))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: batch.build_batch_chain(["random_flop"], (4, 4), MEAN, STD),
            "unknown transform 'random_flop'",
        ),
        (lambda: batch.build_batch_chain([], (4, 4), MEAN[:2], STD), "mean: .* three numbers"),
        (lambda: batch.build_batch_chain([], (4, 4), MEAN, (0.0, 1.0, 1.0)), "std: .* three numbers above 0"),
        (lambda: batch.flip(random_images(), rng(), p=1.5), r"p: 1.5, needed a probability in \[0, 1\]"),
        (lambda: batch.flip(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), rng()), "images: torch.uint8 .* float tensor"),
        (lambda: batch.erase(torch.zeros(3, 4, 4), rng()), r"images: .*\(3, 4, 4\)"),
        (lambda: batch.color_jitter(random_images(), None), "rng: NoneType, needed a torch.Generator"),
        (lambda: batch.build_batch_chain([], (4, 4), MEAN, STD)(torch.zeros(2, 1, 4, 4), rng()), "images: "),
    ],
)
def test_bad_input(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_same_draws_on_the_gpu(name: str) -> None:
    images = random_images()
    there = FUNCTIONS[name](images.cuda(), rng())
    assert torch.allclose(there.cpu(), FUNCTIONS[name](images, rng()), atol=1e-5)
