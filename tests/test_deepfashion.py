"""The shipped configuration for DeepFashion, on a tree in its true layout: dry run, training, resuming, evaluation."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from training_runs import GENERATOR
from trees import write_deepfashion

from xingaug.cli import main
from xingaug.data.pairs import read_pairs
from xingaug.generators.store import load_generator

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "train_deepfashion.yaml"

pytestmark = pytest.mark.slow  # 256x176 is large for one core


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the configuration finds `deepfashion`."""
    folder = tmp_path_factory.mktemp("fashion")
    write_deepfashion(folder / "deepfashion")
    return folder


def words(out: str, *more: str) -> list[str]:
    small = [f"generator={json.dumps({**GENERATOR, 'size': [256, 176]})}", "size=null", "batch_size=2"]
    return ["train", str(CONFIG), *small, "validation={identities: 0}", "tensorboard=false", *more, "--out", out]


def test_a_dry_run_plans_it_as_shipped(
    tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tree)
    assert main(["train", str(CONFIG), "validation.identities=1", "validation.pairs=2", "--dry-run"]) == 0
    plan = yaml.safe_load(capsys.readouterr().out)
    assert plan["config"]["size"] == [256, 176]
    assert (plan["plan"]["images"], plan["plan"]["held_out_images"]) == (2, 2)
    assert not (tree / "runs").exists()


def test_one_batch_is_learned(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)
    assert (
        main(
            [
                *words(
                    "overfit",
                    "steps=24",
                    "warmup=0",
                    "lr=1e-2",
                    "decay_start=1",
                    "discriminators={appearance: none, shape: none}",
                ),
                "--overfit-one-batch",
            ]
        )
        == 0
    )
    losses = [json.loads(line)["l1"] for line in (tree / "overfit" / "stats.jsonl").read_text().splitlines()]
    assert len(losses) == 24
    assert np.mean(losses[-2:]) < 0.8 * np.mean(losses[:2])


def test_a_stopped_run_ends_alike_and_is_evaluated(
    tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tree)
    assert main(words("whole", "steps=4", "checkpoint_minutes=0")) == 0
    (tree / "whole" / "checkpoints" / "00000004.pt").unlink()
    before = load_generator(tree / "whole" / "generator.safetensors", dtype=None).state_dict()
    (tree / "whole" / "generator.safetensors").unlink()
    assert main(words("whole", "steps=4", "checkpoint_minutes=0")) == 0
    after = load_generator(tree / "whole" / "generator.safetensors", dtype=None).state_dict()
    assert all((after[name] == value).all() for name, value in before.items())
    capsys.readouterr()
    lists = [f"deepfashion/fasion-resize-{what}-test.csv" for what in ("annotation", "pairs")]
    code = main(
        ["evaluate", "--generator", "whole/generator.safetensors", "--data", "deepfashion", "--annotations", lists[0],
         "--pairs", lists[1], "--sharpness", "--json"]
    )  # fmt: skip
    figures = json.loads(capsys.readouterr().out)
    assert code == 0
    assert figures["pairs"] == len(read_pairs(tree / lists[1]))
    assert 0 < figures["ssim"] < 1
