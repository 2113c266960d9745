"""The loss terms of generator and discriminators, under the names that they are logged by."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from xingaug.errors import BadInput
from xingaug.generators.base import PoseGenerator
from xingaug.poses.estimators import posenet_file
from xingaug.poses.estimators.posenet import load_posenet
from xingaug.programs import load_program, run_program
from xingaug.training import losses
from xingaug.training.batches import Batch
from xingaug.training.config import PerceptualConfig, TrainConfig
from xingaug.training.perceptual import PerceptualLoss
from xingaug.training.splitting import split_losses, trained_split


@dataclass(frozen=True)
class Term:
    """Terms of the generator's loss that are computed together.

    Attributes:
        names: of the terms in the log, and of their weights in the configuration's `losses`.
        compute: takes generated images (B, 3, H, W) in [-1, 1] and the batch; gives those of the terms with a weight.
    """

    names: tuple[str, ...]
    compute: Callable[[Tensor, Batch], dict[str, Tensor]]


class GeneratorTerms:
    """The terms of the generator's loss that have a weight and the network they need."""

    def __init__(
        self,
        config: TrainConfig,
        device: torch.device,
        generator: PoseGenerator,
        discriminators: nn.ModuleDict,
        identity_network: nn.Module | None,
    ) -> None:
        """Loads the networks that the terms need.

        Args:
            config: the run.
            device: where the networks run.
            generator: to train.
            discriminators: `DiscriminatorLoss` by the name of its condition.
            identity_network: replaces the configuration's.

        Raises:
            BadInput: a network that is missing or cannot be used.
        """
        self.weights = config.losses
        self._kind = losses.ADVERSARIAL[config.discriminators.loss]
        self._generator, self._discriminators = generator, discriminators
        every = [Term(("l1",), self._l1), Term(("structural",), self._structural)]
        if isinstance(config.perceptual, PerceptualConfig):
            every.append(Term(("perceptual", "style"), self._perceptual))
        if identity_network is not None or config.identity_network is not None:
            every.append(Term(("identity",), self._identity))
        every.append(Term(("pose",), self._pose))
        if config.keeps_ground:
            every.append(Term(("split",), self._split))
        adversarial = [Term(("adversarial", "feature_matching"), self._adversarial)] if discriminators else []
        self._terms, self._joining = ([t for t in terms if self._counts(*t.names)] for terms in (every, adversarial))
        if not self._terms and not (self._joining and config.discriminators.start == 0):
            raise BadInput("losses: no term that has a weight and what it needs, needed one from the first step on")
        self._load(config, device, identity_network)

    def _load(self, config: TrainConfig, device: torch.device, identity_network: nn.Module | None) -> None:
        chosen = {name for term in self._terms for name in term.names}
        if "perceptual" in chosen:
            assert isinstance(config.perceptual, PerceptualConfig)
            self.perceptual = PerceptualLoss(config.perceptual).to(device).to(memory_format=torch.channels_last)
        if "pose" in chosen:
            network = load_posenet(posenet_file(config.pose_estimator)).eval().requires_grad_(False)
            self.pose_network = network.to(device).to(memory_format=torch.channels_last)
        if "identity" in chosen:
            self.identity_network: Callable[[Tensor], Tensor]
            path = config.identity_network
            if identity_network is not None:
                self.identity_network = identity_network.to(device).requires_grad_(False)
            elif path is not None:
                program = load_program(path, "a feature network", device, True)
                self.identity_network = partial(run_program, program, path)

    def _counts(self, *names: str) -> bool:
        """Whether any of the named terms has a weight."""
        return any(getattr(self.weights, name) for name in names)

    def __call__(self, image: Tensor, batch: Batch, joined: bool) -> dict[str, Tensor]:
        """The terms of generated images (B, 3, H, W), unweighted; `joined`: whether discriminators are on."""
        found: dict[str, Tensor] = {}
        for term in [*self._terms, *self._joining] if joined else self._terms:
            found |= term.compute(image, batch)
        return {name: value.float() for name, value in found.items()}

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """Their weighted sum."""
        return torch.stack([getattr(self.weights, name) * value for name, value in terms.items()]).sum()

    def _l1(self, image: Tensor, batch: Batch) -> dict[str, Tensor]:
        return {"l1": losses.weighted_l1(image, batch.target, batch.mask, self.weights.person)}

    def _structural(self, image: Tensor, batch: Batch) -> dict[str, Tensor]:
        return {"structural": losses.structural_loss(image, batch.target, batch.mask, self.weights.person)}

    def _perceptual(self, image: Tensor, batch: Batch) -> dict[str, Tensor]:
        features, found = self.perceptual(image, batch.target), {}
        if self._counts("perceptual"):
            found["perceptual"] = self.perceptual.distance(features)
        if self._counts("style"):
            found["style"] = self.perceptual.style(features, batch.mask)
        return found

    def _identity(self, image: Tensor, batch: Batch) -> dict[str, Tensor]:
        return {"identity": losses.identity_loss(self.identity_network, image, batch.target)}

    def _pose(self, image: Tensor, batch: Batch) -> dict[str, Tensor]:
        return {"pose": losses.pose_loss(self.pose_network, image, batch.xy[:, 1], batch.visibility[:, 1])}

    def _split(self, image: Tensor, batch: Batch) -> dict[str, Tensor]:
        assert batch.persons is not None  # checked by `loop.load_pairs`
        person = batch.persons[:, :1]
        found = split_losses(trained_split(self._generator), batch.source, batch.source_means, person)
        return {"split": torch.stack(list(found.values())).sum()}

    def _adversarial(self, image: Tensor, batch: Batch) -> dict[str, Tensor]:
        found: dict[str, list[Tensor]] = {
            name: [] for name in ("adversarial", "feature_matching") if self._counts(name)
        }
        for name, loss in self._discriminators.items():
            condition = condition_of(name, batch.source, batch.target_heatmaps)
            discriminator = loss.get_submodule("discriminator")
            true_features: list[Tensor] = []
            if "feature_matching" in found:
                with torch.no_grad():
                    true_features = discriminator(batch.target, condition)[1]
            scores, features = discriminator(image, condition)
            if "adversarial" in found:
                found["adversarial"].append(self._kind.generator(scores.float()))
            if "feature_matching" in found:
                found["feature_matching"].append(losses.feature_matching(features, true_features).float())
        return {name: torch.stack(values).mean() for name, values in found.items()}


class DiscriminatorLoss(nn.Module):
    """A discriminator and its loss, computed on true and generated images in one call."""

    def __init__(self, discriminator: nn.Module, kind: str, r1: float) -> None:
        """Args: `discriminator`; `kind`: of `losses.ADVERSARIAL`; `r1`: weight of the gradient penalty."""
        super().__init__()
        self.discriminator, self.kind, self.r1 = discriminator, kind, r1

    def forward(self, true: Tensor, condition: Tensor, fake: Tensor, fake_condition: Tensor) -> tuple[Tensor, Tensor]:
        """The adversarial loss, and the gradient penalty, weighted."""
        if self.r1:
            true = true.detach().requires_grad_(True)
        real_scores = self.discriminator(true, condition)[0]
        fake_scores = self.discriminator(fake, fake_condition)[0]  # a separate batch, as in the generator's loss
        loss = losses.ADVERSARIAL[self.kind].discriminator(real_scores.float(), fake_scores.float())
        penalty = losses.r1_penalty(real_scores.float(), true) if self.r1 else torch.zeros_like(loss)
        return loss, self.r1 / 2 * penalty


def discriminator_terms(
    discriminators: Mapping[str, nn.Module], batch: Batch, fake: Tensor, source: Tensor, target_heatmaps: Tensor
) -> dict[str, Tensor]:
    """Weighted terms of the discriminators' loss, which is their sum.

    Args:
        discriminators: `DiscriminatorLoss` by the name of its condition, possibly wrapped for several processes.
        batch: the true images.
        fake: (B, 3, H, W) generated images, possibly of earlier steps.
        source: (B, 3, H, W), their source images.
        target_heatmaps: (B, 18, H, W), their target poses.
    """
    found = [
        loss(
            batch.target, condition_of(name, batch.source, batch.target_heatmaps), fake,
            condition_of(name, source, target_heatmaps),
        )
        for name, loss in discriminators.items()
    ]  # fmt: skip
    losses_, penalties = zip(*found, strict=True)
    return {"discriminators": torch.stack(losses_).sum(), "r1": torch.stack(penalties).sum()}


def condition_of(name: str, source: Tensor, target_heatmaps: Tensor) -> Tensor:
    """A discriminator's condition: the source image or the target heatmaps."""
    return source if name == "appearance" else target_heatmaps
