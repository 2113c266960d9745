"""The loader wrapper: the wrapped loader's batches, re-rendered, the same with any workers and processes."""

import contextlib
import json
import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from posing import SIZE, images_of, keys_of, make, persons
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from xingaug.augment.gate import QualityGate
from xingaug.augment.loader import RenderingLoader, take, tensors_in

COUNT = 20


class TrainingImages(Dataset):
    """Images, keypoints and names, as a user's dataset gives them."""

    def __init__(self, size: tuple[int, int] = SIZE) -> None:
        self.images, self.keypoints, self.keys = images_of(COUNT, size), persons(COUNT, size), keys_of(COUNT)

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, row: int) -> dict[str, object]:
        joints = self.keypoints[row]
        return {
            "images": self.images[row], "xy": joints.xy, "visibility": joints.visibility, "keys": self.keys[row],
            "pids": row // 4, "path": f"{row}.jpg",
        }  # fmt: skip


def epochs(loader: RenderingLoader, count: int = 2) -> list[list[dict]]:
    return [list(loader) for _ in range(count)]


@pytest.mark.parametrize("reuse", [1, 3])
def test_the_sequence_is_the_same_with_any_workers(reuse: int) -> None:
    runs = []
    for workers in (0, 2):
        torch.manual_seed(3)  # of the sampler
        loader = DataLoader(TrainingImages(), batch_size=6, shuffle=True, num_workers=workers)
        runs.append(epochs(RenderingLoader(loader, make(reuse=reuse)), 4))
    for one, other in zip(*runs, strict=True):
        assert [batch["keys"] for batch in one] == [batch["keys"] for batch in other]
        for left, right in zip(one, other, strict=True):
            for name in ("images", "xy", "visibility", "is_synthetic", "pids"):
                assert torch.equal(left[name], right[name]), name


def test_batches_are_what_the_transform_gives() -> None:
    data, aug = TrainingImages(), make()
    loader = RenderingLoader(DataLoader(data, batch_size=8), aug)
    for epoch, batches in enumerate(epochs(loader)):
        out = aug(data.images, data.keypoints, keys=data.keys, epoch=epoch)
        for name, expected in (
            ("images", out.images), ("xy", out.keypoints.xy), ("visibility", out.keypoints.visibility),
            ("is_synthetic", out.is_synthetic), ("pids", torch.arange(COUNT) // 4),
        ):  # fmt: skip
            assert torch.allclose(torch.cat([batch[name] for batch in batches]), expected, atol=1e-5), name
        assert [path for batch in batches for path in batch["path"]] == [f"{row}.jpg" for row in range(COUNT)]


def test_appended_rows_bring_their_fields_along() -> None:
    batch = next(iter(RenderingLoader(DataLoader(TrainingImages(), batch_size=COUNT), make(mode="append"))))
    rows = len(batch["images"])
    assert COUNT < rows == len(batch["keys"]) == len(batch["pids"]) == len(batch["is_synthetic"])
    synthetic = [key for key, flag in zip(batch["keys"], batch["is_synthetic"], strict=True) if flag]
    assert batch["keys"][COUNT:] == synthetic
    assert batch["pids"][COUNT:].tolist() == [int(key[:4]) // 4 for key in synthetic]


def test_everything_else_is_the_wrapped_loaders() -> None:
    inner = DataLoader(TrainingImages(), batch_size=6, shuffle=True)
    loader = RenderingLoader(inner, make())
    assert len(loader) == len(inner) == 4
    for name in ("dataset", "sampler", "batch_sampler", "batch_size", "num_workers", "drop_last"):
        assert getattr(loader, name) is getattr(inner, name)
    with pytest.raises(AttributeError, match="nothing"):
        loader.nothing  # noqa: B018


def test_epochs_are_counted_and_set() -> None:
    first, second = (RenderingLoader(DataLoader(TrainingImages(), batch_size=COUNT), make()) for _ in range(2))
    drawn = [next(iter(first))["is_synthetic"].tolist() for _ in range(3)]
    assert drawn[0] != drawn[1] != drawn[2]
    second.set_epoch(2)
    assert next(iter(second))["is_synthetic"].tolist() == drawn[2]


def test_the_gate_is_logged_after_an_epoch(caplog: pytest.LogCaptureFixture) -> None:
    loader = RenderingLoader(
        DataLoader(TrainingImages(), batch_size=6), make(p=1, gate=QualityGate(min_contrast=0.122))
    )
    with caplog.at_level(logging.DEBUG, "xingaug.augment.loader"):
        epochs(loader)
    for epoch, (line, table) in enumerate([caplog.messages[:2], caplog.messages[2:]]):
        assert line.startswith(f"epoch {epoch}: quality gate: kept ")
        assert "of 20 rendered images; least of identity " in line
        assert table.startswith(f"epoch {epoch}: share kept of each identity: {{")
        assert table.count(":") == 7


def test_fields_follow_their_rows() -> None:
    sources = torch.tensor([0, 2, 2])

    def taken(values: object) -> object:
        return take(values, sources, 3)

    assert taken(torch.arange(3)).tolist() == [0, 2, 2]  # type: ignore[attr-defined]
    assert taken(torch.arange(3).numpy()).tolist() == [0, 2, 2]  # type: ignore[attr-defined]
    assert taken(["a", "b", "c"]) == ["a", "c", "c"]
    for value in ("abc", 7, None):
        assert taken(value) == value
    # As default_collate makes them of tuples and mappings.
    height, width = taken([torch.arange(3), torch.arange(3) * 2])  # type: ignore[misc]
    assert (height.tolist(), width.tolist()) == ([0, 2, 2], [0, 4, 4])
    assert taken({"a": {"b": ["x", "y", "z"]}}) == {"a": {"b": ["x", "z", "z"]}}
    assert taken(torch.tensor(5)) == 5
    with pytest.raises(ValueError, match=r"batch: a\.b is of 2 entries, needed one for each of 3 rows"):
        take({"b": ["x", "y"]}, sources, 3, "a")


def test_other_fields_are_left_alone_where_rows_are_replaced() -> None:
    batch = next(iter(DataLoader(TrainingImages(), batch_size=COUNT)))
    batch["odd"] = ("what", "ever")
    out = RenderingLoader(DataLoader(TrainingImages()), make()).rendered(batch, 0, 0)
    for name in ("keys", "pids", "path", "odd"):
        assert out[name] is batch[name]


def test_tensors_are_found_wherever_they_are() -> None:
    found = tensors_in(
        {"a": torch.zeros(1), "b": [torch.ones(2), {"c": torch.zeros(3)}], "d": "x", "e": 4, "f": persons(2)}
    )
    assert sorted(tuple(tensor.shape) for tensor in found) == [(1,), (2,), (2, 18), (2, 18, 2), (3,)]


@pytest.mark.slow
def test_processes_share_the_epoch_of_one(tmp_path: Path) -> None:
    """Two gloo processes under DistributedDataParallel, each with its half of the images."""
    script = Path(__file__).with_name("two_rendering_processes.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", str(script)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, str(tmp_path)], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    data, aug = TrainingImages(), make()
    seen: dict[str, list] = {}
    for rank in range(2):
        seen |= json.loads((tmp_path / f"{rank}.json").read_text())
    for epoch in range(2):
        out = aug(data.images, data.keypoints, keys=data.keys, epoch=epoch)
        for row, key in enumerate(data.keys):
            flag, mean = seen[f"{epoch}/{key}"]
            assert flag == bool(out.is_synthetic[row])
            assert mean == pytest.approx(float(out.images[row].mean()), abs=1e-5)


class OnGpu(RenderingLoader):
    """A loader that believes to be on a GPU, and notes what happens."""

    device = torch.device("cuda")  # type: ignore[assignment]

    def __init__(self, loader: DataLoader, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(loader, make())
        self.seen: list[str] = []
        self.streams = 0
        self.ready: list[str] = []
        self.asked = threading.Semaphore(0)
        main = SimpleNamespace(
            wait_event=lambda event: self.seen.append(f"wait for {event}"), record_event=lambda: "batch"
        )
        monkeypatch.setattr(torch.cuda, "Stream", self.made_stream)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: main)
        monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())

    def made_stream(self, device: torch.device) -> SimpleNamespace:
        self.streams += 1
        return SimpleNamespace(
            wait_event=self.ready.append,
            record_event=lambda: self.seen[-1].replace("render", "event"),
        )

    def rendered(self, batch: dict, epoch: int, step: int) -> dict:
        assert threading.current_thread() is not threading.main_thread()
        if step:
            assert self.asked.acquire(timeout=20)  # comes while the step before runs, or never
        self.seen.append(f"render {step}")
        return batch


@pytest.mark.parametrize("batches", [0, 1, 4])
def test_the_next_batch_is_rendered_while_the_step_runs(batches: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data = torch.utils.data.Subset(TrainingImages(), range(4 * batches))
    loader = OnGpu(DataLoader(data, batch_size=4), monkeypatch)
    for _ in range(2):
        loader.seen.clear()
        keys = []
        for number, batch in enumerate(loader):
            keys += batch["keys"]
            assert f"render {number + 1}" not in loader.seen
            if number + 1 < batches:
                loader.asked.release()
                while f"render {number + 1}" not in loader.seen:  # within the step, without another call of the loader
                    time.sleep(0.001)
            loader.seen.append(f"step {number}")
        assert keys == keys_of(4 * batches)
        assert loader.ready == ["batch"] * batches  # the rendering stream waits for each one that the loader gives
        loader.ready.clear()
        for number in range(batches):
            waits = loader.seen.index(f"wait for event {number}")
            assert loader.seen.index(f"render {number}") < waits < loader.seen.index(f"step {number}")
    assert loader.streams == 1


def test_an_error_while_rendering_ahead_comes_out(monkeypatch: pytest.MonkeyPatch) -> None:
    loader = OnGpu(DataLoader(TrainingImages(), batch_size=10), monkeypatch)
    monkeypatch.setattr(loader, "rendered", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(loader)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_rendering_ahead_gives_the_same_sequence() -> None:
    pinned = DataLoader(TrainingImages(), batch_size=6, pin_memory=True)
    ahead = epochs(RenderingLoader(pinned, make().cuda()))
    aug = make().cuda()
    for epoch, batches in enumerate(ahead):
        for number, batch in enumerate(batches):
            rows = slice(6 * number, 6 * number + 6)
            data = TrainingImages()
            out = aug(data.images[rows].cuda(), data.keypoints[rows].to("cuda"), keys=data.keys[rows], epoch=epoch)
            assert torch.equal(batch["images"], out.images)
            assert torch.equal(batch["is_synthetic"], out.is_synthetic)


def test_an_epoch_reaches_the_wrapped_samplers() -> None:
    sampler = DistributedSampler(TrainingImages(), num_replicas=2, rank=0, shuffle=True)
    loader = RenderingLoader(DataLoader(TrainingImages(), batch_size=5, sampler=sampler), make())
    keys = []
    for epoch in (0, 1, 0):
        loader.set_epoch(epoch)
        keys.append([key for batch in loader for key in batch["keys"]])
    assert sampler.epoch == 0
    assert keys[0] == keys[2] != keys[1]
