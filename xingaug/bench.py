"""Speed, measured with the variants alternating within one run, because machines are noisy."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from xingaug.errors import BadInput
from xingaug.generators.store import load_generator
from xingaug.keypoints import Keypoints, render_heatmaps


def alternate(variants: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each variant; every round runs all of them once, after one round that does not count."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for number in tqdm(range(rounds + 1), desc="bench", disable=None):
        for name, run in variants.items():
            start = time.perf_counter()
            run()
            if number:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def bench_generator(name: str, batch_size: int, rounds: int) -> dict[str, Any]:
    """Images per second of a generator in fp32 and bf16, contiguous and channels-last."""
    _positive("rounds", rounds)
    generator = load_generator(name)
    inputs = example_batch(generator, batch_size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        generator(*inputs)
    variants = {}
    for layout, memory_format in (("contiguous", torch.contiguous_format), ("channels_last", torch.channels_last)):
        placed = load_generator(name).to(memory_format=memory_format)
        batch = [x.contiguous(memory_format=memory_format) for x in inputs]
        for kind, autocast in (("fp32", False), ("bf16", True)):
            variants[f"{kind}_{layout}"] = _forward(placed, batch, autocast)
    seconds = alternate(variants, rounds)
    return {
        "generator": name,
        "batch_size": batch_size,
        "parameters": sum(p.numel() for p in generator.parameters()),
        "gflop_per_image": counter.get_total_flops() / batch_size / 1e9,
        "images_per_second": {key: round(batch_size / value, 2) for key, value in seconds.items()},
        "ratio_to_fp32_contiguous": {
            key: round(seconds["fp32_contiguous"] / value, 3) for key, value in seconds.items()
        },
    }


def bench_augment(name: str, batch_size: int, rounds: int) -> dict[str, Any]:
    """What `XingPose` adds to the generator: the draw, the heatmaps, the conversions."""
    from xingaug.augment.transform import XingPose
    from xingaug.poses.bank import PoseBank

    _positive("rounds", rounds)
    generator = load_generator(name)
    inputs = example_batch(generator, batch_size)
    size: tuple[int, int] = generator.size  # type: ignore[assignment]
    keypoints = example_keypoints(max(1024, batch_size), size)
    bank = PoseBank.build(keypoints, names=[f"pose{i}" for i in range(len(keypoints))], frame=size)
    augment = XingPose(generator, bank, p=1.0)
    images = torch.rand(batch_size, 3, *size, generator=torch.Generator().manual_seed(0))
    names = [f"image{i}" for i in range(batch_size)]
    seconds = alternate(
        {
            "generator": _forward(generator, list(inputs), False),
            "transform": lambda: augment(images, keypoints[:batch_size], keys=names),
        },
        rounds,
    )
    return {
        "generator": name,
        "batch_size": batch_size,
        "images_per_second": {key: round(batch_size / value, 2) for key, value in seconds.items()},
        "ratio_transform_to_generator": round(seconds["transform"] / seconds["generator"], 3),
    }


BENCHMARKS = {"generator": bench_generator, "augment": bench_augment}


def example_keypoints(count: int, size: tuple[int, int]) -> Keypoints:
    """Standing persons with random variations, (count,) in a frame of `size`."""
    standing = torch.tensor(
        [[32, 14], [32, 26], [24, 27], [21, 42], [20, 56], [40, 27], [43, 42], [44, 56], [27, 62], [26, 86], [26, 110],
         [37, 62], [38, 86], [38, 110], [30, 12], [34, 12], [28, 13], [36, 13]], dtype=torch.float32
    )  # fmt: skip
    rng = torch.Generator().manual_seed(0)
    xy = (standing + torch.randn(count, 18, 2, generator=rng) * 2).clamp(torch.tensor(0.0), torch.tensor([63.0, 127.0]))
    return Keypoints(xy, torch.ones(count, 18)).resize((128, 64), size)


def example_batch(generator: nn.Module, batch_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs of the right shape and range."""
    size: tuple[int, int] = generator.size  # type: ignore[assignment]
    count = _positive("batch_size", batch_size)
    source = torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    maps = render_heatmaps(example_keypoints(count, size), size)
    return source, maps, maps.roll(1, 0)


def _forward(generator: nn.Module, batch: list[Tensor], autocast: bool) -> Callable[[], object]:
    def run() -> object:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return generator(*batch)

    return run


def _positive(name: str, value: int) -> int:
    if value < 1:
        raise BadInput(f"{name}: {value}, needed at least 1")
    return value
