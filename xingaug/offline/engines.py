"""Engines that render the parts: this process, torchrun's processes, or Ray Data actors. All give the same bytes."""

import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import nn

from xingaug.errors import BadInput, WorkFailed
from xingaug.offline.config import GenerateConfig
from xingaug.offline.journal import Journal
from xingaug.offline.render import Progress, Renderer, WorkPart, build_transform, put_on_other_grounds
from xingaug.training.processes import Processes, processes_of

LEAST_BLOCKS, BLOCKS_EACH = 200, 20
"""Blocks of parts, at least in all and per actor (our choice): enough for even load, but not millions."""


@contextmanager
def join_processes(config: GenerateConfig) -> Iterator[Processes]:
    """Joins torchrun's process group or a Ray cluster, if the engine is one of them."""
    if config.engine == "torchrun":
        with _torchrun(config.device) as processes:
            yield processes
    elif config.engine == "ray":
        with _ray(config):
            yield Processes(0, 1, torch.device(config.device))
    else:
        yield Processes(0, 1, torch.device(config.device))


@contextmanager
def _torchrun(device: str) -> Iterator[Processes]:
    if not {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        raise BadInput(
            "engine: 'torchrun', but torchrun has not started this; "
            "needed torchrun --nproc-per-node N -m xingaug generate ... --engine torchrun"
        )
    # The processes synchronise only at the end of a round, and the last one may be hours behind.
    with processes_of(device, "gloo", timedelta(days=30)) as processes:
        yield processes


@contextmanager
def _ray(config: GenerateConfig) -> Iterator[None]:
    """Connects to the cluster named by RAY_ADDRESS, or starts one on this machine, unless Ray is already initialised.

    Raises:
        BadInput: ray is not installed, or the cluster is too small.
    """
    try:
        import ray
    except ImportError:
        raise BadInput("engine: 'ray' is not installed; needed pip install 'xingaug[ray]'") from None
    if ray.is_initialized():
        _ray_workers(config)
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # A local cluster may have more workers than cores, if more are requested.
    cores = None if "RAY_ADDRESS" in os.environ else max(os.cpu_count() or 1, config.workers or 1)
    ray.init(num_cpus=cores, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        _ray_workers(config)
        yield
    finally:
        ray.shutdown()


def _ray_workers(config: GenerateConfig) -> int:
    """Number of actors, each with its own GPU or core."""
    import ray

    unit = "GPU" if torch.device(config.device).type == "cuda" else "CPU"
    there = int(ray.cluster_resources().get(unit, 0))
    if there < (config.workers or 1):
        raise BadInput(f"workers: {config.workers or 1}, the cluster has {there} {unit}s; needed one for each worker")
    return config.workers or there


def run_ray(
    config: GenerateConfig, renderer: Renderer, parts: Sequence[WorkPart], generator: nn.Module | None
) -> Iterator[Progress]:
    """Renders the parts with actors, each of which loads the generator once; a lost actor's parts go to others.

    Every actor must see the data, the bank and `out` under the same paths.

    Args:
        config: the configuration, with the number of workers.
        renderer: the renderer of this process.
        parts: the parts to render.
        generator: a loaded generator, instead of `config.generator`.

    Raises:
        WorkFailed: a disk is full, or a worker raised an error.
    """
    import ray
    import ray.data

    # We show a progress bar of our own, and lost workers are replaced, so Ray's messages are not needed.
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    workers = min(_ray_workers(config), len(parts))
    on_gpu = torch.device(config.device).type == "cuda"
    # The list is sent to every host once; the dataset's rows are indices. A block is rerun if its worker is lost.
    shared = ray.put((config, generator, renderer.sources, renderer.store, renderer.batch_size, list(parts)))
    blocks = min(len(parts), max(LEAST_BLOCKS, BLOCKS_EACH * workers))
    work = ray.data.from_items([{"index": index} for index in range(len(parts))], override_num_blocks=blocks)
    done = work.map_batches(
        _Actor, fn_constructor_args=(shared,), batch_size=None, compute=ray.data.ActorPoolStrategy(size=workers),
        num_gpus=1 if on_gpu else 0, num_cpus=0 if on_gpu else 1,
    )  # fmt: skip
    try:
        for row in done.iter_rows():
            if row["failed"]:
                raise WorkFailed(f"{row['failed']}; the finished images are kept, start again to continue")
            yield Progress(int(row["requested"]), int(row["kept"]))
    except ray.exceptions.RayError as error:
        reason = next((line for line in str(error).splitlines() if re.match(r"\w+(\.\w+)*(Error|Failed): ", line)), "")
        raise WorkFailed(f"ray: {reason or type(error).__name__}; the finished images are kept") from error


class _Actor:
    """A renderer in its own process."""

    def __init__(self, shared: Any) -> None:
        import ray

        torch.set_flush_denormal(True)
        config, generator, sources, store, batch_size, self.parts = ray.get(shared)
        aug = build_transform(config, config.device, generator)
        put_on_other_grounds(aug, sources, config.ground)
        self.out = config.out
        self.renderer = Renderer(aug, sources, store, Journal(config.out), batch_size)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        chosen = [self.parts[int(index)] for index in batch["index"]]
        try:
            done, failed = list(self.renderer.run(chosen)), ""
        except OSError as error:  # returned as a result, because Ray would wrap it in a long message of its own
            done, failed = [Progress(0, 0)], f"{error.filename or self.out}: {error.strerror or error}"
        return {
            "requested": [part.requested for part in done], "kept": [part.kept for part in done],
            "failed": [failed] * len(done),
        }  # fmt: skip
