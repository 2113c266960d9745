import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from xingaug.keypoints import FLIP_ORDER, JOINTS, LIMBS, Keypoints, render_heatmaps

QUICK = settings(max_examples=40, deadline=None)
TINY = 2.0**-126  # the smallest normal float32


@st.composite
def people(draw, count=3, low=-20.0, high=150.0):
    xy = draw(hnp.arrays(np.float32, (count, 18, 2), elements=st.floats(low, high, width=32)))
    visibility = draw(hnp.arrays(np.float32, (count, 18), elements=st.sampled_from([0.0, 0.5, 1.0])))
    return Keypoints(torch.from_numpy(xy), torch.from_numpy(visibility))


def standing(*batch: int) -> Keypoints:
    rng = torch.Generator().manual_seed(0)
    xy = torch.rand(*batch, 18, 2, generator=rng) * torch.tensor([63.0, 127.0])
    return Keypoints(xy, torch.ones(*batch, 18))


def slow_heatmaps(kp: Keypoints, size: tuple[int, int], sigma: float) -> np.ndarray:
    """One person, one pixel at a time."""
    maps = np.zeros((18, *size))
    for joint in range(18):
        if kp.visibility[joint] == 0:
            continue
        x, y = kp.xy[joint].double().tolist()
        for row in range(size[0]):
            for column in range(size[1]):
                maps[joint, row, column] = math.exp(-((column - x) ** 2 + (row - y) ** 2) / (2 * sigma**2))
    return maps


# What the class checks


def test_joints_limbs_and_flip_order_fit_each_other():
    assert len(JOINTS) == len(set(JOINTS)) == 18
    for joint, other in enumerate(FLIP_ORDER):
        swap = {"right": "left", "left": "right"}
        side, _, part = JOINTS[joint].partition("_")
        assert JOINTS[other] == (f"{swap[side]}_{part}" if side in swap else JOINTS[joint])
    assert {joint for limb in LIMBS for joint in limb} == set(range(18))
    assert {tuple(sorted(FLIP_ORDER[j] for j in limb)) for limb in LIMBS} == {tuple(sorted(limb)) for limb in LIMBS}


@pytest.mark.parametrize(
    ("xy", "visibility", "message"),
    [
        (torch.zeros(17, 2), torch.ones(17), r"xy: shape \(17, 2\), needed \(\.\.\., 18, 2\)"),
        (torch.zeros(18), torch.ones(18), r"xy: shape \(18,\)"),
        (torch.zeros(18, 3), torch.ones(18), r"xy: shape \(18, 3\)"),
        (torch.zeros(2, 18, 2), torch.ones(18), r"visibility: shape \(18,\), needed \(2, 18\)"),
        (torch.zeros(18, 2), torch.ones(18, 1), r"visibility: shape \(18, 1\), needed \(18,\)"),
        (torch.zeros(18, 2), torch.full((18,), 1.5), r"visibility: values outside \[0, 1\]"),
        (torch.zeros(18, 2), torch.full((18,), -0.1), r"visibility: values outside \[0, 1\]"),
        (torch.zeros(18, 2), torch.full((18,), float("nan")), r"visibility: .*NaN"),
        (torch.full((18, 2), float("nan")), torch.ones(18), "xy: NaN or infinite at a visible joint"),
        (torch.full((18, 2), float("inf")), torch.full((18,), 0.1), "xy: NaN or infinite at a visible joint"),
        ("left ankle", torch.ones(18), "xy: cannot be made a float tensor"),
        (torch.zeros(18, 2), [[1.0], [1.0, 2.0]], "visibility: cannot be made a float tensor"),
        (torch.zeros(18, 2, device="meta"), torch.ones(18), "xy is on meta, visibility on cpu; needed one device"),
    ],
)
def test_what_does_not_fit_is_named(xy, visibility, message):
    with pytest.raises(ValueError, match=message):
        Keypoints(xy, visibility)


def test_nan_at_a_missing_joint_becomes_zero_and_nothing_else_changes():
    xy, visibility = torch.full((18, 2), 7.0), torch.ones(18)
    xy[3], xy[4, 1], visibility[3], visibility[4] = float("nan"), float("inf"), 0, 0
    kp = Keypoints(xy, visibility)
    assert kp.xy[3].tolist() == [0, 0]
    assert kp.xy[4].tolist() == [7, 0]
    assert (kp.xy[5:] == 7).all()
    assert kp.present.tolist() == [j not in (3, 4) for j in range(18)]


def test_arrays_and_lists_become_float32_tensors_of_their_own():
    xy, visibility = np.ones((2, 18, 2)), np.ones((2, 18), bool)
    visibility.flags.writeable = False  # as a memory map is; torch would warn of sharing it
    kp = Keypoints(xy, visibility)
    xy[:] = 5
    assert kp.xy.dtype == kp.visibility.dtype == torch.float32
    assert (kp.xy == 1).all()
    assert Keypoints([[1, 2]] * 18, [1] * 18).shape == ()


def test_batch_access():
    kp = standing(4)
    assert kp.shape == (4,)
    assert len(kp) == 4
    assert standing(2, 3).shape == (2, 3)
    for index in (2, slice(1, 3), torch.tensor([True, False, True, False]), np.array([3, 0]), [1, 1]):
        part = kp[index]
        torch.testing.assert_close(part.xy, kp.xy[index])
        torch.testing.assert_close(part.visibility, kp.visibility[index])
    torch.testing.assert_close(Keypoints.stack([kp[0], kp[1]]).xy, kp.xy[:2])
    with pytest.raises(TypeError, match="one person"):
        len(kp[0])
    with pytest.raises(TypeError, match="one person"):
        kp[0][0]
    assert kp.to("cpu").device == torch.device("cpu")


# Geometry


@QUICK
@given(kp=people(), width=st.integers(1, 200))
def test_flip_twice_is_identity(kp, width):
    back = kp.flip(width).flip(width)
    torch.testing.assert_close(back.xy, kp.xy, rtol=0, atol=1e-4)
    assert torch.equal(back.visibility, kp.visibility)


def test_flip_swaps_left_and_right_and_mirrors_pixel_centres():
    xy, visibility = torch.zeros(18, 2), torch.zeros(18)
    wrist, shoulder = JOINTS.index("right_wrist"), JOINTS.index("neck")
    xy[wrist], visibility[wrist] = torch.tensor([0.0, 40.0]), 0.5
    xy[shoulder], visibility[shoulder] = torch.tensor([10.0, 30.0]), 1
    flipped = Keypoints(xy, visibility).flip(64)
    assert flipped.xy[JOINTS.index("left_wrist")].tolist() == [63, 40]
    assert flipped.visibility[JOINTS.index("left_wrist")] == 0.5
    assert flipped.visibility[wrist] == 0
    assert flipped.xy[shoulder].tolist() == [53, 30]


def test_heatmaps_of_flipped_keypoints_are_flipped_heatmaps():
    kp = standing(2)
    order = list(FLIP_ORDER)
    torch.testing.assert_close(render_heatmaps(kp.flip(64)), render_heatmaps(kp).flip(-1)[:, order])


@QUICK
@given(kp=people(), sizes=st.lists(st.tuples(st.integers(1, 500), st.integers(1, 500)), min_size=2, max_size=2))
def test_resize_round_trip(kp, sizes):
    back = kp.resize(*sizes).resize(*reversed(sizes))
    torch.testing.assert_close(back.xy, kp.xy, rtol=1e-4, atol=1e-3)
    assert torch.equal(back.visibility, kp.visibility)


def test_resize_keeps_the_corners_of_the_frame():
    xy = torch.zeros(18, 2)
    xy[0], xy[1], xy[2] = torch.tensor([-0.5, -0.5]), torch.tensor([63.5, 127.5]), torch.tensor([31.5, 63.5])
    resized = Keypoints(xy, torch.ones(18)).resize((128, 64), (32, 32))
    # The outer edges stay edges, and the middle stays the middle; the first pixel's centre does not stay at 0.
    assert resized.xy[:4].tolist() == [[-0.5, -0.5], [31.5, 31.5], [15.5, 15.5], [-0.25, -0.375]]


def test_resize_follows_an_image():
    image = torch.zeros(1, 1, 16, 8)
    image[..., 6, 2] = 1  # (x, y) = (2, 6)
    large = torch.nn.functional.interpolate(image, size=(64, 32), mode="bilinear", antialias=True)[0, 0].double()
    rows, columns = torch.arange(64.0), torch.arange(32.0)
    centre = [(large.sum(0) * columns).sum() / large.sum(), (large.sum(1) * rows).sum() / large.sum()]
    resized = Keypoints([[2.0, 6.0]] * 18, [1] * 18).resize((16, 8), (64, 32))
    assert resized.xy[0].tolist() == pytest.approx([float(c) for c in centre], abs=1e-4)


@pytest.mark.parametrize("size", [(0, 4), (4, -1), (3,), (1, 2, 3)])
def test_sizes_are_checked(size):
    kp = standing(1)
    for call in (
        lambda: kp.resize(size, (4, 4)),
        lambda: kp.resize((4, 4), size),
        lambda: kp.crop(0, 0, size),
        lambda: kp.inside(size),
        lambda: render_heatmaps(kp, size),
    ):
        with pytest.raises(ValueError, match=r"needed \(height, width\), both at least 1"):
            call()


def test_crop_moves_and_marks_what_is_outside_as_missing():
    xy, visibility = torch.zeros(18, 2), torch.ones(18)
    xy[:6] = torch.tensor([[10, 20], [9, 20], [10, 19], [19, 39], [20, 39], [19, 40]])
    visibility[1], visibility[3] = 0, 0.25
    cropped = Keypoints(xy, visibility).crop(20, 10, (20, 10))
    assert cropped.visibility[:6].tolist() == [1, 0, 0, 0.25, 0, 0]
    assert cropped.xy[0].tolist() == [0, 0]
    assert cropped.xy[3].tolist() == [9, 19]
    padded = Keypoints(xy, visibility).crop(-5, -3, (200, 200))
    assert torch.equal(padded.visibility, visibility)
    assert padded.xy[0].tolist() == [13, 25]


def test_inside_counts_whole_pixels():
    xy = torch.zeros(18, 2)
    xy[:4] = torch.tensor([[-0.5, 0], [-0.51, 0], [7.5, 3.5], [7.51, 3.5]])
    assert Keypoints(xy, torch.ones(18)).inside((4, 8))[:4].tolist() == [True, False, True, False]


# Heatmaps


@settings(max_examples=15, deadline=None)
@given(kp=people(1, low=-10.0, high=30.0), sigma=st.floats(0.5, 8))
def test_heatmaps_equal_the_slow_loop(kp, sigma):
    fast = render_heatmaps(kp[0], (9, 7), sigma)
    np.testing.assert_allclose(fast.numpy(), slow_heatmaps(kp[0], (9, 7), sigma), rtol=1e-4, atol=1e-6)


def test_peak_is_one_at_the_joint():
    maps = render_heatmaps(Keypoints([[20.0, 50.0]] * 18, [0.3] * 18))
    assert maps.shape == (18, 128, 64)
    assert (maps[:, 50, 20] == 1).all()
    assert (maps.flatten(1).argmax(1) == 50 * 64 + 20).all()
    assert maps[0, 50, 26] == pytest.approx(math.exp(-0.5))  # one sigma away


def test_missing_joint_is_all_zero_wherever_it_is_said_to_be():
    visibility = torch.ones(18)
    visibility[[0, 5]] = 0
    xy = torch.full((18, 2), 30.0)
    xy[5] = 1e30
    maps = render_heatmaps(Keypoints(xy, visibility))
    assert (maps[[0, 5]] == 0).all()
    assert (maps[1] > 0).any()


@pytest.mark.parametrize("batch", [(), (3,), (2, 3), (0,)])
def test_heatmaps_of_any_batch_shape(batch):
    kp = standing(*batch)
    maps = render_heatmaps(kp, (16, 8), 2.0)
    assert maps.shape == (*batch, 18, 16, 8)
    assert maps.dtype == torch.float32
    flat = maps.reshape(-1, 18, 16, 8)
    persons = Keypoints(kp.xy.reshape(-1, 18, 2), kp.visibility.reshape(-1, 18))
    for i in range(len(persons)):
        assert torch.equal(flat[i], render_heatmaps(persons[i], (16, 8), 2.0))


@QUICK
@given(kp=people(low=-1e4, high=1e4), sigma=st.sampled_from([0.5, 1.0, 6.0, 40.0]))
def test_no_denormal_numbers(kp, sigma):
    torch.set_flush_denormal(False)  # or the processor would hide them
    maps = render_heatmaps(kp, (32, 16), sigma)
    assert maps.isfinite().all()
    assert ((maps == 0) | (maps >= TINY)).all()
    assert (maps <= 1).all()


def test_no_denormal_numbers_at_the_usual_size():
    torch.set_flush_denormal(False)
    corner = torch.tensor([[0.0, 0.0], [63.0, 127.0]]).repeat(9, 1)
    plain = torch.exp(-((torch.arange(128.0) - 0) ** 2) / (2 * 6.0**2))
    assert ((plain > 0) & (plain**2 < TINY)).any(), "the obvious sum would have denormals here"
    maps = render_heatmaps(Keypoints(corner, torch.ones(18)))
    assert ((maps == 0) | (maps >= TINY)).all()


@pytest.mark.parametrize("sigma", [0, -1.0, float("nan"), float("inf")])
def test_sigma_is_checked(sigma):
    with pytest.raises(ValueError, match=r"sigma: .*, needed a finite number of pixels above 0"):
        render_heatmaps(standing(1), sigma=sigma)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_heatmaps_on_the_gpu():
    kp = standing(2)
    maps = render_heatmaps(kp.to("cuda"))
    assert maps.device.type == "cuda"
    torch.testing.assert_close(maps.cpu(), render_heatmaps(kp), rtol=1e-4, atol=1e-6)
