"""The training loop round an engine's step.

torchreid's stock engines compute the loss and make the step; the loop around them is ours, because theirs prints
instead of returning, counts only epochs, and writes checkpoints that today's torch refuses to read.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from reid_integration.checkpoint import checkpoint_of, copy_on_cpu, save_checkpoint
from reid_integration.compat import quiet
from reid_integration.config import ReidConfig
from reid_integration.loader import synthetic_rows
from reid_integration.result import TrainResult
from xingaug.augment.gate import KeptCounts
from xingaug.errors import WorkFailed
from xingaug.progress import ProgressBar
from xingaug.stats import StatsLog
from xingaug.training.steps import update_average


class Training:
    """A run's loop with its timing and counts."""

    def __init__(
        self, config: ReidConfig, engine: Any, result: TrainResult, history: StatsLog, before: dict[str, Any] | None
    ) -> None:
        """Starts a run, or resumes it from its last checkpoint.

        Args:
            config: the run.
            engine: torchreid's, at the checkpoint's state.
            result: filled in while the loop runs.
            history: log of every iteration.
            before: the loop's numbers in the checkpoint; None for a new run.
        """
        self.config, self.engine, self.result, self.history = config, engine, result, history
        self.loader, train = engine.train_loader, config.train
        done = before or {"iterations": 0, "epoch": train.start_epoch, "rows": 0, "synthetic": 0.0, "seconds": 0.0}
        result.iterations, self.epoch = done["iterations"], done["epoch"]
        self.rows, self.synthetic = done["rows"], done["synthetic"]
        if hasattr(self.loader, "skipped"):
            self.loader.skipped.update(done.get("skipped") or {})
        self.total = train.max_iterations or (train.max_epoch - train.start_epoch) * len(self.loader)
        self._started, self._evaluating = time.perf_counter() - done["seconds"], 0.0
        self._saved = time.perf_counter()
        self._unsaved: dict[str, Any] | None = None

    @property
    def more(self) -> bool:
        """Whether training is unfinished; counted in epochs, as P x K samplers yield fewer batches than they state."""
        train = self.config.train
        return self.result.iterations < self.total if train.max_iterations else self.epoch < train.max_epoch

    def run(self, evaluate: Callable[[], None], progress: bool = False) -> None:
        """Trains to the end; fills the result, and leaves a checkpoint that only needs an evaluation.

        If a signal or an error ends it early, the last complete epoch is saved.

        Args:
            evaluate: called between epochs as configured (`test.eval_freq`).
            progress: show a bar, or lines if there is no terminal.
        """
        result, history = self.result, self.history
        with ProgressBar[Any](
            label="training", total=self.total, initial=result.iterations, unit="step", shown=progress
        ) as bar:
            try:
                while self.more:
                    self._run_epoch(bar)
                    if self._evaluation_due():
                        began = time.perf_counter()
                        evaluate()
                        self._evaluating += time.perf_counter() - began
                    history.flush()
                    self._end_epoch()
            except BaseException:
                if self._unsaved is not None:
                    save_checkpoint(result.directory, self._unsaved)
                raise
        result.history = [entry for entry in history.entries() if "lr" in entry]
        result.epochs = self.epoch - self.config.train.start_epoch
        result.train_seconds = self._seconds()
        result.synthetic_share = self.synthetic / self.rows
        result.skipped = dict(getattr(self.loader, "skipped", {}))

    def _run_epoch(self, bar: ProgressBar[Any]) -> None:
        engine, train, result = self.engine, self.config.train, self.result
        begin_epoch(engine, self.epoch, train)
        first, gate_before = result.iterations, _gate_counts(self.loader)
        for batch in self.loader:
            iteration = result.iterations + 1
            with warmed_up(engine.optimizer, iteration, train.warmup_iterations):
                entry = step(engine, batch, self.epoch, iteration)
            result.iterations = iteration
            if engine.average is not None:
                update_average(engine.average, engine.model, iteration - 1, train.ema)
            self.rows, self.synthetic = (
                self.rows + len(batch["pid"]),
                self.synthetic + entry["synthetic"] * len(batch["pid"]),
            )
            self.history.write({**entry, "seconds": round(self._seconds(), 3)}, "train")
            bar.update()
            if iteration % train.print_freq == 0:
                bar.beside(f"loss {_loss(entry):.3f}, epoch {self.epoch}")
            if train.max_iterations:
                spread_schedule(engine, iteration, train.max_iterations, train.max_epoch)
                if iteration == train.max_iterations:
                    break
        if result.iterations == first:  # P x K samplers yield fewer batches than their length
            sampler = self.config.sampler.train_sampler
            raise WorkFailed(f"sampler.train_sampler: {sampler} gave no full batch in an epoch")
        _write_gate(self.history, self.loader, gate_before, result.iterations, self.epoch)
        self.epoch += 1
        if not train.max_iterations:
            engine.update_lr()

    def _evaluation_due(self) -> bool:
        test = self.config.test
        return self.more and test.eval_freq > 0 and self.epoch >= test.start_eval and self.epoch % test.eval_freq == 0

    def _seconds(self) -> float:
        """Training time without evaluations."""
        return time.perf_counter() - self._started - self._evaluating

    def _end_epoch(self) -> None:
        """Saves a checkpoint, or keeps it in memory until one is due."""
        progress = {
            "iterations": self.result.iterations, "epoch": self.epoch, "rows": self.rows,
            "synthetic": self.synthetic, "sources": self.result.sources, "seconds": self._seconds(),
            "skipped": dict(getattr(self.loader, "skipped", {})),
        }  # fmt: skip
        checkpoint = checkpoint_of(self.engine, progress)
        if self.more and time.perf_counter() - self._saved < 60 * self.config.train.checkpoint_minutes:
            self._unsaved = copy_on_cpu(checkpoint)
            return
        self._unsaved = checkpoint  # needs no copy: no step runs before it is written
        save_checkpoint(self.result.directory, checkpoint)
        self._unsaved, self._saved = None, time.perf_counter()


def begin_epoch(engine: Any, epoch: int, train: Any) -> None:
    """Prepares engine and loader for an epoch, as torchreid does."""
    engine.epoch = epoch
    engine.set_model_mode("train")
    with quiet():
        engine.two_stepped_transfer_learning(epoch, train.fixbase_epoch, train.open_layers)
    if hasattr(engine.train_loader, "set_epoch"):
        engine.train_loader.set_epoch(epoch)


def step(engine: Any, batch: dict[str, Any], epoch: int, iteration: int) -> dict[str, float]:
    """One optimiser step of the engine; returns its entry for the history."""
    lr = engine.get_current_lr()
    terms = engine.forward_backward(batch)
    synthetic = float(synthetic_rows(batch).float().mean())
    entry = {"iteration": iteration, "epoch": epoch, "lr": lr, **terms, "synthetic": synthetic}
    if not math.isfinite(_loss(entry)):
        raise WorkFailed(f"iteration {iteration}: the loss is {_loss(entry)}; lower train.lr")
    return entry


def _loss(entry: dict[str, float]) -> float:
    """The sum of the loss terms that an engine reports (`loss`, or `loss_t` and `loss_x`)."""
    return sum(value for name, value in entry.items() if name.startswith("loss"))


@contextlib.contextmanager
def warmed_up(optimizer: torch.optim.Optimizer, iteration: int, warmup: int) -> Iterator[None]:
    """Scales the learning rates while the block runs: from a tenth at first to all of them after `warmup` steps."""
    if iteration > warmup:
        yield
        return
    rates = [group["lr"] for group in optimizer.param_groups]
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate * (0.1 + 0.9 * (iteration - 1) / warmup)
    try:
        yield
    finally:  # schedulers continue from the optimiser's current rates
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate


def spread_schedule(engine: Any, iteration: int, iterations: int, epochs: int) -> None:
    """Advances the learning rate as if `iterations` were `epochs` epochs of equal length."""
    for _ in range(iteration * epochs // iterations - (iteration - 1) * epochs // iterations):
        engine.update_lr()


def _gate_counts(loader: Any) -> KeptCounts | None:
    gate = getattr(getattr(loader, "augment", None), "gate", None)
    return None if gate is None else gate.counts.copy()


def _write_gate(history: StatsLog, loader: Any, before: KeptCounts | None, iteration: int, epoch: int) -> None:
    """Logs the share that passed the quality gate in an epoch, also by identity if it rejected any."""
    if before is None:
        return
    counts = loader.augment.gate.counts.since(before)
    judged = counts.judged.total()
    entry = {
        "iteration": iteration, "epoch": epoch, "judged": judged,
        "kept_share": counts.kept.total() / judged if judged else 1.0,
        "kept_share_by_identity": {str(pid): round(share, 4) for pid, share in counts.shares().items() if share < 1},
    }  # fmt: skip
    history.write(entry, "gate")
