"""Cost of rendering in a re-ID training step: python -m reid_integration.bench; `xingaug bench augment` runs it."""

import json
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from reid_integration.compat import load_torchreid, quiet
from reid_integration.evaluation import evaluate_features
from reid_integration.loader import PoseLoader, TrainingImages
from xingaug.augment.transform import XingPose
from xingaug.bench.networks import example_batch, example_keypoints
from xingaug.bench.timing import Timing, alternate, positive
from xingaug.commands.parser import Parser
from xingaug.errors import BadInput, guarded
from xingaug.generators.base import PoseGenerator
from xingaug.generators.core import Core
from xingaug.generators.store import load_generator
from xingaug.poses.bank import PoseBank

SIZES = {"resnet50": (256, 128), "osnet_x1_0": (256, 128), "osnet_x0_25": (128, 64)}
"""torchreid models to measure, with (height, width) of their images."""

IDENTITIES = 751  # Market-1501's


def bench_steps(
    models: Sequence[str],
    generator: str,
    batch_size: int,
    reuse: Sequence[int],
    rounds: int,
    device: str,
    p: float = 0.5,
) -> list[dict[str, Any]]:
    """Measures training steps (forward, cross entropy, backward, Adam) with and without `augment: xinggan_pose`.

    A step with it draws, renders, flips, crops, normalises and merges the rows into the batch, as `PoseLoader` does.
    Reuse of rendered images is in its steady state: the epochs that fill the cache are run before.

    Args:
        models: keys of `SIZES`.
        generator: bundled name or file.
        batch_size: images of a step.
        reuse: values to measure.
        rounds: measured rounds.
        device: such as cuda.
        p: share of the rows that are rendered.

    Returns:
        A row for each model and reuse: ms of the plain step, `ratio` of the step with rendering to it, rows rendered in
        a step, and `computed_ratio`, the ratio of their floating-point operations: the one to expect on a device that
        runs both at the same share of its peak.

    Raises:
        BadInput: no such model or generator, or a number below 1.
    """
    for name, values in (("batch_size", [batch_size]), ("rounds", [rounds]), ("reuse", reuse)):
        for value in values:
            positive(name, value)
    unknown = [name for name in models if name not in SIZES]
    if unknown:
        raise BadInput(f"models: unknown '{unknown[0]}'; known: {', '.join(SIZES)}")
    dev = torch.device(device)
    network = load_generator(generator, dev)
    render_flop = _flop(lambda: network(*example_batch(network, 1, dev)))
    return [row for name in models for row in _bench_model(name, network, render_flop, batch_size, reuse, rounds, p)]


def _bench_model(
    name: str,
    generator: PoseGenerator,
    render_flop: float,
    batch_size: int,
    reuse: Sequence[int],
    rounds: int,
    p: float,
) -> list[dict[str, Any]]:
    device, size = next(generator.parameters()).device, SIZES[name]
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        with quiet():
            model = load_torchreid().models.build_model(name, IDENTITIES, loss="softmax", pretrained=False)
    model.to(device).to(memory_format=torch.channels_last).train()
    step = partial(_step, model, torch.optim.Adam(model.parameters(), 3e-4))
    batch = _example(batch_size, generator.size, size)
    flop = _flop(lambda: step(batch["img"].to(device)))
    renderings = {value: _Rendering(generator, value, p, batch, size) for value in reuse}
    variants: dict[str, Callable[[], object]] = {"plain": lambda: step(batch["img"].to(device))}
    variants |= {str(value): partial(rendering.step, step) for value, rendering in renderings.items()}
    timed: dict[str, Timing] = alternate(variants, rounds, device)
    return [
        {
            "model": name, "size": f"{size[0]}x{size[1]}", "reuse": value,
            "plain_ms": round(1000 * timed["plain"].median, 1),
            "ratio": round(timed[str(value)].median / timed["plain"].median, 3),
            "rendered_rows": round(float(np.mean(rendering.rendered[-rounds:])), 1),
            "computed_ratio": round(1 + p * batch_size / value * render_flop / flop, 3),
        }
        for value, rendering in renderings.items()
    ]  # fmt: skip


class _Epochs(PoseLoader):
    """A loader that yields one batch endlessly, each time as in the next epoch."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._finished, self._changed = 0, threading.Condition()

    def rendered(self, batch: dict[str, Any], epoch: int, step: int) -> dict[str, Any]:
        try:
            return super().rendered(dict(batch), step, 0)
        finally:
            with self._changed:
                self._finished += 1
                self._changed.notify_all()

    def settle(self, yielded: int) -> None:
        """Waits for the batch that a GPU renders ahead, so that its time counts for the step it runs beside."""
        is_ahead = self._stream is not None
        with self._changed:
            self._changed.wait_for(lambda: self._finished >= yielded + is_ahead)
        if self._stream is not None:
            torch.cuda.current_stream(self.device).wait_stream(self._stream)


class _CountingCore(Core):
    """A core that counts the rows that it renders."""

    rows = 0

    def __call__(self, images: Tensor, xy: Tensor, visibility: Tensor) -> Tensor:
        self.rows += len(images)
        return super().__call__(images, xy, visibility)


class _Rendering:
    """Training steps on the batches of a `PoseLoader`, and how many of their rows were rendered."""

    def __init__(
        self, generator: PoseGenerator, reuse: int, p: float, batch: dict[str, Any], size: tuple[int, int]
    ) -> None:
        count, poses = len(batch["row"]), example_keypoints(4096, generator.size)
        names = [f"{i // 8:04d}_c1s1_{i:06d}_00.jpg" for i in range(count)]
        pids, camids = np.arange(count) // 8, np.ones(count, np.int64)
        persons = TrainingImages(names, names, poses[:count], pids, camids, np.zeros(count, bool))
        bank = PoseBank.build(poses, names=[f"pose{i}" for i in range(len(poses))], frame=generator.size)
        augment = XingPose(generator, bank, p, reuse=reuse)
        self._core = augment.core = _CountingCore(generator, augment.core.sigma, "auto", "auto")
        mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        self._loader = _Epochs(_Repeated(batch, persons), augment, ["random_flip", "random_crop"], size, mean, std)
        self.rendered, self._yielded = list[int](), 0
        self._batches = iter(self._loader)
        for _ in range(3 * reuse if reuse > 1 else 0):
            self.step(lambda images: None)

    def step(self, train: Callable[[Tensor], None]) -> None:
        """Trains on the batch of the next epoch; returns when all its work is done."""
        before = self._core.rows
        batch: dict[str, Any] = next(self._batches)
        self._yielded += 1
        train(batch["img"])
        self._loader.settle(self._yielded)
        self.rendered.append(self._core.rows - before)


class _Repeated:
    """Replaces a DataLoader: the same batch endlessly."""

    def __init__(self, batch: dict[str, Any], persons: TrainingImages) -> None:
        self.batch, self.dataset = batch, SimpleNamespace(persons=persons)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while True:
            yield self.batch


def _step(model: nn.Module, optimiser: torch.optim.Optimizer, images: Tensor) -> None:
    labels = torch.arange(len(images), device=images.device) % IDENTITIES
    optimiser.zero_grad(set_to_none=True)
    F.cross_entropy(model(images), labels, label_smoothing=0.1).backward()
    optimiser.step()


def _example(count: int, source_size: tuple[int, int], size: tuple[int, int]) -> dict[str, Any]:
    """A batch like those of `PosedImages`."""
    rng = torch.Generator().manual_seed(0)
    people = example_keypoints(4096, source_size)[:count]
    return {
        "img": torch.randn(count, 3, *size, generator=rng),
        "source": torch.randint(0, 256, (count, *source_size, 3), generator=rng, dtype=torch.uint8),
        "source_xy": people.xy,
        "source_visibility": people.visibility,
        "row": torch.arange(count),
        "pid": torch.arange(count) // 8,
    }


def bench_evaluation(
    rounds: int, queries: int = 3368, gallery: int = 15913, identities: int = 750, dimensions: int = 512
) -> dict[str, Any]:
    """Measures CMC and mAP from features, ours against torchreid's Python functions, on the same random features.

    Args:
        rounds: measured rounds.
        queries: their number; the defaults are those of Market-1501.
        gallery: number of gallery images.
        identities: number of identities in both.
        dimensions: of a feature.

    Returns:
        Seconds of both, `ratio` of torchreid's to ours, and the difference of their mAP.

    Raises:
        BadInput: `rounds` below 1.
    """
    positive("rounds", rounds)
    metrics = load_torchreid().metrics
    rng = np.random.default_rng(0)
    pids, camids = (rng.integers(0, high, queries + gallery) for high in (identities, 6))
    means = rng.normal(size=(identities, dimensions))
    features = torch.from_numpy((means[pids] + 2 * rng.normal(size=(len(pids), dimensions))).astype(np.float32))
    labels = (pids[:queries], pids[queries:], camids[:queries], camids[queries:])
    found: dict[str, float] = {}

    def ours() -> None:
        found["ours"] = evaluate_features(features[:queries], features[queries:], *labels).mAP

    def stock() -> None:
        distances = metrics.compute_distance_matrix(features[:queries], features[queries:], "euclidean").numpy()
        found["torchreid"] = metrics.evaluate_rank(distances, *labels, use_cython=False)[1]

    timed = alternate({"ours": ours, "torchreid": stock}, rounds)
    return {
        "queries": queries, "gallery": gallery, "dimensions": dimensions, "threads": torch.get_num_threads(),
        "seconds": {name: round(timing.median, 2) for name, timing in timed.items()},
        "ratio": round(timed["torchreid"].median / timed["ours"].median, 1),
        "mAP_difference": abs(found["ours"] - found["torchreid"]),
    }  # fmt: skip


def _flop(run: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; prints the rows as JSON."""
    parser = Parser(
        prog="python -m reid_integration.bench",
        description="Measures the cost of rendering in a training step, or the evaluation; prints JSON.",
        epilog="example: python -m reid_integration.bench --models osnet_x0_25 --reuse 1 4 --rounds 3",
    )
    parser.add_argument("part", nargs="?", choices=("steps", "evaluation"), default="steps", help="what to measure")
    parser.add_argument("--models", nargs="+", default=list(SIZES), metavar="NAME", help=f"any of {', '.join(SIZES)}")
    parser.add_argument("--generator", default="pedestrians-small", help="bundled name or .safetensors file")
    parser.add_argument("--batch-size", type=int, default=64, help="images of a step")
    parser.add_argument("--reuse", type=int, nargs="+", default=[1, 4, 8], metavar="N", help="values of augment.reuse")
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds, of which the median is reported")
    parser.add_argument("--device", default="cpu", help="such as cuda")
    args = parser.parse_words(arguments)

    def command() -> None:
        torch.set_flush_denormal(True)
        if args.part == "evaluation":
            print(json.dumps(bench_evaluation(args.rounds)))
            return
        rows = bench_steps(args.models, args.generator, args.batch_size, args.reuse, args.rounds, args.device)
        print(json.dumps(rows))

    return guarded(command)


if __name__ == "__main__":
    sys.exit(main())
