"""The fast form of a generator gives the images of the network that it was made from."""

import copy
import math
import pickle
from pathlib import Path

import pytest
import torch
from networks import BUILDERS, SIZE, awake, least_effect
from test_xinggan import inputs, released_state, write
from torch import Tensor, nn

from xingaug.bench.networks import example_batch
from xingaug.generators import fast as fast_module
from xingaug.generators import load_generator, load_official_checkpoint, save_generator
from xingaug.generators.base import PoseGenerator
from xingaug.generators.fast import has_bfloat16

TOLERANCE = 3e-5


@pytest.fixture(params=BUILDERS)
def network(request: pytest.FixtureRequest) -> PoseGenerator:
    network = awake(BUILDERS[request.param])
    # Or a comparison of images would not see a part that went wrong.
    assert least_effect(network, inputs(SIZE, 2)) > 100 * TOLERANCE
    return network


@torch.no_grad()
def render(network: nn.Module, batch: tuple[Tensor, Tensor, Tensor] | None = None) -> Tensor:
    image: Tensor = network(*(batch or inputs(SIZE, 2)))
    return image


def psnr(image: Tensor, reference: Tensor) -> float:
    """Decibels, for images in [-1, 1]."""
    return -10 * math.log10(float(((image - reference) / 2).square().mean()))


@pytest.mark.parametrize("channels_last", [True, False])
def test_in_full_precision_it_gives_the_same_images(network: PoseGenerator, channels_last: bool) -> None:
    expected = render(network.eval())
    before = copy.deepcopy(network.train().state_dict())
    fast = network.optimize(torch.float32, channels_last=channels_last)
    torch.testing.assert_close(render(fast), expected, rtol=0, atol=TOLERANCE)
    assert not any(isinstance(m, nn.BatchNorm2d | nn.Dropout) for m in fast.modules())
    assert not fast.training
    assert not any(p.requires_grad for p in fast.parameters())
    assert (fast.size, type(fast), fast.is_fast) == (network.size, type(network), True)
    wide = [m.weight for m in fast.modules() if isinstance(m, nn.Conv2d) and min(m.weight.shape) > 1]
    assert all(w.is_contiguous(memory_format=torch.channels_last) == channels_last for w in wide)
    # The network itself stays as it was.
    assert network.training
    assert not network.is_fast
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_fast_form_can_be_made_again_but_not_saved(network: PoseGenerator, tmp_path: Path) -> None:
    fast = network.optimize(torch.float32)
    torch.testing.assert_close(render(fast.optimize(torch.float32)), render(fast), rtol=0, atol=1e-6)
    assert psnr(render(fast.optimize(torch.bfloat16)), render(fast)) > 40
    with pytest.raises(ValueError, match="batch norms are folded"):
        save_generator(fast, tmp_path / "g.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("network", ["xinggan", "patches", "plain attention"], indirect=True)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_images_are_whole_and_in_range(network: PoseGenerator, dtype: torch.dtype) -> None:
    fast = network.optimize(dtype)
    assert {p.dtype for p in fast.parameters()} == {dtype}
    image = render(fast)
    assert image.dtype == torch.float32
    assert image.abs().max() <= 1
    assert psnr(image, render(network.eval())) > 40
    # Half-precision inputs are taken by a network in full precision too.
    source, first, second = inputs(SIZE, 2)
    assert render(network, (source.to(dtype), first.to(dtype), second.to(dtype))).dtype == torch.float32


def test_bfloat16_stays_above_40_db_of_the_full_precision_image(tmp_path: Path) -> None:
    bundled = load_generator("pedestrians-small", dtype=None)
    released = load_official_checkpoint(write(tmp_path / "netG.pth", released_state(6)))
    for network, batch in ((bundled, example_batch(bundled, 1)), (released, inputs((64, 32)))):
        for fast in (network.optimize(torch.bfloat16), network.optimize(torch.float32).optimize(torch.bfloat16)):
            assert psnr(render(fast, batch), render(network, batch)) > 40


def test_auto_is_bfloat16_where_the_processor_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    network = BUILDERS["xinggan"]()
    for supported, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(fast_module, "has_bfloat16", lambda device, supported=supported: supported)
        assert {p.dtype for p in network.optimize().parameters()} == {dtype}
    monkeypatch.undo()
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    if "flags" in flags:
        assert has_bfloat16("cpu") == ("avx512_bf16" in flags or "amx_bf16" in flags)
    assert not has_bfloat16("meta")
    with pytest.raises(ValueError, match=r"dtype: torch\.int8, needed 'auto' or a floating point type"):
        network.optimize(torch.int8)


@pytest.mark.parametrize("network", ["xinggan", "patches"], indirect=True)
def test_compiled_it_still_checks_its_inputs(network: PoseGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f: compile_(f, backend="eager", fullgraph=True))
    fast = network.optimize(torch.float32, compile=True)
    torch.testing.assert_close(render(fast), render(network.eval()), rtol=0, atol=TOLERANCE)
    source, first, second = inputs(SIZE, 2)
    with pytest.raises(ValueError, match=r"source: values in .* needed \[-1, 1\]"):
        fast(source * 255, first, second)
    # What is made of a compiled one renders by its own weights.
    for again in (fast.optimize(torch.float32), copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        torch.testing.assert_close(render(again), render(fast), rtol=0, atol=TOLERANCE)
        for parameter in again.parameters():
            parameter.zero_()
        assert not torch.allclose(render(again), render(fast))


def test_load_generator_gives_the_fast_form(tmp_path: Path) -> None:
    network = awake(BUILDERS["light"]).eval()
    path = save_generator(network, tmp_path / "g.safetensors")
    loaded, trainable = load_generator(path), load_generator(path, dtype=None)
    assert loaded.is_fast
    assert not trainable.is_fast
    assert loaded.content_hash == trainable.content_hash
    assert loaded.optimize(torch.bfloat16).content_hash != loaded.content_hash  # other images
    torch.testing.assert_close(render(loaded), render(trainable), rtol=0, atol=TOLERANCE)
    assert next(load_generator(path, dtype=torch.bfloat16).parameters()).dtype == torch.bfloat16


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu(network: PoseGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    batch = tuple(x.cuda() for x in inputs(SIZE, 2))
    placed = network.eval().cuda()
    expected = render(placed, batch)  # type: ignore[arg-type]
    torch.testing.assert_close(render(placed.optimize(torch.float32), batch), expected, rtol=0, atol=3e-4)  # type: ignore[arg-type]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", ["pedestrians-small", "market1501-small", "market1501-patn", "market1501-augment"])
def test_trained_weights_in_bfloat16_on_a_gpu(name: str) -> None:
    network = load_generator(name, "cuda")
    batch = example_batch(network, 4, torch.device("cuda"))
    assert psnr(render(network.optimize(torch.bfloat16), batch), render(network, batch)) > 40
