"""Saving and loading generators: safetensors for the weights, JSON beside it for everything else."""

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from xingaug.config import from_mapping
from xingaug.errors import BadInput
from xingaug.files import atomic_write
from xingaug.generators.base import PoseGenerator
from xingaug.generators.fast import optimize
from xingaug.generators.xinggan import XingGAN, XingGANConfig
from xingaug.generators.xinggan_pp import XingGANPlusPlus, XingGANPlusPlusConfig

FORMAT = 3
WEIGHTS = Path(__file__).resolve().parent.parent / "weights"


_WEIGHTLESS = ("dropout", "enhanced_start")
"""Settings that change no weight of a network that is trained on."""


def network_of(config: XingGANConfig | XingGANPlusPlusConfig) -> PoseGenerator:
    """A network of that configuration, its weights drawn from torch's global generator."""
    return (XingGAN if isinstance(config, XingGANConfig) else XingGANPlusPlus)(**vars(config))


def save_generator(generator: PoseGenerator, path: Path, notes: dict[str, Any] | None = None) -> Path:
    """Writes the weights as safetensors and a JSON file of the same name.

    Args:
        generator: to be saved; XingGANPlusPlus in half precision, XingGAN in full, as its released weights are.
        path: ends in `.safetensors`.
        notes: plain data kept in the JSON, such as the training configuration.

    Returns:
        `path`.
    """
    path = Path(path)
    require_safetensors_name(path)
    if generator.is_fast:
        raise ValueError(
            "generator: a fast form, its batch norms are folded; needed what load_generator(dtype=None) gives"
        )
    # Half precision halves the file and changes an image by less than one grey level.
    dtype = torch.float16 if isinstance(generator, XingGANPlusPlus) else torch.float32
    state = {k: (v.to(dtype) if v.is_floating_point() else v).contiguous() for k, v in generator.state_dict().items()}
    name = type(generator).__name__
    description = {"format": FORMAT, "class": name, "config": generator.settings(), **(notes or {})}
    with atomic_write(path) as weights, atomic_write(path.with_suffix(".json")) as beside:
        weights.write_bytes(save(state))  # save_file would make it readable by its owner alone
        beside.write_text(json.dumps(description, indent=2) + "\n")
    return path


def require_safetensors_name(path: Path) -> None:
    """Raises `BadInput` unless a generator can be saved under this name."""
    if Path(path).suffix != ".safetensors":
        raise BadInput(f"{path}: a generator is saved as .safetensors")


def bundled() -> list[str]:
    """Names of the generators that come with the package."""
    return sorted(p.stem for p in WEIGHTS.glob("*.safetensors"))


def load_generator(
    name_or_path: str | Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | Literal["auto"] | None = torch.float32,
) -> PoseGenerator:
    """Loads a generator in its fast form, ready to render (`generators.fast`).

    Args:
        name_or_path: a bundled name such as `pedestrians-small`, or the path of a `.safetensors` file with its
            `.json` beside it.
        device: where to put it.
        dtype: of weights and computation. float32 gives the images of the weights to rounding; "auto" is bfloat16
            where the device has it, which is faster; None leaves the network as it was trained, to be trained on.

    Returns:
        The generator in eval mode, gradients off: gen(source, source_heatmaps, target_heatmaps) -> [-1, 1]. It has
        `size`, (height, width) in pixels, and `content_hash`, which tells its weights and configuration apart.

    Raises:
        BadInput: no such generator, or files that do not fit together.
    """
    path = _locate(name_or_path)
    description = _describe(path.with_suffix(".json"))
    generator = _build(description, str(path.with_suffix(".json")))
    try:
        state = load_file(path)
        generator.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    except (SafetensorError, OSError) as error:
        raise BadInput(f"{path}: not a readable safetensors file ({error})") from None
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise BadInput(f"{path}: weights do not fit the configuration beside them ({first})") from None
    generator.content_hash = content_hash(description["config"], path)
    generator = generator.to(device).eval().requires_grad_(False)
    if dtype is None:
        return generator.to(memory_format=torch.channels_last)
    return optimize(generator, dtype)


def load_trainable(name_or_path: str | Path, config: XingGANConfig | XingGANPlusPlusConfig) -> PoseGenerator:
    """Loads a generator that is to be trained on, and checks that it is the network of `config`.

    Raises:
        BadInput: as for `load_generator`, or another network; the first key that differs is named.
    """
    generator = load_generator(name_or_path, dtype=None)
    if type(generator.config) is not type(config):
        raise BadInput(f"generator '{name_or_path}': is {type(generator).__name__}, asked for another network")
    for name, asked in vars(config).items():
        if name not in _WEIGHTLESS and vars(generator.config)[name] != asked:
            raise BadInput(f"generator '{name_or_path}': has {name} {vars(generator.config)[name]}, asked for {asked}")
    return generator


def content_hash(config: dict[str, Any], path: Path) -> str:
    """What tells a generator's configuration and the file of its weights apart from any other."""
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    digest.update(path.read_bytes())
    return digest.hexdigest()


def _build(description: dict[str, Any], where: str) -> PoseGenerator:
    """The network of a description, its weights random."""
    name, config = description.get("class"), description["config"]
    if not isinstance(config, dict):
        raise BadInput(f"{where}: config: {config!r}, expected a mapping")
    if name == "XingGAN":
        return network_of(from_mapping(XingGANConfig, config, where, "config."))
    if name == "XingGANPlusPlus":
        return network_of(from_mapping(XingGANPlusPlusConfig, config, where, "config."))
    raise BadInput(f"{where}: class: {name!r}, expected XingGAN or XingGANPlusPlus")


def _locate(name_or_path: str | Path) -> Path:
    if str(name_or_path) in bundled():
        return WEIGHTS / f"{name_or_path}.safetensors"
    path = Path(name_or_path)
    if path.suffix == ".safetensors" and path.is_file():
        return path
    names = ", ".join(bundled()) or "none"
    raise BadInput(f"generator '{name_or_path}': no such file (*.safetensors) and no bundled name; bundled: {names}")


def _describe(path: Path) -> dict[str, Any]:
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(f"{path}: missing; a generator is a .safetensors file with its .json beside it") from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise BadInput(f"{path}: not valid JSON") from None
    if not isinstance(description, dict) or description.get("format") != FORMAT or "config" not in description:
        raise BadInput(f"{path}: not a generator description of format {FORMAT}, as this version writes it")
    return description
