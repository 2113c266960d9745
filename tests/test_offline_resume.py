"""Offline generation: what it survives, and that the next run makes whole."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from generating import QUERY, TRAIN, Blend, run, tree
from torch import Tensor

from xingaug.errors import BadInput, WorkFailed
from xingaug.files import atomic_write
from xingaug.offline import describe as describe_module
from xingaug.offline import formats, real
from xingaug.offline.config import GenerateConfig
from xingaug.offline.journal import Journal


def test_finished_work_is_skipped(config: GenerateConfig, reference: dict[str, str]) -> None:
    run(config)
    times = {path: path.stat().st_mtime_ns for path in config.out.rglob("*.jpg")}

    class Untouchable(Blend):
        def forward(self, *_: Tensor) -> Tensor:
            raise AssertionError("rendered again")

    summary = run(config, Untouchable())
    assert (summary.synthetic, summary.rendered, summary.images_per_second) == (27, 0, 0)
    assert {path: path.stat().st_mtime_ns for path in config.out.rglob("*.jpg")} == times
    assert tree(config.out) == reference


class Killed(BaseException):
    """As abrupt as an exception can be."""


@pytest.mark.parametrize("after", [0, 1, 5, 14, 26])
def test_continues_after_any_image(
    config: GenerateConfig, reference: dict[str, str], monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    written = []

    @contextmanager
    def write(path: Path) -> Iterator[Path]:
        if len(written) == after:
            (path.parent / f".{path.name}.abc.tmp").write_bytes(b"half")  # what a kill leaves of a half-written file
            raise Killed
        written.append(path)
        with atomic_write(path) as temporary:
            yield temporary

    monkeypatch.setattr(formats, "atomic_write", write)
    with pytest.raises(Killed):
        run(config)
    monkeypatch.undo()
    assert not (config.out / "manifest.jsonl").exists()
    assert run(config).rendered == 27 - after // 4 * 4  # a batch of 4 is made again as a whole
    assert tree(config.out) == reference


@pytest.mark.parametrize(
    ("module", "step"),
    [
        (real, "copy_or_link"), (Journal, "write"), (describe_module, "write_npz"),
        (describe_module, "write_dataset_page"), (describe_module, "write_manifest"), (Journal, "remove"),
    ],
)  # fmt: skip
def test_continues_after_any_other_step(
    config: GenerateConfig, reference: dict[str, str], monkeypatch: pytest.MonkeyPatch, module: object, step: str
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, step, interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    monkeypatch.undo()
    run(config)
    assert tree(config.out) == reference


def test_a_journal_that_a_power_cut_tore_is_not_believed(config: GenerateConfig, reference: dict[str, str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(describe_module, "write_npz", lambda *_, **__: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            run(config)
    first, second, third, *_ = sorted((config.out / ".journal").rglob("*.jsonl"))
    first.write_bytes(b"")
    second.write_text(second.read_text()[:-20])
    lines = third.read_text().splitlines()
    (config.out / "bounding_box_train" / json.loads(lines[0])["name"]).write_bytes(b"")
    assert run(config).rendered == 12
    assert tree(config.out) == reference


def in_subprocess(config: GenerateConfig, pause: float) -> subprocess.Popen[bytes]:
    root = str(config.out.parent)
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from pathlib import Path; import generating as t\n"
        f"root = Path({root!r})\n"
        "inputs = root / 'data', root / 'annotations.npz', 'unused', root / 'bank'\n"
        "c = t.GenerateConfig(*inputs, per_image=3, out=root / 'out', batch_size=4)\n"
        f"t.run(c, t.Blend({pause}))\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.stderr.read().decode() if process.stderr else ""
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_killed_and_started_again_and_started_twice(config: GenerateConfig, reference: dict[str, str]) -> None:
    process = in_subprocess(config, pause=0.5)
    folder = config.out / "bounding_box_train"
    try:
        wait_for(lambda: len(list(folder.glob("*_x*.jpg"))) >= 5, process)
        process.send_signal(signal.SIGSTOP)  # holds the lock, however slow this process is
        with pytest.raises(BadInput, match="another process is generating into it"):
            run(config)
    finally:
        process.kill()
        process.communicate()
    noted = sum(len(path.read_text().splitlines()) for path in (config.out / ".journal").rglob("*.jsonl"))
    assert 4 <= noted < 27
    assert run(config).rendered == 27 - noted
    assert tree(config.out) == reference


def test_damaged_images_are_made_again(config: GenerateConfig, reference: dict[str, str]) -> None:
    run(config)
    files = sorted((config.out / "bounding_box_train").glob("*_x*.jpg"))
    files[0].write_bytes(b"")
    files[5].write_bytes(files[5].read_bytes()[:-30])
    files[9].write_bytes(files[10].read_bytes())  # a whole JPEG, but not this one
    files[12].unlink()
    (config.out / "query" / QUERY[0]).write_bytes(b"")
    real = config.out / "bounding_box_train" / TRAIN[3]
    real.write_bytes(real.read_bytes()[::-1])  # of the same size
    assert run(config).rendered == 16  # the four batches that they belong to
    assert tree(config.out) == reference


def test_full_disk_is_one_line_and_work_goes_on_later(
    config: GenerateConfig, reference: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(path: Path) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(formats, "atomic_write", write)
    with pytest.raises(WorkFailed, match=r"_x\d+.jpg: No space left on device; the finished images are kept"):
        run(config)
    monkeypatch.undo()
    run(config)
    assert tree(config.out) == reference


def test_a_damaged_manifest_is_made_again(config: GenerateConfig, reference: dict[str, str]) -> None:
    run(config)
    manifest = config.out / "manifest.jsonl"
    manifest.write_text(manifest.read_text()[:-100])
    assert run(config).rendered == 27
    assert tree(config.out) == reference


def test_no_more_room_for_files_is_a_full_disk(
    config: GenerateConfig, reference: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Path.touch

    def touch(path: Path, *arguments: object) -> None:
        if "_x001" in path.name:
            raise OSError(28, "No space left on device", str(path))
        original(path)

    monkeypatch.setattr(Path, "touch", touch)
    with pytest.raises(WorkFailed, match="No space left on device; the finished images are kept"):
        run(config)
    monkeypatch.undo()
    run(config)
    assert tree(config.out) == reference
