"""The real images of the new dataset."""

from pathlib import Path
from typing import Any

from tqdm import tqdm

from xingaug.data.market1501 import FOLDERS
from xingaug.offline.formats import Sample, ShardStore, hash_of
from xingaug.offline.job import Job
from xingaug.offline.render import rounded
from xingaug.offline.target import place


def place_real(job: Job, progress: bool) -> None:
    """Puts them where the format wants them, unless they are there.

    A folder has the training images, if they are not left out, and query and gallery as they are, junk included. Shards
    hold training images only.
    """
    if job.config.format == "webdataset":
        _write_shards(job, progress)
        return
    out, data, real = job.config.out, job.config.data, job.real
    pairs: list[tuple[Path, Path]] = [
        (path, out / folder / path.name)
        for folder in (FOLDERS["query"], FOLDERS["gallery"])
        for path in sorted((data / folder).iterdir())
        if path.suffix.lower() == ".jpg" and not path.name.startswith(".")
    ]
    pairs += [(real.path(index), out / FOLDERS["train"] / str(name)) for index, name in enumerate(real.names)]
    for source, target in tqdm(pairs, "real images", unit="image", disable=None if progress else True):
        place(source, target, link=job.config.real == "link")


def _write_shards(job: Job, progress: bool) -> None:
    real, store = job.real, ShardStore(job.config.out, job.config.shard_size, "real")
    rows = job.annotations.lookup(real.names)
    starts = range(0, len(real), store.part_size)
    for number, start in enumerate(tqdm(starts, "real images", unit="shard", disable=None if progress else True)):
        samples = []
        for index in range(start, min(start + store.part_size, len(real))):
            about: dict[str, Any] = {"pid": int(real.pids[index]), "camid": int(real.camids[index]), "synthetic": False}
            if rows[index] >= 0:
                about["keypoints"] = rounded(job.annotations.keypoints(rows[[index]]))[0]
            samples.append(Sample(str(real.names[index]), real.path(index).read_bytes(), about))
        if not store.holds(number, {sample.name: hash_of(sample.image) for sample in samples}):
            store.write(number, samples)
