"""Saving and loading generators: safetensors for the weights, JSON beside it for everything else."""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from xingaug.config import from_mapping
from xingaug.errors import BadInput
from xingaug.files import atomic_write
from xingaug.generators.base import PoseGenerator
from xingaug.generators.fast import Dtype, optimize
from xingaug.generators.grow import with_ground
from xingaug.generators.light import XingGANPlusPlus
from xingaug.generators.upgrade import state_of_format_3
from xingaug.generators.xinggan import XingGAN, XingGANConfig
from xingaug.generators.xinggan_pp_config import XingGANPlusPlusConfig
from xingaug.inputs import parse_json, read_bytes, read_json
from xingaug.tensors import misfit

FORMAT = 4
"""From 4 on, settings are in sections, a stage's directions are stacked, and weights and JSON name each other."""

WEIGHTS = Path(__file__).resolve().parent.parent / "weights"
MOST_BYTES = 2_000_000_000
"""Largest file of weights, in bytes."""

GeneratorConfig = XingGANConfig | XingGANPlusPlusConfig
KINDS: dict[str, tuple[type[Any], type[PoseGenerator]]] = {
    "XingGAN": (XingGANConfig, XingGAN),
    "XingGANPlusPlus": (XingGANPlusPlusConfig, XingGANPlusPlus),
}
"""Configuration and network class by the class name in the file."""

_WEIGHTLESS = ("dropout", "enhanced_start")
"""Settings that may differ from the start weights' when training continues: they change no weight."""

_STATISTICS = ("running_mean", "running_var")
_LOG = logging.getLogger(__name__)


def network_of(config: GeneratorConfig) -> PoseGenerator:
    """Builds a network; its weights are drawn from torch's global RNG."""
    for config_type, generator_type in KINDS.values():
        if type(config) is config_type:
            return generator_type(**vars(config))
    raise TypeError(f"config: {type(config).__name__}, needed one of {', '.join(KINDS)}")


def save_generator(generator: PoseGenerator, path: Path, notes: dict[str, Any] | None = None) -> Path:
    """Writes the weights as safetensors and a JSON file of the same name.

    The JSON names the weights it describes by hash, and the weights hold a copy of it, which is used if writing was
    interrupted between the two.

    Args:
        generator: to save; XingGANPlusPlus in half precision, XingGAN in full, like its released weights.
        path: ends in `.safetensors`.
        notes: plain data kept in the JSON, such as the training configuration.

    Returns:
        `path`.

    Raises:
        ValueError: a fast form, or weights that are not finite, also after rounding to half; nothing is written.
    """
    path = Path(path)
    require_safetensors_name(path)
    if generator.is_fast:
        raise ValueError(
            "generator: a fast form, its batch norms are folded; needed what load_generator(dtype=None) gives"
        )
    # Half precision halves the file and changes an image by less than one grey level.
    dtype = torch.float32 if isinstance(generator, XingGAN) else torch.float16
    state = {name: _stored(name, value, dtype) for name, value in generator.state_dict().items()}
    wrong = _not_finite(state)
    if wrong is not None:
        raise ValueError(f"generator: {wrong} is not finite in {dtype}, needed finite weights")
    name = type(generator).__name__
    description = {"format": FORMAT, "class": name, "config": generator.settings(), **(notes or {})}
    data = save(state, metadata={"xingaug": json.dumps(description)})
    beside = {**description, "weights_sha256": hashlib.sha256(data).hexdigest()}
    with atomic_write(path.with_suffix(".json")) as text, atomic_write(path) as weights:
        weights.write_bytes(data)  # save_file would make it readable by its owner alone
        text.write_text(json.dumps(beside, indent=2) + "\n")
    return path


def _stored(name: str, value: Tensor, dtype: torch.dtype) -> Tensor:
    """Keeps batch statistics in full precision, as they may exceed the range of half precision."""
    if not value.is_floating_point():
        return value.contiguous()
    return value.to(torch.float32 if name.endswith(_STATISTICS) else dtype).contiguous()


def _not_finite(state: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor that holds anything but finite real numbers."""
    return next((name for name, value in state.items() if value.is_complex() or not value.isfinite().all()), None)


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
    dtype: torch.dtype | Dtype | None = torch.float32,
) -> PoseGenerator:
    """Loads a generator in its fast form, ready to render (`generators.fast`).

    Args:
        name_or_path: a bundled name such as `pedestrians-small`, or the path of a `.safetensors` file with its
            `.json` beside it.
        device: where to put it.
        dtype: of weights and computation. float32 renders as in training, up to rounding; "auto" is bfloat16 where
            the device has it, which is faster; None returns the trainable network instead of the fast form.

    Returns:
        The generator in eval mode, gradients off: gen(source, source_heatmaps, target_heatmaps) -> [-1, 1]. It has
        `size`, (height, width) in pixels, and `content_hash`, which identifies its weights and configuration.

    Raises:
        BadInput: no such generator, files that do not fit together, or weights that are not finite.
    """
    path = _locate(name_or_path)
    data = read_bytes(path, "generator", MOST_BYTES)
    description, where = _describe(path, data)
    config = _config(description, where)
    generator = network_of(config)
    state = _state(path, data)
    if description["format"] < FORMAT and isinstance(config, XingGANPlusPlusConfig):
        state = state_of_format_3(state, config.crossing.shared_projections, config.variant.is_paper)
    if found := misfit(state, generator):
        raise BadInput(f"{path}: weights do not fit the configuration beside them ({found})")
    generator.load_state_dict(state)
    generator.content_hash = content_hash(description["config"], data)
    generator = generator.to(device).eval().requires_grad_(False)
    if dtype is None:
        return generator.to(memory_format=torch.channels_last)
    return optimize(generator, dtype)


def load_start(name_or_path: str | Path, network: PoseGenerator) -> dict[str, Tensor]:
    """Loads weights that the training of a network starts from.

    Args:
        name_or_path: of a generator, as for `load_generator`. One that does not keep the ground can start one that
            does (`generators.grow`).
        network: to train.

    Raises:
        BadInput: as for `load_generator`, or another network; the first setting that differs is named.
    """
    generator = load_generator(name_or_path, dtype=None)
    if type(generator.config) is not type(network.config):
        raise BadInput(f"generator '{name_or_path}': is {type(generator).__name__}, asked for another network")
    found, wanted = _flat(generator.config), _flat(network.config)
    grows = wanted.get("keep_ground", False) and not found["keep_ground"] and found["limb_warp"]
    for name, value in wanted.items():
        if name not in _WEIGHTLESS and found[name] != value and not (grows and name == "keep_ground"):
            raise BadInput(f"generator '{name_or_path}': has {name} {found[name]}, asked for {value}")
    state = generator.state_dict()
    if not grows:
        return state
    assert isinstance(network.config, XingGANPlusPlusConfig)
    return with_ground(state, network.state_dict(), network.config)


def _flat(config: object) -> dict[str, Any]:
    """Every setting by its name, regardless of its section."""
    flat: dict[str, Any] = {}
    for name, value in vars(config).items():
        flat |= vars(value) if dataclasses.is_dataclass(value) else {name: value}
    return flat


def content_hash(config: dict[str, Any], data: bytes) -> str:
    """A hash that identifies a generator's configuration and weights."""
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    digest.update(data)
    return digest.hexdigest()


def _config(description: dict[str, Any], where: str) -> GeneratorConfig:
    """The configuration in a description."""
    name, config = description.get("class"), description["config"]
    if not isinstance(config, dict):
        raise BadInput(f"{where}: config: {str(config)[:40]!r}, expected a mapping")
    if not isinstance(name, str) or name not in KINDS:
        raise BadInput(f"{where}: class: {str(name)[:40]!r}, expected {' or '.join(KINDS)}")
    found: GeneratorConfig = from_mapping(KINDS[name][0], config, where, "config.")
    return found


def _state(path: Path, data: bytes) -> dict[str, Tensor]:
    """Reads the weights, in full precision."""
    try:
        state = load(data)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise BadInput(f"{path}: not a readable safetensors file ({str(error)[:120]})") from None
    wrong = _not_finite(state)
    if wrong is not None:
        raise BadInput(f"{path}: {wrong} is not finite; needed finite weights")
    return {name: value.float() if value.is_floating_point() else value for name, value in state.items()}


def _locate(name_or_path: str | Path) -> Path:
    if str(name_or_path) in bundled():
        return WEIGHTS / f"{name_or_path}.safetensors"
    path = Path(name_or_path)
    if path.suffix == ".safetensors" and path.is_file():
        return path
    names = ", ".join(bundled()) or "none"
    if path.is_file():
        raise BadInput(f"generator '{name_or_path}': needed a .safetensors file, or a bundled name: {names}")
    raise BadInput(f"generator '{name_or_path}': no such file (*.safetensors) and no bundled name; bundled: {names}")


def _describe(path: Path, data: bytes) -> tuple[dict[str, Any], str]:
    """The description of a file of weights, and the file it was read from."""
    beside = path.with_suffix(".json")
    if not beside.exists():
        raise BadInput(f"{beside}: missing; a generator is a .safetensors file with its .json beside it")
    description = _checked(read_json(beside, "generator description"), beside)
    expected = description.get("weights_sha256")
    if expected is None or expected == hashlib.sha256(data).hexdigest():
        return description, str(beside)
    own = _own_description(path)
    if own is None:
        raise BadInput(f"{beside}: describes other weights than those of {path.name}; needed the pair as it was saved")
    _LOG.warning("%s: describes other weights, as saving was interrupted; using the one inside %s", beside, path)
    return _checked(parse_json(own, str(path)), path), str(path)


def _checked(description: Any, where: Path) -> dict[str, Any]:
    if not isinstance(description, dict) or description.get("format") not in (3, FORMAT) or "config" not in description:
        raise BadInput(f"{where}: not a generator description of format 3 or {FORMAT}, as this version writes it")
    return description


def _own_description(path: Path) -> str | None:
    """The copy of the description inside a file of weights."""
    try:
        with safe_open(path, "pt") as file:
            return (file.metadata() or {}).get("xingaug")
    except (SafetensorError, OSError, ValueError):
        return None
