"""Features of VGG-16 and VGG-19 (Simonyan and Zisserman 2015), from torchvision's weights or a file of them."""

from pathlib import Path
from urllib.error import URLError

import torch
from torch import Tensor, nn

from xingaug.errors import BadInput, first_line
from xingaug.tensors import read_tensors, state_dict_of

MODULES = {"vgg16": 31, "vgg19": 37}
"""Number of modules in `features` of torchvision's networks."""


class VGGFeatures(nn.Module):
    """Images in [0, 1] to the features after some of the modules of torchvision's `features`."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: str, weights: str, layers: tuple[int, ...], setting: str) -> None:
        """Loads the part of the network that the layers need.

        Args:
            network: of `MODULES`.
            weights: "torchvision", or the path of a state dict (.pth or .safetensors), with or without its classifier.
            layers: indices of modules, from 0.
            setting: name of the weights in messages.

        Raises:
            BadInput: no weights, or a file that does not hold them.
        """
        super().__init__()
        import torchvision.models

        with torch.random.fork_rng(devices=[]):  # building draws random weights, which are then overwritten
            features = getattr(torchvision.models, network)(weights=None).features[: max(layers) + 1]
        features.load_state_dict(_weights(network, weights, features.state_dict(), setting))
        self.layers = layers
        self.features = features.eval().requires_grad_(False)
        for layer in self.features:
            if isinstance(layer, nn.ReLU):
                layer.inplace = False  # or it would overwrite the features of the layer before
        # ImageNet's mean and deviation, which the weights were trained with.
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406])[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225])[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) in [0, 1] to (B, C, h, w) of each layer, in ascending order of the layers."""
        x = (images - self.mean) / self.std
        found = []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.layers:
                found.append(x)
        return found


def unit_channels(features: Tensor) -> Tensor:
    """Scales (B, C, h, w) to unit length at every position, as LPIPS does (Zhang et al. 2018)."""
    return features / (features.square().sum(1, keepdim=True) + 1e-10).sqrt()


def _weights(network: str, source: str, wanted: dict[str, Tensor], setting: str) -> dict[str, Tensor]:
    """State dict of `features`, from torchvision or from a file, in single precision."""
    state = _torchvisions(network, setting) if source == "torchvision" else _read_state(Path(source), network, setting)
    state = {name.removeprefix("features."): value for name, value in state.items() if "classifier" not in name}
    for name, value in wanted.items():
        if name not in state or state[name].shape != value.shape:
            found = "missing" if name not in state else f"of shape {tuple(state[name].shape)}"
            raise BadInput(f"{setting}: {source}: '{name}' is {found}, needed torchvision's {network}")
        if not bool(state[name].isfinite().all()):
            raise BadInput(f"{setting}: {source}: '{name}' is not finite, needed torchvision's {network}")
    return {name: state[name].float() for name in wanted}


def _torchvisions(network: str, setting: str) -> dict[str, Tensor]:
    import torchvision.models

    weights = getattr(torchvision.models, f"{network.upper()}_Weights").IMAGENET1K_V1
    try:
        state: dict[str, Tensor] = weights.get_state_dict(progress=False, check_hash=True)
    except (URLError, OSError, RuntimeError) as error:
        name = network.replace("vgg", "VGG-")
        raise BadInput(
            f"{setting}: torchvision cannot fetch {name}'s ({first_line(error)}); give the path of a state dict, "
            "or write perceptual: none"
        ) from None
    return state


def _read_state(path: Path, network: str, setting: str) -> dict[str, Tensor]:
    needed = f"a state dict of torchvision's {network}"
    try:
        return state_dict_of(path, read_tensors(path, needed), needed)
    except BadInput as error:
        raise BadInput(f"{setting}: {error}") from None
