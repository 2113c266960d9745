"""Generator training: how a run stops and goes on, and what is refused to go on."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from training_runs import GENERATOR, SMALL, config, stats_of, trainer

from xingaug.data.market1501 import read_split
from xingaug.data.pairs import PairData
from xingaug.data.pedestrians import write_world
from xingaug.errors import BadInput, WorkFailed
from xingaug.training.estimator import EstimatorConfig, train_estimator
from xingaug.training.loop import plan, train
from xingaug.training.rundir import RunDirectory
from xingaug.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("narrow_discriminators")

DROPPING = {
    "generator": {**GENERATOR, "dropout": 0.5}, "discriminators": {"appearance": "residual", "pool": 3, "start": 0.0},
    "validation": {"identities": 1, "pairs": 2, "every": 2}, "photometric": {},
}  # fmt: skip


def twice(number: signal.Signals) -> None:
    """Two signals at nearly the same time; from a thread, or the first one's handler would end before the second."""

    def send() -> None:
        os.kill(os.getpid(), number)
        time.sleep(0.01)
        os.kill(os.getpid(), number)

    sender = threading.Thread(target=send)
    sender.start()
    sender.join()


@pytest.mark.parametrize("changes", [{}, DROPPING], ids=["default", "dropout, pool, colours, validation"])
@pytest.mark.parametrize(
    "stop", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, None], ids=["SIGINT", "SIGTERM", "SIGHUP", "failure"]
)
def test_a_stopped_run_continues_bit_for_bit(
    stop: signal.Signals | None, changes: dict[str, object], given: PairData, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    handler = signal.getsignal(signal.SIGINT)  # of a test run in the background not Python's own
    asked = config(checkpoint_minutes=0 if stop is None else 60, **changes)
    whole = train(asked, tmp_path / "whole", progress=False)
    step = Trainer.train_step

    def stops_in_the_third(self: Trainer, batch: Any) -> dict[str, float]:
        if self.step == 2 and stop is not None:
            twice(stop)  # as `timeout` and torchrun do
        elif self.step == 3:
            raise ZeroDivisionError
        return step(self, batch)

    if stop == signal.SIGHUP and signal.getsignal(stop) is signal.SIG_IGN:
        pytest.skip("run by nohup, which has it ignored")
    expected = {signal.SIGINT: KeyboardInterrupt, None: ZeroDivisionError}.get(stop, WorkFailed)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", stops_in_the_third)
        with pytest.raises(expected):
            train(asked, tmp_path / "stopped", progress=False)
    assert [p.name for p in (tmp_path / "stopped" / "checkpoints").glob("0*")][-1:] != []
    assert signal.getsignal(signal.SIGINT) is handler
    with (tmp_path / "stopped" / "stats.jsonl").open("a") as stats:
        stats.write('{"step": 4, "l1"')  # a line torn by the stop
    continued = train(asked, tmp_path / "stopped", progress=False)
    assert continued.read_bytes() == whole.read_bytes()
    assert stats_of(tmp_path / "stopped") == stats_of(tmp_path / "whole")


def run_train(run: Path, file: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "xingaug", "train", str(file), "--out", str(run), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < end, "nothing happened for five minutes"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing stops, beside its configuration run.yaml.

    In a process of its own, as are those compared with it: a command flushes denormal numbers for its process.
    """
    place = tmp_path_factory.mktemp("training")
    quick = {"discriminators": {"appearance": "none", "start": 0.5}, "steps": 12, "checkpoint_minutes": 0.001}
    (place / "run.yaml").write_text(yaml.safe_dump({**SMALL, **quick}))
    with run_train(place / "whole", place / "run.yaml") as process:
        _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return place / "whole"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_process_stopped_from_outside_ends_with_the_same_weights(
    number: signal.Signals, whole_run: Path, tmp_path: Path
) -> None:
    file, run = whole_run.parent / "run.yaml", tmp_path / "run"
    with run_train(run, file) as process:
        try:
            wait_for(lambda: len(list((run / "checkpoints").glob("0*.pt"))) == 2, process)
            process.send_signal(number)
            if number != signal.SIGKILL:
                process.send_signal(number)  # as `timeout` does
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == {signal.SIGKILL: -9, signal.SIGTERM: 1, signal.SIGINT: 130}[number]
    if number == signal.SIGTERM:
        assert "which is saved; the same command goes on from there" in said
    assert not (run / "generator.safetensors").exists()
    with run_train(run, file) as process:
        out, said = process.communicate(timeout=300)
    assert out.strip() == str(run / "generator.safetensors"), said
    for name in ("generator.safetensors", "stats.jsonl"):
        assert (run / name).read_bytes() == (whole_run / name).read_bytes()
    assert [line["step"] for line in stats_of(run)] == list(range(1, 13))


def test_a_damaged_checkpoint_is_named(given: PairData, tmp_path: Path) -> None:
    asked = config(checkpoint_minutes=0)
    whole = train(asked, tmp_path / "run", progress=False).read_bytes()
    last = tmp_path / "run" / "checkpoints" / "00000004.pt"
    last.write_bytes(last.read_bytes()[:1000])
    with pytest.raises(BadInput, match=r"00000004.pt: .*cut off or damaged.*; remove it to resume from the prev"):
        train(asked, tmp_path / "run", progress=False)
    last.unlink()
    assert train(asked, tmp_path / "run", progress=False).read_bytes() == whole


def test_a_checkpoint_with_the_discriminators_former_name_is_read(tmp_path: Path) -> None:
    state = trainer(seed=1).state()
    state["judges"] = state.pop("discriminators")
    torch.save(state, tmp_path / "00000001.pt")
    restored = trainer()
    restored.restore(tmp_path / "00000001.pt")
    for name, value in restored.discriminators.state_dict().items():
        assert torch.equal(value, state["judges"][name]), name


def test_another_configuration_on_a_run_is_refused(given: PairData, tmp_path: Path) -> None:
    train(config(steps=1), tmp_path / "run", progress=False)
    with pytest.raises(BadInput, match=r"run: was made with lr = .*, now it is 0.1; name another directory"):
        train(config(steps=1, lr=0.1), tmp_path / "run", progress=False)


def test_a_run_does_not_go_on_with_other_data(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    write_world(tree, 4, 4, 0, workers=1, progress=False)
    data = {"root": str(tree), "annotations": str(tree / "annotations.npz"), "within": "identity"}
    asked = config(data=data, steps=1)
    train(asked, tmp_path / "run", progress=False)
    train(asked, tmp_path / "run", progress=False)
    read_split(tree, "train").path(0).unlink()
    for go_on in (train, plan):
        with pytest.raises(BadInput, match=r"made_of.json: was made with images = .*; name another directory"):
            go_on(asked, tmp_path / "run")


def test_a_run_that_could_not_begin_leaves_its_directory_usable(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    write_world(tree, 4, 4, 0, workers=1, progress=False)
    data = {"root": str(tree), "annotations": str(tree / "annotations.npz"), "within": "identity"}
    validation = {"identities": 1, "pairs": 2, "pose_estimator": str(tmp_path / "none.pt2")}
    with pytest.raises(BadInput, match=r"none.pt2: no such file"):
        train(config(data=data, steps=1, validation=validation), tmp_path / "run", progress=False)
    assert train(config(data=data, steps=1), tmp_path / "run", progress=False).exists()


def test_a_run_of_one_batch_is_not_passed_off_as_a_whole_one(given: PairData, tmp_path: Path) -> None:
    train(config(steps=1), tmp_path / "run", progress=False, overfit_one_batch=True)
    with pytest.raises(BadInput, match="was made with overfit_one_batch = True, now it is False"):
        train(config(steps=1), tmp_path / "run", progress=False)


def test_a_signal_while_data_is_read_ends_the_run_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def reads(*_: Any) -> None:
        assert signal.getsignal(signal.SIGTERM) is before
        raise ZeroDivisionError

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("xingaug.training.loop.load_pairs", reads)
    monkeypatch.setattr("xingaug.training.estimator.load_crops", reads)
    with pytest.raises(ZeroDivisionError):
        train(config(), tmp_path / "run", progress=False)
    with pytest.raises(ZeroDivisionError):
        train_estimator(EstimatorConfig(), tmp_path / "estimator", progress=False)


def test_two_runs_do_not_share_a_directory_and_one_that_wrote_nothing_leaves_none(tmp_path: Path) -> None:
    out = tmp_path / "runs" / "a"
    with RunDirectory(out).claimed(True):
        RunDirectory(out).require_own(config())
        with pytest.raises(BadInput, match="another process is training into it; wait for it or name another"):
            train(config(), out, progress=False)
        with RunDirectory(out).claimed(False):  # another process of the same run
            pass
    assert not list(tmp_path.iterdir())
