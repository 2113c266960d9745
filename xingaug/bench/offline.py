"""Speed of `xingaug generate`, from files to files, as a share of its generator's own speed."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from xingaug.bench.networks import example_batch, forward_of
from xingaug.bench.timing import alternate, positive
from xingaug.data.annotations import read_annotations
from xingaug.data.market1501 import read_split
from xingaug.data.pedestrians import write_world
from xingaug.generators.store import load_generator
from xingaug.offline.config import GenerateConfig
from xingaug.offline.formats import FolderStore, ShardStore, Store
from xingaug.offline.journal import Journal
from xingaug.offline.plan import find_sources, first_items
from xingaug.offline.render import Renderer, WorkPart, build_transform, threads_of
from xingaug.offline.resources import fitting_batch_size
from xingaug.poses.collect import bank_from_tree

IDENTITIES, IMAGES = 24, 8  # of the pedestrian world; half of the identities are training images


def bench_offline(name: str, batch_size: int | None, rounds: int, device: str = "cpu") -> dict[str, Any]:
    """Measures images/s of the generator alone and of the whole pipeline from image files to image files.

    The generator alone runs in both ways: batches in sequence, each on all cores, and in parallel, each on one core.
    The pipeline is compared with the faster way.

    Args:
        name: bundled generator or file.
        batch_size: images at a time; None is the default of `generate`.
        rounds: measured rounds, each of which renders everything.
        device: such as cuda.

    Returns:
        `images_per_second` by variant, `ratio_folder` and `ratio_shards` to the generator alone.

    Raises:
        BadInput: no such generator, or a number below 1.
    """
    positive("rounds", rounds)
    dev = torch.device(device)
    generator = load_generator(name, dev, "auto")
    threads = torch.get_num_threads()
    size = fitting_batch_size(generator, dev, threads) if batch_size is None else positive("batch_size", batch_size)
    inputs = example_batch(generator, size, dev)
    forward = forward_of(generator, inputs)
    with tempfile.TemporaryDirectory(prefix="xingaug-bench-") as folder:
        root = Path(folder)
        write_world(root / "world", identities=IDENTITIES, images_per_identity=IMAGES, seed=0)
        bank_from_tree(root / "world", root / "world" / "annotations.npz").save(root / "bank")
        runs = {kind: _pipeline(root, name, size, device, kind) for kind in ("folder", "shards")}
        count = runs["folder"][1]
        batches = -(-count // size)

        def parallel() -> None:
            with threads_of(dev) as (pool, _):
                list(pool.map(lambda _: forward(), range(batches)))

        def sequential() -> None:
            for _ in range(batches):
                forward()

        variants: dict[str, Callable[[], object]] = {"generator, all cores a batch": sequential}
        variants |= {"generator, a core a batch": parallel} | {f"to {kind}": run for kind, (run, _) in runs.items()}
        timed = alternate(variants, rounds, dev)
    rates = {key: (count if key.startswith("to ") else batches * size) / t.median for key, t in timed.items()}
    alone = max(rate for key, rate in rates.items() if key.startswith("generator"))
    return {
        "generator": name,
        "device": device,
        "threads": threads,
        "batch_size": size,
        "images": count,
        "images_per_second": {key: round(rate, 2) for key, rate in rates.items()},
        "ratio_folder": round(rates["to folder"] / alone, 3),
        "ratio_shards": round(rates["to shards"] / alone, 3),
    }


def _pipeline(root: Path, name: str, batch_size: int, device: str, kind: str) -> tuple[Callable[[], object], int]:
    """A function that renders every image of the world twice, from files to files, and the number of renderings."""
    data, out = root / "world", root / kind
    config = GenerateConfig(data, data / "annotations.npz", name, root / "bank", out, per_image=2, device=device)
    aug = build_transform(config, device)
    train = read_split(data, "train")
    sources = find_sources(train, read_annotations(config.annotations), aug.size)
    items, *_ = first_items(aug, sources, torch.full((len(sources),), 2).numpy(), None, "image")
    store: Store = FolderStore(out, batch_size) if kind == "folder" else ShardStore(out, 4 * batch_size)
    renderer = Renderer(aug, sources, store, Journal(out), batch_size)
    starts = range(0, len(items), store.part_size)
    parts = [WorkPart(number, items[start : start + store.part_size]) for number, start in enumerate(starts)]
    return lambda: list(renderer.run(parts)), len(items)
