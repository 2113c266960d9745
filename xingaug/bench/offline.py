"""What `xingaug generate` reaches of its generator's own speed, from files to files."""

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
    """Images/s of the generator alone and of the whole way from image files to image files.

    The generator runs alone in the two ways in which it can use the cores: batch after batch, each on all of them, and
    batches beside one another, each on one. The quicker of them is what the whole way is compared with.

    Args:
        name: bundled generator or file.
        batch_size: images at a time; None is what `generate` would take.
        rounds: measured rounds; in each everything is rendered anew.
        device: such as cuda.

    Returns:
        `images_per_second` by variant, `ratio_folder` and `ratio_shards` to the generator alone.

    Raises:
        BadInput: no such generator, or a number below 1.
    """
    positive("rounds", rounds)
    place = torch.device(device)
    generator = load_generator(name, place, "auto")
    threads = torch.get_num_threads()
    size = fitting_batch_size(generator, place, threads) if batch_size is None else positive("batch_size", batch_size)
    inputs = example_batch(generator, size, place)
    forward = forward_of(generator, inputs)
    with tempfile.TemporaryDirectory(prefix="xingaug-bench-") as folder:
        root = Path(folder)
        write_world(root / "world", identities=IDENTITIES, images_per_identity=IMAGES, seed=0)
        bank_from_tree(root / "world", root / "world" / "annotations.npz").save(root / "bank")
        whole = {kind: _whole_way(root, name, size, device, kind) for kind in ("folder", "shards")}
        count = whole["folder"][1]
        batches = -(-count // size)

        def beside() -> None:
            with threads_of(place) as (pool, _):
                list(pool.map(lambda _: forward(), range(batches)))

        def after() -> None:
            for _ in range(batches):
                forward()

        variants: dict[str, Callable[[], object]] = {"generator, all cores a batch": after}
        variants |= {"generator, a core a batch": beside} | {f"to {kind}": run for kind, (run, _) in whole.items()}
        timed = alternate(variants, rounds, place)
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


def _whole_way(root: Path, name: str, batch_size: int, device: str, kind: str) -> tuple[Callable[[], object], int]:
    """Renders every image of the world twice, from files to files; and how many that makes."""
    data, out = root / "world", root / kind
    config = GenerateConfig(data, data / "annotations.npz", name, root / "bank", out, per_image=2, device=device)
    aug = build_transform(config, device)
    train = read_split(data, "train")
    sources = find_sources(train, read_annotations(config.annotations), aug.size)
    items, *_ = first_items(aug, sources, torch.full((len(sources),), 2).numpy(), None)
    store: Store = FolderStore(out, batch_size) if kind == "folder" else ShardStore(out, 4 * batch_size)
    renderer = Renderer(aug, sources, store, Journal(out), batch_size)
    starts = range(0, len(items), store.part_size)
    parts = [WorkPart(number, items[start : start + store.part_size]) for number, start in enumerate(starts)]
    return lambda: list(renderer.run(parts)), len(items)
