"""Timing with alternating variants within one run, because machines are noisy."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from xingaug.errors import BadInput
from xingaug.progress import ProgressBar


@dataclass(frozen=True)
class Timing:
    """Seconds of one variant over the rounds.

    Attributes:
        median: of the rounds.
        best: of the rounds.
    """

    median: float
    best: float


MOST = 65_536
"""Most rounds, or images at a time (our choice)."""


def alternate(
    variants: dict[str, Callable[[], object]], rounds: int, device: torch.device | None = None
) -> dict[str, Timing]:
    """Times each variant; every round runs all of them once, after one warm-up round.

    Args:
        variants: functions to run, by name.
        rounds: measured rounds.
        device: where they run; on a GPU times are taken by CUDA events.
    """
    times: dict[str, list[float]] = {name: [] for name in variants}
    for number in ProgressBar(range(rounds + 1), "bench", unit="round"):
        for name, run in variants.items():
            seconds = _seconds(run, device)
            if number:
                times[name].append(seconds)
    return {name: Timing(statistics.median(values), min(values)) for name, values in times.items()}


def _seconds(run: Callable[[], object], device: torch.device | None) -> float:
    if device is None or device.type != "cuda":
        start = time.perf_counter()
        run()
        return time.perf_counter() - start
    with torch.cuda.device(device):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        run()
        end.record()
        torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1000


def positive(name: str, value: int) -> int:
    """Returns a checked value.

    Raises:
        BadInput: it is below 1 or above `MOST`.
    """
    if not 1 <= value <= MOST:
        raise BadInput(f"{name}: {value}, needed at least 1, at most {MOST}")
    return value
