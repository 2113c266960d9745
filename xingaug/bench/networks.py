"""Speed of generators and of their training."""

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from xingaug.bench.timing import Timing, alternate, positive
from xingaug.generators.base import PoseGenerator
from xingaug.generators.core import Core
from xingaug.generators.fast import has_bfloat16
from xingaug.generators.sizes import SIZES, size_config
from xingaug.generators.store import load_generator, network_of
from xingaug.keypoints import Keypoints, render_heatmaps
from xingaug.progress import ProgressBar

if TYPE_CHECKING:
    from xingaug.training.batches import Batch
    from xingaug.training.trainer import Trainer

BASELINE = "xinggan"
"""The baseline of all ratios: XingGAN as released, plain, float32, contiguous."""


@dataclass(frozen=True)
class Variant:
    """One network in one form, type and layout."""

    network: str
    form: str
    dtype: str
    layout: str
    run: Callable[[], object]

    @property
    def key(self) -> str:
        """A unique name."""
        return f"{self.network} {self.form} {self.dtype} {self.layout}"


def bench_generator(
    names: Sequence[str] | None, batch_size: int, rounds: int, device: str = "cpu", compile: bool = False
) -> dict[str, Any]:
    """Measures generators in every type and layout that is fast on the device, against the released XingGAN.

    Args:
        names: sizes (`SIZES`), bundled names or `.safetensors` files; None for all sizes.
        batch_size: images at a time.
        rounds: measured rounds.
        device: such as cuda.
        compile: also measure the fast form through `torch.compile`.

    Returns:
        `variants`: a row for each network, form (plain, optimized, compiled, and openvino for stored generators where
        that is installed, 16 rows to a thread), dtype and layout: images per second, ms an image, peak memory in MB
        beyond what was allocated before, GFLOP/s, its share of the device's measured matrix product (above 1
        where a library multiplies less than is counted, by Winograd's method), and the speed-up over the baseline.
        `training_step`: the same of forward and backward in float32. `networks`: parameters and GFLOP an image.
    """
    positive("batch_size", batch_size)
    positive("rounds", rounds)
    dev = torch.device(device)
    networks = {name: network_to_bench(name, dev) for name in dict.fromkeys([BASELINE, *(names or SIZES)])}
    inputs = {name: example_batch(network, batch_size, dev) for name, network in networks.items()}
    costs = {name: _cost(network, inputs[name]) for name, network in networks.items()}
    variants = [v for name, network in networks.items() for v in variants_of(name, network, inputs[name], compile)]
    memory = {v.key: peak_memory_mb(v.run, dev) for v in ProgressBar(variants, "memory", unit="variant")}
    timed, peak = _timed_with_peak({v.key: v.run for v in variants}, rounds, dev)
    base = timed[variants[0].key].median
    rows = []
    for v in variants:
        seconds = timed[v.key].median
        rate = costs[v.network]["gflop_per_image"] * batch_size / seconds
        rows.append(
            {
                "network": v.network, "form": v.form, "dtype": v.dtype, "layout": v.layout,
                "images_per_second": round(batch_size / seconds, 2),
                "ms_per_image": round(1000 * seconds / batch_size, 3),
                "peak_memory_mb": memory[v.key],
                "gflop_per_second": round(rate, 1),
                "share_of_peak": round(rate / peak[v.dtype], 3),
                f"ratio_to_{BASELINE}": round(base / seconds, 2),
            }
        )  # fmt: skip
    return {
        **_circumstances(dev, batch_size, peak),
        "networks": costs,
        "variants": rows,
        "training_step": _bench_training(networks, max(1, batch_size // 2), rounds, dev),
    }


def _timed_with_peak(
    runs: dict[str, Callable[[], object]], rounds: int, device: torch.device
) -> tuple[dict[str, Timing], dict[str, float]]:
    """Times the runs and, alternating, a matrix product in each of the device's types, giving its peak GFLOP/s."""
    products = {kind: _product(dtype, device) for kind, dtype in _dtypes(device).items()}
    timed = alternate(runs | {kind: run for kind, (run, _) in products.items()}, rounds, device)
    return timed, {kind: operations / timed[kind].best / 1e9 for kind, (_, operations) in products.items()}


def _circumstances(device: torch.device, batch_size: int, peak: dict[str, float]) -> dict[str, Any]:
    """The common head of the figures: device, batch size, peak GFLOP/s."""
    return {
        "device": _device_name(device),
        "batch_size": batch_size,
        "peak_gflop_per_second": {kind: round(value, 1) for kind, value in peak.items()},
    }


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"


def network_to_bench(name: str, device: torch.device) -> PoseGenerator:
    """A named size with random weights, or a stored generator, in its trainable form."""
    if name not in SIZES:
        return load_generator(name, device, dtype=None)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        return network_of(SIZES[name]).to(device).eval().requires_grad_(False)


def _cost(network: nn.Module, inputs: Sequence[Tensor]) -> dict[str, float]:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(*inputs)
    return {
        "parameters": sum(p.numel() for p in network.parameters()),
        "gflop_per_image": round(counter.get_total_flops() / len(inputs[0]) / 1e9, 3),
    }


def variants_of(name: str, network: PoseGenerator, inputs: Sequence[Tensor], compile: bool = False) -> list[Variant]:
    """The plain network, followed by its fast forms."""
    plain = network.to(memory_format=torch.contiguous_format)
    found = [Variant(name, "plain", "float32", "contiguous", forward_of(plain, inputs))]
    forms = [("optimized", "contiguous"), ("optimized", "channels_last")]
    if compile:
        forms.append(("compiled", "channels_last"))
    layouts = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
    for kind, dtype in _dtypes(inputs[0].device).items():
        for form, layout in forms:
            placed = [x.contiguous(memory_format=layouts[layout]) for x in inputs]
            fast = network.optimize(dtype, form == "compiled", layout == "channels_last")
            found.append(Variant(name, form, kind, layout, forward_of(fast, placed)))
        core = Core(network, dtype=dtype, runtime="auto")
        if core.plan()[0] == "openvino":
            rows = (inputs[0], *example_joints(len(inputs[0]), network.size))
            found.append(Variant(name, "openvino", kind, "its own", partial(core, *rows)))
    return found


def _dtypes(device: torch.device) -> dict[str, torch.dtype]:
    """The types that are fast on the device."""
    return {"float32": torch.float32, **({"bfloat16": torch.bfloat16} if has_bfloat16(device) else {})}


def _product(dtype: torch.dtype, device: torch.device) -> tuple[Callable[[], object], int]:
    """A matrix product large enough to reach the device's peak, and its operations."""
    side = 8192 if device.type == "cuda" else 2048
    rng = torch.Generator().manual_seed(0)
    a, b = (torch.randn(side, side, generator=rng).to(device, dtype) for _ in range(2))

    def run() -> Tensor:
        allowed = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32  # as convolutions compute
        try:
            return a @ b
        finally:
            torch.backends.cuda.matmul.allow_tf32 = allowed

    return run, 2 * side**3


def peak_memory_mb(run: Callable[[], object], device: torch.device) -> float | None:
    """Peak memory of a run beyond what was allocated before; None where the system does not report it."""
    run()  # what is allocated once and kept does not count
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return round((torch.cuda.max_memory_allocated(device) - before) / 1e6, 1)
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # or freed memory that was not returned would hide new allocations
        Path("/proc/self/clear_refs").write_text("5")  # Linux: resets the peak resident size
        before = _status_kb("VmRSS")
        run()
        return round((_status_kb("VmHWM") - before) / 1e3, 1)
    except (OSError, AttributeError, StopIteration):
        return None


def _status_kb(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field + ":")).split()[1])


def bench_train(names: Sequence[str] | None, batch_size: int, rounds: int, device: str = "cpu") -> dict[str, Any]:
    """Measures a whole training step against the released XingGAN's.

    A step is the generator, two discriminators, their losses, backward passes and optimisers, in the device's own
    precision; the perceptual loss is left out of all of them. The baseline is `xinggan` at the released settings:
    PATN's residual discriminators, binary cross-entropy, image pool of 50, float32.

    Args:
        names: sizes (`SIZES`) to measure; None for `xinggan_pp` and `xinggan_pp_small`.
        batch_size: pairs a step.
        rounds: measured rounds.
        device: such as cuda.

    Returns:
        `variants`: a row for each size: images per second, ms a step, GFLOP a step, GFLOP/s, its share of the device's
        own measured matrix product in that type, and how many times as fast as the baseline.

    Raises:
        BadInput: no such size, or a number below 1.
    """
    positive("batch_size", batch_size)
    positive("rounds", rounds)
    dev = torch.device(device)
    sizes = list(dict.fromkeys(names or [name for name in SIZES if name != BASELINE]))
    trainers = {f"{BASELINE}, as released": _trainer(BASELINE, batch_size, device, released=True)}
    trainers |= {name: _trainer(name, batch_size, device, released=False) for name in sizes}
    batch = example_pairs(batch_size, dev)
    costs = {name: _step_cost(trainer, batch) for name, trainer in trainers.items()}
    timed, peak = _timed_with_peak({name: partial(t.train_step, batch) for name, t in trainers.items()}, rounds, dev)
    rows = []
    for name, trainer in trainers.items():
        seconds = timed[name].median
        kind = "bfloat16" if trainer.config.precision == "auto" and has_bfloat16(dev) else "float32"
        rows.append(
            {
                "network": name, "dtype": kind,
                "images_per_second": round(batch_size / seconds, 2),
                "ms_per_step": round(1000 * seconds, 1),
                "gflop_per_step": round(costs[name], 1),
                "gflop_per_second": round(costs[name] / seconds, 1),
                "share_of_peak": round(costs[name] / seconds / peak[kind], 3),
                f"ratio_to_{BASELINE}": round(timed[next(iter(trainers))].median / seconds, 2),
            }
        )  # fmt: skip
    return {**_circumstances(dev, batch_size, peak), "variants": rows}


def _trainer(name: str, batch_size: int, device: str, released: bool) -> "Trainer":
    from xingaug.training.config import DiscriminatorConfig, TrainConfig
    from xingaug.training.processes import Processes
    from xingaug.training.trainer import Trainer

    size_config(name)
    discriminators = DiscriminatorConfig(start=0.0)
    if released:
        discriminators = DiscriminatorConfig("residual", "residual", "bce", pool=50, start=0.0)
    precision: Literal["float32", "auto"] = "float32" if released else "auto"
    settings = TrainConfig(
        "none", generator=name, discriminators=discriminators, batch_size=batch_size, precision=precision, device=device
    )
    return Trainer(settings, Processes(0, 1, torch.device(device)))


def _step_cost(trainer: "Trainer", batch: "Batch") -> float:
    """GFLOP of a step."""
    with FlopCounterMode(display=False) as counter:
        trainer.train_step(batch)
    return float(counter.get_total_flops()) / 1e9


def example_pairs(count: int, device: torch.device, size: tuple[int, int] = (128, 64)) -> "Batch":
    """Pairs of the right shapes and ranges."""
    from xingaug.training.batches import Batch

    rng = torch.Generator().manual_seed(0)
    source, target = (torch.rand(count, 3, *size, generator=rng).to(device) * 2 - 1 for _ in range(2))
    xy, visibility = (x.to(device) for x in example_joints(count, size))
    mask = torch.ones(count, 1, *size, device=device)
    return Batch(
        source,
        target,
        xy,
        visibility,
        mask,
        None,
        torch.zeros(count, dtype=torch.bool, device=device),
        [f"pair{i}" for i in range(count)],
    )


def _bench_training(
    networks: dict[str, PoseGenerator], batch_size: int, rounds: int, device: torch.device
) -> list[dict[str, Any]]:
    """Times forward and backward in float32, the baseline contiguous, others channels last as in training."""
    runs = {}
    for name, network in networks.items():
        layout = torch.contiguous_format if name == BASELINE else torch.channels_last
        network = network.to(memory_format=layout).train().requires_grad_(True)
        inputs = [x.contiguous(memory_format=layout) for x in example_batch(network, batch_size, device)]
        runs[name] = _training_step(network, inputs)
    timed = alternate(runs, rounds, device)
    return [
        {
            "network": name,
            "batch_size": batch_size,
            "images_per_second": round(batch_size / timing.median, 2),
            f"ratio_to_{BASELINE}": round(timed[BASELINE].median / timing.median, 2),
        }
        for name, timing in timed.items()
    ]


def _training_step(network: nn.Module, inputs: Sequence[Tensor]) -> Callable[[], object]:
    def run() -> None:
        network.zero_grad(set_to_none=True)
        network(*inputs).square().mean().backward()

    return run


def example_keypoints(count: int, size: tuple[int, int]) -> Keypoints:
    """Standing persons with random variations, (count,) in a frame of `size`."""
    standing = torch.tensor(
        [[32, 14], [32, 26], [24, 27], [21, 42], [20, 56], [40, 27], [43, 42], [44, 56], [27, 62], [26, 86], [26, 110],
         [37, 62], [38, 86], [38, 110], [30, 12], [34, 12], [28, 13], [36, 13]], dtype=torch.float32
    )  # fmt: skip
    rng = torch.Generator().manual_seed(0)
    xy = (standing + torch.randn(count, 18, 2, generator=rng) * 2).clamp(torch.tensor(0.0), torch.tensor([63.0, 127.0]))
    return Keypoints(xy, torch.ones(count, 18)).resize((128, 64), size)


def example_batch(
    generator: PoseGenerator, batch_size: int, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs of the right shape and range."""
    size = generator.size
    count = positive("batch_size", batch_size)
    source = torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    maps = render_heatmaps(example_keypoints(count, size), size).to(device)
    return source.to(device), maps, maps.roll(1, 0)


def example_joints(count: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The poses of `example_batch` as a `Core` takes them: (n, 2, 18, 2) pixels, (n, 2, 18) visibility."""
    people = example_keypoints(count, size)
    return torch.stack([people.xy, people.xy.roll(1, 0)], 1), torch.ones(count, 2, 18)


def forward_of(generator: nn.Module, batch: Sequence[Tensor]) -> Callable[[], object]:
    """A function that runs the generator on a batch."""

    def run() -> object:
        with torch.no_grad():
            return generator(*batch)

    return run
