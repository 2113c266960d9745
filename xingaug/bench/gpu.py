"""All measurements on a GPU in one short run, for machines that are available for minutes only."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch

from xingaug.bench.augment import bench_augment, measured_by_reid_integration
from xingaug.bench.launches import launches_of
from xingaug.bench.networks import BASELINE, bench_train, example_batch, example_keypoints, forward_of, network_to_bench
from xingaug.bench.timing import alternate, positive
from xingaug.errors import BadInput, WorkFailed, first_line
from xingaug.generators.core import Core
from xingaug.generators.store import load_generator

STEPS = {"resnet50": 1, "osnet_x1_0": 4}
"""Re-ID networks whose training step is measured, each with its value of `reuse`."""


@dataclass(frozen=True)
class Setup:
    """Settings of a run on one device.

    Attributes:
        device: of all parts.
        generator: bundled name or file of a small generator.
        size: name of its size, for training.
        batch_size: images at a time.
        rounds: measured rounds, of which the median is reported.
    """

    device: torch.device
    generator: str
    size: str = "xinggan_pp_small"
    batch_size: int = 64
    rounds: int = 12


def bench_gpu(generator: str, batch_size: int, rounds: int, device: str = "cuda") -> dict[str, Any]:
    """Measures rendering, `XingPose`, training steps with augmentation and generator training on a CUDA device.

    Args:
        generator: bundled name or file of a small generator.
        batch_size: images at a time.
        rounds: measured rounds of each part.
        device: such as cuda or cuda:1.

    Returns:
        `device`, `torch`, `batch_size`, the figures of each of `PARTS` by its name; `left_out`, the parts that need a
        package that is not installed, and `failed`, those that raised an error, by name with the reason.

    Raises:
        BadInput: no such device or generator, or a number below 1.
    """
    positive("batch_size", batch_size)
    positive("rounds", rounds)
    dev = torch.device(device)
    if dev.type != "cuda" or (dev.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count() or "none"
        raise BadInput(f"bench gpu: device '{device}', needed a CUDA device; torch finds {found} here")
    load_generator(generator)
    return {
        "device": torch.cuda.get_device_name(dev),
        "torch": torch.__version__,
        "batch_size": batch_size,
        **measure(Setup(dev, generator, batch_size=batch_size, rounds=rounds)),
    }


def measure(setup: Setup) -> dict[str, Any]:
    """Figures by name of the part; one that fails does not stop the others."""
    figures: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    failed: dict[str, str] = {}
    for name, part in PARTS.items():
        missing = [package for package in NEEDED.get(name, ()) if find_spec(package) is None]
        if missing:
            left_out[name] = f"{missing[0]} is not installed"
            continue
        try:
            figures[name] = part(setup)
        except (BadInput, WorkFailed, RuntimeError) as error:
            failed[name] = first_line(error)
    return {**figures, "left_out": left_out, "failed": failed}


def rendering(setup: Setup) -> dict[str, float]:
    """Images per second of the rendering core and of the released network, written plainly in float32, alternating."""
    baseline = network_to_bench(BASELINE, setup.device).to(memory_format=torch.contiguous_format)
    plain = forward_of(baseline, example_batch(baseline, setup.batch_size, setup.device))
    timed = alternate({"core": _core_of(setup), BASELINE: plain}, setup.rounds, setup.device)
    return {
        **{f"{name}_images_per_second": round(setup.batch_size / time.median, 1) for name, time in timed.items()},
        f"ratio_to_{BASELINE}": round(timed[BASELINE].median / timed["core"].median, 2),
    }


def waiting(setup: Setup) -> dict[str, Any]:
    """Whether the host waits for the device inside the core: torch's warning about it, None if there is none."""
    run = _core_of(setup)
    run()  # the preparation, once, may wait
    if setup.device.type != "cuda":
        return {"core_waits": ", ".join(launches_of(run).reads) or None}
    torch.cuda.set_sync_debug_mode("error")
    try:
        run()
    except RuntimeError as error:
        return {"core_waits": first_line(error)}
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return {"core_waits": None}


def transform(setup: Setup) -> dict[str, float]:
    """Rows per second of `XingPose` as a whole, and of its generator alone."""
    figures = bench_augment(setup.generator, setup.batch_size, setup.rounds, str(setup.device))
    rates = figures["images_per_second"]
    return {"rows_per_second": rates["transform"], "generator_images_per_second": rates["generator"]}


def training_step(setup: Setup) -> list[dict[str, Any]]:
    """Training steps of re-ID networks with augmentation against those without, a row for each of `STEPS`."""
    rows: list[dict[str, Any]] = []
    for model, reuse in STEPS.items():
        rows += measured_by_reid_integration(
            "--models", model, "--reuse", str(reuse), "--generator", setup.generator,
            "--batch-size", str(setup.batch_size), "--rounds", str(setup.rounds), "--device", str(setup.device),
        )  # fmt: skip
    return rows


def generator_training(setup: Setup) -> list[dict[str, Any]]:
    """Images per second of a generator's training steps, beside the released one's: the rows of `bench_train`."""
    figures = bench_train([setup.size], setup.batch_size, setup.rounds, str(setup.device))
    return list(figures["variants"])


PARTS: dict[str, Callable[[Setup], Any]] = {
    part.__name__: part for part in (rendering, waiting, transform, generator_training, training_step)
}
"""The measurements by name."""

NEEDED = {"training_step": ("reid_integration", "torchreid")}
"""Packages that a part needs."""


def _core_of(setup: Setup) -> Callable[[], object]:
    """A function that runs the core on a batch that is on its device."""
    network = load_generator(setup.generator, setup.device, dtype=None)
    people = example_keypoints(setup.batch_size, network.size)
    images = example_batch(network, setup.batch_size, setup.device)[0]
    xy = torch.stack([people.xy, people.xy.roll(1, 0)], 1).to(setup.device)
    visibility = torch.ones(setup.batch_size, 2, xy.shape[2], device=setup.device)
    return partial(Core(network, dtype="auto"), images, xy, visibility)
