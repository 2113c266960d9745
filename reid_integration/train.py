"""Trains and evaluates a torchreid image model: python -m reid_integration.train --config FILE [key=value ...]."""

import contextlib
import hashlib
import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from reid_integration.checkpoint import CHECKPOINT, load_checkpoint
from reid_integration.config import ReidConfig, listed, load_reid_config
from reid_integration.engines import build_engine, device_of, tested_model
from reid_integration.evaluation import Refine, evaluate_model, write_ranked_sheets
from reid_integration.loop import Training
from reid_integration.posed_features import PosedFeatures
from reid_integration.result import RESOLVED, RESULT, STATS, WEIGHTS, TrainResult, machine_of, placeless
from reid_integration.weights import read_state, save_weights
from xingaug.augment.batch import build_batch_chain
from xingaug.commands.parser import Parser
from xingaug.config import to_mapping, to_yaml
from xingaug.errors import BadInput, guarded, say
from xingaug.files import atomic_write, claimed_directory
from xingaug.runs import require_own, require_same, settings_of
from xingaug.stats import StatsLog


def run(config: ReidConfig, progress: bool = False, generator: nn.Module | None = None) -> TrainResult:
    """Trains as configured, evaluates, and writes the run directory `config.data.save_dir`.

    The same configuration gives the same figures on the same machine with the same number of threads. The global RNGs
    are restored afterwards. A stopped run resumes from its last checkpoint, at the end of an epoch, with the same
    figures; except with `random_patch`, whose pool of patches is inside torchreid and is lost.

    Args:
        config: the run.
        progress: show progress bars (on a terminal only).
        generator: replaces `augment.generator`.

    Raises:
        BadInput: the directory holds a finished run, or a file or setting in the configuration cannot be used.
        WorkFailed: the loss is no longer finite.
    """
    directory = Path(config.data.save_dir)
    if config.model.load_weights:
        read_state(Path(config.model.load_weights))  # report bad weights before anything in the directory
    if (directory / RESULT).exists():
        raise BadInput(f"{directory}: holds a finished run; give another data.save_dir, or remove it first")
    with claimed_directory(directory, "training"):
        return _run(config, directory, progress, generator)


def _run(config: ReidConfig, directory: Path, progress: bool, generator: nn.Module | None) -> TrainResult:
    """As `run`, in a directory that this process has locked."""
    _require_own_directory(config, directory)
    from reid_integration.datamanager import build_datamanager  # imports torchreid, which takes seconds

    with seeded(config.train.seed), torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        manager = build_datamanager(config)
        result = TrainResult(
            directory, images=len(manager.train_loader.dataset.data), identities=manager.num_train_pids,
            machine=machine_of(device_of(config)),
        )  # fmt: skip
        result.sources = {"images": _fingerprint(manager.train_loader.dataset.data)}
        if config.augmentation is not None and (config.test.poses or not config.test.evaluate):
            with unmoved_rng():
                result.sources |= _attach(config, manager, generator)
        engine = build_engine(config, manager)
        directory.mkdir(parents=True, exist_ok=True)
        with atomic_write(directory / RESOLVED) as path:
            path.write_text(to_yaml(config), encoding="utf-8")
        before = load_checkpoint(directory, engine)
        changed = [] if before is None else [k for k, v in result.sources.items() if before["sources"].get(k) != v]
        if changed:
            raise BadInput(f"{directory}: started with other {changed[0]}; remove the folder to start again")
        if before is not None and progress:
            say(f"{directory}: continues after iteration {before['iterations']}")
        refine = _refinement(config, engine, progress)
        history = StatsLog(directory / STATS, "iteration", -1 if before is None else before["iterations"])
        try:
            if not config.test.evaluate:
                training = Training(config, engine, result, history, before)
                training.run(lambda: _evaluate(config, engine, result, history, refine, progress), progress)
            _evaluate(config, engine, result, history, refine, progress)
        finally:
            history.close()
    with atomic_write(directory / RESULT) as path:
        path.write_text(json.dumps(result.to_mapping(), indent=1), encoding="utf-8")
    (directory / CHECKPOINT).unlink(missing_ok=True)
    return result


def _require_own_directory(config: ReidConfig, directory: Path) -> None:
    """Raises `BadInput` unless the directory is absent, empty, or that of an unfinished run of this configuration."""
    hint = "give another data.save_dir, or remove it first"
    require_own(directory, RESOLVED, hint)
    if (directory / RESOLVED).exists():
        before = settings_of(directory / RESOLVED, type(config))
        require_same(directory, placeless(before), placeless(to_mapping(config)), hint)


def _attach(config: ReidConfig, manager: Any, generator: nn.Module | None) -> dict[str, str]:
    """Attaches the rendering loader to the data manager; returns the content hashes of generator and bank."""
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


def _evaluate(
    config: ReidConfig,
    engine: Any,
    result: TrainResult,
    history: StatsLog,
    refine: Refine | None,
    progress: bool,
) -> None:
    """Evaluates on every target, without touching the random state of the training.

    The weights are written first, so that they are not lost if anything fails here.
    """
    model = tested_model(engine)
    metadata = {"model": config.model.name, "loss": config.loss.name}
    save_weights(model, result.directory / WEIGHTS, metadata)
    started = time.perf_counter()
    with unmoved_rng():
        for name, loaders in zip(listed(config.data.targets), engine.test_loader.values(), strict=True):
            try:
                result.results[name] = evaluate_model(
                    model, loaders["query"], loaders["gallery"],
                    config.test.dist_metric, config.test.normalize_feature, progress, config.test.rerank,
                    _sheets(config, result.directory / f"visrank_{name.strip('/').replace('/', '_')}", loaders),
                    refine, max(50, *config.test.ranks),
                )  # fmt: skip
            except ValueError as error:
                raise BadInput(f"data.targets: {name}: {error}") from None
            entry = {"iteration": result.iterations, "target": name, **result.results[name].figures()}
            history.write(entry, f"test/{name}")
    result.evaluation_seconds = time.perf_counter() - started


def _refinement(config: ReidConfig, engine: Any, progress: bool) -> Refine | None:
    """Averages the features of a loader's images with those of renderings, if `test.poses` is set.

    Raises:
        BadInput: no keypoints of a target's query or gallery.
    """
    chosen, data, test = config.augmentation, config.data, config.test
    if not test.poses or chosen is None:
        return None
    with unmoved_rng():
        posed = PosedFeatures(
            engine.train_loader.augment, test.poses, chosen.annotations,
            build_batch_chain([], config.image_size, data.norm_mean, data.norm_std),
            test.normalize_feature or test.dist_metric == "cosine",
        )  # fmt: skip
    for loaders in engine.test_loader.values():
        for loader in loaders.values():
            posed.require_keypoints(_paths(loader))
    return lambda loader, own, part: posed.mixed(
        tested_model(engine), _paths(loader), own, progress, f"{part} in {len(posed.rows)} poses"
    )


def _paths(loader: Any) -> list[str]:
    """The image files of one of torchreid's loaders."""
    return [entry[0] for entry in loader.dataset.data]


def _sheets(config: ReidConfig, folder: Path, loaders: dict[str, Any]) -> Callable[[np.ndarray], None] | None:
    """A function that draws the ranked results of a target, if `test.visrank` is set."""
    if not config.test.visrank:
        return None
    query, gallery = (loaders[part].dataset.data for part in ("query", "gallery"))
    return lambda distmat: write_ranked_sheets(
        distmat, query, gallery, folder, config.image_size, config.test.visrank_topk
    )


@contextlib.contextmanager
def unmoved_rng() -> Iterator[None]:
    """Restores the global RNGs of Python, NumPy and torch at the end."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds the global RNGs, which torchreid draws from, and restores them at the end."""
    with unmoved_rng():
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        yield


def summary_lines(result: TrainResult, ranks: Sequence[int]) -> list[str]:
    """The figures as readable text."""
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
