"""The rendering of a plan: decoding, generator and encoding, overlapped."""

import hashlib
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from xingaug.augment.transform import PoseDraw, XingPose
from xingaug.data.market1501 import Split
from xingaug.errors import BadInput
from xingaug.files import atomic_write
from xingaug.images import bytes_to_unit, read_image, unit_to_bytes
from xingaug.offline.plan import Item, Plan

JPEG_QUALITY = 95
THREADS = 2
"""For decoding and for encoding, beside the thread that renders."""


def render_missing(
    folder: Path, aug: XingPose, plan: Plan, batch_size: int, known: Mapping[str, str], progress: bool
) -> tuple[int, float, set[str]]:
    """Makes every image that is missing; decoding and encoding run beside the rendering.

    Args:
        folder: where the images go.
        aug: renders them.
        plan: all images of the dataset, there already or not.
        batch_size: images rendered at a time.
        known: hashes of images by name, where an earlier run came to its end; another content counts as missing.
        progress: shows a bar where stderr is a terminal.

    Returns:
        How many images were rendered, in how many seconds, and the names of sources that cannot be decoded.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = {item.name for item in plan.items if not _is_whole(folder / item.name, known.get(item.name))}
    batches = [plan.items[i : i + batch_size] for i in range(0, len(plan.items), batch_size)]
    batches = [batch for batch in batches if any(item.name in missing for item in batch)]
    unreadable = set(plan.unreadable)
    started, written = time.perf_counter(), 0
    with (
        ThreadPoolExecutor(THREADS) as pool,
        tqdm(
            desc="rendering",
            total=len(plan.items),
            initial=len(plan.items) - len(missing),
            unit="image",
            disable=None if progress else True,
        ) as bar,
    ):
        waiting: deque[list[tuple[str, Future[bytes]]]] = deque()

        def write_oldest() -> int:
            # Written by this thread alone: the encoders only compute.
            finished = waiting.popleft()
            for name, encoded in finished:
                _write(folder / name, encoded.result())
            bar.update(len(finished))
            return len(finished)

        for batch, images in _decoded(batches, plan.sources, aug.size, pool, unreadable):
            rendered = _rendered(aug, plan, batch, images)
            waiting.append(
                [
                    (item.name, pool.submit(_encode, image))
                    for item, image in zip(batch, rendered, strict=True)
                    if item.name in missing
                ]
            )
            if len(waiting) > 1:
                written += write_oldest()
        while waiting:
            written += write_oldest()
    return written, time.perf_counter() - started, unreadable


def _decoded(
    batches: Sequence[list[Item]],
    sources: Split,
    size: tuple[int, int],
    pool: ThreadPoolExecutor,
    unreadable: set[str],
) -> Iterator[tuple[list[Item], np.ndarray]]:
    """The batches with their source images, uint8 (n, H, W, 3) of `size`; the next one is decoded meanwhile.

    Items whose source cannot be decoded are left out, and its name is added to `unreadable`.
    """

    def submit(batch: list[Item]) -> dict[int, Future[np.ndarray | None]]:
        return {i: pool.submit(_read, sources.path(i), size) for i in dict.fromkeys(item.source for item in batch)}

    ahead = submit(batches[0]) if batches else {}
    for number, batch in enumerate(batches):
        futures, ahead = ahead, submit(batches[number + 1]) if number + 1 < len(batches) else {}
        decoded = {source: future.result() for source, future in futures.items()}
        unreadable.update(str(sources.names[source]) for source, image in decoded.items() if image is None)
        kept = [(item, image) for item in batch if (image := decoded[item.source]) is not None]
        if kept:
            yield [item for item, _ in kept], np.stack([image for _, image in kept])


def _rendered(aug: XingPose, plan: Plan, batch: Sequence[Item], images: np.ndarray) -> np.ndarray:
    """uint8 (n, H, W, 3) of uint8 (n, H, W, 3)."""
    device = next(aug.generator.parameters(), torch.empty(0)).device
    rows = torch.tensor([item.bank_row for item in batch])
    draw = PoseDraw(torch.ones(len(rows), dtype=torch.bool), rows)
    keypoints = plan.keypoints[torch.tensor([item.source for item in batch])].to(device)
    out = aug.render(bytes_to_unit(torch.from_numpy(images).to(device)), keypoints, draw)
    return unit_to_bytes(out.images).cpu().numpy()


def _is_whole(path: Path, sha256: str | None) -> bool:
    """Whether an image is there in full: begun and ended as a JPEG, and with the manifest's hash if there is one."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return False
    # A power cut can leave a renamed file without its content.
    whole = data.startswith(b"\xff\xd8") and data.endswith(b"\xff\xd9")
    return whole and sha256 in (None, hashlib.sha256(data).hexdigest())


def _read(path: Path, size: tuple[int, int]) -> np.ndarray | None:
    try:
        return read_image(path, size)
    except BadInput:
        return None


def _encode(image: np.ndarray) -> bytes:
    stream = BytesIO()
    Image.fromarray(image).save(stream, format="JPEG", quality=JPEG_QUALITY)
    return stream.getvalue()


def _write(path: Path, data: bytes) -> None:
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)
