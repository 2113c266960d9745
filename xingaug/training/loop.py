"""Generator training: one visible loop. Runs on torch, torchvision, numpy, pillow, pyyaml, safetensors, tqdm alone."""

import json
import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.utils import make_grid, save_image
from tqdm import tqdm

from xingaug.config import to_mapping, to_yaml
from xingaug.data.pairs import PairData, pairs_from_pedestrians, pairs_from_tree
from xingaug.errors import BadInput, WorkFailed
from xingaug.files import atomic_write
from xingaug.generators.discriminators import PatchDiscriminator, ResidualDiscriminator
from xingaug.generators.fast import has_bfloat16
from xingaug.generators.sizes import size_config
from xingaug.generators.store import load_trainable, network_of, save_generator
from xingaug.generators.xinggan import XingGANConfig
from xingaug.generators.xinggan_pp import XingGANPlusPlusConfig
from xingaug.images import bytes_to_unit, unit_to_signed
from xingaug.keypoints import Keypoints, render_heatmaps
from xingaug.training import losses

Module = TypeVar("Module", bound=nn.Module)

PAIRS_PER_EPOCH = 4000
"""As in the released XingGAN; an epoch is only the unit in which pairs are drawn."""

PEDESTRIAN_SIZE = (128, 64)


@dataclass(frozen=True)
class PedestrianData:
    """Training images rendered on the spot.

    Attributes:
        identities: number of persons.
        tracklets: cameras under which each appears, before one background each.
        poses: images in each tracklet.
        seed: of the rendering; keep it apart from the worlds that you measure on.
    """

    identities: int = 1500
    tracklets: int = 2
    poses: int = 8
    seed: int = 1000

    def __post_init__(self) -> None:
        """Checks ranges."""
        if self.identities < 1 or not 1 <= self.tracklets <= 6 or self.poses < 2 or self.seed < 0:
            raise ValueError("identities: needed at least 1; tracklets: 1 to 6; poses: at least 2; seed: at least 0")


@dataclass(frozen=True)
class TreeData:
    """Training images from a Market-1501 tree.

    Attributes:
        root: the tree.
        annotations: keypoints of its images.
        within: pair images of one identity under one camera (one background), or under any.
    """

    root: Path
    annotations: Path
    within: Literal["camera", "identity"] = "camera"


@dataclass(frozen=True)
class LossWeights:
    """What each loss term counts.

    Attributes:
        l1: of the weighted L1.
        structural: of 1 - SSIM.
        adversarial: of the mean of both adversarial terms.
        feature_matching: of both discriminators' feature matching.
        person: how much heavier than the background a person's pixel is, where masks exist.
    """

    l1: float = 10.0
    structural: float = 2.0
    adversarial: float = 0.2
    feature_matching: float = 4.0
    person: float = 3.0


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Which discriminator judges what.

    Attributes:
        appearance: does the image look like the source person: "patch" (spectrally normalised, our choice),
            "residual" (PATN's, as the papers use it) or "none".
        shape: does it fit the target pose; likewise.
    """

    appearance: Literal["patch", "residual", "none"] = "patch"
    shape: Literal["patch", "residual", "none"] = "patch"


@dataclass(frozen=True)
class TrainConfig:
    """A training run.

    Attributes:
        data: where pairs come from.
        generator: the network: a named size (`generators.sizes`), or the switches of a XingGAN++.
        size: (height, width) in pixels of a named generator's images; None is 128x64.
        start: a bundled name or .safetensors file whose weights the generator starts from; it must be the same network.
        discriminators: what tells generated images from true ones.
        losses: weights of the terms.
        steps: number of updates of the generator.
        batch_size: pairs a step.
        lr: Adam's learning rate, constant for the first half and then falling linearly to 0.
        betas: Adam's.
        discriminator_start: share of the steps after which the discriminators join.
        ema_decay: of the averaged weights that are saved, per step.
        seed: of weights and pairs.
        autocast: compute in bfloat16 where the device has it.
        device: such as cpu or cuda.
        checkpoint_minutes: time between checkpoints.
        sample_every: steps between sample sheets.
    """

    data: PedestrianData | TreeData = field(default_factory=PedestrianData)
    generator: str | XingGANPlusPlusConfig = "xinggan_pp_small"
    size: tuple[int, int] | None = None
    start: str | None = None
    discriminators: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    losses: LossWeights = field(default_factory=LossWeights)
    steps: int = 4000
    batch_size: int = 16
    lr: float = 4e-4
    betas: tuple[float, float] = (0.5, 0.99)
    discriminator_start: float = 0.3
    ema_decay: float = 0.998
    seed: int = 0
    autocast: bool = True
    device: str = "cpu"
    checkpoint_minutes: float = 3.0
    sample_every: int = 250

    def __post_init__(self) -> None:
        """Checks ranges."""
        if self.seed < 0 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"seed: {self.seed}, needed at least 0; betas: {self.betas}, needed in [0, 1)")
        if min(self.steps, self.batch_size, self.sample_every) < 1:
            raise ValueError("steps, batch_size, sample_every: needed at least 1")
        if not 0 <= self.discriminator_start <= 1 or not 0 <= self.ema_decay < 1 or not 0 < self.lr < math.inf:
            raise ValueError("discriminator_start: needed in [0, 1]; ema_decay: in [0, 1); lr: above 0")
        if self.size is not None and not isinstance(self.generator, str):
            raise ValueError("size: belongs to a named generator; with switches give generator.size")
        size = self.network.size
        if isinstance(self.data, PedestrianData) and size != PEDESTRIAN_SIZE:
            raise ValueError(f"generator.size: {size}, but pedestrians are drawn at {PEDESTRIAN_SIZE}")
        try:
            available = torch.device(self.device).type != "cuda" or torch.cuda.is_available()
        except RuntimeError:
            available = False
        if not available:
            raise ValueError(f"device: '{self.device}' is not available here; expected cpu, or cuda with a GPU")

    @property
    def network(self) -> XingGANConfig | XingGANPlusPlusConfig:
        """The configuration of the generator."""
        if not isinstance(self.generator, str):
            return self.generator
        named = size_config(self.generator)
        return named if self.size is None else replace(named, size=self.size)


@dataclass(frozen=True)
class Batch:
    """One step's pairs on the device: images in [-1, 1], heatmaps in [0, 1], mask (B, 1, H, W) or None."""

    source: Tensor
    target: Tensor
    source_heatmaps: Tensor
    target_heatmaps: Tensor
    mask: Tensor | None
    names: list[str]


class Trainer:
    """Everything that a run carries from step to step, so that it can be saved and resumed."""

    def __init__(self, config: TrainConfig) -> None:
        """Builds networks and optimisers, seeded by the configuration without touching the global RNG."""
        self.config = config
        self.device = torch.device(config.device)
        self.own_rng = {"devices": [self.device] if self.device.type == "cuda" else []}
        with torch.random.fork_rng(**self.own_rng):
            torch.manual_seed(config.seed)
            self.generator = self._place(network_of(config.network))
            self.average = self._place(network_of(config.network)).requires_grad_(False)
            kinds = {"patch": PatchDiscriminator, "residual": ResidualDiscriminator}
            channels = {"appearance": 3, "shape": 18}
            chosen = {name: kind for name, kind in vars(config.discriminators).items() if kind != "none"}
            self.discriminators = nn.ModuleDict(
                {name: self._place(kinds[kind](channels[name])) for name, kind in chosen.items()}
            )
        if config.start is not None:
            self.generator.load_state_dict(load_trainable(config.start, config.network).state_dict())
        self.average.load_state_dict(self.generator.state_dict())
        # An optimiser wants at least one parameter; without discriminators it is never stepped.
        judges = list(self.discriminators.parameters()) or [nn.Parameter(torch.zeros(()))]
        self.optimise_g = torch.optim.Adam(self.generator.parameters(), config.lr, config.betas)
        self.optimise_d = torch.optim.Adam(judges, config.lr, config.betas)
        self.step = 0

    def _place(self, module: Module) -> Module:
        return module.to(self.device).to(memory_format=torch.channels_last)

    def autocast(self) -> AbstractContextManager[object]:
        """bfloat16 where the configuration asks for it and the device has it."""
        enabled = self.config.autocast and has_bfloat16(self.device)
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    def train_step(self, batch: Batch) -> dict[str, float]:
        """One update of the generator and, once they have joined, of the discriminators; returns the loss terms."""
        # Dropout draws by (seed, step), so that a resumed run goes on as it would have.
        with torch.random.fork_rng(**self.own_rng):
            torch.manual_seed(self.config.seed * 1_000_003 + self.step)
            return self._train_step(batch)

    def _train_step(self, batch: Batch) -> dict[str, float]:
        self._set_learning_rate()
        joined = self.step >= self.config.discriminator_start * self.config.steps
        adversarial = joined and len(self.discriminators) > 0
        self.generator.train()
        with self.autocast():
            generated = self.generator(batch.source, batch.source_heatmaps, batch.target_heatmaps)
        terms = self._generator_terms(generated, batch, adversarial)
        weights = vars(self.config.losses)
        total = torch.stack([weights[name] * value for name, value in terms.items()]).sum()
        self.optimise_g.zero_grad(set_to_none=True)
        total.backward()
        gradient_norm = nn.utils.clip_grad_norm_(self.generator.parameters(), 10.0)
        self.optimise_g.step()
        logged = {"total": total.item(), **{k: v.item() for k, v in terms.items()}, "gradient": gradient_norm.item()}
        if adversarial:
            logged["discriminators"] = self._discriminator_step(generated.detach(), batch)
        if not math.isfinite(sum(logged.values())):
            raise WorkFailed(f"step {self.step}: loss is not finite {logged}; images {', '.join(batch.names[:4])}, ...")
        self._update_average()
        self.step += 1
        return logged

    def _generator_terms(self, generated: Tensor, batch: Batch, adversarial: bool) -> dict[str, Tensor]:
        person = self.config.losses.person
        terms = {
            "l1": losses.weighted_l1(generated, batch.target, batch.mask, person),
            "structural": losses.structural_loss(generated, batch.target, batch.mask, person),
        }
        if not adversarial:
            return terms
        scores, matching = [], []
        for discriminator, condition in self._conditions(batch):
            discriminator.requires_grad_(False)
            with self.autocast():
                with torch.no_grad():
                    _, real_features = discriminator(batch.target, condition)
                fake_scores, fake_features = discriminator(generated, condition)
            scores.append(losses.hinge_generator(fake_scores.float()))
            matching.append(losses.feature_matching(fake_features, real_features))
        terms["adversarial"] = torch.stack(scores).mean()
        terms["feature_matching"] = torch.stack(matching).mean()
        return terms

    def _discriminator_step(self, generated: Tensor, batch: Batch) -> float:
        loss = torch.zeros((), device=self.device)
        for discriminator, condition in self._conditions(batch):
            discriminator.requires_grad_(True)
            with self.autocast():  # apart, so that a batch norm sees what it sees in the generator's step
                real, fake = (discriminator(image, condition)[0] for image in (batch.target, generated))
            loss = loss + losses.hinge_discriminator(real.float(), fake.float())
        self.optimise_d.zero_grad(set_to_none=True)
        loss.backward()
        self.optimise_d.step()
        return loss.item()

    def _conditions(self, batch: Batch) -> list[tuple[nn.Module, Tensor]]:
        conditions = {"appearance": batch.source, "shape": batch.target_heatmaps}
        return [(discriminator, conditions[name]) for name, discriminator in self.discriminators.items()]

    def _set_learning_rate(self) -> None:
        factor = min(1.0, 2 * (1 - self.step / self.config.steps), (self.step + 1) / 100)
        for optimiser in (self.optimise_g, self.optimise_d):
            for group in optimiser.param_groups:
                group["lr"] = self.config.lr * factor

    @torch.no_grad()
    def _update_average(self) -> None:
        # A short memory at first, or the average would drag the random start along.
        decay = min(self.config.ema_decay, (self.step + 1) / (self.step + 10))
        # Not `state_dict`, which names a tensor twice that two modules share.
        pairs = zip(_tensors(self.average), _tensors(self.generator), strict=True)
        for value, now in pairs:
            if value.is_floating_point():
                value.lerp_(now, 1 - decay)
            else:
                value.copy_(now)

    def state(self) -> dict[str, object]:
        """All that resuming needs."""
        parts = ("generator", "average", "discriminators", "optimise_g", "optimise_d")
        return {"step": self.step, **{name: getattr(self, name).state_dict() for name in parts}}

    def restore(self, path: Path) -> None:
        """Continues from a checkpoint of the same configuration."""
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.step = state.pop("step")
        for name, value in state.items():
            getattr(self, name).load_state_dict(value)


def _tensors(module: nn.Module) -> list[Tensor]:
    """Parameters and buffers, each once."""
    return [*module.parameters(), *module.buffers()]


def train(config: TrainConfig, out: Path, progress: bool = True) -> Path:
    """Trains a generator; an interrupted run continues when started again on the same directory.

    Args:
        config: the run.
        out: run directory: config.yaml, stats.jsonl, checkpoint.pt, samples/, and at the end generator.safetensors.
        progress: show a bar on a terminal.

    Returns:
        The path of the trained generator (averaged weights).

    Raises:
        BadInput: `out` holds a run of another configuration.
        WorkFailed: the loss is no longer finite.
    """
    require_own_directory(config, out)
    trainer = Trainer(config)
    data = load_pairs(config, progress).usable()
    with atomic_write(out / "config.yaml") as temporary:
        temporary.write_text(to_yaml(config))
    checkpoint = out / "checkpoint.pt"
    if checkpoint.exists():
        trainer.restore(checkpoint)
    _keep_stats_until(out / "stats.jsonl", trainer.step)
    saved, bar = time.monotonic(), tqdm(total=config.steps, initial=trainer.step, disable=None if progress else True)
    with bar, (out / "stats.jsonl").open("a", buffering=1) as stats:
        for batch in batches(config, data, trainer.step, trainer.device):
            logged = trainer.train_step(batch)
            stats.write(json.dumps({"step": trainer.step, **{k: round(v, 5) for k, v in logged.items()}}) + "\n")
            bar.update()
            bar.set_postfix({k: f"{v:.3f}" for k, v in logged.items()}, refresh=False)
            if trainer.step % config.sample_every == 0 or trainer.step == config.steps:
                save_samples(trainer, data, out / "samples" / f"{trainer.step:06d}.png")
            if time.monotonic() - saved > 60 * config.checkpoint_minutes or trainer.step == config.steps:
                stats.flush()
                with atomic_write(checkpoint) as temporary:
                    torch.save(trainer.state(), temporary)
                saved = time.monotonic()
    return save_generator(trainer.average, out / "generator.safetensors", {"training": to_mapping(config)})


def load_pairs(config: TrainConfig, progress: bool = True) -> PairData:
    """The images that the configuration names."""
    d = config.data
    if isinstance(d, PedestrianData):
        return pairs_from_pedestrians(d.identities, d.tracklets, d.poses, d.seed, progress=progress)
    return pairs_from_tree(d.root, d.annotations, d.within, config.network.size)


def batches(config: TrainConfig, data: PairData, first: int, device: torch.device) -> Iterator[Batch]:
    """The batches of steps `first` to the last; which pairs they hold depends on (seed, epoch, index) alone."""
    per_epoch = max(1, PAIRS_PER_EPOCH // config.batch_size)
    drawn_epoch = -1
    for step in range(first, config.steps):
        epoch, index = divmod(step, per_epoch)
        if epoch != drawn_epoch:
            sources, targets, mirror = data.draw(per_epoch * config.batch_size, config.seed, epoch)
            drawn_epoch = epoch
        chosen = slice(index * config.batch_size, (index + 1) * config.batch_size)
        yield make_batch(data, sources[chosen], targets[chosen], mirror[chosen], config.network.size, device)


def make_batch(
    data: PairData,
    sources: np.ndarray,
    targets: np.ndarray,
    mirror: np.ndarray,
    size: tuple[int, int],
    device: torch.device,
) -> Batch:
    """Gathers pairs, mirrors those marked, and renders heatmaps on the device."""
    flip = torch.from_numpy(mirror).to(device)

    def images(rows: np.ndarray) -> Tensor:
        x = unit_to_signed(bytes_to_unit(torch.from_numpy(data.images[rows]).to(device)))
        return torch.where(flip[:, None, None, None], x.flip(-1), x).contiguous(memory_format=torch.channels_last)

    def heatmaps(rows: np.ndarray) -> Tensor:
        kp = Keypoints(torch.from_numpy(data.xy[rows]), torch.from_numpy(data.visibility[rows])).to(device)
        mirrored = kp.flip(data.images.shape[2])
        kp = Keypoints(
            torch.where(flip[:, None, None], mirrored.xy, kp.xy),
            torch.where(flip[:, None], mirrored.visibility, kp.visibility),
        )
        return render_heatmaps(kp, size).contiguous(memory_format=torch.channels_last)

    mask = None
    if data.masks is not None:
        person = torch.from_numpy(data.masks[targets]).to(device).float().unsqueeze(1) / 255
        mask = torch.where(flip[:, None, None, None], person.flip(-1), person)
    names = [f"{s} -> {t}" for s, t in zip(data.names[sources], data.names[targets], strict=True)]
    return Batch(images(sources), images(targets), heatmaps(sources), heatmaps(targets), mask, names)


@torch.no_grad()
def save_samples(trainer: Trainer, data: PairData, path: Path, count: int = 8) -> None:
    """Writes a sheet of source, target pose, target and generated image, always of the same pairs."""
    sources, targets, mirror = data.draw(count, seed=trainer.config.seed + 1, epoch=0)
    size = trainer.config.network.size
    batch = make_batch(data, sources, targets, mirror & False, size, trainer.device)
    with trainer.autocast():
        generated = trainer.average.eval()(batch.source, batch.source_heatmaps, batch.target_heatmaps)
    pose = batch.target_heatmaps.amax(1, keepdim=True).expand(-1, 3, -1, -1) * 2 - 1
    sheet = make_grid(torch.cat([batch.source, pose, batch.target, generated.float()]), nrow=count, padding=2)
    with atomic_write(path) as temporary:
        save_image((sheet + 1) / 2, temporary, format="png")


def require_own_directory(config: TrainConfig, out: Path) -> None:
    """Raises `BadInput` unless `out` can be made, or holds a run of this very configuration."""
    path = out / "config.yaml"
    if not path.exists():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise BadInput(f"{out}: exists and is no run's directory; name another one")
        return
    mine, theirs = to_yaml(config).splitlines(), path.read_text().splitlines()
    for new, old in zip_longest(mine, theirs, fillvalue=""):
        if new != old:
            raise BadInput(
                f"{out}: holds a run with '{old.strip()}', asked for '{new.strip()}'; name another directory"
            )


def _keep_stats_until(path: Path, step: int) -> None:
    """Drops the lines of steps that will be done again, and a torn last line."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (json.JSONDecodeError, KeyError):
            continue
    with atomic_write(path) as temporary:
        temporary.write_text("".join(line + "\n" for line in kept))
