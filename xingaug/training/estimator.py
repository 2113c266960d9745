"""Training of PoseNet, the bundled pose estimator, on person crops with keypoints.

Losses: cross entropy of the cells against a Gaussian of one cell, L1 of the offsets weighted by that Gaussian, binary
cross entropy of visibility. Crops are mirrored, scaled, rotated, shifted and recoloured (our choice).
"""

import copy
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from xingaug.config import to_mapping
from xingaug.data.pairs import PairData, pairs_from_pedestrians, pairs_from_tree
from xingaug.errors import BadInput, WorkFailed
from xingaug.generators.fast import has_bfloat16
from xingaug.keypoints import FLIP_ORDER
from xingaug.poses.estimators.posenet import SIZE, PoseNet, save_posenet
from xingaug.progress import ProgressBar
from xingaug.training.config import PedestrianData, TreeData, device_problem
from xingaug.training.losses import joint_losses
from xingaug.training.processes import processes_of
from xingaug.training.rundir import Log, RunDirectory, read_checkpoint
from xingaug.training.steps import Statistics, problem_of, read, update_average
from xingaug.training.stopping import stop_on_signals

FEWEST_JOINTS = 3
"""Fewest joints that a training image must show (our choice)."""


@dataclass(frozen=True)
class EstimatorConfig:
    """A training run.

    Attributes:
        data: where the crops come from; every image is drawn with the same probability.
        steps: updates.
        batch_size: crops a step.
        lr: AdamW's learning rate; it rises over 200 steps and falls to 0 as a cosine.
        weight_decay: AdamW's.
        ema_decay: of the averaged weights that are saved, per step.
        seed: of weights, crops and their changes.
        device: such as cpu or cuda.
        checkpoint_minutes: time between checkpoints.
        tensorboard: also write TensorBoard event files, if tensorboard is installed.
    """

    data: list[PedestrianData | TreeData] = field(default_factory=lambda: [PedestrianData()])
    steps: int = 4000
    batch_size: int = 48
    lr: float = 2e-3
    weight_decay: float = 0.02
    ema_decay: float = 0.998
    seed: int = 0
    device: str = "cpu"
    checkpoint_minutes: float = 5.0
    tensorboard: bool = False

    def __post_init__(self) -> None:
        """Checks ranges."""
        if not self.data:
            raise ValueError("data: empty, needed at least one dataset")
        for tree in (d for d in self.data if isinstance(d, TreeData)):
            plain = TreeData(tree.root, tree.annotations, memory_mb=tree.memory_mb)
            unused = [name for name, value in vars(tree).items() if value != getattr(plain, name)]
            if unused:
                raise ValueError(f"data.{unused[0]}: an estimator's training does not read it; leave it out")
        for name, most in {"steps": 10**9, "batch_size": 65_536}.items():
            if not 1 <= getattr(self, name) <= most:
                raise ValueError(f"{name}: {getattr(self, name)}, needed at least 1, at most {most}")
        for name, most in {"lr": 1, "checkpoint_minutes": 10**9}.items():
            if not 0 < getattr(self, name) <= most:
                raise ValueError(f"{name}: {getattr(self, name)}, needed above 0, up to {most}")
        if not 0 <= self.ema_decay < 1 or not 0 <= self.weight_decay < math.inf or not 0 <= self.seed < 2**62:
            raise ValueError("ema_decay: needed in [0, 1); weight_decay, seed: at least 0")
        if device_problem(self.device):
            raise ValueError(f"device: '{self.device}' is not available here; expected cpu, or cuda with a GPU")

    def learning_rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        return self.lr * min(1.0, (step + 1) / 200) * (0.5 + 0.5 * math.cos(math.pi * step / self.steps))


@dataclass(frozen=True)
class Crops:
    """A batch: images (B, 3, 128, 64) in [0, 1], joints (B, 18, 2) in pixels, and which can be seen, (B, 18) bool."""

    images: Tensor
    xy: Tensor
    visible: Tensor

    def mirrored(self, chosen: Tensor) -> "Crops":
        """Mirrors the chosen ones, (B,) bool."""
        order = list(FLIP_ORDER)
        xy = torch.stack([SIZE[1] - 1 - self.xy[..., 0], self.xy[..., 1]], -1)[:, order]
        image, joint = chosen[:, None, None, None], chosen[:, None]
        return Crops(
            torch.where(image, self.images.flip(-1), self.images),
            torch.where(joint[..., None], xy, self.xy),
            torch.where(joint, self.visible[:, order], self.visible),
        )

    def moved(self, matrix: Tensor, shift: Tensor) -> "Crops":
        """Scales and rotates about the centre by matrices (B, 2, 2), then shifts by (B, 2) pixels.

        New pixels at the edges repeat the border; joints that leave the image become invisible.
        """
        middle = torch.tensor([SIZE[1] - 1, SIZE[0] - 1]) / 2
        xy = (self.xy - middle) @ matrix.mT + middle + shift[:, None]
        y, x = torch.meshgrid(torch.arange(SIZE[0]), torch.arange(SIZE[1]), indexing="ij")
        pixels = torch.stack([x, y], -1).flatten(0, 1).float()  # (N, 2)
        taken = (pixels - middle - shift[:, None]) @ torch.linalg.inv(matrix).mT + middle
        grid = ((taken + 0.5) / torch.tensor([SIZE[1], SIZE[0]]) * 2 - 1).unflatten(1, SIZE)
        images = F.grid_sample(self.images, grid, padding_mode="border", align_corners=False)
        inside = ((xy > -0.5) & (xy < torch.tensor([SIZE[1], SIZE[0]]) - 0.5)).all(-1)
        return Crops(images, xy, self.visible & inside)

    def recoloured(self, contrast: Tensor, brightness: Tensor, balance: Tensor) -> "Crops":
        """Changes contrast about the mean (B,), brightness (B,), and the colour channels by factors (B, 3)."""
        mean = self.images.mean((1, 2, 3), keepdim=True)
        shape = (-1, 1, 1, 1)
        images = (self.images - mean) * contrast.view(shape) + mean + brightness.view(shape)
        return Crops((images * balance[..., None, None]).clamp(0, 1), self.xy, self.visible)


def load_crops(data: list[PedestrianData | TreeData], progress: bool = True) -> list[PairData]:
    """Loads each dataset's images and joints, without images that show fewer than `FEWEST_JOINTS`.

    Raises:
        BadInput: a dataset that cannot be read, or has no other images.
    """
    found = []
    for d in data:
        if isinstance(d, PedestrianData):
            crops = pairs_from_pedestrians(d.identities, d.tracklets, d.poses, d.seed, progress=progress)
        else:
            crops = pairs_from_tree(d.root, d.annotations, "identity", SIZE, memory_bytes=d.memory_mb * 1_000_000)
        shown = (crops.visibility > 0).sum(1) >= FEWEST_JOINTS
        if not shown.any():
            where = "the drawn persons" if isinstance(d, PedestrianData) else d.root
            raise BadInput(f"data: {where}: none of {len(crops)} images shows {FEWEST_JOINTS} joints; needed one")
        found.append(crops.select(shown))
    return found


def draw_crops(data: list[PairData], config: EstimatorConfig, step: int) -> Crops:
    """The crops of a step, which depend only on the seed and the step."""
    rng = np.random.default_rng([config.seed, step])
    rows = rng.integers(sum(map(len, data)), size=config.batch_size)
    images, xy, visible, before = [], [], [], 0
    for crops in data:
        own = rows[(rows >= before) & (rows < before + len(crops))] - before
        before += len(crops)
        if len(own):
            images.append(crops.images[own])
            xy.append(crops.xy[own])
            visible.append(crops.visibility[own] > 0)
    pixels = torch.from_numpy(np.concatenate(images)).permute(0, 3, 1, 2).float() / 255
    batch = Crops(pixels, torch.from_numpy(np.concatenate(xy)).float(), torch.from_numpy(np.concatenate(visible)))
    return _changed(batch, rng)


def _changed(batch: Crops, rng: np.random.Generator) -> Crops:
    count = len(batch.images)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.from_numpy(rng.uniform(low, high, (count, *shape)).astype(np.float32))

    scale = torch.exp2(uniform(-0.3, 0.3))
    angle = torch.deg2rad(uniform(-15, 15)) * (uniform(0, 1) < 0.6)
    cos, sin = scale * angle.cos(), scale * angle.sin()
    matrix = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], 1)
    shift = torch.stack([uniform(-5, 5), uniform(-9, 9)], -1)
    batch = batch.mirrored(uniform(0, 1) < 0.5).moved(matrix, shift)
    return batch.recoloured(torch.exp2(uniform(-0.5, 0.5)), uniform(-0.15, 0.15), torch.exp2(uniform(-0.15, 0.15, 3)))


_KEPT = ("network", "average", "optimiser")
"""Attributes that a checkpoint holds beside the step."""


class EstimatorTrainer:
    """Network, averaged weights and optimiser of a run."""

    def __init__(self, config: EstimatorConfig, device: torch.device) -> None:
        """Args: `config`; `device` of the network."""
        self.config, self.device = config, device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(config.seed)
            self.network = PoseNet().to(device).to(memory_format=torch.channels_last)
        self.average = copy.deepcopy(self.network).eval().requires_grad_(False)
        self.statistics = Statistics(self.network)
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), config.lr, weight_decay=config.weight_decay, fused=True
        )
        self.step = 0

    def train_step(self, batch: Crops) -> dict[str, float]:
        """One update.

        Raises:
            WorkFailed: loss or gradient is not finite; weights, statistics and step are as before.
        """
        for group in self.optimiser.param_groups:
            group["lr"] = self.config.learning_rate(self.step)
        images = batch.images.to(self.device, memory_format=torch.channels_last)
        self.statistics.keep()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=has_bfloat16(self.device)):
            maps = self.network(images)
        terms = joint_losses(maps, batch.xy.to(self.device), batch.visible.to(self.device))
        total = torch.stack(list(terms.values())).sum()
        self.optimiser.zero_grad()
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        figures = read({"total": total, **terms, "gradient": norm})
        problem = problem_of(figures.values())
        if problem is not None:
            self.statistics.put_back()
            raise WorkFailed(f"step {self.step}: {problem} {figures}; try a lower lr")
        self.optimiser.step()
        update_average(self.average, self.network, self.step, self.config.ema_decay)
        self.step += 1
        return figures

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {"step": self.step, **{name: getattr(self, name).state_dict() for name in _KEPT}}

    def restore(self, path: Path) -> None:
        """Continues from a checkpoint.

        Raises:
            BadInput: a damaged file.
        """
        state = read_checkpoint(path, self.device)
        for name in _KEPT:
            getattr(self, name).load_state_dict(state[name])
        self.step = state["step"]


def train_estimator(config: EstimatorConfig, out: Path, progress: bool = True) -> Path:
    """Trains PoseNet; an interrupted run continues when started again on the same directory.

    Args:
        config: the run.
        out: run directory: config.yaml, made_of.json, environment.json, stats.jsonl, checkpoints/, and at the end
            estimator.safetensors, the averaged weights.
        progress: show a bar on a terminal, else a line every half minute.

    Returns:
        The path of the trained estimator.

    Raises:
        BadInput: `out` holds a run of another configuration or other data; data that cannot be used.
        WorkFailed: the loss is not finite; or SIGTERM or SIGHUP, after the current step was saved.
        KeyboardInterrupt: SIGINT, after the current step was saved.
    """
    run = RunDirectory(out)
    with processes_of(config.device) as processes, run.claimed(is_first=True):
        run.require_own(config)
        data = load_crops(config.data, progress)
        read = [crops for d, crops in zip(config.data, data, strict=True) if isinstance(d, TreeData)]
        facts = {"images": [crops.content_hash() for crops in read]}
        run.require_data(facts)
        trainer = EstimatorTrainer(config, processes.device)
        if run.checkpoints():
            trainer.restore(run.checkpoints()[-1])
        run.describe(config, processes, facts)
        log, saved = Log(run, trainer.step, config.tensorboard), time.monotonic()
        # Up to here a signal ends the program at once: there is no step to save.
        with stop_on_signals() as stop, ProgressBar[None](
            None, "training", config.steps, trainer.step, "step", progress
        ) as bar:  # fmt: skip
            while trainer.step < config.steps:
                figures = trainer.train_step(draw_crops(data, config, trainer.step))
                log.add(trainer.step, figures)
                bar.update()
                bar.beside(figures)
                is_due = time.monotonic() - saved > 60 * config.checkpoint_minutes or trainer.step == config.steps
                if is_due or stop.signal:
                    log.flush()
                    run.save_checkpoint(trainer.state())
                    saved = time.monotonic()
                if stop.signal:
                    stop.end(stop.signal, trainer.step)
        log.close()
        weights = out / "estimator.safetensors"
        return save_posenet(trainer.average, weights, {"training": to_mapping(config)})
