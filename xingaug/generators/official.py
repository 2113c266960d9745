"""The released XingGAN checkpoint: its `netG` state dict, key by key, as our `XingGAN`."""

import re
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from xingaug.errors import BadInput
from xingaug.generators.store import content_hash, require_safetensors_name, save_generator
from xingaug.generators.xinggan import XingGAN, XingGANConfig
from xingaug.tensors import read_tensors

_PREFIX = re.compile(r"^(?:(?:module|model)\.)+")
_FIRST = "stream1_down.1.weight"


def load_official_checkpoint(
    path: str | Path, device: torch.device | str = "cpu", size: tuple[int, int] = (128, 64)
) -> XingGAN:
    """Loads the weights that the authors of XingGAN released or that their code has written (`*_net_netG.pth`).

    The number of blocks, the width and whether there is dropout follow from the keys and shapes. Keys may begin with
    `model.` and `module.`, and BatchNorm may lack `num_batches_tracked`, as before PyTorch 0.4.1.

    Args:
        path: the state dict, as `torch.save` wrote it; no code in it is run.
        device: where to put the network.
        size: (height, width) in pixels at which it is used; the file does not hold it.

    Returns:
        The generator in eval mode, gradients off, in full precision.

    Raises:
        BadInput: no such file, not a state dict, or not of this network; the first wrong key is named.
        ValueError: a size out of range.
    """
    path = Path(path)
    XingGANConfig(size=size)  # reports a wrong size before the file is read
    released, names = _bare_keys(path, read_tensors(path, "a released XingGAN checkpoint, such as latest_net_netG.pth"))
    blocks = len({key.split(".")[1] for key in released if key.startswith("att.")})
    dropout = not any(re.match(r"att\.\d+\.conv_block_stream2\.5\.", key) for key in released)
    first = released.get(_FIRST, torch.empty(0))
    width = first.shape[0] if first.ndim == 4 and first.shape[0] in range(2, 129, 2) else 64
    with torch.random.fork_rng(devices=[]):  # keeps the caller's random state
        network = XingGAN(size=size, blocks=blocks or 9, width=width, dropout=0.5 if dropout else 0.0)
    state = _translate(path, network, released, names, official_modules(blocks or 9, dropout))
    network.load_state_dict(state)
    network.content_hash = content_hash(network.settings(), path.read_bytes())
    return network.to(device).eval().requires_grad_(False)


def convert(path: Path, out: Path, size: tuple[int, int] = (128, 64)) -> XingGAN:
    """Writes a released checkpoint as a generator that `load_generator` reads.

    Args:
        path: the released checkpoint.
        out: ends in `.safetensors`; a `.json` is written beside it.
        size: as for `load_official_checkpoint`.

    Returns:
        The network that was written.

    Raises:
        BadInput: as for `load_official_checkpoint`, or another ending of `out`.
    """
    require_safetensors_name(out)
    network = load_official_checkpoint(path, size=size)
    save_generator(network, out, {"converted_from": Path(path).name})
    return network


def official_modules(blocks: int, dropout: bool) -> dict[str, str]:
    """The released name of each of our modules that holds parameters.

    Args:
        blocks: T.
        dropout: whether the released blocks have dropout layers, which shift the indices of the layers after them.
    """
    names = {
        "shape_squeeze.0": "x2_con", "shape_squeeze.1": "x2_norm",
        "map_decoder.0": "atte_con", "map_decoder.1": "atte_norm",
        "map_decoder.3": "atte_con1", "map_decoder.4": "atte_norm1", "map_decoder.6": "atte_con2",
    }  # fmt: skip
    # Reflection pads are layers with an index of their own in the released network.
    second = 6 if dropout else 5
    for branch, stream in (("appearance", 1), ("shape", 2)):
        names |= {f"{branch}_encoder.{i}": f"stream{stream}_down.{i + 1}" for i in (0, 1, 3, 4, 6, 7)}
        names |= {f"{branch}_decoder.{i}": f"stream{stream}_up.{i}" for i in (0, 1, 3, 4)}
        names[f"{branch}_decoder.6"] = f"stream{stream}_up.7"
        for t in range(blocks):
            ours, theirs = f"blocks.{t}.{branch}", f"att.{t}.conv_block_stream{stream}"
            names |= {f"{ours}.{i}": f"{theirs}.{j}" for i, j in ((0, 1), (1, 2), (4, second), (5, second + 1))}
    for t in range(blocks):
        names[f"blocks.{t}"] = f"att.{t}"  # of gamma
        names |= {f"blocks.{t}.{part}": f"att.{t}.{part}_conv" for part in ("query", "key", "value")}
    return names


def _bare_keys(path: Path, state: object) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The state dict under keys without prefixes, and each key as the file has it."""
    if not isinstance(state, dict):
        raise BadInput(f"{path}: holds {_a(type(state).__name__)}, needed the state dict of a released XingGAN netG")
    bare: dict[str, Tensor] = {}
    names: dict[str, str] = {}
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            _refuse(path, f"key '{name}' holds {_a(type(value).__name__)}, needed a tensor under a name")
        key = _PREFIX.sub("", name)
        if key in bare:
            _refuse(path, f"key '{name}' is unexpected, for '{names[key]}' is there too")
        bare[key], names[key] = value, name
    return bare, names


def _translate(
    path: Path, network: XingGAN, released: dict[str, Tensor], names: dict[str, str], modules: dict[str, str]
) -> dict[str, Tensor]:
    """The released tensors under our keys; every key and shape must fit."""
    needed = network.state_dict()
    theirs = {}
    for ours in needed:
        module, _, leaf = ours.rpartition(".")
        theirs[ours] = f"{modules[module]}.{leaf}"
    counters = {key for key in theirs.values() if key.endswith("num_batches_tracked")}
    for key in theirs.values():
        if key not in released and key not in counters:
            prefix = next((name.removesuffix(bare) for bare, name in names.items()), "")
            _refuse(path, f"key '{prefix}{key}' is missing")
    known = set(theirs.values())
    for key in released:
        if key not in known:
            _refuse(path, f"key '{names[key]}' is unexpected")
    state = {}
    for ours, key in theirs.items():
        if key in counters:
            state[ours] = torch.zeros((), dtype=torch.long)  # counts training steps; nothing here reads it
            continue
        tensor, shape = released[key], tuple(needed[ours].shape)
        if tuple(tensor.shape) != shape or not tensor.is_floating_point():
            came = f"{tensor.dtype} of shape {tuple(tensor.shape)}"
            _refuse(path, f"key '{names[key]}' holds {came}, needed floating point of shape {shape}")
        state[ours] = tensor.detach().float().contiguous()
    return state


def _refuse(path: Path, reason: str) -> NoReturn:
    raise BadInput(f"{path}: not the netG of a released XingGAN: {reason}")


def _a(name: str) -> str:
    return f"{'an' if name[:1] in 'aeiouAEIOU' else 'a'} {name}"
