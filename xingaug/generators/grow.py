"""Weights of a generator that does not keep the ground, as the beginning of one that does."""

import torch
from torch import Tensor

from xingaug.generators.xinggan_pp_config import XingGANPlusPlusConfig

_SOURCE = 12
"""Inputs of the flow's last layers that are the source's, 4 channels of half resolution for each of its colours."""

_MASK = 4
"""Inputs that are the carried mask's."""


def with_ground(state: dict[str, Tensor], own: dict[str, Tensor], config: XingGANPlusPlusConfig) -> dict[str, Tensor]:
    """Weights that render as before where the ground is the source itself: new inputs count for nothing yet.

    Args:
        state: weights of a network with a limb warp that does not keep the ground.
        own: fresh weights of the same network that does; what the first one lacks is taken from here.
        config: of either.

    Returns:
        Weights of the second network.
    """
    texture = config.width // 4 if config.variant.texture_attention else 0
    grown = {name: state.get(name, value) for name, value in own.items()}
    for name, value in own.items():
        before = grown[name]
        inputs = before.shape[1] if before.dim() > 1 else 0
        if before.shape == value.shape:
            continue
        if name == "flow.out.0.weight":  # ..., carried mask, source, its mask, ground
            kept = [*range(inputs - _SOURCE), *range(inputs - _SOURCE + _MASK, inputs + _MASK)]
        elif ".decode_" in name:  # ..., carried mask, ground, texture
            kept = [*range(inputs - texture), *range(value.shape[1] - texture, value.shape[1])]
        else:  # ..., masks
            kept = list(range(inputs))
        grown[name] = torch.zeros_like(value).index_copy(1, torch.tensor(kept), before.to(value.dtype))
    return grown
