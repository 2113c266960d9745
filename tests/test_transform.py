"""XingPose: the promises of its contract, on a tiny generator that shows what it was given."""

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from posing import BANK, SIZE, Blend, images_of, keys_of, make, persons
from torch import Tensor, nn

from xingaug.augment.output import PoseDraw, Skipped
from xingaug.augment.transform import XingPose
from xingaug.generators import load_generator
from xingaug.keypoints import Keypoints, render_heatmaps
from xingaug.poses.bank import PoseBank
from xingaug.poses.descriptor import torsos_of


def test_fit_source_gives_the_rendered_person_the_sources_torso() -> None:
    half = Keypoints(persons(6).xy * 0.5 + torch.tensor([4.0, 10.0]), persons(6).visibility)
    torsos = {}
    for fit in ("frame", "source"):
        out = make(p=1.0, fit=fit)(images_of(6), half, keys=keys_of(6))
        assert out.is_synthetic.all()
        torsos[fit] = torsos_of(out.keypoints.xy.numpy(), out.keypoints.visibility.numpy())
    middle, length = torsos_of(half.xy.numpy(), half.visibility.numpy())
    np.testing.assert_allclose(torsos["source"][0], middle, atol=1e-3)
    np.testing.assert_allclose(torsos["source"][1], length, atol=1e-3)
    assert (torsos["frame"][1] > 1.5 * length).all()


def test_p_of_zero_returns_the_batch_itself_and_needs_no_keys() -> None:
    images, kp = images_of(4), persons(4)
    aug = make(p=0)
    out = aug(images, kp)
    assert out.images is images
    assert out.keypoints is kp
    assert not out.is_synthetic.any()
    assert out.skipped == Skipped()
    assert aug.generator.rows == 0


def test_p_of_one_renders_every_row_in_the_drawn_pose() -> None:
    images, kp = images_of(6), persons(6)
    aug = make(p=1)
    out = aug(images, kp, keys=keys_of(6))
    assert out.is_synthetic.all()
    assert out.sources.tolist() == list(range(6))
    for i in range(6):
        target = BANK.keypoints(out.draw.bank_rows[i : i + 1]).resize(BANK.frame, SIZE)
        maps = [render_heatmaps(k, SIZE) for k in (kp[i : i + 1], target)]
        with torch.no_grad():
            expected = (aug.generator(images[i : i + 1] * 2 - 1, *maps) + 1) / 2
        assert torch.allclose(out.images[i : i + 1], expected, atol=1e-5)
        assert torch.equal(out.keypoints.xy[i : i + 1], target.xy)


def test_p_is_a_probability_per_row_and_the_other_rows_stay() -> None:
    images, kp = images_of(300), persons(300)
    aug = make(p=0.3)
    out = aug(images, kp, keys=keys_of(300))
    count = int(out.is_synthetic.sum())
    assert 60 < count < 120
    assert aug.generator.rows == count
    changed = (out.images != images).flatten(1).any(1)
    assert torch.equal(changed, out.is_synthetic)
    assert torch.equal(out.keypoints.xy[~changed], kp.xy[~changed])
    assert torch.equal(out.draw.bank_rows >= 0, out.is_synthetic)


def test_append_puts_synthetic_rows_behind_the_batch() -> None:
    images, kp, pids = images_of(20), persons(20), torch.arange(20) * 10
    replaced = make()(images, kp, keys=keys_of(20))
    out = make(mode="append")(images, kp, keys=keys_of(20))
    count = int(replaced.is_synthetic.sum())
    assert 0 < count < 20
    assert out.images.shape == (20 + count, 3, *SIZE)
    assert torch.equal(out.images[:20], images)
    assert torch.equal(out.images[20:], replaced.images[replaced.is_synthetic])
    assert torch.equal(out.keypoints.xy[20:], replaced.keypoints.xy[replaced.is_synthetic])
    assert out.is_synthetic.tolist() == [False] * 20 + [True] * count
    assert torch.equal(pids[out.sources[20:]], pids[replaced.is_synthetic])


def test_eval_mode_is_the_identity() -> None:
    images, kp = images_of(4), persons(4)
    aug = make(p=1).eval()
    out = aug(images, kp, keys=keys_of(4))
    assert out.images is images
    assert not out.is_synthetic.any()
    assert not out.draw.selected.any()
    assert make(p=1, mode="append").eval()(images, kp).images is images


def test_generator_stays_in_eval_mode_and_frozen() -> None:
    aug = make(p=1)
    model = nn.Sequential(nn.Linear(2, 2), aug).train()
    assert aug.training
    assert not any(module.training for module in aug.generator.modules())
    assert not any(parameter.requires_grad for parameter in aug.parameters())
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["0.weight", "0.bias"]
    statistics = aug.generator.norm.running_mean.clone()
    images = images_of(4).requires_grad_()
    out = aug(images, persons(4), keys=keys_of(4))
    assert not out.images.requires_grad
    assert torch.equal(aug.generator.norm.running_mean, statistics)


def test_a_generator_may_hold_an_exported_program() -> None:
    class Program(nn.Module):
        """As `torch.export`'s modules, which have neither mode."""

        def train(self, mode: bool = True) -> nn.Module:
            raise NotImplementedError

        def forward(self, source: Tensor) -> Tensor:
            return source * 0.5

    class Exported(nn.Module):
        size = SIZE
        content_hash = "exported"

        def __init__(self) -> None:
            super().__init__()
            self.first, self.program, self.last = nn.Dropout(), Program(), nn.Dropout()

        def forward(self, source: Tensor, source_heatmaps: Tensor, target_heatmaps: Tensor) -> Tensor:
            return self.last(self.program(self.first(source)))

    aug = XingPose(Exported(), BANK, p=1)
    images = images_of(4)
    for mode in (False, True):
        aug.train(mode)
        assert aug.training == mode
        assert not aug.generator.first.training
        assert not aug.generator.last.training
    out = aug(images, persons(4), keys=keys_of(4))
    assert torch.allclose(out.images, images * 0.5 + 0.25, atol=1e-6)


def test_generator_put_in_train_mode_from_outside_renders_as_in_eval_mode() -> None:
    aug = make(p=1)
    expected = aug(images_of(4), persons(4), keys=keys_of(4))
    aug.generator.train()
    assert torch.equal(aug(images_of(4), persons(4), keys=keys_of(4)).images, expected.images)


def test_no_global_random_generator_is_read_or_moved() -> None:
    def run() -> Tensor:
        return make(p=0.7, sampler="far")(images_of(8), persons(8), keys=keys_of(8)).images

    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    first = run()
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]
    assert random.getstate() == states[2]
    torch.manual_seed(2), np.random.seed(2), random.seed(2)
    assert torch.equal(run(), first)


def test_draws_change_with_epoch_and_seed_only() -> None:
    kp, keys = persons(64), keys_of(64)
    first = make().draw(kp, keys, epoch=3, size=SIZE)
    again = make().draw(kp, keys, epoch=3, size=SIZE)
    assert torch.equal(first.bank_rows, again.bank_rows)
    assert torch.equal(first.selected, again.selected)
    for other in (make().draw(kp, keys, epoch=4, size=SIZE), make(seed=1).draw(kp, keys, epoch=3, size=SIZE)):
        assert not torch.equal(first.selected, other.selected)
        both = first.selected & other.selected
        assert not torch.equal(first.bank_rows[both], other.bank_rows[both])


@settings(max_examples=25, deadline=None)
@given(
    st.permutations(range(12)),
    st.integers(1, 12),
    st.sampled_from(["uniform", "near", "far"]),
    st.sampled_from([SIZE, (40, 24)]),
)
def test_a_row_does_not_depend_on_its_batch(order: list[int], batch: int, sampler: str, size: tuple[int, int]) -> None:
    images, kp, keys = images_of(12, size), persons(12, size), keys_of(12)
    aug = make(sampler=sampler)
    whole = aug(images, kp, keys=keys, epoch=1)
    for start in range(0, 12, batch):
        rows = order[start : start + batch]
        part = aug(images[rows], kp[rows], keys=[keys[i] for i in rows], epoch=1)
        assert torch.equal(part.draw.bank_rows, whole.draw.bank_rows[rows])
        assert torch.equal(part.is_synthetic, whole.is_synthetic[rows])
        assert torch.allclose(part.images, whole.images[rows], atol=1e-5)


def test_pixels_of_the_bundled_generator_do_not_depend_on_the_batch() -> None:
    size, count = (128, 64), 7
    images, kp, keys = images_of(count, size), persons(count, size), keys_of(count)
    aug = XingPose(load_generator("pedestrians-small"), BANK, p=1)
    whole = aug(images, kp, keys=keys).images
    for batch in (1, 3):
        parts = [slice(start, start + batch) for start in range(0, count, batch)]
        found = torch.cat([aug(images[part], kp[part], keys=keys[part]).images for part in parts])
        assert torch.allclose(found, whole, atol=1e-5)


@pytest.mark.parametrize("mode", ["replace", "append"])
def test_replay_is_exact(mode: str) -> None:
    images, kp = images_of(10), persons(10)
    kp.visibility[0, 3:] = 0
    out = make(mode=mode)(images, kp, keys=keys_of(10), epoch=5)
    again = make(mode=mode, seed=99)(images, kp, draw=out.draw)
    assert torch.equal(again.images, out.images)
    assert torch.equal(again.keypoints.xy, out.keypoints.xy)
    assert torch.equal(again.sources, out.sources)
    assert again.skipped == out.skipped


def test_rows_without_usable_keypoints_pass_and_are_counted() -> None:
    images, kp = images_of(5), persons(5)
    kp.visibility[1, 7:] = 0  # seven joints
    kp.visibility[2, 8:] = 0  # eight are enough
    out = make(p=1)(images, kp, keys=keys_of(5))
    assert out.is_synthetic.tolist() == [True, False, True, True, True]
    assert out.skipped == Skipped(unusable_keypoints=1, no_pose=0)
    assert out.draw.selected.all()
    assert torch.equal(out.images[1], images[1])


def test_rows_without_a_valid_pose_pass_and_are_counted() -> None:
    images, kp, keys = images_of(3), persons(3), keys_of(3)
    bank = PoseBank.build(persons(1, (128, 64)), names=[keys[1]])
    out = make(p=1, bank=bank)(images, kp, keys=keys)
    assert out.is_synthetic.tolist() == [True, False, True]
    assert out.skipped == Skipped(unusable_keypoints=0, no_pose=1)


def test_an_image_never_gets_its_own_pose() -> None:
    kp, keys = persons(40), keys_of(40)
    bank = PoseBank.build(persons(40, (128, 64)), names=keys)
    aug = make(p=1, bank=bank, sampler="near")
    for epoch in range(5):
        rows = aug.draw(kp, keys, epoch=epoch, size=SIZE).bank_rows
        assert (rows >= 0).all()
        assert (rows != torch.arange(40)).all()


@pytest.mark.parametrize("size", [SIZE, (64, 32), (20, 30), (7, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("mode", ["replace", "append"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_output_keeps_size_dtype_range_and_memory_format(size, dtype, mode, layout) -> None:
    images = images_of(6, size).to(dtype).contiguous(memory_format=layout)
    kept = images.clone()
    out = make(p=0.8, mode=mode)(images, persons(6, size), keys=keys_of(6))
    assert out.is_synthetic.any()
    assert out.images.shape[-2:] == size
    assert out.images.dtype == dtype
    assert out.images.is_contiguous(memory_format=layout)
    assert out.images.min() >= 0
    assert out.images.max() <= 1
    assert torch.equal(images, kept)
    assert torch.equal(out.images[~out.is_synthetic], images[~out.is_synthetic[:6]] if mode == "replace" else images)


@pytest.mark.parametrize("mode", ["replace", "append"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_memory_format_is_the_images_and_not_the_generators(mode: str, layout: torch.memory_format) -> None:
    class Other(Blend):
        def forward(self, source: Tensor, source_heatmaps: Tensor, target_heatmaps: Tensor) -> Tensor:
            formats = {torch.contiguous_format: torch.channels_last, torch.channels_last: torch.contiguous_format}
            return source.contiguous(memory_format=formats[layout])

    images = images_of(4).contiguous(memory_format=layout)
    out = XingPose(Other(), BANK, p=1, mode=mode)(images, persons(4), keys=keys_of(4))
    assert out.images.is_contiguous(memory_format=layout)


def test_the_frame_of_the_images_does_not_change_the_draw() -> None:
    kp, stretched = persons(12, (128, 64)), (64, 200)
    aug = make(p=1, sampler="near")
    expected = aug.draw(kp, keys_of(12)).bank_rows
    assert torch.equal(aug.draw(kp.resize((128, 64), stretched), keys_of(12), size=stretched).bank_rows, expected)


def test_keypoints_come_back_in_the_images_frame() -> None:
    size = (64, 32)
    out = make(p=1)(images_of(3, size), persons(3, size), keys=keys_of(3))
    expected = BANK.keypoints(out.draw.bank_rows).resize(BANK.frame, size)
    assert torch.equal(out.keypoints.xy, expected.xy)
    assert out.keypoints.inside(size).all()


def test_images_of_another_size_are_resized_for_the_generator_and_back() -> None:
    class Echo(Blend):
        def forward(self, source: Tensor, source_heatmaps: Tensor, target_heatmaps: Tensor) -> Tensor:
            assert source.shape[-2:] == source_heatmaps.shape[-2:] == target_heatmaps.shape[-2:] == SIZE
            # The joint's heatmap peaks where the joint lies in the generator's frame.
            assert source_heatmaps[0, 1].argmax() == 7 * SIZE[1] + 8
            return source

    ramp = torch.linspace(0, 1, 64).view(1, 1, 64, 1).expand(1, 3, 64, 32).contiguous()
    kp = persons(1, (64, 32))
    kp.xy[0, 1] = torch.tensor([16.5, 14.5])
    out = XingPose(Echo(), BANK, p=1)(ramp, kp, keys=["a"])
    assert out.is_synthetic.all()
    assert torch.allclose(out.images[..., 2:-2, :], ramp[..., 2:-2, :], atol=0.01)


def test_a_generator_that_overshoots_is_cut_to_the_range() -> None:
    class Loud(Blend):
        def forward(self, source: Tensor, source_heatmaps: Tensor, target_heatmaps: Tensor) -> Tensor:
            return source * 1.2

    out = XingPose(Loud(), BANK, p=1)(images_of(4), persons(4), keys=keys_of(4))
    assert (float(out.images.min()), float(out.images.max())) == (0, 1)


def test_autocast_and_half_precision_generator() -> None:
    images, kp, keys = images_of(4), persons(4), keys_of(4)
    expected = make(p=1)(images, kp, keys=keys).images
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = make(p=1)(images, kp, keys=keys).images
    assert cast.dtype == torch.float32
    assert torch.equal(cast, expected)
    low = make(p=1).to(torch.bfloat16)(images, kp, keys=keys).images
    assert low.dtype == torch.float32
    assert torch.allclose(low, expected, atol=0.03)


class Model(nn.Module):
    """A network with the transform in front, as one module."""

    def __init__(self) -> None:
        super().__init__()
        self.augment, self.network = make(), nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())

    def forward(self, images: Tensor, keypoints: Keypoints, keys: list[str], epoch: int) -> tuple[Tensor, Tensor]:
        out = self.augment(images, keypoints, keys=keys, epoch=epoch)
        return self.network(out.images), out.is_synthetic


def test_a_surrounding_model_may_be_compiled() -> None:
    plain = Model()
    compiled = torch.compile(plain, backend="eager")
    for epoch in range(3):
        batch = (images_of(8), persons(8), keys_of(8), epoch)
        for found, expected in zip(compiled(*batch), plain(*batch), strict=True):
            assert torch.equal(found, expected)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] < 20  # the transform itself is in none of them
    torch._dynamo.reset()


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_images_leave_the_gradient_whatever_was_drawn(p: float) -> None:
    images = images_of(4).requires_grad_()
    for aug in (make(p=p), make(p=p).eval()):
        assert not aug(images, persons(4), keys=keys_of(4)).images.requires_grad


def test_only_the_surrounding_network_receives_gradients() -> None:
    model = Model()
    images = images_of(8).requires_grad_()
    features, _ = model(images, persons(8), keys_of(8), 0)
    features.sum().backward()
    assert all(p.grad is not None for p in model.network.parameters())
    assert all(p.grad is None for p in model.augment.parameters())
    assert images.grad is None


def test_empty_batch() -> None:
    out = make(p=1)(images_of(0), persons(0), keys=[])
    assert out.images.shape == (0, 3, *SIZE)
    assert out.is_synthetic.shape == (0,)


def test_apply_of_a_surrounding_model_still_visits_every_module() -> None:
    visited = []
    nn.Sequential(make()).apply(lambda module: visited.append(type(module).__name__))
    assert {"Blend", "Conv2d", "XingPose", "Sequential"} <= set(visited)


def call(**change) -> Callable[[], object]:
    """A call that is right but for `change`."""

    def run() -> object:
        arguments = {"images": images_of(4), "keypoints": persons(4), "keys": keys_of(4), **change}
        return make(p=1)(arguments.pop("images"), arguments.pop("keypoints"), **arguments)

    return run


def out_of_frame() -> Keypoints:
    kp = persons(4)
    kp.xy[2, 10] = torch.tensor([8.0, 90.0])
    return kp


MANY = images_of(4)
BAD_CALLS = {
    "uint8": (call(images=(MANY * 255).to(torch.uint8)), "images: uint8, needed float in .0, 1.; divide by 255"),
    "int": (call(images=MANY.long()), "images: torch.int64, needed float"),
    "bytes": (call(images=MANY * 255), "look like 0..255"),
    "signed": (call(images=MANY * 2 - 1), r"look like \[-1, 1\], use xingaug.images.signed_to_unit"),
    "imagenet": (call(images=(MANY - 0.45) / 0.22), "look normalised .ImageNet"),
    "nan": (call(images=MANY * float("nan")), "images: NaN or infinite"),
    "far": (call(images=MANY - 7), r"images: values from -7 to -6, needed \[0, 1\]"),
    "grey": (call(images=MANY[:, :1]), r"images: shape \(4, 1, 32, 16\), needed \(B, 3, H, W\)"),
    "one": (call(images=MANY[0]), r"images: shape \(3, 32, 16\)"),
    "array": (call(images=MANY.numpy()), "images: ndarray, needed a tensor"),
    "person": (call(keypoints=persons(4)[0]), r"keypoints: batch shape \(\), needed \(4,\)"),
    "batch": (call(keypoints=persons(3)), r"keypoints: batch shape \(3,\), needed \(4,\)"),
    "tensor": (call(keypoints=persons(4).xy), "keypoints: Tensor, needed xingaug.Keypoints"),
    "larger frame": (
        call(keypoints=out_of_frame()),
        r"keypoints: row 2 has joint 10 at \(8, 90\), far outside .* 32x16",
    ),
    "smaller frame": (call(images=images_of(4, (64, 32))), "keypoints: every joint .* smaller frame"),
    "no keys": (call(keys=None), "keys: missing; needed one image name per row"),
    "few keys": (call(keys=["a"]), "keys: 1 names, needed 4"),
    "string": (call(keys="abcd"), "keys: one string, needed 4"),
    "numbers": (call(keys=[1, 2, 3, 4]), "keys: 1 .int., needed image names as strings"),
    "pids": (call(pids=[1, 2]), r"pids: .* \(2,\), needed integers \(4,\)"),
    "camids": (call(camids=torch.rand(4)), "camids: float32"),
    "epoch": (call(epoch=3.0), "epoch: 3.0, needed a whole number"),
    "no epoch": (call(epoch=None), "epoch: None, needed a whole number"),
    "draw": (call(draw=PoseDraw(torch.ones(2, dtype=torch.bool), torch.zeros(2).long())), "draw: of 2 rows, needed 4"),
    "other bank": (
        call(draw=PoseDraw(torch.ones(4, dtype=torch.bool), torch.full((4,), 40))),
        "draw: bank row 40, this bank has 40",
    ),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_batch(name: str) -> None:
    run, message = BAD_CALLS[name]
    with pytest.raises(ValueError, match=message):
        run()


def test_wrong_joint_count_is_refused_by_keypoints() -> None:
    with pytest.raises(ValueError, match=r"xy: shape \(4, 17, 2\), needed \(..., 18, 2\)"):
        call(keypoints=Keypoints(torch.zeros(4, 17, 2), torch.ones(4, 17)))()


def test_devices_that_differ() -> None:
    # "meta" stands for a second device; it holds no values, so the images themselves stay on the CPU.
    kp = persons(4)
    object.__setattr__(kp, "xy", kp.xy.to("meta"))
    with pytest.raises(ValueError, match="keypoints: on meta, images on cpu"):
        call(keypoints=kp)()
    aug = make(p=1)
    aug.generator.to("meta")
    with pytest.raises(ValueError, match=r"images: on cpu, the generator on meta; use aug.to"):
        aug(images_of(4), persons(4), keys=keys_of(4))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"p": -0.1}, r"p: -0.1, needed a probability in \[0, 1\]"),
        ({"p": float("nan")}, "p: nan"),
        ({"sampler": "nearest"}, "sampler: unknown 'nearest'; known: uniform, near, far"),
        ({"mode": "add"}, "mode: 'add', needed 'replace' or 'append'"),
        ({"sigma": -1}, "sigma: -1, needed a number of pixels above 0"),
        ({"sigma": float("nan")}, "sigma: nan"),
        ({"seed": 0.7}, "seed: 0.7, needed a whole number"),
        ({"reuse": 1.9}, "reuse: 1.9, needed a whole number"),
        ({"reuse": 2, "reuse_device": "cudda"}, "reuse_device: 'cudda'"),
        ({"bank": None}, "bank: NoneType, needed a PoseBank"),
    ],
)
def test_bad_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**arguments)


def test_generator_without_a_size_or_with_another_output() -> None:
    with pytest.raises(ValueError, match="generator: Linear with size None"):
        XingPose(nn.Linear(1, 1), BANK)

    class Cropping(Blend):
        def forward(self, source: Tensor, source_heatmaps: Tensor, target_heatmaps: Tensor) -> Tensor:
            return source[..., 1:]

    with pytest.raises(ValueError, match=r"generator: gave \(4, 3, 32, 15\), needed \(4, 3, 32, 16\)"):
        XingPose(Cropping(), BANK, p=1)(images_of(4), persons(4), keys=keys_of(4))


def test_draw_checks_itself() -> None:
    with pytest.raises(ValueError, match="selected: "):
        PoseDraw(torch.ones(2), torch.zeros(2).long())
    with pytest.raises(ValueError, match="bank_rows: "):
        PoseDraw(torch.ones(2, dtype=torch.bool), torch.zeros(3).long())
    with pytest.raises(ValueError, match="not selected has a pose"):
        PoseDraw(torch.zeros(2, dtype=torch.bool), torch.zeros(2).long())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_same_draw_and_pixels_on_the_gpu() -> None:
    images, kp, keys = images_of(8), persons(8), keys_of(8)
    expected = make()(images, kp, keys=keys)
    out = make().to("cuda")(images.cuda(), kp.to("cuda"), keys=keys)
    assert out.images.is_cuda
    assert out.is_synthetic.is_cuda
    assert torch.equal(out.draw.bank_rows, expected.draw.bank_rows)
    assert torch.allclose(out.images.cpu(), expected.images, atol=1e-3)
