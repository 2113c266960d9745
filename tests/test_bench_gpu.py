"""`xingaug bench gpu`: refused without a GPU; its parts, at toy sizes, on a CPU."""

import json
from functools import partial
from typing import Any

import pytest
import torch
from command_lines import TINY

from xingaug.bench import gpu
from xingaug.bench.gpu import PARTS, STEPS, Setup, measure
from xingaug.errors import WorkFailed
from xingaug.generators import SIZES
from xingaug.generators.discriminators import PatchDiscriminator, ResidualDiscriminator
from xingaug.generators.xinggan import XingGANConfig
from xingaug.generators.xinggan_pp_config import XingGANPlusPlusConfig

TOY = Setup(torch.device("cpu"), "tiny.safetensors", "xinggan_pp_small", batch_size=2, rounds=1)


@pytest.fixture(autouse=True)
def toys(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setitem(SIZES, "xinggan", XingGANConfig(blocks=1, width=4))
    monkeypatch.setitem(SIZES, "xinggan_pp_small", XingGANPlusPlusConfig.of(**{**TINY, "decoder_widths": (4, 4)}))
    kinds = {"patch": partial(PatchDiscriminator, width=4), "residual": partial(ResidualDiscriminator, width=4)}
    monkeypatch.setattr("xingaug.training.trainer.KINDS", kinds)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device")
@pytest.mark.parametrize(("options", "said"), [
    ("", "bench gpu: device 'cuda', needed a CUDA device; torch finds none here"),
    ("--device cuda", "--device: "),
])  # fmt: skip
def test_without_a_cuda_device_one_line_says_so(options: str, said: str, run: Any) -> None:
    code, out, err = run(f"bench gpu --generator tiny.safetensors {options}")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err


def test_every_part_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(gpu, "measured_by_reid_integration", lambda *words: asked.append(words) or [{"ratio": 1.0}])
    monkeypatch.setattr(gpu, "find_spec", lambda name: object())
    figures = measure(TOY)
    assert figures["failed"] == figures["left_out"] == {}
    assert set(PARTS) < set(figures)
    rendering = figures["rendering"]
    rates = rendering["core_images_per_second"], rendering["xinggan_images_per_second"]
    assert rendering["ratio_to_xinggan"] == pytest.approx(rates[0] / rates[1], rel=0.05)
    assert figures["waiting"] == {"core_waits": None}
    assert min(figures["transform"].values()) > 0
    assert [row["network"] for row in figures["generator_training"]] == ["xinggan, as released", "xinggan_pp_small"]
    assert figures["training_step"] == [{"ratio": 1.0}] * 2
    for words, (model, reuse) in zip(asked, STEPS.items(), strict=True):
        assert {"--models", model, "--reuse", str(reuse), "tiny.safetensors", "cpu"} < set(words)
    json.dumps(figures)


def test_what_is_missing_is_left_out_and_what_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: Setup) -> None:
        raise WorkFailed("no memory")

    monkeypatch.setattr(gpu, "PARTS", {"rendering": fails, "training_step": fails, "waiting": lambda _: {"a": 1}})
    monkeypatch.setattr(gpu, "find_spec", lambda name: None if name == "torchreid" else object())
    assert measure(TOY) == {
        "waiting": {"a": 1},
        "left_out": {"training_step": "torchreid is not installed"},
        "failed": {"rendering": "no memory"},
    }


def test_a_failed_part_ends_the_command_with_1_and_all_figures(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xingaug.bench.bench_gpu", lambda *_: {"waiting": {"a": 1}, "failed": {"rendering": "why"}})
    code, out, err = run("bench gpu --generator tiny.safetensors")
    assert (code, json.loads(out)["failed"]) == (1, {"rendering": "why"})
    assert err.count("\n") == 1
    assert "not measured: rendering" in err
