"""Converts weights that earlier versions stored."""

import re

import torch
from torch import Tensor

_DIRECTIONS = ("shape_to_appearance", "appearance_to_shape")
_CROSSED = re.compile(r"(stages\.\d+)\.(" + "|".join(_DIRECTIONS) + r")\.(.+)")


def state_of_format_3(state: dict[str, Tensor], shared: bool, is_paper: bool) -> dict[str, Tensor]:
    """Renames XingGANPlusPlus's weights of format 3 to the present names.

    Args:
        state: from the file, with a module for each direction of the crossed attention.
        shared: whether both directions share weights, which the file then holds twice.
        is_paper: whether stems and decoders are the released ones.
    """
    found: dict[str, Tensor] = {}
    crossed: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        match = _CROSSED.fullmatch(name)
        if match is None:
            found[_stem_name(name, is_paper)] = value
        else:
            crossed.setdefault(f"{match[1]}.crossing.{match[3]}", {})[match[2]] = value
    for name, values in crossed.items():
        kept = [values[direction] for direction in _DIRECTIONS if direction in values][: 1 if shared else 2]
        found[name] = _side_by_side(name, torch.stack(kept))
    for name in [name for name in found if name.endswith(".enhance.query.weight")]:
        pair = [found.pop(name), found.pop(name.replace(".query.", ".key."))]
        found[name.replace(".query.", ".ask.")] = torch.cat(pair, 1)
    return found


def _side_by_side(name: str, stacked: Tensor) -> Tensor:
    """Keeps directions on axis 0 and inserts the axes that the present layer has before its channels."""
    if name.endswith((".gamma", ".scale")):
        return stacked.view(-1, 1, 1, 1)
    if ".norm_" in name:
        return stacked[:, None, None]
    return stacked[:, None] if name.endswith(".bias") else stacked


def _stem_name(name: str, is_paper: bool) -> str:
    name = re.sub(r"^heatmap_stem\.", "pose_stem.", name)
    if not is_paper:
        return name
    name = re.sub(r"^image_stem\.fine\.|^pose_stem\.mix\.", lambda m: m[0].split(".")[0] + ".", name)
    return re.sub(r"^image_stem\.coarse\.(\d+)", lambda m: f"image_stem.{int(m[1]) + 6}", name)
