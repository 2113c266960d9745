"""Generator training: one visible loop. Runs on torch, torchvision, numpy, pillow, pyyaml, safetensors, tqdm alone."""

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.utils import make_grid, save_image

from xingaug.config import to_mapping, to_yaml
from xingaug.data.pairs import PairData, pairs_from_pedestrians, pairs_from_tree
from xingaug.errors import BadInput
from xingaug.files import atomic_write
from xingaug.generators.render import render
from xingaug.generators.store import save_generator
from xingaug.images import signed_to_unit, unit_to_bytes
from xingaug.progress import ProgressBar
from xingaug.training.batches import Batch, PairRows, make_batch, rows_of_steps
from xingaug.training.config import PedestrianData, TrainConfig
from xingaug.training.processes import processes_of
from xingaug.training.rundir import Log, RunDirectory
from xingaug.training.stopping import stop_on_signals
from xingaug.training.trainer import Trainer
from xingaug.training.validation import Validator, score

SAMPLES = 8
"""Number of pairs on a sample sheet."""


def train(
    config: TrainConfig,
    out: Path,
    progress: bool = True,
    overfit_one_batch: bool = False,
    identity_network: nn.Module | None = None,
) -> Path:
    """Trains a generator; an interrupted run continues when started again on the same directory.

    Args:
        config: the run.
        out: run directory: config.yaml, made_of.json (hashes of the data), environment.json, stats.jsonl, tensorboard/,
            checkpoints/ (the last two and the best), samples/, best.safetensors (the best checkpoint's averaged
            weights), and at the end generator.safetensors (the averaged weights after the last step).
        progress: show a bar on a terminal.
        overfit_one_batch: use the first step's pairs in every step, in their own colours, to check that the losses
            fall.
        identity_network: replaces the configuration's: images (B, 3, H, W) in [0, 1] to features (B, D).

    Returns:
        The path of the trained generator.

    Raises:
        BadInput: `out` holds a run of another configuration or other data; data or weights that cannot be used.
        WorkFailed: a loss is not finite or explodes; or SIGTERM or SIGHUP, after the current step was saved.
        KeyboardInterrupt: SIGINT, after the current step was saved.
    """
    run = RunDirectory(out)
    with processes_of(config.device) as processes, run.claimed(processes.is_first):
        run.require_own(config)
        processes.wait()  # so that no slow process checks the directory after the first one has written to it
        trainer = Trainer(config, processes, identity_network)
        data, held_out = load_pairs(config, progress and processes.is_first, processes.on_this_machine)
        facts = _facts(config, data, held_out, overfit_one_batch)
        run.require_data(facts)
        if run.checkpoints():
            trainer.restore(run.checkpoints()[-1])
        validator = validator_of(trainer, held_out) if processes.is_first else None
        # Up to here a signal ends the program at once: there is no step to save.
        with (
            stop_on_signals() as stop,
            Recorder(run, trainer, facts, held_out or data, validator, progress) as recorder,
        ):
            for batch in batches(trainer, data, overfit_one_batch):
                recorder.log(trainer.train_step(batch))
                is_best = recorder.validate()
                recorder.draw_samples()
                # One process alone may receive a signal or find a checkpoint due; all act on it.
                signal, saves = processes.highest(stop.signal, is_best or recorder.checkpoint_is_due())
                if saves or signal:
                    recorder.save_checkpoint(trainer.state(), is_best)
                if signal:
                    stop.end(signal, trainer.step)
        if processes.is_first:
            save_generator(trainer.average, run.generator, {"training": to_mapping(config)})
    return run.generator


def _facts(config: TrainConfig, data: PairData, held_out: PairData | None, overfit_one_batch: bool) -> dict[str, Any]:
    """What a run is made of, beside its configuration; drawn persons follow from that."""
    read = {} if isinstance(config.data, PedestrianData) else {"images": data.content_hash()}
    if read and held_out is not None:
        read["held_out"] = held_out.content_hash()
    return {"overfit_one_batch": overfit_one_batch, **read}


class Recorder:
    """Writes a run's files during training, in the first process only: figures, sample sheets, checkpoints."""

    def __init__(
        self,
        run: RunDirectory,
        trainer: Trainer,
        facts: Mapping[str, Any],
        shown: PairData,
        validator: Validator | None,
        progress: bool,
    ) -> None:
        """Opens the run's files.

        Args:
            run: the directory.
            trainer: whose steps are recorded.
            facts: of the data, as `RunDirectory.require_data` takes them.
            shown: data for sample sheets.
            validator: of held-out persons; None if there are none.
            progress: show a bar.
        """
        self.run, self.trainer, self.config = run, trainer, trainer.config
        self.writes = trainer.processes.is_first
        self.saved = time.monotonic()
        if self.writes:
            run.describe(self.config, trainer.processes, facts)
            self.stats = Log(run, trainer.step, self.config.tensorboard)
            count = min(SAMPLES, len(shown))
            sources, targets, mirror = shown.draw(count, self.config.seed + 1, 0)
            self.sheet = PairRows(sources, targets, np.zeros_like(mirror), np.zeros(count, np.int64))
        self.shown, self.validator = shown, validator
        size = self.config.batch_size
        self.bar = ProgressBar[None](
            None, "training", self.config.steps * size, trainer.step * size, shown=progress and self.writes
        )

    def __enter__(self) -> "Recorder":
        """The recorder itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the files and the bar."""
        self.bar.close()
        if self.writes:
            self.stats.close()

    def log(self, figures: dict[str, float]) -> None:
        """Logs the loss terms of the last step."""
        self.bar.update(self.config.batch_size)
        self.bar.beside(figures)
        if self.writes:
            self.stats.add(self.trainer.step, figures)

    def _is_turn(self, every: int) -> bool:
        return self.writes and (self.trainer.step % every == 0 or self.trainer.step == self.config.steps)

    def validate(self) -> bool:
        """Measures the held-out pairs when due; returns whether the weights are the best so far."""
        chosen = self.config.validation
        if self.validator is None or not self._is_turn(chosen.every):
            return False
        figures = validate(self.trainer, self.validator)
        value = score(figures, chosen.measures)
        self.stats.add(self.trainer.step, {f"validation_{name}": value for name, value in figures.items()})
        if value <= self.trainer.best:
            return False
        self.trainer.best = value
        best = {"measure": list(chosen.measures), "value": value}
        notes = {"training": to_mapping(self.config), "step": self.trainer.step, "validation": figures, "best": best}
        save_generator(self.trainer.average, self.run.best_generator, notes)
        return True

    def draw_samples(self) -> None:
        """Writes a sheet of source, target pose, target and generated image, always of the same pairs."""
        if not self._is_turn(self.config.sample_every):
            return
        batch = make_batch(self.shown, self.sheet, self.config.network.size, self.trainer.device)
        pose = batch.target_heatmaps.amax(1, keepdim=True).expand(-1, 3, -1, -1) * 2 - 1
        rows = torch.cat([batch.source, pose, batch.target, generate(self.trainer, batch)])
        with atomic_write(self.run.path / "samples" / f"{self.trainer.step:06d}.png") as temporary:
            save_image(signed_to_unit(make_grid(rows, nrow=len(batch.names), padding=2)), temporary, format="png")

    def checkpoint_is_due(self) -> bool:
        """Whether `checkpoint_minutes` have passed, or the run ends."""
        passed = time.monotonic() - self.saved > 60 * self.config.checkpoint_minutes
        return self.writes and (passed or self.trainer.step == self.config.steps)

    def save_checkpoint(self, state: dict[str, Any], is_best: bool) -> None:
        """Flushes the figures, then writes the state."""
        if self.writes:
            self.stats.flush()
            self.run.save_checkpoint(state, is_best)
            self.saved = time.monotonic()


def load_pairs(config: TrainConfig, progress: bool = True, at_once: int = 1) -> tuple[PairData, PairData | None]:
    """Loads the configured images: of the persons to train on, and of those held out, if any.

    Args:
        config: the run.
        progress: show a bar.
        at_once: processes of this machine that load them at the same time and share its cores.
    """
    d = config.data
    if isinstance(d, PedestrianData):
        from xingaug.data.pedestrians.workers import available_cores  # imports OpenCV

        workers = max(1, available_cores() // at_once)
        data = pairs_from_pedestrians(d.identities, d.tracklets, d.poses, d.seed, workers, progress).usable()
    else:
        size, memory = config.network.size, d.memory_mb * 1_000_000
        tree = pairs_from_tree(d.root, d.annotations, d.within, size, d.pairs, memory, d.masks, d.same_camera)
        data = tree.usable(d.min_visible)
    if config.keeps_ground and data.masks is None:
        raise BadInput("data.masks: none, and no .png beside the images; keep_ground learns from masks of the persons")
    return data.hold_out(config.validation.identities, config.seed)


def batches(trainer: Trainer, data: PairData, overfit_one_batch: bool = False) -> Iterator[Batch]:
    """This process's batch of every remaining step; the next one is built while a step runs."""
    config, size = trainer.config, trainer.config.network.size
    if overfit_one_batch:
        rows = next(rows_of_steps(config, data, 0, trainer.processes))
        batch = make_batch(data, rows, size, trainer.device)
        yield from (batch for _ in range(trainer.step, config.steps))
        return
    with ThreadPoolExecutor(1) as pool:
        upcoming: Future[Batch] | None = None
        for rows in rows_of_steps(config, data, trainer.step, trainer.processes):
            ready, upcoming = upcoming, pool.submit(make_batch, data, rows, size, trainer.device, config.photometric)
            if ready is not None:
                yield ready.result()
        if upcoming is not None:
            yield upcoming.result()


@torch.no_grad()
def generate(trainer: Trainer, batch: Batch) -> Tensor:
    """Renders a batch with the averaged weights, (B, 3, H, W) float32 in [-1, 1]."""
    with trainer.autocast():
        image = render(trainer.average.eval(), batch.source, *batch.joints)
    return image.float()


def validator_of(trainer: Trainer, held_out: PairData | None) -> Validator | None:
    """The validator of the held-out persons; None if there are none."""
    config = trainer.config
    return None if held_out is None else Validator(config.validation, held_out, config.network.size, trainer.device)


def validate(trainer: Trainer, validator: Validator) -> dict[str, float]:
    """Measures the averaged weights on pairs of held-out persons, always the same ones."""
    sources, targets, size = validator.sources, validator.targets, trainer.config.network.size
    generated = []
    for start in range(0, len(sources), trainer.config.batch_size):
        part = slice(start, start + trainer.config.batch_size)
        rows = PairRows(sources[part], targets[part], np.zeros(len(sources[part]), bool), targets[part])
        batch = make_batch(validator.data, rows, size, trainer.device)
        generated.append(unit_to_bytes(signed_to_unit(generate(trainer, batch))).cpu().numpy())
    return validator.measure(np.concatenate(generated))


def plan(config: TrainConfig, out: Path, overfit_one_batch: bool = False) -> str:
    """Describes a run without starting it, as YAML: resolved configuration, size of its data and networks.

    Reads the data and builds the networks, writes nothing.
    """
    with processes_of(config.device) as processes:
        run = RunDirectory(out)
        run.require_own(config)
        trainer = Trainer(config, processes)
        data, held_out = load_pairs(config)
        run.require_data(_facts(config, data, held_out, overfit_one_batch))
        validator_of(trainer, held_out)  # so that unsuitable networks or pairs are reported now
        summary = {
            "out": str(out),
            "images": len(data),
            "held_out_images": 0 if held_out is None else len(held_out),
            "pairs_drawn": config.steps * config.batch_size,
            "generator_parameters": sum(p.numel() for p in trainer.generator.parameters()),
            "discriminator_parameters": sum(p.numel() for p in trainer.discriminators.parameters()),
            "processes": processes.count,
            "goes_on_from": str(run.checkpoints()[-1]) if run.checkpoints() else None,
        }
    return to_yaml({"config": to_mapping(config), "plan": summary})
