"""Several processes that train one generator, on the CPU (gloo)."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn
from training_runs import ALONE, SMALL, config
from two_processes import ASKED, follow, frozen_norm

from xingaug.data.pairs import PairData
from xingaug.generators import load_generator
from xingaug.training.trainer import Trainer

TESTS = Path(__file__).resolve().parent
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def run_two(*command: str, **options: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
    return subprocess.run(
        [*TORCHRUN, *command], env=environment, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.slow
@pytest.mark.usefixtures("narrow_discriminators")
@pytest.mark.parametrize("statistics", ["with-statistics", "without-statistics"])
def test_two_processes_learn_together(
    statistics: str, data: PairData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run_two(str(TESTS / "two_processes.py"), str(tmp_path), statistics)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    if statistics == "without-statistics":
        monkeypatch.setattr(nn.BatchNorm2d, "forward", frozen_norm)
        monkeypatch.setattr(nn.Dropout, "forward", lambda self, x: x)
    alone = follow(Trainer(config(**ASKED), ALONE), data)
    assert len(first) == len(alone) == 4
    for a, b, one in zip(first, second, alone, strict=True):
        assert a["names"] + b["names"] == one["names"]  # disjoint, and together those of one process
        assert a["weights"] == b["weights"]
        assert a["logged"] == b["logged"]
        if statistics == "without-statistics":
            assert a["logged"] == pytest.approx(one["logged"], rel=1e-4)


@pytest.mark.slow
def test_torchrun_starts_the_command_and_goes_on_after_a_stop(tmp_path: Path) -> None:
    file, run = tmp_path / "run.yaml", tmp_path / "run"
    quick = {"steps": 8, "checkpoint_minutes": 0.001, "discriminators": {"shape": "none", "start": 0.0, "pool": 3}}
    file.write_text(yaml.safe_dump({**SMALL, **quick, "validation": {"identities": 1, "pairs": 4, "every": 4}}))
    command = ["-m", "xingaug", "train", str(file), "--out"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [*TORCHRUN, *command, str(run)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            end = time.monotonic() + 300
            while len(list((run / "checkpoints").glob("0*.pt"))) < 2:
                assert process.poll() is None, process.stderr and process.stderr.read()
                assert time.monotonic() < end
                time.sleep(0.05)
            process.terminate()  # torchrun hands it to both
            process.communicate(timeout=60)
        finally:
            process.kill()
        assert process.returncode != 0
    assert not (run / "generator.safetensors").exists()
    again = run_two(*command, str(run))
    assert again.returncode == 0, again.stderr[-3000:]
    whole = run_two(*command, str(tmp_path / "whole"))
    assert whole.returncode == 0, whole.stderr[-3000:]
    assert "FutureWarning" not in whole.stderr
    assert whole.stdout == f"{tmp_path / 'whole' / 'generator.safetensors'}\n"  # the first process says it for both
    for name in ("generator.safetensors", "stats.jsonl"):
        assert (run / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert json.loads((run / "environment.json").read_text())["processes"] == 2
    state = torch.load(run / "checkpoints" / "00000008.pt", weights_only=True)
    assert len(state["pools"]) == 2
    assert load_generator(run / "generator.safetensors").size == (128, 64)
