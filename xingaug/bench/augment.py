"""The cost of `XingPose`: against its generator alone, and in the training step of a re-ID network."""

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import torch

from xingaug.augment.transform import XingPose
from xingaug.bench.networks import example_batch, example_keypoints, forward_of
from xingaug.bench.timing import alternate, positive
from xingaug.errors import BadInput, WorkFailed
from xingaug.generators.store import load_generator
from xingaug.poses.bank import PoseBank


def bench_augment(
    name: str,
    batch_size: int,
    rounds: int,
    device: str = "cpu",
    models: Sequence[str] = (),
    reuse: Sequence[int] = (1,),
) -> dict[str, Any]:
    """Measures what the transform adds to its generator (draw, heatmaps, conversions), and rendering to a step.

    Args:
        name: bundled generator or file.
        batch_size: images of a step.
        rounds: measured rounds.
        device: such as cuda.
        models: torchreid's re-ID networks; if empty, no steps are measured.
        reuse: values of `reuse` to measure steps with.

    Returns:
        `images_per_second` of generator and transform and their ratio; `steps`, the rows of
        `reid_integration.bench.bench_steps`.

    Raises:
        BadInput: no such generator or model, or a number below 1.
    """
    for key, values in (("rounds", [rounds]), ("batch_size", [batch_size]), ("reuse", reuse)):
        for value in values:
            positive(key, value)
    dev = torch.device(device)
    generator = load_generator(name, dev, "auto")
    inputs = example_batch(generator, batch_size, dev)
    size = generator.size
    keypoints = example_keypoints(max(1024, batch_size), size)
    bank = PoseBank.build(keypoints, names=[f"pose{i}" for i in range(len(keypoints))], frame=size)
    augment = XingPose(generator, bank, p=1.0)
    images = torch.rand(batch_size, 3, *size, generator=torch.Generator().manual_seed(0)).to(dev)
    persons = keypoints[:batch_size].to(dev)
    names = [f"image{i}" for i in range(batch_size)]
    timed = alternate(
        {
            "generator": forward_of(generator, inputs),
            "transform": lambda: augment(images, persons, keys=names),
        },
        rounds,
        dev,
    )
    return {
        "generator": name,
        "device": device,
        "threads": torch.get_num_threads(),
        "batch_size": batch_size,
        "images_per_second": {key: round(batch_size / timing.median, 2) for key, timing in timed.items()},
        "ratio_transform_to_generator": round(timed["transform"].median / timed["generator"].median, 3),
        **({"steps": _steps(name, batch_size, rounds, device, models, reuse)} if models else {}),
    }


def _steps(
    generator: str, batch_size: int, rounds: int, device: str, models: Sequence[str], reuse: Sequence[int]
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = measured_by_reid_integration(
        "--models", *models, "--generator", generator, "--batch-size", str(batch_size),
        "--reuse", *map(str, reuse), "--rounds", str(rounds), "--device", device,
    )  # fmt: skip
    return rows


def measured_by_reid_integration(*words: str) -> Any:
    """The output of `python -m reid_integration.bench`, in another process, as xingaug must not import torchreid."""
    command = ["-m", "reid_integration.bench", *words]
    done = subprocess.run([sys.executable, *command], stdout=subprocess.PIPE, check=False)
    if done.returncode:
        failed = BadInput if done.returncode == 2 else WorkFailed
        raise failed(f"{' '.join(command)}: ended with exit code {done.returncode}")
    return json.loads(done.stdout)
