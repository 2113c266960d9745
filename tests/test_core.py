"""The rendering core: it gives what it gave before, launches little, and never makes the host wait."""

import copy

import pytest
import torch
from networks import BUILDERS, awake
from skeletons import random_people, small_bank
from slow_warp import SlowMaps, SlowShiftWarp, SlowWarp, heatmaps, joints, smooth_picture
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from xingaug.augment.transform import XingPose
from xingaug.bench.launches import LaunchCounter, launches_of
from xingaug.bench.networks import example_keypoints
from xingaug.generators import load_generator
from xingaug.generators.base import PoseGenerator
from xingaug.generators.core import Core, batches
from xingaug.generators.pose import PoseMaps, Poses
from xingaug.generators.render import filled, render
from xingaug.generators.warp import LimbWarp, ShiftWarp
from xingaug.keypoints import Keypoints

SIZE = (128, 64)
BUNDLED = ("pedestrians-small", "market1501-small", "market1501-patn")


def written_slowly(network: PoseGenerator) -> PoseGenerator:
    """The network with everything that depends on joints in its slow form."""
    slow = copy.deepcopy(network)
    forms: dict[type[nn.Module], type[nn.Module]] = {LimbWarp: SlowWarp, ShiftWarp: SlowShiftWarp, PoseMaps: SlowMaps}
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
        assert torch.equal(ShiftWarp(SIZE).to(torch.bfloat16)(image, shift), ShiftWarp(SIZE)(image, shift))


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
    assert torch.equal(ShiftWarp(SIZE)(image, shift), ShiftWarp((32, 16))(image, shift))


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


class CopyOfSource(nn.Module):
    """In place of a generator: no operation of its own."""

    size = SIZE

    def forward(self, source: Tensor, source_heatmaps: Tensor, target_heatmaps: Tensor) -> Tensor:
        return source


@pytest.mark.parametrize("reuse", [1, 3])
def test_augmenting_launches_little_beside_the_core(reuse: int) -> None:
    source, _ = people(64)
    names, aug = [f"{i}.jpg" for i in range(64)], XingPose(CopyOfSource(), small_bank(), p=0.5, reuse=reuse)
    images = smooth_picture(64) / 2 + 0.5
    with LaunchCounter() as counted:
        out = aug(images, source, names)
    assert out.is_synthetic.sum() > 20
    assert counted.total <= 100 + (0 if reuse == 1 else 64), (
        counted.launches.most_common()
    )  # a copy for each kept image
    assert counted.reads.total() <= 2  # the range of images, and of the bank's poses, which are on the CPU


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_image_does_not_depend_on_its_company(dtype: torch.dtype) -> None:
    core = Core(load_generator("pedestrians-small", dtype=dtype))
    source, target = people(11)
    xy, visibility = torch.stack([source.xy, target.xy], 1), torch.stack([source.visibility, target.visibility], 1)
    images = smooth_picture(11)
    whole = core(images, xy, visibility)
    assert whole.shape == images.shape
    for rows in ([3], [2, 3, 9]):
        assert torch.equal(core(images[rows], xy[rows], visibility[rows]), whole[rows])


def test_batches_have_fixed_sizes() -> None:
    assert batches(20, "cpu") == [(0, 8, 8), (8, 16, 8), (16, 20, 8)]
    assert batches(20, "cuda") == [(0, 20, 32)]
    assert batches(300, "cuda") == [(0, 256, 256), (256, 300, 64)]
    assert filled(torch.arange(3), 5).tolist() == [0, 1, 2, 2, 2]


def test_the_core_is_one_graph() -> None:
    network = awake(BUILDERS["light"]).eval()
    source, target = (kp.resize(SIZE, (32, 16)) for kp in people(2))
    images = smooth_picture(2, (32, 16))
    compiled = torch.compile(render, backend="eager", fullgraph=True)
    with torch.no_grad():
        expected = render(network, images, *joints(source, target))
        torch.testing.assert_close(compiled(network, images, *joints(source, target)), expected)


def test_the_core_traces_with_fake_cuda_tensors() -> None:
    network = awake(BUILDERS["light"]).eval()
    source, target = (kp.resize(SIZE, (32, 16)) for kp in people(2))
    mode, fake = FakeTensorMode(), copy.deepcopy(network).requires_grad_(False)
    for module in fake.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    tensors[name] = on_cuda(mode, tensor)  # type: ignore[assignment]
    inputs = [on_cuda(mode, x) for x in (smooth_picture(2, (32, 16)), *joints(source, target))]
    with mode, torch.no_grad():
        image = render(fake, *inputs)
    assert (image.device.type, tuple(image.shape)) == ("cuda", (2, 3, 32, 16))


def on_cuda(mode: FakeTensorMode, tensor: Tensor) -> Tensor:
    """A tensor of that shape that says it is on a GPU."""
    return FakeTensor(mode, tensor.detach().to("meta"), torch.device("cuda:0"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_captured_batch_gives_the_images_of_the_core(caplog: pytest.LogCaptureFixture) -> None:
    network = load_generator("pedestrians-small", "cuda", torch.bfloat16)
    source, target = people(20)
    xy = torch.stack([source.xy, target.xy], 1).cuda()
    visibility = torch.stack([source.visibility, target.visibility], 1).cuda()
    images, core = smooth_picture(20).cuda(), Core(network)
    with caplog.at_level("INFO"):
        found = core(images, xy, visibility)
    assert "by a CUDA graph" in caplog.text
    with torch.no_grad():
        expected = render(network, images, *(x.cuda() for x in joints(source, target)))
    torch.testing.assert_close(found, expected, rtol=0, atol=0.05)
    torch.cuda.set_sync_debug_mode("error")
    try:
        again = core(images, xy, visibility)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(again, found)
    assert core(images[:3], xy[:3], visibility[:3]).shape == (3, 3, *SIZE)
    assert torch.equal(core(images, xy, visibility), found)  # after a batch of another size


@pytest.mark.parametrize("fast", [True, False])
def test_auto_follows_the_device_and_the_weights(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xingaug.generators.fast.has_bfloat16", lambda device: True)
    network = load_generator("pedestrians-small", dtype=torch.float32 if fast else None)
    core, exact = Core(network, dtype="auto"), Core(network)
    source, target = people(3)
    inputs = smooth_picture(3), torch.stack([source.xy, target.xy], 1), torch.ones(3, 2, 18)
    first = core(*inputs)
    assert (network.dtype, core.describe()) == (torch.float32, "bfloat16 by torch on cpu")
    assert torch.equal(first, Core(network.optimize(torch.bfloat16))(*inputs))
    assert 1e-4 < (first - exact(*inputs)).abs().mean() < 1e-2
    assert core.engine() is core.engine()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(0.5)
    assert (core(*inputs) - first).abs().mean() > 1e-2  # weights that have changed are rendered with
    assert torch.equal(copy.deepcopy(core)(*inputs), core(*inputs))
    monkeypatch.setattr("xingaug.generators.fast.has_bfloat16", lambda device: False)
    assert core.engine() is network


def test_what_is_in_half_precision_already_stays_so_and_names_are_types() -> None:
    network = load_generator("pedestrians-small", dtype=torch.bfloat16)
    assert Core(network, dtype="auto").engine() is network
    assert Core(network, dtype="float32").describe() == "float32 by torch on cpu"
    assert Core(Foreign(), dtype="bfloat16").engine().__class__ is Foreign
    with pytest.raises(ValueError, match="dtype: int8, needed 'auto' or a floating point type"):
        Core(network, dtype="int8")  # type: ignore[arg-type]
