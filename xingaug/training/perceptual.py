"""The perceptual loss on VGG-19 features (Johnson et al. 2016; METHOD: XingGAN, losses)."""

from pathlib import Path
from urllib.error import URLError

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from xingaug.errors import BadInput
from xingaug.training.config import PerceptualConfig


class PerceptualLoss(nn.Module):
    """Mean absolute difference of VGG-19 features, averaged over layers."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: PerceptualConfig) -> None:
        """Loads the part of VGG-19 that the layers need.

        Raises:
            BadInput: no weights, or a file that does not hold them.
        """
        super().__init__()
        from torchvision.models import vgg19

        self.layers = config.layers
        features = vgg19(weights=None).features
        features.load_state_dict(_vgg_weights(config.weights, features.state_dict()))
        self.features = features[: max(config.layers) + 1].eval().requires_grad_(False)
        for layer in self.features:
            if isinstance(layer, nn.ReLU):
                layer.inplace = False  # or it would change the features of the layer before
        # ImageNet's, which the weights were trained with.
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406])[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225])[:, None, None], persistent=False)

    def forward(self, generated: Tensor, target: Tensor) -> Tensor:
        """Two (B, 3, H, W) in [-1, 1] to one number."""
        with torch.no_grad():
            wanted = self._features(target)
        pairs = zip(self._features(generated), wanted, strict=True)
        return torch.stack([(a - b).abs().mean() for a, b in pairs]).mean()

    def _features(self, images: Tensor) -> list[Tensor]:
        x = ((images + 1) / 2 - self.mean) / self.std
        found = []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.layers:
                found.append(x)
        return found


def _vgg_weights(source: str, wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """State dict of `vgg19.features`, from torchvision or from a file."""
    if source == "torchvision":
        from torchvision.models import VGG19_Weights

        try:
            state = VGG19_Weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True)
        except (URLError, OSError, RuntimeError) as error:
            raise BadInput(
                f"perceptual.weights: torchvision cannot fetch VGG-19's ({error}); give the path of a state dict, "
                "or write perceptual: none"
            ) from None
    else:
        state = _read_state(Path(source))
    state = {name.removeprefix("features."): value for name, value in state.items() if "classifier" not in name}
    for name, value in wanted.items():
        if name not in state or state[name].shape != value.shape:
            found = "missing" if name not in state else f"of shape {tuple(state[name].shape)}"
            raise BadInput(f"perceptual.weights: {source}: '{name}' is {found}, needed torchvision's vgg19")
    return {name: state[name] for name in wanted}


def _read_state(path: Path) -> dict[str, Tensor]:
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except FileNotFoundError:
        raise BadInput(
            f"perceptual.weights: {path}: no such file; needed a state dict of torchvision's vgg19"
        ) from None
    except Exception as error:  # a damaged file can make the readers fail anywhere
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise BadInput(f"perceptual.weights: {path}: not a state dict ({first})") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise BadInput(f"perceptual.weights: {path}: holds no state dict")
    return state
