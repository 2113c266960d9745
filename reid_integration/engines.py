"""Builds torchreid's engine for a configuration, with our own training step where the configuration needs it."""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reid_integration.compat import load_torchreid, quiet
from reid_integration.config import AugmentConfig, ReidConfig, ReidTrainConfig, listed
from reid_integration.loader import synthetic_rows
from reid_integration.models import Neck, bare_model, build_model, logits_of
from reid_integration.policies import hardest_triplets, label_targets, supervised, weighted_cross_entropy
from reid_integration.weights import load_weights
from xingaug.errors import BadInput

_CHANNELS_LAST = ("osnet", "resnet", "mobilenet")
"""Models that support channels last; other torchreid models need contiguous tensors for `view`."""


def device_of(config: ReidConfig) -> torch.device:
    """The device of model and rendering; `BadInput` if a GPU is asked for and there is none."""
    if config.use_gpu and not torch.cuda.is_available():
        raise BadInput("use_gpu: true, but torch finds no CUDA device; needed null (a GPU if there is one) or false")
    return torch.device("cuda" if config.use_gpu is not False and torch.cuda.is_available() else "cpu")


def build_engine(config: ReidConfig, manager: Any) -> Any:
    """The stock engine with its model, optimiser and schedule."""
    torchreid, train, loss = load_torchreid(), config.train, config.loss
    model = build_model(config, manager.num_train_pids, device_of(config)).to(device_of(config))
    _require_layers(model, train)
    if loss.name == "triplet" and manager.num_train_pids < 2:
        raise BadInput(f"data.sources: {manager.num_train_pids} identity; the triplet loss needs at least two")
    if config.model.name.startswith(_CHANNELS_LAST):
        model.to(memory_format=torch.channels_last)  # makes OSNet a third faster
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
            engine = torchreid.engine.ImageSoftmaxEngine(manager, model, optimizer, **common)
        else:
            weights = {"weight_t": loss.triplet.weight_t, "weight_x": loss.triplet.weight_x}
            margin = loss.triplet.margin
            engine = torchreid.engine.ImageTripletEngine(manager, model, optimizer, margin, **weights, **common)
    if config.has_policy or train.precision != "float32" or loss.name == "triplet":
        teacher = _teacher(config, manager.num_train_pids)
        # Only the step of the stock engine is replaced.
        engine.forward_backward = PolicyStep(config, engine, teacher)
    engine.average = copy.deepcopy(model).requires_grad_(False) if train.ema else None
    return engine


def _require_layers(model: nn.Module, train: ReidTrainConfig) -> None:
    """Raises `BadInput` unless the model has the layers that `train` names, where it uses them."""
    there = [name for name, _ in model.named_children()]
    for key, names, is_used in (
        ("open_layers", train.open_layers, train.fixbase_epoch > 0), ("new_layers", train.new_layers, train.staged_lr)
    ):  # fmt: skip
        unknown = [name for name in listed(names) if name not in there]
        if is_used and unknown:
            raise BadInput(f"train.{key}: '{unknown[0]}', expected some of the model's: {', '.join(there)}")


def tested_model(engine: Any) -> nn.Module:
    """The model that is tested and saved: the moving average of the engine's model, if `train.ema` is set."""
    model: nn.Module = engine.model if engine.average is None else engine.average
    return model


class PolicyStep:
    """An optimiser step with separate labels, weights and triplets for synthetic rows, in any precision."""

    def __init__(self, config: ReidConfig, engine: Any, teacher: nn.Module | None) -> None:
        """Replaces the engine's `forward_backward`.

        Args:
            config: the run.
            engine: torchreid's softmax or triplet engine.
            teacher: gives (B, classes) logits of the same images.
        """
        self.config, self.engine, self.teacher = config, engine, teacher
        self.policy = config.augmentation or AugmentConfig()
        self.classes = engine.datamanager.num_train_pids
        self.device = device_of(config)
        if config.train.precision == "float16" and self.device.type != "cuda":
            raise BadInput("train.precision: float16 needs a GPU; use bfloat16 or float32")
        self._stock = engine.forward_backward
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.train.precision == "float16")

    def __call__(self, data: dict[str, Any]) -> dict[str, float]:
        """One step; returns what torchreid's engine returns."""
        images, pids = data["img"].to(self.device), data["pid"].to(self.device)
        synthetic = synthetic_rows(data).to(self.device)
        if self._is_stock(data["pid"], synthetic):
            terms: dict[str, float] = self._stock(data)
            return terms
        dtype = getattr(torch, self.config.train.precision)
        with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
            outputs = self.engine.model(images)
        loss, terms = self._losses(outputs, images, pids, synthetic)
        self.engine.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.engine.optimizer)
        self.scaler.update()
        return terms

    def _is_stock(self, pids: Tensor, synthetic: Tensor) -> bool:
        """Whether torchreid's own step would do the same; its triplet loss fails on a batch of one identity."""
        lacks_negatives = self.config.loss.name == "triplet" and bool((pids == pids[0]).all())
        return self.config.train.precision == "float32" and not bool(synthetic.any()) and not lacks_negatives

    def _losses(self, outputs: Any, images: Tensor, pids: Tensor, synthetic: Tensor) -> tuple[Tensor, dict[str, float]]:
        if self.config.loss.name == "softmax":
            loss = self._classification(outputs, images, pids, synthetic)
            return loss, {"loss": loss.item(), "acc": self._accuracy(outputs, pids)}
        (outputs, features), chosen = outputs, self.config.loss.triplet
        total, terms = pids.new_zeros((), dtype=torch.float32), {}
        if chosen.weight_t > 0:
            loss = supervised(
                lambda part: hardest_triplets(part, pids, synthetic, self.policy.triplet, chosen.margin), features
            )
            total, terms["loss_t"] = total + chosen.weight_t * loss, loss.item()
        if chosen.weight_x > 0:
            loss = self._classification(outputs, images, pids, synthetic)
            total, terms["loss_x"] = total + chosen.weight_x * loss, loss.item()
            terms["acc"] = self._accuracy(outputs, pids)
        return total, terms

    def _classification(self, outputs: Any, images: Tensor, pids: Tensor, synthetic: Tensor) -> Tensor:
        policy = self.policy
        eps = 0.1 if self.config.loss.softmax.label_smooth else 0.0  # torchreid's
        teacher_logits = None
        if self.teacher is not None:
            teacher_logits = images.new_zeros(len(pids), self.classes)  # those of real rows are not used
            if bool(synthetic.any()):
                with torch.no_grad():
                    teacher_logits[synthetic] = self.teacher(images[synthetic])
        targets = label_targets(pids, synthetic, self.classes, policy.labels, eps, policy.smoothing, teacher_logits)
        weights = torch.where(synthetic, self._weight(), 1.0)
        return supervised(lambda logits: weighted_cross_entropy(logits, targets, weights), outputs)

    def _weight(self) -> float:
        """Loss weight of a synthetic row in the engine's current epoch."""
        policy = self.policy
        if not policy.warmup_epochs:
            return policy.weight
        return policy.weight * min(max(self.engine.epoch - policy.start_epoch, 0) / policy.warmup_epochs, 1)

    @staticmethod
    def _accuracy(outputs: Any, pids: Tensor) -> float:
        """Percentage of rows that are classified correctly, as torchreid reports it."""
        first = outputs if isinstance(outputs, Tensor) else outputs[0]
        return 100 * float((first.argmax(1) == pids).float().mean())


class Teacher(nn.Module):
    """A trained torchreid model that returns logits in eval mode, where torchreid's returns features."""

    def __init__(self, model: nn.Module) -> None:
        """Puts the model in eval mode and freezes it."""
        super().__init__()
        self.model = model.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """(B, classes) logits of (B, 3, H, W)."""
        return logits_of(self.model, self.model(images))


def _teacher(config: ReidConfig, classes: int) -> Teacher | None:
    """Loads the network that gives soft labels, if configured.

    Raises:
        BadInput: not weights of the same model with the same number of identities.
    """
    chosen = config.augmentation
    if chosen is None or chosen.teacher is None:
        return None
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        model = bare_model(config, classes, False, device_of(config))
    load_weights(model, Path(chosen.teacher), "augment.teacher", spare=None)
    if not isinstance(getattr(model, "classifier", None), nn.Linear | Neck):
        raise BadInput(f"augment.teacher: {config.model.name} has no single classifier; use another label policy")
    return Teacher(model.to(device_of(config)))
