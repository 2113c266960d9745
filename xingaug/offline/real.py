"""Copies or links the real images into the new dataset."""

from pathlib import Path
from typing import Any

from xingaug.data.market1501 import FOLDERS
from xingaug.errors import BadInput
from xingaug.images import MAX_BYTES
from xingaug.inputs import sha256_of
from xingaug.offline.formats import Expected, Sample, ShardStore
from xingaug.offline.job import Job
from xingaug.offline.render import rounded
from xingaug.offline.target import copy_or_link
from xingaug.progress import ProgressBar


def place_real(job: Job, progress: bool) -> dict[str, str]:
    """Writes the real images in the configured format, unless they exist already.

    Returns:
        SHA-256 of each by its path below the dataset's directory; in a shard, the shard's path and the member's name.
    """
    if job.config.format == "webdataset":
        return _write_shards(job, progress)
    files = job.real_files()
    for file in ProgressBar(files, "real images", shown=progress):
        if not _holds(job.config.out / file, job.listing[file]):
            target = job.config.out / file
            copy_or_link(job.config.data / file, target, link=job.config.real == "link")
    return {file: job.listing[file] for file in files}


def _holds(target: Path, sha256: str) -> bool:
    try:
        return sha256_of(target, "image", MAX_BYTES) == sha256
    except BadInput:  # missing, or not a regular file
        return False


def _write_shards(job: Job, progress: bool) -> dict[str, str]:
    files, store = job.real_files(), ShardStore(job.config.out, job.config.shard_size, "real")
    index_of = {f"{FOLDERS['train']}/{name}": index for index, name in enumerate(job.train.names)}
    rows = job.annotations.lookup(job.train.names)
    listed: dict[str, str] = {}
    starts = range(0, len(files), store.part_size)
    for number, start in enumerate(ProgressBar(starts, "real images", unit="shard", shown=progress)):
        expected, samples = {}, []
        for file in files[start : start + store.part_size]:
            index = index_of[file]
            name = str(job.train.names[index])
            about: dict[str, Any] = {
                "pid": int(job.train.pids[index]), "camid": int(job.train.camids[index]), "synthetic": False,
            }  # fmt: skip
            if rows[index] >= 0:
                about["keypoints"] = rounded(job.annotations.keypoints(rows[[index]]))[0]
            samples.append(Sample(name, (job.config.data / file).read_bytes(), about))
            expected[name] = Expected(job.listing[file], about)
        if not store.holds(number, expected):
            store.write(number, samples)
        listed |= {store.file(number, name): known.sha256 for name, known in expected.items()}
    return listed
