"""Reads and writes weights of re-ID models, also ImageNet weights in torchvision's format."""

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor, nn

import xingaug
from xingaug.errors import BadInput
from xingaug.files import atomic_write
from xingaug.tensors import read_tensors, state_dict_of

BUNDLED = Path(xingaug.__file__).parent / "weights" / "reid"
"""Folder of the bundled weights, in which each file's name is the model's and what it was trained on."""


def weights_file(name_or_path: str | Path) -> Path:
    """The file of bundled weights, such as `osnet_x0_25-pedestrians`; another path as it is."""
    bundled = BUNDLED / f"{name_or_path}.safetensors"
    return bundled if bundled.parent == BUNDLED and bundled.is_file() else Path(name_or_path)


def load_weights(
    model: nn.Module, path: Path, key: str = "model.load_weights", spare: str | None = "classifier"
) -> None:
    """Loads weights; the identity classifier's may be missing or differ in shape.

    Args:
        model: a torchreid model.
        path: the name of bundled weights, .safetensors, or a .pth of torchreid (a state dict, or one under
            `state_dict`). torchreid's MobileNetV2 takes torchvision's and its predecessors' too, by `mobilenet_state`.
        key: of the file in the configuration, for error messages.
        spare: prefix of the names that may be missing or differ in shape; None if none may.

    Raises:
        BadInput: unreadable, or not weights of this model: some are missing, or it has no place for some that are no
            classifier's.
    """
    own = model.state_dict()
    state = read_state(path, key)
    try:
        if "conv9.conv.weight" in own and any(name.startswith("features.") for name in state):
            state = mobilenet_state(state, own)
    except BadInput as error:
        raise BadInput(f"{key}: {error}") from None
    fitting = {name: value for name, value in state.items() if name in own and own[name].shape == value.shape}
    missing = [name for name in own if name not in fitting and (spare is None or not name.startswith(spare))]
    if missing:
        raise BadInput(
            f"{key}: {path}: not the weights of this model ({len(missing)} of {len(own)} arrays are "
            f"missing or have another shape, such as {missing[0]})"
        )
    unknown = [name for name in state if name not in own and _is_of_a_layer(name)]
    if unknown:
        raise BadInput(
            f"{key}: {path}: not the weights of this model (it has no place for {len(unknown)} of {len(state)} arrays, "
            f"such as {unknown[0]})"
        )
    model.load_state_dict({**own, **fitting})


def _is_of_a_layer(name: str) -> bool:
    """Whether an array is no counter and no classifier's: torchreid's, torchvision's, or of older ImageNet files."""
    layer, _, kind = name.rpartition(".")
    of_layer = kind in ("weight", "bias", "running_mean", "running_var")
    return of_layer and not layer.startswith("classifier") and layer not in ("fc", "last_linear")


def read_state(path: Path, key: str = "model.load_weights") -> dict[str, Tensor]:
    """The arrays of a file of weights; arguments and errors as for `load_weights`."""
    path, needed = weights_file(path), "weights of the model"
    try:
        state = state_dict_of(path, read_tensors(path, needed), needed)
    except BadInput as error:
        raise BadInput(f"{key}: {error}") from None
    return {name.removeprefix("module."): value for name, value in state.items()}


def save_weights(model: nn.Module, path: Path, metadata: dict[str, str]) -> None:
    """Writes the model's arrays as .safetensors; `load_weights` reads them."""
    state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    with atomic_write(path) as temporary:
        # Bytes, because save_file would make the file readable by its owner only.
        temporary.write_bytes(save(state, metadata=metadata))


def mobilenet_state(state: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """Renames the arrays of torchvision's MobileNetV2, and of its predecessors', to torchreid's names.

    Both are the network of Sandler et al. (CVPR 2018), layer after layer a convolution and its batch norm, except for
    one layer: torchreid expands in the first block as well, by a factor of one. That layer is set to the identity. In
    training it normalises by the batch, so its scale and bias are set to the standard deviation and mean of its input,
    computed from the batch norm and the ReLU6 before it (our choice).

    Args:
        state: `features.0.0.weight`, ... of ImageNet; its classifier is dropped.
        own: the state dict of torchreid's model.

    Returns:
        The arrays of torchreid's model without its classifier.

    Raises:
        BadInput: another number of layers.
    """
    expansion = "conv2.0.conv1"
    names = sorted((name for name in state if name.startswith("features.")), key=_numbered)  # files may be unordered
    theirs = list(_layers({name: state[name] for name in names}).values())
    named = [layer for layer in _layers(own) if not layer.startswith(("classifier", expansion))]
    if len(theirs) != len(named):
        raise BadInput(f"{len(theirs)} layers under 'features.', needed the {len(named)} of MobileNetV2")
    found = {
        f"{name}.{leaf}": value for name, layer in zip(named, theirs, strict=True) for leaf, value in layer.items()
    }
    width = own[f"{expansion}.conv.weight"].shape[0]
    mean, variance = _after_relu6(found["conv1.bn.weight"].float(), found["conv1.bn.bias"].float())
    return found | {
        f"{expansion}.conv.weight": torch.eye(width)[:, :, None, None],
        f"{expansion}.bn.weight": (variance + 1e-5).sqrt(),
        f"{expansion}.bn.bias": mean,
        f"{expansion}.bn.running_mean": mean,
        f"{expansion}.bn.running_var": variance,
        f"{expansion}.bn.num_batches_tracked": torch.tensor(0),
    }


def _layers(state: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Arrays grouped by layer, in the given order."""
    layers: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        layer, _, leaf = name.rpartition(".")
        layers.setdefault(layer, {})[leaf] = value
    return layers


def _numbered(name: str) -> list[tuple[int, str]]:
    """Sort key that puts layer 10 after layer 9."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in name.split(".")]


def _after_relu6(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of min(max(x, 0), 6) for normal x of mean `bias` and deviation |`weight`|, each (C,)."""
    quantiles = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    x = torch.special.ndtri(quantiles)[:, None] * weight.abs().double() + bias.double()
    x = F.relu6(x)
    return x.mean(0).float(), x.var(0, correction=0).float()
