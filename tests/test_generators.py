"""XingGAN++ as a whole: its fusion against slow versions, its switches and sizes, its files."""

import dataclasses
import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from networks import PAPER, TINY, rng
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from xingaug.config import from_mapping, load_config, to_mapping
from xingaug.errors import BadInput
from xingaug.generators import SIZES, XingGANPlusPlus, load_generator, save_generator
from xingaug.generators.light import LightFusion, TextureAttention
from xingaug.generators.sizes import size_config
from xingaug.generators.store import network_of
from xingaug.generators.upgrade import state_of_format_3
from xingaug.generators.xinggan_pp import CoAttentionFusion, StageJoin
from xingaug.generators.xinggan_pp_config import XingGANPlusPlusConfig
from xingaug.training.config import TrainConfig

CONFIGS = Path(__file__).resolve().parent.parent / "configs"

SWITCHES = (
    "shape_guided", "appearance_guided", "multi_scale", "enhanced", "dense_fusion", "texture_attention", "limb_warp",
    "flow",
)  # fmt: skip


def flat(config: object) -> dict[str, object]:
    sections = [vars(value) for value in vars(config).values() if dataclasses.is_dataclass(value)]
    return {name: value for section in sections for name, value in section.items()}


LADDER = {
    path.stem: {name: flat(load_config(TrainConfig, path).network)[name] for name in SWITCHES}
    for path in sorted(CONFIGS.glob("train_ablation_*.yaml"))
}


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


def test_the_weights_of_enhanced_attention_stay_bounded_at_large_grids() -> None:
    counts = {}
    for size in ((128, 64), (256, 128), (256, 176)):
        network = seeded_network(size=size, pyramid=(1, 2, 4, 8), enhanced_queries=512)
        counts[size] = sum(p.numel() for name, p in network.named_parameters() if "enhance" in name)
    assert max(counts.values()) == counts[128, 64]


def test_texture_attention_carries_whole_pixel_blocks() -> None:
    config = XingGANPlusPlusConfig.of(**TINY)
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


@pytest.mark.parametrize("wiring", ["concat", "weighted"])
def test_stages_are_joined_as_the_wiring_says(wiring: str) -> None:
    config = XingGANPlusPlusConfig.of(**{**TINY, "blocks": 3, "fusion_wiring": wiring})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        join = StageJoin(config, 16)
    codes = [torch.randn(1, 16, 2, 2, generator=rng(t)) for t in range(3)]
    weight, bias = join.squeeze.weight[:, :, 0, 0], join.squeeze.bias
    assert bias is not None
    if wiring == "concat":
        joined = torch.cat(codes, 1)
    else:
        assert join.logits is not None
        join.logits.data = torch.tensor([0.5, -1.0, 2.0])
        shares = [math.exp(v) for v in (0.5, -1.0, 2.0)]
        joined = torch.stack([code * share / sum(shares) for code, share in zip(codes, shares, strict=True)]).sum(0)
    with torch.no_grad():
        expected = torch.stack([weight @ joined[0, :, y, x] + bias for y in range(2) for x in range(2)], 1)
        torch.testing.assert_close(join(codes)[0].flatten(1), expected, rtol=0, atol=1e-5)


def test_without_dense_fusion_the_last_codes_are_decoded_as_in_xinggan() -> None:
    config = XingGANPlusPlusConfig.of(**{**TINY, **PAPER, "dense_fusion": False})
    fusion = CoAttentionFusion(config).eval()
    assert fusion.decode_maps[0].weight.shape[0] == 3 * config.width  # type: ignore[index]
    codes = [torch.randn(1, 8, 2, 2, generator=rng(t)) for t in range(2)]
    wide = [torch.randn(1, 16, 2, 2, generator=rng(t)) for t in range(2)]
    with torch.no_grad():
        assert torch.equal(fusion.join_appearance(codes), codes[-1])
        squeezed = fusion.join_shape(wide)
        conv = fusion.join_shape.squeeze[0]
        expected = torch.einsum("oc,bchw->bohw", conv.weight[:, :, 0, 0], wide[-1]).relu() / (1 + 1e-5) ** 0.5
        torch.testing.assert_close(squeezed, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("released", [True, False])
@pytest.mark.parametrize("dense", [True, False])
def test_fusion_is_the_weighted_sum_of_its_candidates(dense: bool, released: bool) -> None:
    kind = "released" if released else "light"
    config = XingGANPlusPlusConfig.of(
        **{**TINY, "dense_fusion": dense, "texture_attention": 0, "limb_warp": False, "decoder": kind}
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        fusion = (CoAttentionFusion if released else LightFusion)(config).eval()
    grid = config.grid
    shapes = [torch.randn(1, 16, *grid, generator=rng(10 + t)) for t in range(2)]
    appearances = [code[:, :8] for code in shapes]
    image = torch.rand(1, 3, 32, 16, generator=rng(5)) * 2 - 1
    with torch.no_grad():
        a, s = fusion.join_appearance(appearances), fusion.join_shape(shapes)
        from_a, from_s = fusion.decode_appearance(a)[0], fusion.decode_shape(s)[0]
        assert max(from_a.abs().max(), from_s.abs().max()) <= 1
        logits = fusion.decode_maps(torch.cat([a, s if dense else shapes[-1]], 1))[0]
        candidates = [from_a[0:3], from_a[3:6], from_s[0:3], from_s[3:6], image[0]]
        total = sum(logits[k].exp() for k in range(5))
        expected = sum(logits[k].exp() / total * candidate for k, candidate in enumerate(candidates))
        got = fusion(shapes, [image], [])[0]
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


def test_the_released_stem_and_decoder_are_xinggans() -> None:
    changes = {"size": (32, 16), "width": 2, "blocks": 1}
    theirs = network_of(dataclasses.replace(SIZES["xinggan"], **changes)).eval()
    ours = seeded_network(**PAPER, dense_fusion=False).eval()
    fusion = ours.fusion
    mixed = seeded_network(**PAPER | {"decoder": "light"}).eval()
    assert ours.config.variant.is_paper
    assert not mixed.config.variant.is_paper
    stem = torch.nn.Sequential(*mixed.image_stem.fine, *mixed.image_stem.coarse)
    for encoder in (stem, ours.image_stem):
        encoder.load_state_dict(theirs.appearance_encoder.state_dict())
    for encoder in (mixed.pose_stem.mix, ours.pose_stem):
        encoder.load_state_dict(theirs.shape_encoder.state_dict())
    source, first, second = inputs(1)
    with torch.no_grad():
        code, fine = mixed.image_stem(source)
        assert torch.equal(code, theirs.appearance_encoder(source))
        assert torch.equal(code, ours.image_stem(source))
        assert fine.shape == (1, 4, 16, 8)
        code = mixed.pose_stem(torch.cat([first, second], 1))
        assert torch.equal(code, theirs.shape_encoder(torch.cat([first, second], 1)))
    # Decoders have as many candidates as configured; all else is XingGAN's.
    for mine, released in (
        (fusion.decode_appearance, theirs.appearance_decoder),
        (fusion.decode_maps, theirs.map_decoder),
    ):
        shapes = [[tuple(p.shape) for p in network.parameters()] for network in (mine, released)]
        assert shapes[0][:-2] == shapes[1][:-2]
        assert [type(m) for m in mine] == [type(m) for m in released]  # type: ignore[attr-defined]


def test_shared_projections_serve_both_directions() -> None:
    own, shared = seeded_network(), seeded_network(shared_projections=True)
    for mine, theirs in zip(own.stages, shared.stages, strict=True):
        pairs = zip(mine.crossing.parameters(), theirs.crossing.parameters(), strict=True)
        assert all(a.shape == (2 * len(b), *b.shape[1:]) for a, b in pairs)


def test_the_ladder_adds_one_component_a_step() -> None:
    assert [list(step.values()) for step in LADDER.values()] == [
        [True, False, False, False, False, 0, False, False],
        [False, True, False, False, False, 0, False, False],
        [True, True, False, False, False, 0, False, False],
        [True, True, True, False, False, 0, False, False],
        [True, True, True, True, False, 0, False, False],
        [True, True, True, True, True, 0, False, False],
        [True, True, True, True, True, 2, False, False],  # ours, beyond the paper's six
        [True, True, True, True, True, 2, True, False],
        [True, True, True, True, True, 2, True, True],
    ]


def test_the_ladder_has_one_budget() -> None:
    runs = [load_config(TrainConfig, path) for path in sorted(CONFIGS.glob("train_ablation_*.yaml"))]
    assert len({repr(dataclasses.replace(run, generator="xinggan_pp_small")) for run in runs}) == 1
    assert {run.network.width for run in runs} == {48}


EVERY_SWITCH = {
    **LADDER,
    "all": {},
    "paper": PAPER,
    "shared": {"shared_projections": True},
    "weighted": {"fusion_wiring": "weighted"},
    "patches": {"enhanced_queries": 8},
    "full resolution": {"full_resolution": True},
    "aspect": {"pyramid_aspect": 1},
    "dropout": {"dropout": 0.3},
}


@pytest.mark.parametrize("changes", EVERY_SWITCH.values(), ids=EVERY_SWITCH)
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


@pytest.mark.parametrize("changes", [{}, PAPER], ids=["light", "paper"])
@pytest.mark.parametrize("size", [(128, 64), (36, 20), (256, 128), (256, 176), (8, 8), (12, 60)])
def test_any_size_divisible_by_4(size: tuple[int, int], changes: dict[str, object]) -> None:
    network = seeded_network(size=size, **changes).eval()
    with torch.no_grad():
        image = network(*inputs(1, size))
    assert image.shape == (1, 3, *size)
    assert image.isfinite().all()


def test_without_enhanced_attention_a_network_takes_every_size() -> None:
    network = seeded_network(enhanced=False).eval()
    for size in ((32, 16), (64, 32), (36, 20)):
        other = seeded_network(enhanced=False, size=size).eval()
        with torch.no_grad():
            torch.testing.assert_close(network(*inputs(1, size)), other(*inputs(1, size)), rtol=0, atol=1e-6)


def test_named_sizes_keep_their_bounds() -> None:
    found = {}
    for name in SIZES:
        with torch.random.fork_rng():
            network = network_of(size_config(name)).eval()
        source = torch.zeros(1, 3, 128, 64)
        maps = torch.zeros(1, 18, 128, 64)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(source, maps, maps)
        found[name] = (sum(p.numel() for p in network.parameters()), counter.get_total_flops() / 1e9)
    assert found["xinggan"][0] == 44_853_189
    assert found["xinggan"][1] == pytest.approx(56, abs=0.5)
    assert found["xinggan_pp"][0] == 52_122_016  # as the README says
    assert found["xinggan_pp"][1] == pytest.approx(58.2, abs=0.1)
    assert found["xinggan_pp_small"][0] <= 8_000_000
    assert found["xinggan_pp_small"][1] <= 6
    with pytest.raises(BadInput, match="generator: 'huge', expected one of xinggan, xinggan_pp, xinggan_pp_small"):
        size_config("huge")


def test_an_image_does_not_depend_on_its_batch() -> None:
    network = seeded_network().eval()
    source, first, second = inputs(4)
    with torch.no_grad():
        whole = network(source, first, second)
        alone = network(source[2:3], first[2:3], second[2:3])
    torch.testing.assert_close(whole[2:3], alone, rtol=0, atol=1e-5)


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
        (lambda s, a, b: (s[..., :14], a[..., :14], b[..., :14]), r"source: 32x14 pixels, .* divisible by 4"),
        (lambda s, a, b: (s[:, :, :4], a[:, :, :4], b[:, :, :4]), r"source: 4x16 pixels, .* at least 8"),
        (lambda s, a, b: (s[:0], a[:0], b[:0]), r"source: shape \(0, 3, 32, 16\), .* B at least 1"),
        (lambda s, a, b: (s, a.numpy(), b), r"source_heatmaps: ndarray, needed a torch.Tensor"),
        (lambda s, a, b: (s, a, b.to("meta")), r"target_heatmaps: on meta, needed cpu, where source is"),
    ],
)
def test_bad_inputs(change, message: str) -> None:  # type: ignore[no-untyped-def]
    network = seeded_network().eval()
    with pytest.raises(ValueError, match=message):
        network(*change(*inputs()))


def test_settings_are_taken_flat_and_in_their_sections() -> None:
    flat_ = XingGANPlusPlusConfig.of(size=(32, 16), width=8, texture_attention=0, limb_warp=False, pyramid=(1, 2))
    nested = XingGANPlusPlusConfig.of(
        size=(32, 16), width=8, variant={"texture_attention": 0, "limb_warp": False}, pooling={"pyramid": (1, 2)}
    )
    assert flat_ == nested == XingGANPlusPlusConfig.of(**vars(nested))
    assert from_mapping(XingGANPlusPlusConfig, to_mapping(nested)) == nested
    with pytest.raises(BadInput, match=r"unknown key 'generator\.widht'"):
        from_mapping(TrainConfig, {"perceptual": "none", "generator": {"widht": 8}})


@pytest.mark.parametrize("name", ["light", "paper", "plain attention", "shared"])
def test_weights_of_format_3_still_load(name: str) -> None:
    changes = {
        "light": {},
        "paper": PAPER,
        "plain attention": {"enhanced": False},
        "shared": {"shared_projections": True},
    }
    network = seeded_network(**changes[name])
    state = network.state_dict()
    old = {}
    for key, value in state.items():
        if ".crossing." not in key:
            old[old_stem_name(key) if name == "paper" else key.replace("pose_stem.", "heatmap_stem.")] = value
            continue
        stage, part = key.split(".crossing.")
        for i, direction in enumerate(("shape_to_appearance", "appearance_to_shape")):
            one = value[min(i, len(value) - 1)]
            one = one.reshape(()) if part.endswith(("gamma", "scale")) else one.flatten(0, -2).squeeze(0)
            one = value[min(i, len(value) - 1)] if part.endswith("weight") and "norm" not in part else one
            if ".ask." in part:
                for ask, half in zip(("query", "key"), one.chunk(2), strict=True):
                    old[f"{stage}.{direction}.enhance.{ask}.weight"] = half
            else:
                old[f"{stage}.{direction}.{part}"] = one
    upgraded = state_of_format_3(old, name == "shared", name == "paper")
    assert upgraded.keys() == state.keys()
    for key, value in state.items():
        assert torch.equal(upgraded[key], value), key


def old_stem_name(key: str) -> str:
    if key.startswith("image_stem."):
        number = int(key.split(".")[1])
        part = f"fine.{number}" if number < 6 else f"coarse.{number - 6}"
        return key.replace(f"image_stem.{number}", f"image_stem.{part}")
    return key.replace("pose_stem.", "heatmap_stem.mix.")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blocks": 10_000}, "blocks: 10000, needed at least 1 and at most 64"),
        ({"width": 4096, "blocks": 64}, "would hold .* numbers"),
        ({"size": (100_000, 100_000)}, "size: .* at most 2048"),
        ({"size": (2048, 2048), "full_resolution": True}, "would hold .* numbers"),
        ({"size": (30, 16)}, "size: .* divisible by 4"),
        ({"width": 6}, "width: 6"),
        ({"pyramid": ()}, "pyramid"),
        ({"texture_attention": -1}, "texture_attention"),
        ({"padding": "circular"}, "padding: 'circular', needed zeros or reflect"),
        ({"stem": "heavy"}, "stem: 'heavy', needed light or released"),
        ({"fusion_wiring": "sum"}, "fusion_wiring: 'sum', needed concat or weighted"),
        ({"decoder": "released"}, "texture_attention: 1, needed 0 with decoder: released"),
        ({"stem": "released", "limb_warp": False, "width": 12}, "width: 12, needed a multiple of 8"),
        ({"enhanced_queries": 0}, "enhanced_queries: 0, needed at least 1"),
        ({"pyramid_aspect": 0}, "pyramid_aspect: 0, needed at least 1"),
        ({"enhanced_start": math.nan}, "enhanced_start: nan, needed a finite number"),
        ({"decoder_widths": (8,)}, r"decoder_widths: \(8,\), needed two numbers"),
        ({"map_widths": (4, 0)}, r"map_widths: \(4, 0\), needed two numbers"),
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
    network.fusion.join_shape.squeeze.weight.data += 0.1
    assert load_generator(save_generator(network, tmp_path / "h.safetensors")).content_hash != loaded.content_hash


def test_bundled_generators_are_of_the_small_size() -> None:
    small = size_config("xinggan_pp_small")
    assert isinstance(small, XingGANPlusPlusConfig)
    for name in ("pedestrians-small", "market1501-small", "market1501-patn"):
        assert load_generator(name).config == small
    keeping = replace(small, variant=replace(small.variant, keep_ground=True))
    assert load_generator("market1501-augment").config == keeping


def test_a_save_that_was_interrupted_leaves_weights_that_can_be_read(tmp_path: Path) -> None:
    path = save_generator(seeded_network(), tmp_path / "g.safetensors")
    before = path.with_suffix(".json").read_text()
    save_generator(seeded_network(width=12), path)
    path.with_suffix(".json").write_text(before)  # as if killed between the two
    assert load_generator(path).config.width == 12


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e6])
def test_weights_that_are_not_finite_are_neither_saved_nor_loaded(value: float, tmp_path: Path) -> None:
    network = seeded_network()
    network.fusion.join_shape.squeeze.weight.data[0, 0] = value
    with pytest.raises(ValueError, match=r"fusion\.join_shape\.squeeze\.weight is not finite in torch\.float16"):
        save_generator(network, tmp_path / "g.safetensors")
    assert list(tmp_path.iterdir()) == []
    if math.isfinite(value):
        return
    path = save_generator(seeded_network(), tmp_path / "g.safetensors")
    state = load_file(path)
    state["fusion.join_shape.squeeze.weight"][0, 0] = value
    save_file(state, path)
    description = json.loads(path.with_suffix(".json").read_text())
    description["weights_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_suffix(".json").write_text(json.dumps(description))
    with pytest.raises(BadInput, match=r"fusion\.join_shape\.squeeze\.weight is not finite"):
        load_generator(path)


def test_batch_statistics_are_stored_in_full_precision(tmp_path: Path) -> None:
    network = seeded_network()
    network.image_stem.fine[2].running_var.fill_(1e5)  # type: ignore[index, union-attr]
    loaded = load_generator(save_generator(network, tmp_path / "g.safetensors"), dtype=None)
    assert (loaded.image_stem.fine[2].running_var == 1e5).all()  # type: ignore[index, union-attr]


def test_bad_generator_files(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(BadInput, match=r"generator 'nobody': no such file .* bundled: "):
        load_generator("nobody")
    (tmp_path / "g.onnx").touch()
    with pytest.raises(BadInput, match=r"g.onnx': needed a .safetensors file, or a bundled name: "):
        load_generator(tmp_path / "g.onnx")
    path = save_generator(seeded_network(), tmp_path / "g.safetensors")
    whole, description = path.read_bytes(), path.with_suffix(".json")
    text = description.read_text()
    description.write_text(text.replace('"width": 8', '"width": 12'))
    with pytest.raises(BadInput, match="weights do not fit the configuration"):
        load_generator(path)
    description.write_text(text)
    path.write_bytes(b"nonsense")
    with pytest.raises(BadInput, match="describes other weights"):
        load_generator(path)
    description.write_text(text.replace(json.loads(text)["weights_sha256"], hashlib.sha256(b"nonsense").hexdigest()))
    with pytest.raises(BadInput, match="not a readable safetensors file"):
        load_generator(path)
    path.write_bytes(whole)
    description.write_text("[" * 1100 + "]" * 1100)
    with pytest.raises(BadInput, match="nested deeper"):
        load_generator(path)
    path.with_suffix(".json").write_text("{}")
    with pytest.raises(BadInput, match="not a generator description"):
        load_generator(path)
    path.with_suffix(".json").unlink()
    with pytest.raises(BadInput, match=r"with its \.json beside it"):
        load_generator(path)
    with pytest.raises(BadInput, match=r"saved as \.safetensors"):
        save_generator(seeded_network(), tmp_path / "g.pth")
