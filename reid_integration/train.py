"""Trains and evaluates a torchreid image model: python -m reid_integration.train --config FILE [key=value ...].

torchreid's stock engines compute the loss and make the step; the loop around them is here, because theirs prints
instead of returning, counts in epochs alone, and writes checkpoints that today's torch refuses to read.
"""

import contextlib
import hashlib
import json
import math
import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from reid_integration.compat import quiet
from reid_integration.config import ReidConfig, listed, load_reid_config
from reid_integration.engines import build_engine, device_of, save_weights
from reid_integration.evaluation import ReidResult, evaluate_model, write_ranked_sheets
from reid_integration.history import CHECKPOINT, History, load_checkpoint, save_checkpoint
from reid_integration.loader import synthetic_rows
from xingaug.augment.gate import KeptCounts
from xingaug.commands.parser import Parser
from xingaug.config import to_yaml
from xingaug.errors import BadInput, WorkFailed, guarded
from xingaug.files import atomic_write

RESULT, STATS, WEIGHTS, RESOLVED = "result.json", "stats.jsonl", "model.safetensors", "config.yaml"


@dataclass
class TrainResult:
    """What a run gave.

    Attributes:
        directory: holds config.yaml (resolved), stats.jsonl, model.safetensors and, once finished, result.json.
        results: figures for each target.
        iterations: optimiser steps made.
        epochs: passes over the training set that were begun.
        train_seconds: wall time of the training loop without evaluations.
        evaluation_seconds: wall time of the last evaluation.
        images: training images.
        identities: training identities.
        synthetic_share: share of rendered rows among all rows trained on.
        skipped: drawn rows that stayed real, by reason.
        sources: hash of the training images, and content hashes of generator and bank where poses were rendered.
        history: for each iteration: iteration, epoch, lr, the engine's loss terms, synthetic (share), seconds.
    """

    directory: Path
    results: dict[str, ReidResult] = field(default_factory=dict)
    iterations: int = 0
    epochs: int = 0
    train_seconds: float = 0.0
    evaluation_seconds: float = 0.0
    images: int = 0
    identities: int = 0
    synthetic_share: float = 0.0
    skipped: dict[str, int] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)

    @property
    def reid(self) -> ReidResult:
        """The figures for the first target."""
        return next(iter(self.results.values()))

    def to_mapping(self) -> dict[str, Any]:
        """Plain data for result.json, without the history."""
        plain = {name: value for name, value in vars(self).items() if name not in ("directory", "results", "history")}
        return {**plain, "results": {name: result.to_mapping() for name, result in self.results.items()}}

    @classmethod
    def load(cls, directory: Path) -> "TrainResult":
        """Reads a finished run.

        Raises:
            BadInput: result.json is missing or damaged.
        """
        path = Path(directory) / RESULT
        try:
            plain = json.loads(path.read_text(encoding="utf-8"))
            results = {name: ReidResult.from_mapping(data) for name, data in plain.pop("results").items()}
            lines = (Path(directory) / STATS).read_text(encoding="utf-8").splitlines()
            history = [entry for entry in map(json.loads, lines) if "lr" in entry]
            return cls(Path(directory), results, **plain, history=history)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadInput(
                f"{path}: not the result of a finished run ({error}); remove the folder to run again"
            ) from None


def run(config: ReidConfig, progress: bool = False, generator: nn.Module | None = None) -> TrainResult:
    """Trains as configured, evaluates, and writes the run directory `config.data.save_dir`.

    The same configuration gives the same figures on the same machine with the same number of threads. The global random
    generators are left as they were found. A run that was stopped goes on from its last checkpoint, of the end of an
    epoch, to the same figures; not so with `random_patch`, whose pool of patches is torchreid's own and is lost.

    Args:
        config: the run.
        progress: show progress bars (on a terminal only).
        generator: renders in place of `augment.generator`.

    Raises:
        BadInput: the directory holds a finished run, or something that the configuration names cannot be used.
        WorkFailed: the loss is no longer finite.
    """
    directory = Path(config.data.save_dir)
    if (directory / RESULT).exists():
        raise BadInput(f"{directory}: holds a finished run; give another data.save_dir, or remove it first")
    _require_own_directory(config, directory)
    from reid_integration.datamanager import build_datamanager  # imports torchreid, which takes seconds

    with seeded(config.train.seed), torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        manager = build_datamanager(config)
        result = TrainResult(
            directory, images=len(manager.train_loader.dataset.data), identities=manager.num_train_pids
        )
        result.sources = {"images": _fingerprint(manager.train_loader.dataset.data)}
        if config.augmentation is not None:
            with unmoved_rng():
                result.sources |= _attach(config, manager, generator)
        engine = build_engine(config, manager)
        directory.mkdir(parents=True, exist_ok=True)
        with atomic_write(directory / RESOLVED) as path:
            path.write_text(to_yaml(config), encoding="utf-8")
        before = load_checkpoint(directory, engine)
        changed = [] if before is None else [k for k, v in result.sources.items() if before["sources"].get(k) != v]
        if changed:
            raise BadInput(f"{directory}: begun with other {changed[0]}; remove the folder to start again")
        history = History(directory, STATS, -1 if before is None else before["iterations"])
        try:
            if not config.test.evaluate:
                _train(config, engine, result, history, before, progress)
            _evaluate(config, engine, result, history, progress)
        finally:
            history.close()
    save_weights(config, engine.model, directory / WEIGHTS)
    with atomic_write(directory / RESULT) as path:
        path.write_text(json.dumps(result.to_mapping(), indent=1), encoding="utf-8")
    (directory / CHECKPOINT).unlink(missing_ok=True)
    return result


def _require_own_directory(config: ReidConfig, directory: Path) -> None:
    """Raises `BadInput` unless the directory is absent, empty, or that of an unfinished run of this configuration."""
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return
    resolved = directory / RESOLVED
    if not resolved.is_file() or resolved.read_text(encoding="utf-8", errors="replace") != to_yaml(config):
        raise BadInput(f"{directory}: is not empty and not of this run; give another data.save_dir, or remove it first")


def _attach(config: ReidConfig, manager: Any, generator: nn.Module | None) -> dict[str, str]:
    """Puts the rendering loader into the data manager; returns the content hashes of generator and bank."""
    from reid_integration.attach import attach

    assert config.augmentation is not None
    data = config.data
    return attach(
        manager, config.augmentation, data.transforms, data.norm_mean, data.norm_std, config.draw_seed,
        device_of(config), generator,
    )  # fmt: skip


def _fingerprint(entries: Sequence[Any]) -> str:
    """A hash of names, labels and sizes of the training images."""
    digest = hashlib.sha256()
    for path, pid, camid, *_ in entries:
        digest.update(f"{os.path.basename(path)} {pid} {camid} {os.stat(path).st_size}\n".encode())
    return digest.hexdigest()


def _train(
    config: ReidConfig,
    engine: Any,
    result: TrainResult,
    history: History,
    before: dict[str, Any] | None,
    progress: bool,
) -> None:
    """The training loop; fills `result`. Goes on from `before`, what the last checkpoint says."""
    train, loader = config.train, engine.train_loader
    total = train.max_iterations or (train.max_epoch - train.start_epoch) * len(loader)
    done = before or {"iterations": 0, "epoch": train.start_epoch, "rows": 0, "synthetic": 0.0, "seconds": 0.0}
    result.iterations, epoch = done["iterations"], done["epoch"]
    rows, synthetic = done["rows"], done["synthetic"]
    _restore_counts(loader, done.get("skipped"))
    started, evaluating = time.perf_counter() - done["seconds"], 0.0
    saved = time.perf_counter()
    bar = tqdm(total=total, initial=result.iterations, desc="training", unit="it", disable=None if progress else True)
    with bar:
        more = result.iterations < total if train.max_iterations else epoch < train.max_epoch
        while more:
            _begin_epoch(engine, epoch, train)
            begun, gate_before = result.iterations, _gate_counts(loader)
            for batch in loader:
                entry = _step(engine, batch, epoch, result.iterations + 1)
                result.iterations += 1
                rows, synthetic = rows + len(batch["pid"]), synthetic + entry["synthetic"] * len(batch["pid"])
                entry["seconds"] = round(time.perf_counter() - started - evaluating, 3)
                history.write(entry, "train")
                bar.update()
                if result.iterations % train.print_freq == 0:
                    bar.set_postfix(loss=f"{_loss(entry):.3f}", epoch=epoch)
                if train.max_iterations:
                    _spread_schedule(engine, result.iterations, train.max_iterations, train.max_epoch)
                    if result.iterations == train.max_iterations:
                        break
            if result.iterations == begun:  # P x K samplers promise more than they give
                raise WorkFailed(
                    f"sampler.train_sampler: {config.sampler.train_sampler} gave no full batch in an epoch"
                )
            _write_gate(history, loader, gate_before, result.iterations, epoch)
            epoch += 1
            # P x K samplers promise more batches than they give, so that epochs and not iterations are counted.
            more = result.iterations < total if train.max_iterations else epoch < train.max_epoch
            if not train.max_iterations:
                engine.update_lr()
            if _evaluation_due(config, epoch, more):
                _evaluate(config, engine, result, history, progress)
                evaluating += result.evaluation_seconds
            history.flush()
            if time.perf_counter() - saved >= 60 * train.checkpoint_minutes and more:
                seconds = time.perf_counter() - started - evaluating
                save_checkpoint(
                    result.directory,
                    engine,
                    {
                        "iterations": result.iterations, "epoch": epoch, "rows": rows, "synthetic": synthetic,
                        "sources": result.sources, "seconds": seconds, "skipped": dict(getattr(loader, "skipped", {})),
                    },
                )  # fmt: skip
                saved = time.perf_counter()
    result.history = [entry for entry in history.entries if "lr" in entry]
    result.epochs = epoch - train.start_epoch
    result.train_seconds = time.perf_counter() - started - evaluating
    result.synthetic_share = synthetic / rows
    result.skipped = dict(getattr(loader, "skipped", {}))


def _restore_counts(loader: Any, skipped: dict[str, int] | None) -> None:
    if skipped and hasattr(loader, "skipped"):
        loader.skipped.update(skipped)


def _gate_counts(loader: Any) -> KeptCounts | None:
    gate = getattr(getattr(loader, "augment", None), "gate", None)
    return None if gate is None else gate.counts.copy()


def _write_gate(history: History, loader: Any, before: KeptCounts | None, iteration: int, epoch: int) -> None:
    """What the quality gate let through in an epoch, by identity where it did not let all through."""
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


def _begin_epoch(engine: Any, epoch: int, train: Any) -> None:
    """What torchreid does at the start of an epoch."""
    engine.epoch = epoch
    engine.set_model_mode("train")
    with quiet():
        engine.two_stepped_transfer_learning(epoch, train.fixbase_epoch, train.open_layers)
    if hasattr(engine.train_loader, "set_epoch"):
        engine.train_loader.set_epoch(epoch)


def _step(engine: Any, batch: dict[str, Any], epoch: int, iteration: int) -> dict[str, float]:
    """One optimiser step of the stock engine; returns its entry for the history."""
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


def _spread_schedule(engine: Any, iteration: int, iterations: int, epochs: int) -> None:
    """Moves the learning rate on as if `iterations` were `epochs` epochs of equal length."""
    for _ in range(iteration * epochs // iterations - (iteration - 1) * epochs // iterations):
        engine.update_lr()


def _evaluation_due(config: ReidConfig, done_epochs: int, unfinished: bool) -> bool:
    test = config.test
    return unfinished and test.eval_freq > 0 and done_epochs >= test.start_eval and done_epochs % test.eval_freq == 0


def _evaluate(config: ReidConfig, engine: Any, result: TrainResult, history: History, progress: bool) -> None:
    """Evaluates on every target, outside the random stream of the training."""
    started = time.perf_counter()
    with unmoved_rng():
        for name, loaders in zip(listed(config.data.targets), engine.test_loader.values(), strict=True):
            try:
                result.results[name] = evaluate_model(
                    engine.model, loaders["query"], loaders["gallery"],
                    config.test.dist_metric, config.test.normalize_feature, progress, config.test.rerank,
                    _sheets(config, result.directory / f"visrank_{name.strip('/').replace('/', '_')}", loaders),
                )  # fmt: skip
            except ValueError as error:
                raise BadInput(f"data.targets: {name}: {error}") from None
            entry = {"iteration": result.iterations, "target": name, **result.results[name].figures()}
            history.write(entry, f"test/{name}")
    result.evaluation_seconds = time.perf_counter() - started


def _sheets(config: ReidConfig, folder: Path, loaders: dict[str, Any]) -> Callable[[np.ndarray], None] | None:
    """Draws the ranked results of a target, if the configuration asks for it."""
    if not config.test.visrank:
        return None
    query, gallery = (loaders[part].dataset.data for part in ("query", "gallery"))
    return lambda distmat: write_ranked_sheets(
        distmat, query, gallery, folder, config.image_size, config.test.visrank_topk
    )


@contextlib.contextmanager
def unmoved_rng() -> Iterator[None]:
    """Puts the global random generators of Python, NumPy and torch back to where they were."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds the global random generators, which torchreid draws from, and puts them back afterwards."""
    with unmoved_rng():
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        yield


def summary_lines(result: TrainResult, ranks: Sequence[int]) -> list[str]:
    """The figures for people to read."""
    lines = [
        f"{result.iterations} iterations ({result.epochs} epochs) on {result.images} images of {result.identities} "
        f"identities in {result.train_seconds:.1f} s, {result.synthetic_share:.0%} of the rows rendered"
    ]
    for name, figures in result.results.items():
        shown = ", ".join(f"Rank-{rank} {figures.rank(rank):.1%}" for rank in ranks)
        lines.append(f"{name}: mAP {figures.mAP:.1%}, {shown}, mINP {figures.mINP:.1%}")
    return [*lines, f"written to {result.directory}"]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = Parser(
        prog="python -m reid_integration.train",
        description="Trains and evaluates a torchreid image model, with `augment: xinggan_pose` if the file says so.",
        epilog="example: python -m reid_integration.train --config configs/reid_osnet_x0_25_pedestrians.yaml "
        "augment=xinggan_pose train.max_iterations=200 data.save_dir=runs/posed",
    )
    parser.add_argument("--config", required=True, type=Path, help="torchreid-style YAML file")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as train.lr=3e-4")
    given = parser.parse_words(arguments)

    def command() -> None:
        torch.set_flush_denormal(True)
        config = load_reid_config(given.config, given.overrides)
        result = run(config, progress=True)
        if given.json:
            print(json.dumps({**result.to_mapping(), "directory": str(result.directory)}))
        else:
            print("\n".join(summary_lines(result, config.test.ranks)))

    return guarded(command)


if __name__ == "__main__":
    sys.exit(main())
