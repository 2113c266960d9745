"""The released network: against its method written out slowly over the released key names, and as files."""

import json
import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from xingaug.cli import main
from xingaug.errors import BadInput
from xingaug.generators import XingGAN, XingGANPlusPlus, load_generator, load_official_checkpoint, save_generator

State = dict[str, Tensor]


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def inputs(size: tuple[int, int] = (16, 8), count: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    source = torch.rand(count, 3, *size, generator=rng(1)) * 2 - 1
    return source, torch.rand(count, 18, *size, generator=rng(2)), torch.rand(count, 18, *size, generator=rng(3))


# The released checkpoint: keys and shapes, with random contents


def released_state(blocks: int, width: int = 64, dropout: bool = True, counters: bool = False) -> State:
    """What the released code would save; `second` is where a block's second convolution stands."""
    draw, state, second = rng(), {}, 6 if dropout else 5

    def conv(name: str, *shape: int, gain: float = 2.0, bias: bool = False, fan: float | None = None) -> None:
        fan = fan or shape[1] * shape[2] ** 2
        state[f"{name}.weight"] = torch.randn(shape, generator=draw) * (gain / fan) ** 0.5
        if bias:
            state[f"{name}.bias"] = torch.randn(shape[0], generator=draw) * 0.1

    def norm(name: str, channels: int) -> None:
        state[f"{name}.weight"] = 1 + 0.2 * torch.randn(channels, generator=draw)
        state[f"{name}.bias"] = 0.2 * torch.randn(channels, generator=draw)
        state[f"{name}.running_mean"] = 0.2 * torch.randn(channels, generator=draw)
        state[f"{name}.running_var"] = 0.5 + torch.rand(channels, generator=draw)
        if counters:
            state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    w, c = width, 4 * width
    sharp = 1.7 / (c // 8) ** 0.5  # the scores of an attention spread by about 1 at every width
    for stream, channels in ((1, 3), (2, 36)):
        conv(f"stream{stream}_down.1", w, channels, 7, 7)
        norm(f"stream{stream}_down.2", w)
        conv(f"stream{stream}_down.4", 2 * w, w, 3, 3)
        norm(f"stream{stream}_down.5", 2 * w)
        conv(f"stream{stream}_down.7", c, 2 * w, 3, 3)
        norm(f"stream{stream}_down.8", c)
    for t in range(blocks):
        wide = c if t == 0 else 2 * c
        conv(f"att.{t}.conv_block_stream1.1", c, c, 3, 3, gain=0.8)  # what comes in had no ReLU
        norm(f"att.{t}.conv_block_stream1.2", c)
        conv(f"att.{t}.conv_block_stream1.{second}", c, c, 3, 3)
        norm(f"att.{t}.conv_block_stream1.{second + 1}", c)
        conv(f"att.{t}.conv_block_stream2.1", wide, wide, 3, 3, gain=0.8)
        norm(f"att.{t}.conv_block_stream2.2", wide)
        conv(f"att.{t}.conv_block_stream2.{second}", c, wide, 3, 3, gain=1.6)
        conv(f"att.{t}.query_conv", c // 8, c, 1, 1, gain=sharp, bias=True)
        conv(f"att.{t}.key_conv", c // 8, c, 1, 1, gain=sharp, bias=True)
        conv(f"att.{t}.value_conv", c, c, 1, 1, gain=1.0, bias=True)
        state[f"att.{t}.gamma"] = 0.3 + 0.5 * torch.rand(1, generator=draw)
    # Transposed convolutions keep their shape the other way round; a stride of 2 lets a quarter of the kernel meet.
    for stream in (1, 2):
        conv(f"stream{stream}_up.0", c, 2 * w, 3, 3, fan=c * 9 / 4)
        norm(f"stream{stream}_up.1", 2 * w)
        conv(f"stream{stream}_up.3", 2 * w, w, 3, 3, fan=2 * w * 9 / 4)
        norm(f"stream{stream}_up.4", w)
        conv(f"stream{stream}_up.7", 30, w, 7, 7, gain=0.3, bias=True)
    conv("x2_con", 2 * c, c, 1, 1, fan=2 * c)
    norm("x2_norm", c)
    conv("atte_con", 3 * c, c, 3, 3, fan=3 * c * 9 / 4)
    norm("atte_norm", c)
    conv("atte_con1", c, 2 * w, 3, 3, fan=c * 9 / 4)
    norm("atte_norm1", 2 * w)
    conv("atte_con2", 2 * w, 21, 1, 1, gain=1.0, fan=2 * w)
    return state


def write(path: Path, state: object, legacy: bool = False) -> Path:
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    return path


# The method, slowly


def slow_norm(state: State, name: str, x: Tensor) -> Tensor:
    mean, var, weight, bias = (
        state[f"{name}.{leaf}"].reshape(1, -1, 1, 1) for leaf in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (var + 1e-5).sqrt() * weight + bias


def slow_encoder(state: State, name: str, x: Tensor) -> Tensor:
    x = F.conv2d(F.pad(x, (3, 3, 3, 3), mode="reflect"), state[f"{name}.1.weight"])
    x = slow_norm(state, f"{name}.2", x).relu()
    x = slow_norm(state, f"{name}.5", F.conv2d(x, state[f"{name}.4.weight"], stride=2, padding=1)).relu()
    return slow_norm(state, f"{name}.8", F.conv2d(x, state[f"{name}.7.weight"], stride=2, padding=1)).relu()


def slow_double(weight: Tensor, x: Tensor) -> Tensor:
    """A transposed 3x3 convolution of stride 2, padding 1, output padding 1: each pixel paints its kernel."""
    count, _, height, width = x.shape
    canvas = x.new_zeros(count, weight.shape[1], 2 * height + 2, 2 * width + 2)
    for i in range(height):
        for j in range(width):
            painted = torch.einsum("bi,iokl->bokl", x[:, :, i, j], weight)
            canvas[:, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3] += painted
    return canvas[:, :, 1 : 2 * height + 1, 1 : 2 * width + 1]


def slow_decoder(state: State, name: str, x: Tensor) -> Tensor:
    x = slow_norm(state, f"{name}.1", slow_double(state[f"{name}.0.weight"], x)).relu()
    x = slow_norm(state, f"{name}.4", slow_double(state[f"{name}.3.weight"], x)).relu()
    x = F.conv2d(F.pad(x, (3, 3, 3, 3), mode="reflect"), state[f"{name}.7.weight"], state[f"{name}.7.bias"])
    return x.tanh()


def slow_attention(state: State, block: str, x: Tensor, other: Tensor) -> Tensor:
    """`x` asks `other` and takes from its own values, one query at a time."""

    def at(name: str, features: Tensor) -> Tensor:
        weight, bias = state[f"{block}.{name}_conv.weight"][:, :, 0, 0], state[f"{block}.{name}_conv.bias"]
        return torch.einsum("oc,bcn->bno", weight, features.flatten(2)) + bias

    updated = x.flatten(2).clone()
    queries, keys, values = at("query", x), at("key", other), at("value", x)
    for b in range(len(x)):
        for n in range(updated.shape[2]):
            scores = torch.stack([queries[b, n] @ key for key in keys[b]])
            weights = scores.exp() / scores.exp().sum()
            mixed = torch.stack([weight * value for weight, value in zip(weights, values[b], strict=True)]).sum(0)
            updated[b, :, n] += state[f"{block}.gamma"] * mixed
    return updated.reshape(x.shape)


def slow_xinggan(state: State, source: Tensor, source_heatmaps: Tensor, target_heatmaps: Tensor) -> Tensor:
    """METHOD "XingGAN (2020), exactly as released", in eval mode, over the released key names."""
    blocks = len([key for key in state if key.endswith("gamma")])
    second = 6 if "att.0.conv_block_stream2.6.weight" in state else 5

    def conv3(name: str, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), state[f"{name}.weight"])

    f_i = slow_encoder(state, "stream1_down", source)
    f_p = slow_encoder(state, "stream2_down", torch.cat([source_heatmaps, target_heatmaps], 1))
    for t in range(blocks):
        one, two = f"att.{t}.conv_block_stream1", f"att.{t}.conv_block_stream2"
        x_i = conv3(f"{one}.{second}", slow_norm(state, f"{one}.2", conv3(f"{one}.1", f_i)).relu())
        x_i = slow_norm(state, f"{one}.{second + 1}", x_i)
        x_p = conv3(f"{two}.{second}", slow_norm(state, f"{two}.2", conv3(f"{two}.1", f_p)).relu())
        f_i = slow_attention(state, f"att.{t}", x_i, x_p)
        f_p = torch.cat([f_i, slow_attention(state, f"att.{t}", x_p, x_i)], 1)
    maps = slow_norm(state, "atte_norm", slow_double(state["atte_con.weight"], torch.cat([f_i, f_p], 1))).relu()
    maps = slow_norm(state, "atte_norm1", slow_double(state["atte_con1.weight"], maps)).relu()
    maps = torch.einsum("io,bihw->bohw", state["atte_con2.weight"][:, :, 0, 0], maps)
    maps = maps.exp() / maps.exp().sum(1, keepdim=True)
    squeezed = torch.einsum("io,bihw->bohw", state["x2_con.weight"][:, :, 0, 0], f_p)
    squeezed = slow_norm(state, "x2_norm", squeezed).relu()
    from_i, from_p = slow_decoder(state, "stream1_up", f_i), slow_decoder(state, "stream2_up", squeezed)
    image = maps[:, 20:21] * source
    for k in range(10):
        image = image + maps[:, k : k + 1] * from_i[:, 3 * k : 3 * k + 3]
        image = image + maps[:, 10 + k : 11 + k] * from_p[:, 3 * k : 3 * k + 3]
    return image


@pytest.mark.parametrize(
    ("blocks", "width", "dropout", "counters", "prefix", "legacy", "size"),
    [
        (6, 16, False, True, "model.", False, (16, 8)),
        (9, 64, True, False, "", True, (16, 8)),
        (1, 4, True, True, "module.", False, (12, 20)),
        (3, 4, False, False, "module.model.", True, (20, 12)),
    ],
)
def test_a_released_checkpoint_gives_the_images_of_the_method(
    blocks: int,
    width: int,
    dropout: bool,
    counters: bool,
    prefix: str,
    legacy: bool,
    size: tuple[int, int],
    tmp_path: Path,
) -> None:
    state = released_state(blocks, width, dropout, counters)
    path = write(tmp_path / "latest_net_netG.pth", {prefix + key: v for key, v in state.items()}, legacy)
    before = torch.get_rng_state()
    network = load_official_checkpoint(path)
    assert torch.equal(torch.get_rng_state(), before)
    assert (network.config.blocks, network.config.width, network.size) == (blocks, width, (128, 64))
    assert network.config.dropout == (0.5 if dropout else 0.0)
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())
    assert len(network.content_hash) == 64
    batch = inputs(size)
    exact = {key: v.double() for key, v in state.items()}
    with torch.no_grad():
        expected, got = slow_xinggan(exact, *(x.double() for x in batch)), network(*batch)
        torch.testing.assert_close(got.double(), expected, rtol=0, atol=3e-5)
        # The comparison means something: nothing saturates, the source does not drown the rest, attention matters.
        assert 0.05 < expected.std() < 0.6
        assert (expected - batch[0]).abs().max() > 0.3
        deaf = {key: v * 0 if key.endswith("gamma") else v for key, v in state.items()}
        assert (slow_xinggan(deaf, *batch) - expected).abs().max() > 0.1


def test_half_precision_and_nested_parameters_are_read(tmp_path: Path) -> None:
    state = released_state(1, 4)
    stored = {key: torch.nn.Parameter(v.half()) for key, v in state.items()}
    network = load_official_checkpoint(write(tmp_path / "a.pth", stored))
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    with torch.no_grad():
        torch.testing.assert_close(network(*inputs()), slow_xinggan(state, *inputs()), rtol=0, atol=2e-2)


# Counts, gradients, sizes, inputs


def tiny(**changes: object) -> XingGAN:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = XingGAN(**{"size": (16, 8), "blocks": 2, "width": 4, **changes})
        for block in network.blocks:
            block.gamma.data.fill_(0.7)  # type: ignore[operator]  # begins at 0, which would hide what it scales
    return network


def test_the_released_network_has_its_parameters_and_operations() -> None:
    with torch.random.fork_rng():
        network = XingGAN().eval()
    assert sum(p.numel() for p in network.parameters()) == 44_853_189
    blank = torch.zeros(1, 18, 128, 64)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        assert network(blank[:, :3], blank, blank).shape == (1, 3, 128, 64)
    assert 55.5e9 < counter.get_total_flops() < 56.5e9


def test_it_starts_as_the_released_training_does() -> None:
    network = tiny(width=16)
    spread = torch.cat([p.detach().flatten() for p in network.parameters() if p.ndim == 4]).std()
    assert abs(float(spread) - 0.02) < 1e-3
    assert [float(block.gamma.detach()) for block in XingGAN(blocks=2, width=4).blocks] == [0.0, 0.0]  # type: ignore[operator]


def test_every_parameter_gets_a_gradient() -> None:
    network = tiny(dropout=0.0).train()
    image = network(*inputs(count=2))
    assert image.abs().max() <= 1
    image.square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        # A bias that shifts all keys alike cannot change a softmax.
        assert parameter.grad.any() or name.endswith("key.bias"), name


def test_dropout_acts_in_training_alone() -> None:
    network = tiny(dropout=0.5)
    with torch.no_grad(), torch.random.fork_rng():
        network.train()
        assert not torch.equal(network(*inputs(count=2)), network(*inputs(count=2)))
        network.eval()
        assert torch.equal(network(*inputs(count=2)), network(*inputs(count=2)))


@pytest.mark.parametrize("size", [(128, 64), (256, 128), (256, 176), (36, 20), (8, 8), (12, 60)])
def test_any_size_divisible_by_4(size: tuple[int, int]) -> None:
    network = tiny(width=2, blocks=1).eval()
    with torch.no_grad():
        image = network(*inputs(size))
    assert image.shape == (1, 3, *size)
    assert image.isfinite().all()


def test_an_image_does_not_depend_on_its_batch() -> None:
    network, (source, first, second) = tiny().eval(), inputs(count=3)
    with torch.no_grad():
        whole, alone = network(source, first, second), network(source[1:2], first[1:2], second[1:2])
    torch.testing.assert_close(whole[1:2], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s, a, b: (s[:, :2], a, b), r"source: shape \(1, 2, 16, 8\), needed \(B, 3, H, W\)"),
        (lambda s, a, b: (s, a[:, :17], b), r"source_heatmaps: shape .* needed \(B, 18, H, W\)"),
        (lambda s, a, b: (s, a, torch.cat([b, b])), r"target_heatmaps: shape .* does not go with source"),
        (lambda s, a, b: ((s * 127).to(torch.uint8), a, b), r"source: torch.uint8, needed floating point"),
        (lambda s, a, b: (s * 255, a, b), r"source: values in .* needed \[-1, 1\]"),
        (lambda s, a, b: (s, a * float("nan"), b), r"source_heatmaps: values in .* no NaN"),
        (lambda s, a, b: (s, a, b - 0.5), r"target_heatmaps: values in .* needed \[0, 1\]"),
        (lambda s, a, b: (s[:, :, :14], a[:, :, :14], b[:, :, :14]), r"source: 14x8 pixels, .* divisible by 4"),
        (lambda s, a, b: (s[..., :4], a[..., :4], b[..., :4]), r"source: 16x4 pixels, .* at least 8"),
    ],
)
def test_bad_inputs(change: Callable[..., tuple[Tensor, Tensor, Tensor]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny().eval()(*change(*inputs()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": (30, 16)}, r"size: \(30, 16\), needed .* divisible by 4"),
        ({"size": (4, 16)}, "size: .* at least 8"),
        ({"blocks": 0}, "blocks: 0, needed at least 1"),
        ({"width": 3}, "width: 3, needed a positive even number"),
        ({"dropout": 1.0}, r"dropout: 1.0, needed in \[0, 1\)"),
    ],
)
def test_bad_configurations(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        XingGAN(**changes)


# Files that are no such checkpoint


def without(state: State, key: str) -> State:
    return {k: v for k, v in state.items() if k != key}


def renamed(state: State, old: str, new: str) -> State:
    return {new if k == old else k: v for k, v in state.items()}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: without(s, "stream1_down.1.weight"), "key 'stream1_down.1.weight' is missing"),
        (lambda s: without(s, "att.1.gamma"), "key 'att.1.gamma' is missing"),
        (
            lambda s: without(s, "att.0.conv_block_stream1.2.running_var"),
            "conv_block_stream1.2.running_var' is missing",
        ),
        (lambda s: without(s, "att.1.conv_block_stream2.6.weight"), "'att.1.conv_block_stream2.6.weight' is missing"),
        (
            lambda s: {k: v for k, v in s.items() if not k.startswith("att.0.")},
            "key 'att.0.gamma' is missing",
        ),
        (lambda s: {k: v for k, v in s.items() if not k.startswith("att.")}, "key 'att.0.gamma' is missing"),
        (lambda s: renamed(s, "x2_norm.bias", "x2_norm.beta"), "key 'x2_norm.bias' is missing"),
        (lambda s: {f"model.{k}": v for k, v in without(s, "att.1.gamma").items()}, "'model.att.1.gamma' is missing"),
        (lambda s: {**s, "fc.weight": s["att.0.gamma"]}, "key 'fc.weight' is unexpected"),
        (lambda s: {**s, "model.fc.weight": s["att.0.gamma"]}, "key 'model.fc.weight' is unexpected"),
        (lambda s: {**s, "model.att.0.gamma": s["att.0.gamma"]}, "key 'model.att.0.gamma' is unexpected"),
        (lambda s: {**s, "att.0.gamma": torch.zeros(2)}, "key 'att.0.gamma' holds torch.float32 of shape (2,), needed"),
        (lambda s: {**s, "stream1_down.1.weight": torch.zeros(5)}, "'stream1_down.1.weight' holds torch.float32 of"),
        (lambda s: {**s, "att.0.gamma": torch.zeros(1).long()}, "key 'att.0.gamma' holds torch.int64 of shape (1,)"),
        (lambda s: {**s, "epoch": 3}, "key 'epoch' holds an int, needed a tensor under a name"),
        (lambda s: {"state_dict": s}, "key 'state_dict' holds a dict, needed a tensor"),
        (lambda s: {1: torch.zeros(1)}, "key '1' holds a Tensor, needed a tensor under a name"),
        (lambda s: {}, "key 'stream1_down.1.weight' is missing"),
        (lambda s: list(s.values()), "holds a list, needed the state dict"),
        (lambda s: torch.zeros(3), "holds a Tensor, needed the state dict"),
    ],
)
def test_a_file_that_is_no_such_checkpoint_is_refused_by_its_first_wrong_key(
    change: Callable[[State], object], said: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.pth", change(released_state(2, 4)))
    with pytest.raises(BadInput) as error:
        load_official_checkpoint(path)
    assert str(error.value).startswith(f"{path}: ")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


class Runs:
    """Pickled code, which nobody should run."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("was-run",)


def test_unreadable_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match=r"a\.pth: no such file; needed a released XingGAN checkpoint"):
        load_official_checkpoint("a.pth")
    with pytest.raises(BadInput, match="is a directory"):
        load_official_checkpoint(tmp_path)
    for contents in (b"", b"nonsense", b"\x80\x02garbage", b"PK\x03\x04" + bytes(100)):
        Path("a.pth").write_bytes(contents)
        with pytest.raises(
            BadInput, match=r"a\.pth: cannot be read as tensors saved by torch, needed [^\n]+ \([^\n]+\)$"
        ):
            load_official_checkpoint("a.pth")
    for legacy in (False, True):
        whole = write(tmp_path / "b.pth", released_state(1, 4), legacy).read_bytes()
        Path("b.pth").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(BadInput, match=r"b\.pth: cannot be read as tensors saved by torch"):
            load_official_checkpoint("b.pth")
    write(tmp_path / "c.pth", {"x": Runs()})
    with pytest.raises(BadInput, match=r"c\.pth: cannot be read as tensors saved by torch"):
        load_official_checkpoint("c.pth")
    assert not Path("was-run").exists()


# Storing, and the command


def test_saved_and_loaded_gives_the_very_images(tmp_path: Path) -> None:
    network = tiny().eval()
    loaded = load_generator(save_generator(network, tmp_path / "g.safetensors"))
    assert isinstance(loaded, XingGAN)
    assert loaded.config == network.config
    assert len(loaded.content_hash) == 64
    with torch.no_grad():
        torch.testing.assert_close(loaded(*inputs()), network(*inputs()), rtol=0, atol=1e-6)
    description = json.loads((tmp_path / "g.json").read_text())
    assert description["class"] == "XingGAN"
    for name, said in (
        (None, "class: 'None', expected"),
        ("GFLA", "class: 'GFLA', expected XingGAN or XingGANPlusPlus"),
    ):
        (tmp_path / "g.json").write_text(json.dumps({**description, "class": name}))
        with pytest.raises(BadInput, match=said):
            load_generator(tmp_path / "g.safetensors")
    # The weights of one class under the name of the other.
    other = XingGANPlusPlus(size=(16, 8), width=8, blocks=1, pyramid=(1,)).settings()
    (tmp_path / "g.json").write_text(json.dumps({**description, "class": "XingGANPlusPlus", "config": other}))
    with pytest.raises(BadInput, match="weights do not fit the configuration"):
        load_generator(tmp_path / "g.safetensors")


def run(line: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main(shlex.split(line))
    said = capsys.readouterr()
    return code, said.out, said.err


def test_convert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    state = released_state(2, 4)
    write(tmp_path / "latest_net_netG.pth", {f"model.{key}": v for key, v in state.items()})
    code, out, err = run("convert latest_net_netG.pth new/xinggan.safetensors --json", capsys)
    assert (code, err) == (0, "")
    official = load_official_checkpoint("latest_net_netG.pth")
    parameters = sum(p.numel() for p in official.parameters())
    assert json.loads(out) == {"written": "new/xinggan.safetensors", "blocks": 2, "parameters": parameters}
    loaded = load_generator("new/xinggan.safetensors")
    assert loaded.size == (128, 64)
    with torch.no_grad():
        torch.testing.assert_close(loaded(*inputs()), slow_xinggan(state, *inputs()), rtol=0, atol=1e-5)
    code, out, _ = run("convert latest_net_netG.pth fashion.safetensors --size 256 176", capsys)
    assert code == 0
    assert "blocks: 2\n" in out
    assert load_generator("fashion.safetensors").size == (256, 176)


def test_convert_answers_bad_input_in_one_line_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "good.pth", released_state(1, 4))
    write(tmp_path / "bad.pth", without(released_state(1, 4), "att.0.gamma"))
    (tmp_path / "text.pth").write_text("nonsense")
    (tmp_path / "folder.safetensors").mkdir()
    before = sorted(tmp_path.rglob("*"))
    for line, said in (
        ("none.pth new.safetensors", "none.pth: no such file"),
        ("text.pth new.safetensors", "text.pth: cannot be read as tensors saved by torch"),
        ("bad.pth new.safetensors", "bad.pth: not the netG of a released XingGAN: key 'att.0.gamma' is missing"),
        ("good.pth new.pth", "new.pth: a generator is saved as .safetensors"),
        ("good.pth folder.safetensors", "folder.safetensors: is a directory"),
        ("good.pth good.pth/new.safetensors", "lies below a file"),
        ("good.pth new.safetensors --size 30 16", "--size: (30, 16), needed (height, width), both divisible by 4"),
    ):
        code, out, err = run(f"convert {line}", capsys)
        assert re.fullmatch(r"error: [^\n]+\n", err), err
        assert said in err
        assert (code, out) == (2, "")
        assert sorted(tmp_path.rglob("*")) == before
