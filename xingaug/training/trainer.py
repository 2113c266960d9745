"""What a run carries from step to step, and one step: the generator's phase, then the discriminators'."""

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xingaug.errors import BadInput, WorkFailed
from xingaug.generators.base import PoseGenerator
from xingaug.generators.discriminators import PatchDiscriminator, ResidualDiscriminator
from xingaug.generators.fast import has_bfloat16
from xingaug.generators.render import render
from xingaug.generators.store import load_start, network_of
from xingaug.poses.estimators import posenet_file
from xingaug.poses.estimators.posenet import PoseNet, load_posenet
from xingaug.programs import load_program, run_program
from xingaug.tensors import read_tensors
from xingaug.training import losses
from xingaug.training.batches import Batch
from xingaug.training.config import PerceptualConfig, TrainConfig
from xingaug.training.perceptual import PerceptualLoss
from xingaug.training.pool import ImagePool
from xingaug.training.processes import Processes
from xingaug.training.splitting import compose, split_losses, split_of
from xingaug.training.steps import Statistics, problem_of, read, update_average

KINDS = {"patch": PatchDiscriminator, "residual": ResidualDiscriminator}
CONDITION_CHANNELS = {"appearance": 3, "shape": 18}


class DiscriminatorLoss(nn.Module):
    """The loss of a discriminator, in which true and generated images pass it in one call."""

    def __init__(self, discriminator: nn.Module, kind: str, r1: float) -> None:
        """Args: `discriminator`; `kind`: of `losses.ADVERSARIAL`; `r1`: weight of the gradient penalty."""
        super().__init__()
        self.discriminator, self.kind, self.r1 = discriminator, kind, r1

    def forward(self, true: Tensor, condition: Tensor, fake: Tensor, fake_condition: Tensor) -> tuple[Tensor, Tensor]:
        """The adversarial loss, and the gradient penalty, weighted."""
        if self.r1:
            true = true.detach().requires_grad_(True)
        real_scores = self.discriminator(true, condition)[0]
        fake_scores = self.discriminator(fake, fake_condition)[0]  # apart, as the generator's phase sees it
        loss = losses.ADVERSARIAL[self.kind].discriminator(real_scores.float(), fake_scores.float())
        penalty = losses.r1_penalty(real_scores.float(), true) if self.r1 else torch.zeros_like(loss)
        return loss, self.r1 / 2 * penalty


class Renderer(nn.Module):
    """A generator called by joints, so that its gradients can be shared between processes."""

    def __init__(self, generator: PoseGenerator) -> None:
        """Args: `generator`."""
        super().__init__()
        self.generator = generator

    def forward(self, images: Tensor, joints: tuple[Tensor, Tensor, Tensor, Tensor]) -> Tensor:
        """The rendering core."""
        return render(self.generator, images, *joints)


class Trainer:
    """Networks, optimisers and averages, which can be saved and restored."""

    def __init__(self, config: TrainConfig, processes: Processes, identity_network: nn.Module | None = None) -> None:
        """Builds everything, seeded by the configuration without touching the global RNG.

        Raises:
            BadInput: weights to start from that do not fit, or those of a loss that are missing.
        """
        self.config, self.processes, self.device = config, processes, processes.device
        if config.batch_size % (processes.count * config.accumulate):
            raise BadInput(
                f"batch_size: {config.batch_size}, needed a multiple of {processes.count} processes times "
                f"accumulate {config.accumulate}"
            )
        self.own_rng = {"devices": [self.device] if self.device.type == "cuda" else []}
        with torch.random.fork_rng(**self.own_rng):
            torch.manual_seed(config.seed)
            self._build_networks()
        self._build_losses(identity_network)
        self._build_optimisers()
        self.step = 0
        self.best = -math.inf
        """Highest value so far of what `validation.best` names."""

    def _build_networks(self) -> None:
        config, processes = self.config, self.processes
        self.generator = processes.prepare(network_of(config.network))
        self.average = processes.prepare(network_of(config.network)).requires_grad_(False)
        if config.start is not None:
            self.generator.load_state_dict(load_start(config.start, self.generator))
        self.average.load_state_dict(self.generator.state_dict())
        if config.keeps_ground and not config.losses.split:
            split_of(self.generator).requires_grad_(False)
        chosen = config.discriminators
        self.judges = nn.ModuleDict()
        for name, channels in CONDITION_CHANNELS.items():
            kind = getattr(chosen, name)
            if kind != "none":
                discriminator = processes.prepare(KINDS[kind](channels))
                self.judges[name] = DiscriminatorLoss(discriminator, chosen.loss, config.losses.r1)
        if config.compile:
            self.generator.compiled = torch.compile(self.generator.render)
        self.statistics = Statistics(self.generator, self.judges)
        self.shared_generator = processes.share(Renderer(self.generator))
        self.shared_judges = {name: processes.share(judge) for name, judge in self.judges.items()}

    def _build_losses(self, identity_network: nn.Module | None) -> None:
        config = self.config
        self.perceptual: PerceptualLoss | None = None
        if isinstance(config.perceptual, PerceptualConfig) and (config.losses.perceptual or config.losses.style):
            self.perceptual = PerceptualLoss(config.perceptual).to(self.device)
        self.pose_network: PoseNet | None = None
        if config.losses.pose:
            self.pose_network = load_posenet(posenet_file(config.pose_estimator)).eval().requires_grad_(False)
            self.pose_network.to(self.device).to(memory_format=torch.channels_last)
        self.identity_network: Callable[[Tensor], Tensor] | None = None
        if not config.losses.identity:
            return
        if identity_network is not None:
            self.identity_network = identity_network.to(self.device).requires_grad_(False)
        elif config.identity_network is not None:
            path = config.identity_network
            self.identity_network = partial(
                run_program, load_program(path, "a feature network", self.device, True), path
            )

    def _build_optimisers(self) -> None:
        config = self.config
        # An optimiser wants at least one parameter; without discriminators it is never stepped.
        judging = list(self.judges.parameters()) or [nn.Parameter(torch.zeros((), device=self.device))]
        self.optimise_g = torch.optim.Adam(self.generator.parameters(), config.lr, config.betas, fused=True)
        self.optimise_d = torch.optim.Adam(judging, config.lr, config.betas, fused=True)
        # A lower starting scale than torch's: the first steps would all be thrown away.
        half = config.precision == "float16"
        self.scaler_g, self.scaler_d = (torch.amp.GradScaler(self.device.type, 1024.0, enabled=half) for _ in range(2))
        self.pool = ImagePool(config.discriminators.pool)

    def autocast(self) -> AbstractContextManager[object]:
        """The precision that the configuration asks for."""
        named = {"bfloat16": torch.bfloat16, "float16": torch.float16}
        if self.config.precision == "auto":
            return torch.autocast(self.device.type, torch.bfloat16, enabled=has_bfloat16(self.device))
        dtype = named.get(self.config.precision)
        return torch.autocast(self.device.type, dtype, enabled=dtype is not None)

    def train_step(self, batch: Batch) -> dict[str, float]:
        """One update of the generator and, once they have joined, of the discriminators.

        Args:
            batch: this process's share of the step's pairs.

        Returns:
            The loss terms, means over all processes.

        Raises:
            WorkFailed: a loss is not finite or above the limit; the weights are then as before the step.
        """
        # Dropout draws by (seed, step, rank), so that a resumed run goes on as it would have.
        with torch.random.fork_rng(**self.own_rng):
            torch.manual_seed((self.config.seed * 1_000_003 + self.step) * 1_009 + self.processes.rank)
            return self._train_step(batch.parts(self.config.accumulate))

    def _train_step(self, parts: list[Batch]) -> dict[str, float]:
        for optimiser in (self.optimise_g, self.optimise_d):
            for group in optimiser.param_groups:
                group["lr"] = self.config.learning_rate(self.step)
        joined = self.step >= self.config.discriminators.start * self.config.steps and len(self.judges) > 0
        self.statistics.keep()
        if self.config.target == "composite":
            with self.autocast():
                parts = [compose(part, split_of(self.average.eval())) for part in parts]
        logs, generated = self._generator_phase(parts, joined)
        if joined:
            judged = self._discriminator_phase(parts, generated)
            logs = [{**log, **more} for log, more in zip(logs, judged, strict=True)]
        try:
            logged = self._require_sane(self._mean_of(logs), parts)
        except WorkFailed:
            self.statistics.put_back()
            raise
        self._update(joined)
        self.processes.average(self.statistics.tensors)
        update_average(self.average, self.generator, self.step, self.config.ema_decay)
        self.step += 1
        return logged

    def _generator_phase(self, parts: list[Batch], joined: bool) -> tuple[list[dict[str, Tensor]], list[Tensor]]:
        """The generator's gradients; returns the loss terms of each part and what it generated."""
        self.generator.train()
        self.judges.requires_grad_(False)
        self.optimise_g.zero_grad(set_to_none=True)
        logs, generated = [], []
        for part, context in self._with_one_exchange(parts, [self.shared_generator]):
            with context:
                with self.autocast():
                    image = self.shared_generator(part.source, part.joints)
                terms = self._generator_terms(image, part, joined)
                total = torch.stack([getattr(self.config.losses, name) * value for name, value in terms.items()]).sum()
                logs.append({"total": total.detach(), **{name: value.detach() for name, value in terms.items()}})
                self.scaler_g.scale(total / len(parts)).backward()
            generated.append(image.detach())
        self.scaler_g.unscale_(self.optimise_g)
        norm = nn.utils.clip_grad_norm_(self.generator.parameters(), self.config.clip)
        return [{**log, "gradient": norm} for log in logs], generated

    def _update(self, joined: bool) -> None:
        """Both optimisers' steps, once every loss of the step has been found sane."""
        for scaler, optimiser, taken in (
            (self.scaler_g, self.optimise_g, True), (self.scaler_d, self.optimise_d, joined)
        ):  # fmt: skip
            if taken:
                scaler.step(optimiser)
                scaler.update()

    def _generator_terms(self, image: Tensor, batch: Batch, joined: bool) -> dict[str, Tensor]:
        """The named loss terms of the generator, unweighted."""
        weights = self.config.losses
        terms = {}
        if weights.l1:
            terms["l1"] = losses.weighted_l1(image, batch.target, batch.mask, weights.person)
        if weights.structural:
            terms["structural"] = losses.structural_loss(image, batch.target, batch.mask, weights.person)
        with self.autocast():
            if self.perceptual is not None:
                distance, style = self.perceptual(image, batch.target, batch.mask)
                terms["perceptual"] = distance.float()
                if weights.style:
                    terms["style"] = style
            if self.identity_network is not None:
                terms["identity"] = losses.identity_loss(self.identity_network, image, batch.target).float()
            if self.pose_network is not None:
                terms["pose"] = losses.pose_loss(self.pose_network, image, batch.xy[:, 1], batch.visibility[:, 1])
            if self.config.keeps_ground and weights.split:
                assert batch.persons is not None  # as `loop.load_pairs` has seen to
                person = batch.persons[:, :1]
                found = split_losses(split_of(self.generator), batch.source, batch.source_means, person)
                terms["split"] = torch.stack(list(found.values())).sum()
        return terms | self._adversarial_terms(image, batch) if joined else terms

    def _adversarial_terms(self, image: Tensor, batch: Batch) -> dict[str, Tensor]:
        play = losses.ADVERSARIAL[self.config.discriminators.loss].generator
        scores, matching = [], []
        for name, judge in self.judges.items():
            condition = _condition(name, batch.source, batch.target_heatmaps)
            with self.autocast():
                scores_and_features = judge.get_submodule("discriminator")
                with torch.no_grad():
                    _, real_features = scores_and_features(batch.target, condition)
                fake_scores, fake_features = scores_and_features(image, condition)
            scores.append(play(fake_scores.float()))
            matching.append(losses.feature_matching(fake_features, real_features).float())
        return {"adversarial": torch.stack(scores).mean(), "feature_matching": torch.stack(matching).mean()}

    def _discriminator_phase(self, parts: list[Batch], generated: list[Tensor]) -> list[dict[str, Tensor]]:
        """The discriminators' gradients; returns the loss terms of each part."""
        self.judges.requires_grad_(True)
        self.optimise_d.zero_grad(set_to_none=True)
        rng = torch.Generator().manual_seed(
            (self.config.seed * 1_000_003 + self.step) * 1_009 + self.processes.rank + 500
        )
        logs = []
        for (part, context), image in zip(
            self._with_one_exchange(parts, list(self.shared_judges.values())), generated, strict=True
        ):
            fake, source, maps = self.pool.exchange((image, part.source, part.target_heatmaps), rng)
            with context:
                found = []
                for name, judge in self.shared_judges.items():
                    condition = _condition(name, part.source, part.target_heatmaps)
                    with self.autocast():
                        found.append(judge(part.target, condition, fake, _condition(name, source, maps)))
                loss, penalty = (torch.stack(column).sum() for column in zip(*found, strict=True))
                self.scaler_d.scale((loss + penalty) / len(parts)).backward()
            terms = {"discriminators": loss.detach(), "r1": penalty.detach()}
            logs.append(terms if self.config.losses.r1 else {"discriminators": terms["discriminators"]})
        return logs

    def _with_one_exchange(
        self, parts: list[Batch], modules: Sequence[nn.Module]
    ) -> Iterable[tuple[Batch, AbstractContextManager[object]]]:
        """Each part with a context in which only the last one's backward pass exchanges gradients."""
        for number, part in enumerate(parts, 1):
            stack = ExitStack()
            if number < len(parts):
                for module in modules:
                    stack.enter_context(getattr(module, "no_sync", nullcontext)())
            yield part, stack

    def _mean_of(self, logs: list[dict[str, Tensor]]) -> dict[str, float]:
        """Means of each term over parts and processes."""
        means = torch.stack([torch.stack([value.float() for value in log.values()]) for log in logs]).mean(0)
        self.processes.average([means])
        return read(dict(zip(logs[0], means, strict=True)))

    def _require_sane(self, logged: dict[str, float], parts: list[Batch]) -> dict[str, float]:
        """The figures of the step, read from the device all at once, or WorkFailed."""
        problem = problem_of((v for name, v in logged.items() if name != "gradient"), self.config.loss_limit)
        if problem is None and not self.scaler_g.is_enabled() and not math.isfinite(logged["gradient"]):
            problem = "the gradient is not finite"  # in float16 it may be, and the scaler skips the step
        if problem is None:
            return logged
        raise WorkFailed(f"step {self.step}: {problem} {logged}; {self._names(parts)}")

    def _names(self, parts: list[Batch]) -> str:
        return "images " + ", ".join(name for part in parts for name in part.names)

    def state(self) -> dict[str, Any]:
        """All that resuming needs; to be called by every process."""
        parts = ("generator", "average", "judges", "optimise_g", "optimise_d", "scaler_g", "scaler_d")
        return {
            "step": self.step,
            "best": self.best,
            "pools": self.processes.gather(self.pool.entries),
            **{name: getattr(self, name).state_dict() for name in parts},
        }

    def restore(self, path: Path) -> None:
        """Continues from a checkpoint of the same configuration.

        Raises:
            BadInput: the file is damaged, or was written by another number of processes with an image pool.
        """
        try:
            state = read_tensors(path, "a checkpoint of this training", self.device)
        except BadInput as error:
            raise BadInput(f"{error}; remove it to go on from the one before") from None
        self.step, self.best = state.pop("step"), state.pop("best")
        pools = state.pop("pools")
        if self.pool.size and len(pools) != self.processes.count:
            raise BadInput(f"{path}: written by {len(pools)} processes, each with its image pool; start as many")
        if self.pool.size:
            self.pool.entries = pools[self.processes.rank]
        for name, value in state.items():
            getattr(self, name).load_state_dict(value)


def _condition(name: str, source: Tensor, target_heatmaps: Tensor) -> Tensor:
    """What a discriminator judges an image by."""
    return source if name == "appearance" else target_heatmaps
