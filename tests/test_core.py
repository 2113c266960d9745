"""The rendering core: it gives what it gave before, launches little, and never makes the host wait."""

import copy

import pytest
import torch
from networks import BUILDERS, awake
from skeletons import random_people
from slow_warp import SlowCarry, SlowMaps, SlowWarp, heatmaps, joints, smooth_picture
from torch import Tensor, nn

from xingaug.bench.launches import LaunchCounter, launches_of
from xingaug.bench.networks import example_keypoints
from xingaug.generators import load_generator
from xingaug.generators.base import PoseGenerator
from xingaug.generators.pose import PoseMaps, Poses
from xingaug.generators.render import render
from xingaug.generators.warp import Carry, LimbWarp
from xingaug.keypoints import Keypoints

SIZE = (128, 64)
BUNDLED = ("pedestrians-small", "market1501-small")


def written_slowly(network: PoseGenerator) -> PoseGenerator:
    """The network with everything that depends on joints in its slow form."""
    slow = copy.deepcopy(network)
    forms: dict[type[nn.Module], type[nn.Module]] = {LimbWarp: SlowWarp, Carry: SlowCarry, PoseMaps: SlowMaps}
    for module in [*slow.modules()]:
        for name, child in [*module.named_children()]:
            if type(child) in forms:
                module.add_module(name, forms[type(child)]())
    return slow


def people(count: int, seed: int = 0) -> tuple[Keypoints, Keypoints]:
    """Some that stand, some wild, some without joints; sources and targets."""
    standing, wild = example_keypoints(2 * count, SIZE), random_people(2 * count, seed, missing=0.15)
    odd = torch.arange(2 * count) % 2 == 0
    xy = torch.where(odd[:, None, None], standing.xy, wild.xy)
    both = Keypoints(xy, torch.where(odd[:, None], standing.visibility, wild.visibility))
    return both[:count], both[count:]


@pytest.mark.parametrize("name", BUNDLED)
def test_it_gives_the_images_of_the_slow_form(name: str) -> None:
    network, images, (source, target) = load_generator(name), smooth_picture(4), people(4)
    with torch.no_grad():
        rendered = render(network, images, *joints(source, target))
        slow = render(written_slowly(network), images, *joints(source, target))
        by_heatmaps = network(images, *heatmaps(source, target))
    torch.testing.assert_close(rendered, slow, rtol=0, atol=1e-5)
    torch.testing.assert_close(by_heatmaps, slow, rtol=0, atol=1e-5)
    assert (rendered - images).abs().max() > 0.1


@pytest.mark.parametrize("training", [True, False])
def test_coordinates_are_exact_under_autocast_and_in_half_precision(training: bool) -> None:
    poses = Poses.of_joints(*joints(*people(8)))
    modules: list[nn.Module] = [LimbWarp(SIZE), PoseMaps(SIZE)]
    for module in modules:
        module.train(training)
        expected, half = module(poses, SIZE), copy.deepcopy(module).to(torch.bfloat16)
        with torch.autocast("cpu", torch.bfloat16):
            found = module(poses, SIZE)
        for other in (found, half(poses, SIZE)):
            for a, b in zip(other, expected, strict=True):
                assert a.dtype == torch.float32
                assert torch.equal(a, b)
    image, shift = smooth_picture(8), LimbWarp(SIZE)(poses, SIZE)[0]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(Carry(SIZE).to(torch.bfloat16)(image, shift), Carry(SIZE)(image, shift))


def test_training_under_autocast_sees_the_images_of_inference() -> None:
    network = load_generator("pedestrians-small", dtype=None).eval()
    fast = network.optimize(torch.bfloat16)
    images, (source, target) = smooth_picture(4), people(4)
    with torch.no_grad():
        exact = render(network, images, *joints(source, target))
        with torch.autocast("cpu", torch.bfloat16):
            trained = render(network, images, *joints(source, target))
        inferred = render(fast, images, *joints(source, target))
    for image in (trained, inferred):
        assert ((image - exact) / 2).square().mean().log10() * -10 > 40


def test_sizes_other_than_the_built_one_are_drawn_alike() -> None:
    poses, image = Poses.of_joints(*joints(*people(3))), smooth_picture(3)
    for make in (LimbWarp, PoseMaps):
        for a, b in zip(make(SIZE)(poses, SIZE), make((32, 16))(poses, SIZE), strict=True):
            assert torch.equal(a, b)
    shift = LimbWarp(SIZE)(poses, SIZE)[0]
    assert torch.equal(Carry(SIZE)(image, shift), Carry((32, 16))(image, shift))


class Foreign(nn.Module):
    """A network of someone else's, called with heatmaps."""

    def forward(self, source: Tensor, source_heatmaps: Tensor, target_heatmaps: Tensor) -> Tensor:
        return source + source_heatmaps[:, :3] - target_heatmaps[:, :3]


def test_a_foreign_network_is_given_heatmaps() -> None:
    images, (source, target) = smooth_picture(2), people(2)
    first, second = heatmaps(source, target)
    expected = Foreign()(images, first, second)
    torch.testing.assert_close(render(Foreign(), images, *joints(source, target)), expected, rtol=0, atol=1e-6)


def core_of(network: nn.Module, count: int) -> LaunchCounter:
    source, target = people(count)
    return launches_of(render, network, smooth_picture(count), *joints(source, target))


def test_the_small_network_launches_little() -> None:
    counted = core_of(load_generator("market1501-small", dtype=torch.bfloat16), 2)
    assert counted.total <= 250, counted.launches.most_common()
    assert not counted.reads


@pytest.mark.parametrize("name", BUILDERS)
def test_no_core_makes_the_host_wait(name: str) -> None:
    network = awake(BUILDERS[name]).eval()
    source, target = (kp.resize(SIZE, (32, 16)) for kp in people(4))
    assert not launches_of(render, network, smooth_picture(4, (32, 16)), *joints(source, target)).reads
