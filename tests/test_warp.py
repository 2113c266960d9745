"""The limb warp: joints read from heatmaps, limbs that move as their bones do, and what the network corrects."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skeletons import random_people
from torch import Tensor

from xingaug.bench.networks import example_keypoints
from xingaug.generators import XingGANPlusPlus
from xingaug.generators.light import FlowCorrection
from xingaug.generators.pose import Poses, joints_of
from xingaug.generators.render import render
from xingaug.generators.warp import BONES, LimbWarp, ShiftWarp
from xingaug.keypoints import JOINTS, Keypoints, render_heatmaps

SIZE = (128, 64)


def picture(count: int = 1) -> Tensor:
    """Smooth, so that reading between pixels costs nothing."""
    y, x = torch.meshgrid(torch.arange(128.0), torch.arange(64.0), indexing="ij")
    planes = [(x / 9).sin(), (y / 11).cos(), (x / 13 + y / 17).sin()]
    return torch.stack(planes).expand(count, -1, -1, -1)


def standing(count: int = 1) -> Keypoints:
    return example_keypoints(count, SIZE)


def joints(*poses: Keypoints) -> list[Tensor]:
    return [part for pose in poses for part in (pose.xy, pose.visibility)]


def shift_of(source: Keypoints, target: Keypoints) -> Tensor:
    shift: Tensor = LimbWarp(SIZE)(Poses.of_joints(*joints(source, target)), SIZE)[0]
    return shift


def carry(image: Tensor, shifts: Tensor) -> Tensor:
    carried: Tensor = ShiftWarp(SIZE)(image, shifts)
    return carried


def warp(image: Tensor, source: Keypoints, target: Keypoints) -> tuple[Tensor, Tensor]:
    shift, nearness = LimbWarp(SIZE)(Poses.of_joints(*joints(source, target)), SIZE)
    return carry(image, shift), nearness


def pixels(most: float, least: float = 0.0) -> st.SearchStrategy[float]:
    return st.floats(least, most, allow_subnormal=False)  # a command may have switched them off for the process


@settings(deadline=None, max_examples=30)
@given(pixels(63), pixels(127), pixels(9, 3), st.integers(0, 17))
def test_joints_are_read_back_between_pixels(x: float, y: float, sigma: float, missing: int) -> None:
    visibility = torch.ones(1, 18)
    visibility[:, missing] = 0
    xy, present = joints_of(render_heatmaps(Keypoints(torch.tensor([x, y]).expand(1, 18, 2), visibility), SIZE, sigma))
    assert present[0].tolist() == [float(joint != missing) for joint in range(18)]
    assert (xy[present > 0] - torch.tensor([x, y])).abs().max() < 0.02


def test_the_same_pose_leaves_the_image_where_it_is() -> None:
    people = standing(3)
    warped, nearness = warp(picture(3), people, people)
    torch.testing.assert_close(warped, picture(3), atol=1e-3, rtol=0)
    assert nearness.min() >= 0
    assert nearness.max() <= 1
    rows, columns = people.xy[0].round().long()[:, 1], people.xy[0].round().long()[:, 0]
    assert (nearness[0, 0, rows, columns] > 0.6).all()
    assert nearness[0, 0, :, 0].max() < 0.3


def test_a_person_who_moves_takes_the_pixels_along() -> None:
    source = standing()
    target = Keypoints(source.xy + torch.tensor([6.0, -4.0]), source.visibility)
    warped, _ = warp(picture(), source, target)
    torch.testing.assert_close(warped[..., 8:100, 12:60], picture()[..., 12:104, 6:54], atol=2e-3, rtol=0)


def test_a_mirrored_scene_gives_the_mirrored_image() -> None:
    source, target = standing(4), Keypoints(standing(8).xy[4:], torch.ones(4, 18))
    warped, nearness = warp(picture(4), source, target)
    flipped, near = warp(picture(4).flip(-1), source.flip(64), target.flip(64))
    torch.testing.assert_close(flipped.flip(-1), warped, atol=5e-3, rtol=0)
    torch.testing.assert_close(near.flip(-1), nearness, atol=1e-4, rtol=0)


def test_a_raised_forearm_shows_the_forearms_pixels() -> None:
    source = standing()
    elbow, wrist = (JOINTS.index(name) for name in ("right_elbow", "right_wrist"))
    xy = source.xy.clone()
    xy[:, elbow] = torch.tensor([12.0, 42.0])  # away from the trunk, so that no other bone is near
    xy[:, wrist] = torch.tensor([12.0, 60.0])
    source = Keypoints(xy, source.visibility)
    raised = xy.clone()
    raised[:, wrist] = torch.tensor([12.0, 24.0])
    image = torch.zeros(1, 3, 128, 64)
    image[..., 44:62, 9:16] = 1  # the forearm
    warped, _ = warp(image, source, Keypoints(raised, source.visibility))
    assert warped[0, 0, 26:38, 11:14].min() > 0.9


def test_without_limbs_nothing_moves() -> None:
    nobody = Keypoints(torch.zeros(2, 18, 2), torch.zeros(2, 18))
    for source, target in ((nobody, standing(2)), (standing(2), nobody), (nobody, nobody)):
        warped, nearness = warp(picture(2), source, target)
        torch.testing.assert_close(warped, picture(2), atol=1e-4, rtol=0)
        assert nearness.abs().max() == 0


def test_a_hidden_arm_borrows_the_other_ones_pixels() -> None:
    source, target = standing(), standing()
    hidden = source.visibility.clone()
    hidden[:, [JOINTS.index("left_elbow"), JOINTS.index("left_wrist")]] = 0
    x, y = (target.xy[0, JOINTS.index("left_elbow")] + target.xy[0, JOINTS.index("left_wrist")]) / 2
    image = torch.zeros(1, 3, 128, 64)
    wrist, elbow = source.xy[0, JOINTS.index("right_wrist")], source.xy[0, JOINTS.index("right_elbow")]
    middle = ((wrist + elbow) / 2).round().long()
    image[..., middle[1] - 4 : middle[1] + 5, middle[0] - 3 : middle[0] + 4] = 1
    borrowed, nearness = warp(image, Keypoints(source.xy, hidden), target)
    shown, _ = warp(image, source, target)
    place = (0, 0, int(y.round()), int(x.round()))
    assert borrowed[place] > 0.8
    assert shown[place] < 0.2
    assert nearness[place] > 0.6


def test_wild_poses_give_finite_images_within_range() -> None:
    people = random_people(64)
    warped, nearness = warp(picture(32), people[:32], people[32:])
    assert warped.isfinite().all()
    assert nearness.isfinite().all()
    assert warped.abs().max() <= 1


def test_bones_of_both_sides_alternate_after_the_two_in_the_middle() -> None:
    for right, left in zip(BONES[2::2], BONES[3::2], strict=True):
        assert tuple(name.replace("right", "left") for name in (*right.start, *right.end)) == (*left.start, *left.end)


def test_a_shift_says_where_a_pixel_comes_from() -> None:
    shift = torch.tensor([6.0, -4.0])[None, :, None, None].expand(1, 2, 128, 64)
    carried = carry(picture(), shift)
    torch.testing.assert_close(carried[..., 4:, :58], picture()[..., :124, 6:], atol=1e-4, rtol=0)
    torch.testing.assert_close(carried[..., 0, :58], picture()[..., 0, 6:], atol=1e-4, rtol=0)  # the border goes on


def showing(candidate: int, **switches: object) -> XingGANPlusPlus:
    """A network that shows one of its candidates alone."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = XingGANPlusPlus(width=8, blocks=1, candidates=1, texture_attention=1, **switches).eval()
    layer = network.fusion.decode_maps.out[0]  # type: ignore[index, union-attr]
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.fill_(-50)
        layer.bias[candidate] = 50
    return network


def two_poses() -> tuple[Keypoints, Keypoints]:
    return standing(2), standing(4)[2:]


def test_the_generator_can_show_the_warped_image() -> None:
    # Before it are one candidate of each branch and the source.
    image = render(showing(3, flow=False), picture(2), *joints(*two_poses()))
    torch.testing.assert_close(image, carry(picture(2), shift_of(*two_poses())), atol=1e-5, rtol=0)


@pytest.mark.parametrize("number", range(FlowCorrection.candidates))
def test_the_generator_moves_its_warps_by_what_the_flow_adds(number: int) -> None:
    network = showing(3 + number)
    assert network.flow is not None
    last = network.flow.out[-1]
    more = torch.zeros(2 * FlowCorrection.candidates)
    more[2 * number :][:2] = torch.tensor([3.0, -2.0])
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(more)
    base = shift_of(*two_poses()) if number < 2 else torch.zeros(2, 2, 128, 64)
    wanted = carry(picture(2), base + torch.tensor([3.0, -2.0])[:, None, None])
    torch.testing.assert_close(render(network, picture(2), *joints(*two_poses())), wanted, atol=1e-5, rtol=0)


def test_the_flow_learns_a_shift_that_the_poses_do_not_show() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        flow = FlowCorrection(8, 4)
    code, fine = torch.rand(1, 16, 32, 16), torch.rand(1, 4, 64, 32)
    target = carry(picture(), torch.tensor([2.0, 1.0])[None, :, None, None].expand(1, 2, 128, 64))
    optimiser = torch.optim.Adam(flow.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        images = carry(picture(), flow(torch.zeros(1, 2, 128, 64), code, fine)).unflatten(1, (3, 3))
        loss = ((images - target[:, None]) ** 2).mean((0, 2, 3, 4)).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 20


def test_without_the_limb_warp_there_is_nothing_to_correct() -> None:
    network = XingGANPlusPlus(width=8, blocks=1, limb_warp=False, flow=True)
    assert network.flow is None


@pytest.mark.parametrize("part", ["stem", "decoder"])
def test_the_released_parts_have_no_place_for_it(part: str) -> None:
    with pytest.raises(ValueError, match="limb_warp: true, needed false with the released stem or decoder"):
        XingGANPlusPlus(width=8, texture_attention=0, **{part: "released"})
