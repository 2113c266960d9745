"""The generator's training: its state, and one step, top to bottom."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
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
from xingaug.training.batches import Batch
from xingaug.training.config import TrainConfig
from xingaug.training.pool import ImagePool
from xingaug.training.processes import Processes
from xingaug.training.rundir import read_checkpoint
from xingaug.training.splitting import compose, trained_split
from xingaug.training.steps import Statistics, problem_of, read, update_average
from xingaug.training.terms import DiscriminatorLoss, GeneratorTerms, discriminator_terms

KINDS = {"patch": PatchDiscriminator, "residual": ResidualDiscriminator}
CONDITION_CHANNELS = {"appearance": 3, "shape": 18}


@dataclass
class Part:
    """A micro-batch: one of the `accumulate` parts of a step's batch.

    Attributes:
        batch: its pairs.
        generated: (B, 3, H, W), the generator's images, detached, for the discriminators' phase.
        logged: the loss terms of generator and discriminators by name, detached.
    """

    batch: Batch
    generated: Tensor = field(init=False)
    logged: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Phase:
    """The generator's or the discriminators' half of a step.

    Attributes:
        loss: of a part; it records the part's terms.
        optimiser: of the weights updated.
        scaler: of their gradients in float16.
        shared: modules whose gradients are averaged over the processes.
    """

    loss: Callable[[Part], Tensor]
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    shared: list[nn.Module]


class Trainer:
    """Networks, optimisers and averaged weights, which can be saved and restored."""

    def __init__(self, config: TrainConfig, processes: Processes, identity_network: nn.Module | None = None) -> None:
        """Builds everything, seeded by the configuration without touching the global RNG.

        Raises:
            BadInput: start weights that do not fit, or missing weights of a loss's network.
        """
        self.config, self.processes, self.device = config, processes, processes.device
        if config.batch_size % (processes.count * config.accumulate):
            raise BadInput(
                f"batch_size: {config.batch_size}, needed a multiple of {processes.count} processes times "
                f"accumulate {config.accumulate}"
            )
        self._rng_devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(self._rng_devices):
            torch.manual_seed(config.seed)
            self._build_networks()
        self.terms = GeneratorTerms(config, self.device, self.generator, self.discriminators, identity_network)
        self._build_phases()
        self.step = 0
        self.best = -math.inf
        """Highest score so far, by `validation.best`."""

    def _build_networks(self) -> None:
        config, processes = self.config, self.processes
        self.generator = processes.prepare(network_of(config.network))
        self.average = processes.prepare(network_of(config.network)).requires_grad_(False)
        if config.start is not None:
            self.generator.load_state_dict(load_start(config.start, self.generator))
        self.average.load_state_dict(self.generator.state_dict())
        if config.keeps_ground and not config.losses.split:
            trained_split(self.generator).requires_grad_(False)
        chosen = config.discriminators
        self.discriminators = nn.ModuleDict()
        for name, channels in CONDITION_CHANNELS.items():
            kind = getattr(chosen, name)
            if kind != "none" and (config.losses.adversarial or config.losses.feature_matching):
                discriminator = processes.prepare(KINDS[kind](channels))
                self.discriminators[name] = DiscriminatorLoss(discriminator, chosen.loss, config.losses.r1)
        self.pool = ImagePool(chosen.pool)
        if config.compile:
            self.generator.compiled = torch.compile(self.generator.render)
        self.statistics = Statistics(self.generator, self.discriminators)

    def _build_phases(self) -> None:
        config, share = self.config, self.processes.share
        # An optimiser needs at least one parameter; without discriminators it is never stepped.
        weights_d = list(self.discriminators.parameters()) or [nn.Parameter(torch.zeros((), device=self.device))]
        self.optimise_g = torch.optim.Adam(self.generator.parameters(), config.lr, config.betas, fused=True)
        self.optimise_d = torch.optim.Adam(weights_d, config.lr, config.betas, fused=True)
        # A lower initial scale than torch's, with which the first steps would all overflow and be skipped.
        half = config.precision == "float16"
        self.scaler_g, self.scaler_d = (torch.amp.GradScaler(self.device.type, 1024.0, enabled=half) for _ in range(2))
        self._shared_generator = share(Renderer(self.generator))
        self._shared_discriminators = {name: share(loss) for name, loss in self.discriminators.items()}
        self._phases = [
            Phase(self._generator_loss, self.optimise_g, self.scaler_g, [self._shared_generator]),
            Phase(self._discriminator_loss, self.optimise_d, self.scaler_d, [*self._shared_discriminators.values()]),
        ]

    @property
    def joined(self) -> bool:
        """Whether the discriminators are switched on at this step."""
        return len(self.discriminators) > 0 and self.step >= self.config.discriminators.start * self.config.steps

    def autocast(self) -> AbstractContextManager[object]:
        """Autocast to the configured precision."""
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
            The terms of the losses, means over all processes, and the norm of the generator's gradient.

        Raises:
            WorkFailed: a loss is not finite or above the limit; the weights are then as before the step.
        """
        parts = [Part(part) for part in batch.parts(self.config.accumulate)]
        # Dropout is seeded by (seed, step, rank), so that a resumed run continues identically.
        with torch.random.fork_rng(self._rng_devices):
            torch.manual_seed(self._seed())
            return self._train_step(parts)

    def _seed(self) -> int:
        return (self.config.seed * 1_000_003 + self.step) * 1_009 + self.processes.rank

    def _train_step(self, parts: list[Part]) -> dict[str, float]:
        phases = self._phases if self.joined else self._phases[:1]
        self.statistics.keep()
        self._compose_targets(parts)
        self._pool_rng = torch.Generator().manual_seed(self._seed() + 500)
        for phase in phases:
            self._find_gradients(phase, parts)
        self.scaler_g.unscale_(self.optimise_g)
        norm = nn.utils.clip_grad_norm_(self.generator.parameters(), self.config.clip)
        figures = self._read_figures(parts, norm)
        problem = self._problem_of(figures)
        if problem is not None:
            self.statistics.put_back()
            names = ", ".join(name for part in parts for name in part.batch.names)
            raise WorkFailed(f"step {self.step}: {problem} {figures}; images {names}")
        for phase in phases:
            for group in phase.optimiser.param_groups:
                group["lr"] = self.config.learning_rate(self.step)
            phase.scaler.step(phase.optimiser)
            phase.scaler.update()
        self.processes.average(self.statistics.tensors)
        update_average(self.average, self.generator, self.step, self.config.ema_decay)
        self.step += 1
        return figures

    def _compose_targets(self, parts: list[Part]) -> None:
        if self.config.target == "composite":
            with self.autocast():
                for part in parts:
                    part.batch = compose(part.batch, trained_split(self.average.eval()))

    def _find_gradients(self, phase: Phase, parts: list[Part]) -> None:
        """A phase's gradients, means over parts and processes; they are exchanged with the last part only."""
        self.generator.train()
        self.discriminators.requires_grad_(phase.optimiser is self.optimise_d)
        phase.optimiser.zero_grad(set_to_none=True)
        for part in parts:
            with ExitStack() as stack:
                if part is not parts[-1]:
                    for module in phase.shared:
                        stack.enter_context(getattr(module, "no_sync", nullcontext)())
                phase.scaler.scale(phase.loss(part) / len(parts)).backward()

    def _generator_loss(self, part: Part) -> Tensor:
        with self.autocast():
            image = self._shared_generator(part.batch.source, part.batch.joints)  # (B, 3, H, W)
            terms = self.terms(image, part.batch, self.joined)
        total = self.terms.total(terms)
        part.generated = image.detach()
        part.logged |= _detached({"total": total, **terms})
        return total

    def _discriminator_loss(self, part: Part) -> Tensor:
        fakes = (part.generated, part.batch.source, part.batch.target_heatmaps)
        with self.autocast():
            terms = discriminator_terms(
                self._shared_discriminators, part.batch, *self.pool.exchange(fakes, self._pool_rng)
            )
        part.logged |= _detached(terms if self.config.losses.r1 else {"discriminators": terms["discriminators"]})
        return terms["discriminators"] + terms["r1"]

    def _read_figures(self, parts: list[Part], norm: Tensor) -> dict[str, float]:
        """Means of each term over parts and processes, and the norm of the generator's gradient."""
        means = torch.stack([torch.stack(list(part.logged.values())) for part in parts]).mean(0)
        self.processes.average([means])
        return read({**dict(zip(parts[0].logged, means, strict=True)), "gradient": norm})

    def _problem_of(self, figures: dict[str, float]) -> str | None:
        """The error of a step, checked before the weights are updated."""
        problem = problem_of((v for name, v in figures.items() if name != "gradient"), self.config.loss_limit)
        # In float16 the gradient need not be finite: the scaler skips such a step.
        if problem is None and not self.scaler_g.is_enabled() and not math.isfinite(figures["gradient"]):
            return "the gradient is not finite"
        return problem

    def state(self) -> dict[str, Any]:
        """The state to resume from; must be called by every process."""
        parts = ("generator", "average", "discriminators", "optimise_g", "optimise_d", "scaler_g", "scaler_d")
        return {
            "step": self.step,
            "best": self.best,
            "pools": self.processes.gather(self.pool.entries),
            **{name: getattr(self, name).state_dict() for name in parts},
        }

    def restore(self, path: Path) -> None:
        """Continues from a checkpoint of the same configuration.

        Raises:
            BadInput: the file is damaged, or was written with an image pool by another number of processes.
        """
        state = read_checkpoint(path, self.device)
        if "judges" in state:  # the discriminators' former name
            state["discriminators"] = state.pop("judges")
        self.step, self.best = state.pop("step"), state.pop("best")
        pools = state.pop("pools")
        if self.pool.size and len(pools) != self.processes.count:
            raise BadInput(f"{path}: written by {len(pools)} processes, each with its image pool; start as many")
        if self.pool.size:
            self.pool.entries = pools[self.processes.rank]
        for name, value in state.items():
            getattr(self, name).load_state_dict(value)


class Renderer(nn.Module):
    """A generator called with joints as one module, so that its gradients can be averaged over processes."""

    def __init__(self, generator: PoseGenerator) -> None:
        """Args: `generator`."""
        super().__init__()
        self.generator = generator

    def forward(self, images: Tensor, joints: tuple[Tensor, Tensor, Tensor, Tensor]) -> Tensor:
        """As `render`."""
        return render(self.generator, images, *joints)


def _detached(terms: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in terms.items()}
