"""The model that a configuration names, and torchreid's stock engine round it."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import nn

from reid_integration.compat import load_torchreid, quiet, without_downloads
from reid_integration.config import ReidConfig
from xingaug.errors import BadInput
from xingaug.files import atomic_write


def device_of(config: ReidConfig) -> torch.device:
    """Where the model and the rendering run."""
    return torch.device("cuda" if config.use_gpu is not False and torch.cuda.is_available() else "cpu")


def build_engine(config: ReidConfig, manager: Any) -> Any:
    """The stock engine with its model, optimiser and schedule."""
    torchreid, train, loss = load_torchreid(), config.train, config.loss
    model = build_model(config, manager.num_train_pids).to(device_of(config))
    model.to(memory_format=torch.channels_last)  # OSNet is a third faster so
    with quiet():
        optimizer = torchreid.optim.build_optimizer(
            model,
            optim=train.optim,
            lr=train.lr,
            weight_decay=train.weight_decay,
            momentum=config.sgd.momentum,
            sgd_dampening=config.sgd.dampening,
            sgd_nesterov=config.sgd.nesterov,
            rmsprop_alpha=config.rmsprop.alpha,
            adam_beta1=config.adam.beta1,
            adam_beta2=config.adam.beta2,
            staged_lr=train.staged_lr,
            new_layers=train.new_layers,
            base_lr_mult=train.base_lr_mult,
        )
        scheduler = torchreid.optim.build_lr_scheduler(
            optimizer, train.lr_scheduler, train.stepsize, train.gamma, train.max_epoch
        )
        common = {
            "scheduler": scheduler,
            "use_gpu": device_of(config).type == "cuda",
            "label_smooth": loss.softmax.label_smooth,
        }
        if loss.name == "softmax":
            return torchreid.engine.ImageSoftmaxEngine(manager, model, optimizer, **common)
        triplet = {"margin": loss.triplet.margin, "weight_t": loss.triplet.weight_t, "weight_x": loss.triplet.weight_x}
        return torchreid.engine.ImageTripletEngine(manager, model, optimizer, **triplet, **common)


def build_model(config: ReidConfig, classes: int) -> nn.Module:
    """The model that `config.model` names, with the weights that it asks for."""
    chosen = config.model
    try:
        with quiet(), without_downloads():
            model: nn.Module = load_torchreid().models.build_model(
                chosen.name,
                classes,
                loss=config.loss.name,
                pretrained=chosen.pretrained and not chosen.load_weights,
                use_gpu=device_of(config).type == "cuda",
            )
    except KeyError as error:
        raise BadInput(f"model.name: {error.args[0]}") from None
    if chosen.load_weights:
        load_weights(model, Path(chosen.load_weights))
    elif config.test.evaluate:
        raise BadInput("test.evaluate: nothing to evaluate without model.load_weights=FILE")
    return model


def load_weights(model: nn.Module, path: Path) -> None:
    """Loads weights for everything but the identity classifier, which need not fit other identities.

    Args:
        model: a torchreid model.
        path: .safetensors, or a .pth of torchreid (a state dict, or one under `state_dict`).

    Raises:
        BadInput: unreadable, or not the weights of such a model.
    """
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
            state = state.get("state_dict", state)
    except FileNotFoundError:
        raise BadInput(f"model.load_weights: {path}: no such file") from None
    except Exception as error:  # what a damaged file raises differs from library to library
        raise BadInput(f"model.load_weights: {path}: not a file of weights ({str(error).splitlines()[0]})") from None
    state = {key.removeprefix("module."): value for key, value in state.items()}
    own = model.state_dict()
    fitting = {key: value for key, value in state.items() if key in own and own[key].shape == value.shape}
    missing = [key for key in own if key not in fitting and not key.startswith("classifier")]
    if missing:
        raise BadInput(
            f"model.load_weights: {path}: not the weights of this model ({len(missing)} of {len(own)} arrays are "
            f"missing or have another shape, such as {missing[0]})"
        )
    model.load_state_dict({**own, **fitting})


def save_weights(config: ReidConfig, model: nn.Module, path: Path) -> None:
    """Writes the model's arrays as .safetensors; `load_weights` reads them."""
    state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    with atomic_write(path) as temporary:
        # Bytes, because save_file would make the file readable by its owner alone.
        temporary.write_bytes(save(state, metadata={"model": config.model.name, "loss": config.loss.name}))
