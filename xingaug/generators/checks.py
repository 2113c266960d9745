"""Checks of every generator's size and inputs."""

import torch
from torch import Tensor

JOINT_MAPS = 18

LARGEST_SIDE = 2048
"""Longest side of an image, in pixels."""

MOST_BLOCKS = 64
"""Most stages (blocks) of a network."""

MOST_NUMBERS = 2**29
"""Most parameters of a network (2 GB in float32); checked before any is allocated."""

SMALLEST_SIDE = 8
"""Shortest side of an image, in pixels: below it, reflection padding at a quarter of the size fails."""


def check_size(size: tuple[int, int]) -> None:
    """Raises a `ValueError` unless a generator can be built for images of `size` (height, width)."""
    if len(size) != 2 or min(size) < SMALLEST_SIDE or max(size) > LARGEST_SIDE or any(side % 4 for side in size):
        raise ValueError(
            f"size: {size}, needed (height, width), both divisible by 4, at least {SMALLEST_SIDE} and at most "
            f"{LARGEST_SIDE}"
        )


def check_numbers(count: int) -> None:
    """Raises a `ValueError` if a network would hold more than `MOST_NUMBERS`."""
    if count > MOST_NUMBERS:
        raise ValueError(f"the network would hold {count:.2g} numbers, needed at most {MOST_NUMBERS:.2g}")


def check_inputs(
    source: Tensor, source_heatmaps: Tensor, target_heatmaps: Tensor, size: tuple[int, int] | None
) -> None:
    """Raises a `ValueError` that names the argument, its value and what is needed.

    Args:
        source: must be (B, 3, H, W) floating point in [-1, 1], B at least 1.
        source_heatmaps: must be (B, 18, H, W) floating point in [0, 1], on the source's device.
        target_heatmaps: must be (B, 18, H, W) floating point in [0, 1], on the source's device.
        size: the only (H, W) accepted, or None for any divisible by 4 and at least 8.
    """
    named = {"source": source, "source_heatmaps": source_heatmaps, "target_heatmaps": target_heatmaps}
    for name, tensor in named.items():
        channels = 3 if name == "source" else JOINT_MAPS
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{name}: {type(tensor).__name__}, needed a torch.Tensor")
        if tensor.ndim != 4 or tensor.shape[1] != channels or tensor.shape[0] < 1:
            raise ValueError(f"{name}: shape {tuple(tensor.shape)}, needed (B, {channels}, H, W), B at least 1")
        if not tensor.is_floating_point():
            raise ValueError(f"{name}: {tensor.dtype}, needed floating point")
        if tensor.shape[0] != source.shape[0] or tensor.shape[2:] != source.shape[2:]:
            raise ValueError(f"{name}: shape {tuple(tensor.shape)} does not go with source {tuple(source.shape)}")
        if tensor.device != source.device:
            raise ValueError(f"{name}: on {tensor.device}, needed {source.device}, where source is")
    height, width = source.shape[2:]
    if height % 4 or width % 4 or min(height, width) < SMALLEST_SIDE:
        raise ValueError(
            f"source: {height}x{width} pixels, needed a height and width divisible by 4 and at least {SMALLEST_SIDE}"
        )
    if size is not None and (height, width) != tuple(size):
        raise ValueError(
            f"source: {height}x{width} pixels, this generator was built for {size[0]}x{size[1]}; "
            "its enhanced attention is tied to the grid"
        )
    if not torch.compiler.is_compiling():
        _check_ranges(named)


def _check_ranges(named: dict[str, Tensor]) -> None:
    bounds = [torch.stack(tensor.detach().aminmax()).double() for tensor in named.values()]
    # All in one read, because each read from a GPU waits for it.
    for (name, tensor), (low, high) in zip(named.items(), torch.stack(bounds).tolist(), strict=True):
        lowest = -1.0 if name == "source" else 0.0
        slack = 1e-2 if tensor.dtype in (torch.float16, torch.bfloat16) else 1e-4
        # Written so that NaN fails too.
        if not (low >= lowest - slack and high <= 1 + slack):
            raise ValueError(f"{name}: values in [{low:.3g}, {high:.3g}], needed [{lowest:.0f}, 1] and no NaN")
