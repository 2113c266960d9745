"""The engines of offline generation give the same bytes, with any number of workers, and when one is killed."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from generating import run, tree

from xingaug.errors import BadInput
from xingaug.generators.store import load_generator
from xingaug.keypoints import Keypoints, render_heatmaps
from xingaug.offline import engines
from xingaug.offline import generate as generate_module
from xingaug.offline.config import GenerateConfig
from xingaug.offline.render import threads_of
from xingaug.training.processes import Processes

TESTS = Path(__file__).parent


def start(root: Path, before: Sequence[str], engine: str, *jobs: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)]),
    }  # fmt: skip
    command = [sys.executable, *before, str(TESTS / "generating_workers.py"), str(root), engine, *jobs]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)


def made(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What the runs of the script said of themselves, among what ray says."""
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if line.startswith("made ")]


def test_actors_of_ray_and_one_of_them_killed(config: GenerateConfig, reference: dict[str, str]) -> None:
    root = config.out.parent
    (root / "marker").touch()
    done = start(root, [], "ray", "one=1", "two=2", "three=3!")
    assert made(done) == ["made 27 27"] * 3
    assert (root / "marker").exists()
    assert "A worker died or was killed" in done.stdout + done.stderr
    for out in ("one", "two", "three"):
        assert tree(root / out) == reference


@pytest.mark.parametrize("count", [1, 2, 3])
def test_processes_of_torchrun(config: GenerateConfig, reference: dict[str, str], count: int) -> None:
    root = config.out.parent
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    if count == 3:
        killed = start(root, torchrun, "torchrun", "out")
        assert killed.returncode != 0
        assert (root / "marker").exists()
        assert not (root / "out" / "manifest.jsonl").exists()
    else:
        (root / "marker").touch()
    there = sum(len(path.read_text().splitlines()) for path in (root / "out").rglob("*.jsonl"))
    done = start(root, torchrun, "torchrun", "out")
    assert made(done) == [f"made {27 - there} 27"] * count  # every process knows the sum
    assert tree(root / "out") == reference


def test_an_actor_tells_of_a_full_disk() -> None:
    actor = engines._Actor.__new__(engines._Actor)
    actor.parts, actor.renderer = ["part"], Full()  # type: ignore[assignment]
    assert actor({"index": [0]}) == {"requested": [0], "kept": [0], "failed": ["x.jpg: No space left on device"]}


class Full:
    """A renderer whose disk has no room."""

    def run(self, parts: list[str]) -> Iterator[object]:
        raise OSError(28, "No space left on device", "x.jpg")
        yield


def test_an_engine_that_is_not_there(config: GenerateConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(BadInput, match=r"engine: 'torchrun', but torchrun has not started this; needed torchrun"):
        run(replace(config, engine="torchrun"))
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BadInput, match=r"engine: 'ray' is not installed; needed pip install 'xingaug\[ray\]'"):
        run(replace(config, engine="ray"))
    assert not config.out.exists()


def test_a_cluster_that_is_too_small(config: GenerateConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    with pytest.raises(BadInput, match="workers: 3, the cluster has 2 CPUs; needed one for each worker"):
        run(replace(config, engine="ray", workers=3))
    assert not config.out.exists()


def test_processes_that_see_other_files_are_told(config: GenerateConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    class Second(Processes):
        """Hears of another annotation file from the first one."""

        def broadcast(self, message: str) -> str:
            if not message.startswith("["):  # a port or a precision
                return message
            refused, facts = json.loads(message)
            return json.dumps([refused, {**facts, "annotations": "other"}])

    @contextmanager
    def join_processes(_: GenerateConfig) -> Iterator[Processes]:
        yield Second(1, 2, torch.device("cpu"))

    monkeypatch.setattr(generate_module, "join_processes", join_processes)
    with pytest.raises(BadInput, match=r"engine: process 1 has annotations = .*, the first one other; needed the same"):
        run(config)
    assert not config.out.exists()


def test_parts_are_shared_out() -> None:
    parts = list(range(10))
    shared = [Processes(rank, 3, torch.device("cpu")).portion_of(parts) for rank in range(3)]
    assert sorted(part for share in shared for part in share) == parts
    assert max(map(len, shared)) - min(map(len, shared)) <= 1


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_bytes_do_not_depend_on_the_number_of_cores(
    config: GenerateConfig, reference: dict[str, str], threads: int
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        run(config)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert tree(config.out) == reference


def test_a_real_generator_rounds_alike_on_every_thread() -> None:
    generator = load_generator("pedestrians-small")
    rng = torch.Generator().manual_seed(0)
    joints = Keypoints(torch.rand(8, 18, 2, generator=rng) * torch.tensor([64, 128]), torch.ones(8, 18))
    maps = render_heatmaps(joints, (128, 64))
    source = torch.rand(4, 3, 128, 64, generator=rng) * 2 - 1

    def image(_: int) -> torch.Tensor:
        with torch.no_grad():
            return generator(source, maps[:4], maps[4:])

    found = []
    before = torch.get_num_threads()
    for threads in (1, 3):
        torch.set_num_threads(threads)
        try:
            with threads_of(torch.device("cpu")) as (pool, count):
                assert count == threads
                found += list(pool.map(image, range(4)))
        finally:
            torch.set_num_threads(before)
    assert all(torch.equal(found[0], other) for other in found)
