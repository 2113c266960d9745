"""Builds the configured torchreid model, optionally with a BNNeck and a finer last feature map."""

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reid_integration.compat import load_torchreid, quiet, without_downloads
from reid_integration.config import ReidConfig
from reid_integration.weights import load_weights, read_state
from xingaug.errors import BadInput

FINER = {"resnet": "layer4", "mobilenetv2": "conv7"}
"""Families of models whose last stride can be set to 1, and the stage with this stride."""


class Neck(nn.Module):
    """Replaces the classifier by one with a batch norm without bias before it (BNNeck; Luo et al., CVPRW 2019)."""

    def __init__(self, classifier: nn.Linear) -> None:
        """Args: `classifier`: the linear layer to replace, whose numbers of features and classes are kept."""
        super().__init__()
        self.norm = nn.BatchNorm1d(classifier.in_features)
        self.norm.bias.requires_grad_(False)
        self.linear = nn.Linear(classifier.in_features, classifier.out_features, bias=False)
        nn.init.normal_(self.linear.weight, std=0.001)

    def forward(self, features: Tensor) -> Tensor:
        """(B, classes) logits of (B, D) features."""
        logits: Tensor = self.linear(self.norm(features))
        return logits


def logits_of(model: nn.Module, features: Tensor) -> Tensor:
    """(B, classes) logits from the (B, D) features that a model returns in eval mode."""
    head: Any = model.classifier
    logits: Tensor = head.linear(features) if isinstance(head, Neck) else head(features)  # the norm is in the features
    return logits


def build_model(config: ReidConfig, classes: int, device: torch.device) -> nn.Module:
    """Builds the model of `config.model` with its weights.

    Raises:
        BadInput: no such model or weights, or a model that does not support the images' size or a setting.
    """
    chosen = config.model
    model = bare_model(config, classes, chosen.pretrained and not chosen.load_weights, device)
    if chosen.load_weights:
        _require_neck(config, Path(chosen.load_weights))
        # All weights used in the test must be in the file; the classifier is not one of them.
        load_weights(
            model, Path(chosen.load_weights), spare="classifier.linear" if _tested_neck(config) else "classifier"
        )
    elif config.test.evaluate:
        raise BadInput("test.evaluate: nothing to evaluate without model.load_weights=FILE")
    _require_size(model, config)
    return model


def bare_model(config: ReidConfig, classes: int, pretrained: bool, device: torch.device) -> nn.Module:
    """The model as torchreid builds it, with `model.neck` and `model.last_stride`.

    Args:
        config: the run.
        classes: training identities.
        pretrained: with torchreid's ImageNet weights, which must be in torch's cache.
        device: where it will run, which some models need to know.
    """
    name = config.model.name
    try:
        with quiet(), without_downloads(), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model: nn.Module = load_torchreid().models.build_model(
                name, classes, loss=config.loss.name, pretrained=pretrained, use_gpu=device.type == "cuda"
            )
    except KeyError as error:
        raise BadInput(f"model.name: {error.args[0]}") from None
    if pretrained and any("manually downloaded" in str(warning.message) for warning in caught):
        raise BadInput(
            f"model.pretrained: torchreid has no ImageNet weights of {name} to load; "
            "give model.load_weights=FILE, or set model.pretrained=false"
        )
    if config.model.last_stride == 1:
        _refine(model, name)
    if config.model.neck:
        classifier = getattr(model, "classifier", None)
        if not isinstance(classifier, nn.Linear):
            raise BadInput(f"model.neck: {name} has no single linear classifier; needed another model")
        model.classifier = Neck(classifier)
        model.register_forward_hook(_behind_neck)
    return model


def _tested_neck(config: ReidConfig) -> bool:
    return config.test.evaluate and config.model.neck


def _require_neck(config: ReidConfig, weights: Path) -> None:
    """Raises `BadInput` if a test would leave out the neck behind which the weights were trained to be tested."""
    if config.test.evaluate and not config.model.neck and "classifier.norm.weight" in read_state(weights):
        raise BadInput(f"model.neck: false, but {weights} was trained with one; needed true")


def _behind_neck(model: nn.Module, _: Any, output: Any) -> Any:
    """Forward hook: passes the retrieval features, which a model returns in eval mode, through the norm."""
    neck: Any = model.classifier
    return output if model.training else neck.norm(output)


def _refine(model: nn.Module, name: str) -> None:
    """Sets the stride of the last stage's convolutions to 1; torchreid's resnet50_fc512 has that already."""
    stage = next((last for family, last in FINER.items() if name.startswith(family)), None)
    if stage is None:
        raise BadInput(f"model.last_stride: 1 works on {' and '.join(FINER)} models, not on {name}; leave it out")
    for layer in model.get_submodule(stage).modules():
        if isinstance(layer, nn.Conv2d):
            layer.stride = (1, 1)


def _require_size(model: nn.Module, config: ReidConfig) -> None:
    """Raises `BadInput` unless the model accepts images of `data.height` and `data.width`; some need one size."""
    height, width = config.image_size
    was_training = model.training
    try:
        with torch.no_grad(), quiet():
            model.eval()(torch.zeros(1, 3, height, width))
    except (RuntimeError, AssertionError, ValueError):
        raise BadInput(
            f"data.height, data.width: {config.model.name} takes no images of {height}x{width}; "
            "needed the size that it is made for"
        ) from None
    finally:
        model.train(was_training)
