"""Renders parts: batches run in parallel, each on one thread from source files to encoded images."""

import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import torch
from PIL import Image
from torch import nn

from xingaug.augment.gate import build_gate
from xingaug.augment.grounds import Grounds, drawn_rows, wanted_share
from xingaug.augment.transform import PoseDraw, XingPose
from xingaug.errors import BadInput, WorkFailed
from xingaug.generators.store import load_generator
from xingaug.images import bytes_to_unit, jpeg_bytes, read_image, unit_to_bytes
from xingaug.keypoints import Keypoints
from xingaug.offline.config import GenerateConfig
from xingaug.offline.formats import Sample, Store, hash_of
from xingaug.offline.journal import Entry, Journal
from xingaug.offline.plan import Items, Sources
from xingaug.poses.bank import PoseBank

GPU_THREADS = 4
"""Batches in flight on a GPU: one is rendered while others are decoded and encoded."""


@dataclass(frozen=True, eq=False)
class WorkPart:
    """A part of the work, which is finished as a whole or not at all.

    Attributes:
        number: counts from 0 over the whole run.
        items: its images.
    """

    number: int
    items: Items


@dataclass(frozen=True)
class Progress:
    """A finished part: number of images requested, and of images kept on disk."""

    requested: int
    kept: int


def build_transform(config: GenerateConfig, device: str | torch.device, generator: nn.Module | None = None) -> XingPose:
    """The transform that renders every copy.

    Args:
        config: generator, bank, dtype, gate and how poses are drawn.
        device: the device that it renders on.
        generator: a loaded generator on the device, instead of `config.generator`.

    Raises:
        BadInput: generator, bank or the gate's network cannot be read.
    """
    if generator is None:
        generator = load_generator(config.generator, device, config.dtype)
    height, width = generator.size  # type: ignore[misc]
    gate = None if config.gate is None else build_gate(config.gate, (height, width), device)
    bank = PoseBank.load(config.bank)
    return XingPose(
        generator,
        bank,
        p=1.0,
        sampler=config.sampler,
        seed=config.seed,
        fit=config.fit,
        gate=gate,
        dtype=config.dtype,
        runtime=config.runtime,
    )


def put_on_other_grounds(aug: XingPose, sources: Sources, share: float | None) -> None:
    """Makes the transform put a share of the persons on backgrounds of other sources.

    Args:
        aug: the result of `build_transform`.
        sources: the images whose backgrounds are used, a subset drawn by the seed.
        share: as `GenerateConfig.ground`.

    Raises:
        BadInput: a share above 0 with a generator that does not predict a person mask.
    """
    try:
        wanted = wanted_share(aug.generator, share)
        if not wanted or not len(sources):
            return
        rows = drawn_rows(sources.split.names.tolist(), aug.seed)
        read = [(row, image) for row in rows.tolist() if (image := _read_source(sources, row, aug.size)) is not None]
        pictures = np.stack([image for _, image in read]) if read else np.empty((0, *aug.size, 3), np.uint8)
        aug.grounds = Grounds.of(aug.generator, pictures, sources.keypoints[[row for row, _ in read]], wanted, aug.seed)
    except ValueError as error:
        raise BadInput(str(error)) from None


Results = list[tuple[Entry, Sample | None]]
"""The journal entry of each image of a batch that could be rendered, and the image if it is kept."""


class Renderer:
    """Renders parts."""

    def __init__(self, aug: XingPose, sources: Sources, store: Store, journal: Journal, batch_size: int) -> None:
        """Sets everything that all parts share.

        Args:
            aug: the transform, with p = 1, on its device, and with the gate.
            sources: the images that the items refer to.
            store: stores the images.
            journal: records the results.
            batch_size: images per batch.
        """
        self.aug, self.sources, self.store, self.journal = aug, sources, store, journal
        self.batch_size = batch_size
        self.device = next(aug.generator.parameters(), torch.empty(0)).device

    def run(self, parts: Iterable[WorkPart]) -> Iterator[Progress]:
        """Renders the parts one after the other, with as many batches at a time as there are threads."""
        with threads_of(self.device) as (pool, count):
            waiting: deque[tuple[WorkPart, list[Future[Results]]]] = deque()
            under_way = 0
            for part in parts:
                starts = range(0, len(part.items), self.batch_size)
                batches = [part.items[start : start + self.batch_size] for start in starts]
                waiting.append((part, [pool.submit(self.batch, items) for items in batches]))
                under_way += len(batches)
                # Enough to keep every thread busy while the oldest part is written.
                while under_way > 2 * count and len(waiting) > 1:
                    under_way -= len(waiting[0][1])
                    yield self._finished(*waiting.popleft())
            while waiting:
                yield self._finished(*waiting.popleft())

    def rate(self, items: Items) -> float:
        """Images/s from files to encoded images, nothing written; every batch runs twice, the second time is timed."""
        starts = range(0, len(items), self.batch_size)
        batches = [items[start : start + self.batch_size] for start in starts]
        with threads_of(self.device) as (pool, _):
            list(pool.map(self.batch, batches))
            started = time.perf_counter()
            list(pool.map(self.batch, batches))
        return len(items) / (time.perf_counter() - started)

    def batch(self, items: Items) -> Results:
        """Decodes, renders, gates and encodes a batch; images whose reference cannot be decoded are left out."""
        rows = torch.from_numpy(items.references)
        size, names = self.aug.size, items.names(self.sources)
        decoded = {row: _read_source(self.sources, row, size) for row in dict.fromkeys(items.references.tolist())}
        # An image that cannot be decoded is replaced by zeros, so that the rest of the batch does not depend on it.
        empty = np.zeros((*size, 3), np.uint8)
        images = [empty if (image := decoded[row]) is None else image for row in items.references.tolist()]
        keypoints = self.sources.keypoints[rows]
        draw = PoseDraw(torch.ones(len(rows), dtype=torch.bool), torch.from_numpy(items.bank_rows))
        out = self.aug.render(
            bytes_to_unit(torch.from_numpy(np.stack(images)).to(self.device)), keypoints.to(self.device), draw,
            [str(self.sources.split.names[row]) for row in items.sources.tolist()],
        )  # fmt: skip
        if not bool(out.images.isfinite().all()):
            raise WorkFailed(
                f"{names[0]} to {names[-1]}: the generator gives numbers that are not finite; train it again"
            )
        kept, scores = out.is_synthetic.tolist(), {name: values.tolist() for name, values in out.scores.items()}
        pictures, about = unit_to_bytes(out.images).cpu().numpy(), self.about(items)
        results: Results = []
        for i, (name, row) in enumerate(zip(names, items.references.tolist(), strict=True)):
            if decoded[row] is None:
                continue
            seen = {key: round(values[i], 4) for key, values in scores.items()}
            if not kept[i]:
                results.append((Entry(name, None, seen), None))
                continue
            data = jpeg_bytes(pictures[i])  # by Pillow, which is as fast as other encoders at this size
            results.append((Entry(name, hash_of(data), seen), Sample(name, data, about[i])))
        return results

    def poses(self, items: Items) -> Keypoints:
        """(n,) the poses that items are rendered in, in a frame of the generator's size."""
        persons = self.sources.keypoints[torch.from_numpy(items.sources)]
        return self.aug.poses(torch.from_numpy(items.bank_rows), persons, self.aug.size)

    def about(self, items: Items) -> list[dict[str, object]]:
        """The labels of each item in a shard."""
        split = self.sources.split
        return [
            {
                "pid": int(split.pids[source]), "camid": int(split.camids[source]), "synthetic": True,
                "source": str(split.names[source]), "copy": copy, "keypoints": pose,
            }
            for source, copy, pose in zip(
                items.sources.tolist(), items.copies.tolist(), rounded(self.poses(items)), strict=True
            )
        ]  # fmt: skip

    def _finished(self, part: WorkPart, batches: list[Future[Results]]) -> Progress:
        results = [result for batch in batches for result in batch.result()]
        samples = [sample for _, sample in results if sample is not None]
        self.store.write(part.number, samples)
        self.journal.write(part.number, [entry for entry, _ in results])
        return Progress(len(part.items), len(samples))


@contextmanager
def threads_of(device: torch.device) -> Iterator[tuple[ThreadPoolExecutor, int]]:
    """A pool of threads for batches, and their number; on a CPU one for each core that torch would use.

    Each batch is computed by a single thread: several would round sums differently, and an image's bytes would depend
    on the number of cores. It is not slower, because no thread waits for another.
    """
    before = torch.get_num_threads()
    count = GPU_THREADS if device.type == "cuda" else before
    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(count)
    try:
        yield pool, count
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)


def rounded(poses: Keypoints) -> list[list[list[float]]]:
    """N times 18 times (x, y, visibility), to a thousandth."""
    joints = torch.cat([poses.xy, poses.visibility[..., None]], dim=-1)
    return joints.double().round(decimals=3).tolist()


def decode(data: bytes) -> np.ndarray:
    """uint8 (H, W, 3) of a file written by the renderer."""
    return np.array(Image.open(BytesIO(data)))


def _read_source(sources: Sources, row: int, size: tuple[int, int]) -> np.ndarray | None:
    try:
        return read_image(sources.split.path(row), size)
    except BadInput:
        return None
