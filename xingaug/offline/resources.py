"""Needed and available resources: memory for a batch, space on disk."""

import shutil
from pathlib import Path

import numpy as np
import torch
from torch import nn

from xingaug.errors import BadInput
from xingaug.images import jpeg_bytes, read_image
from xingaug.offline.plan import Sources
from xingaug.offline.render import GPU_THREADS
from xingaug.poses.spacing import evenly_spaced

CPU_BATCH, GPU_BATCH = 16, 256
"""Largest batches (our choice): on two cores, batches of 16 are faster than of 8 or 32."""

_CPU_BYTES = 64 << 20  # per image of 128x64; more than any generator here needs per image of a batch of 8
_SAMPLES = 64


def fitting_batch_size(generator: nn.Module, device: torch.device, threads: int) -> int:
    """Batch size: 16 on a CPU, 256 on a GPU, or the next smaller power of two that fits into memory.

    Args:
        generator: on the device, with `size`.
        device: the generator's device.
        threads: batches at a time on this machine, on a CPU.
    """
    height, width = generator.size  # type: ignore[misc]
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        each, threads, most = _gpu_bytes(generator, device, (height, width)), GPU_THREADS, GPU_BATCH
    else:
        free, each, most = available_memory(), _CPU_BYTES * height * width / (128 * 64), CPU_BATCH
    fitting = int(0.5 * free / each / threads)
    return min(most, 1 << max(0, fitting.bit_length() - 1))


def available_memory() -> int:
    """Bytes that this process may still use, by the machine and its control group; 4 GiB if neither is known."""
    group = Path("/sys/fs/cgroup")
    meminfo = _text(Path("/proc/meminfo"))
    limit, used, kinds = (_text(group / name) for name in ("memory.max", "memory.current", "memory.stat"))
    found = [int(line.split()[1]) << 10 for line in meminfo.splitlines() if line.startswith("MemAvailable:")]
    if limit.isdigit() and used.isdigit():
        # The page cache of inactive files is freed when memory is needed.
        kept = sum(int(line.split()[1]) for line in kinds.splitlines() if line.startswith("inactive_file "))
        found.append(int(limit) - int(used) + kept)
    return max(0, min(found, default=4 << 30))


def image_bytes(sources: Sources, size: tuple[int, int], block: int) -> float:
    """Estimated bytes of a synthetic image in whole blocks: the mean of real ones, encoded in the same way."""
    found = []
    for row in evenly_spaced(len(sources), min(len(sources), _SAMPLES)).tolist():
        try:
            length = len(jpeg_bytes(read_image(sources.split.path(row), size)))
            found.append(-(-length // block) * block)
        except BadInput:
            continue
    return float(np.mean(found)) if found else 0.0


def free_bytes(out: Path) -> int:
    """Free bytes on the disk of `out`, which need not exist."""
    parent = next(path for path in (out.resolve(), *out.resolve().parents) if path.exists())
    return shutil.disk_usage(parent).free


def require_room(out: Path, needed: int) -> None:
    """Raises `BadInput` unless the disk of `out`, which need not exist, has space for `needed` bytes and 2 % more."""
    free = free_bytes(out)
    if needed * 1.02 > free:
        raise BadInput(
            f"{out}: needs about {as_size(needed)}, {as_size(free)} are free; make room, or name another disk"
        )


def as_size(count: float) -> str:
    """Bytes in a readable unit, such as 3.2 GB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.4g} TB"


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _gpu_bytes(generator: nn.Module, device: torch.device, size: tuple[int, int], count: int = 8) -> float:
    """Peak memory per image, measured with one batch of 8."""
    dtype = torch.float32 if getattr(generator, "is_fast", False) else next(generator.parameters()).dtype
    maps = torch.zeros(count, 18, *size, device=device, dtype=dtype)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    with torch.no_grad():
        generator(torch.zeros(count, 3, *size, device=device, dtype=dtype), maps, maps)
    torch.cuda.synchronize(device)
    return max(1.0, (torch.cuda.max_memory_allocated(device) - before) / count)
