"""Starts a generator that keeps the ground from the weights of one that does not."""

import torch
from torch import Tensor

from xingaug.generators.xinggan_pp_config import XingGANPlusPlusConfig

_SOURCE = 12
"""Input channels of the flow's output layers that hold the source: 4 at half resolution for each colour."""

_MASK = 4
"""Input channels that hold the warped mask."""


def with_ground(state: dict[str, Tensor], own: dict[str, Tensor], config: XingGANPlusPlusConfig) -> dict[str, Tensor]:
    """Weights that render as before where the ground is the source itself: new inputs have weight 0.

    Args:
        state: weights of a network with a limb warp that does not keep the ground.
        own: fresh weights of the same network that does, used for tensors that `state` lacks.
        config: of the second network.

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
        if name == "flow.out.0.weight":  # ..., warped mask, source, its mask, ground
            kept = [*range(inputs - _SOURCE), *range(inputs - _SOURCE + _MASK, inputs + _MASK)]
        elif ".decode_" in name:  # ..., warped mask, ground, texture
            kept = [*range(inputs - texture), *range(value.shape[1] - texture, value.shape[1])]
        else:  # ..., masks
            kept = list(range(inputs))
        grown[name] = torch.zeros_like(value).index_copy(1, torch.tensor(kept), before.to(value.dtype))
    return grown
