"""Every example of the README runs, from top to bottom, in one directory."""

import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from reid_integration.config import reid_config
from xingaug.config import load_config
from xingaug.data.annotations import read_annotations, write_patn_csv
from xingaug.data.pedestrians import write_world
from xingaug.data.readers.config import DatasetConfig

ROOT = Path(__file__).resolve().parent.parent
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)

# What makes an example small enough for a test.
SHORTER = {
    "xingaug demo": ["--iterations", "1"],
    "xingaug train configs/train_market1501.yaml": ["steps=1", "batch_size=2", "validation.identities=1"],
    "xingaug train": ["steps=1", "data.identities=2", "data.poses=2", "batch_size=2", "validation.identities=0"],
    "xingaug world runs/pedestrians_starved": ["--identities", "16", "--images-per-identity", "6"],
    "python -m reid_integration.train": ["train.max_iterations=1", "train.batch_size=8"],
    "python -m reid_integration.compare": [
        "iterations=1",
        "seeds=[1]",
        "synthetic.per_image=1",
        "common.train.batch_size=8",
    ],
}


def blocks(language: str) -> list[str]:
    return [text for kind, text in BLOCKS if kind == language]


def commands() -> list[str]:
    lines = [line for text in blocks("bash") for line in text.splitlines()]
    return [line for line in lines if line.strip() and not line.startswith(("#", "make "))]


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory as the README's reader has it, with a small drawn tree in the place of Market-1501."""
    home = tmp_path_factory.mktemp("user")
    (home / "configs").symlink_to(ROOT / "configs")
    (home / "examples").symlink_to(ROOT / "examples")
    write_world(home / "Market-1501-v15.09.15", 8, 4, 9, workers=1, progress=False)
    table = read_annotations(home / "Market-1501-v15.09.15" / "annotations.npz")
    write_patn_csv(home / "market-annotation-train.csv", table)
    return home


def test_every_command_of_the_readme_runs(user: Path) -> None:
    ran = []
    for line in commands():
        program = next((known for known in SHORTER if line.startswith(known)), None)
        words = shlex.split(line) + (SHORTER[program] if program else [])
        if words[0] == "xingaug":
            words = [sys.executable, "-m", "xingaug.cli", *words[1:]]
        elif words[0] == "python":
            words[0] = sys.executable
        else:
            pytest.fail(f"the README has a command that this test does not know: {line}")
        done = subprocess.run(words, cwd=user, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        ran.append(line)
    assert len(ran) >= 8
    for written in ("runs/market-demo/report.html", "runs/bank.html", "runs/augmented/manifest.jsonl",
                    "runs/generator/generator.safetensors", "runs/market-generator/best.safetensors",
                    "runs/compare_pedestrians/results.csv"):  # fmt: skip
        assert (user / written).is_file(), written


def test_python_of_the_readme(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(user)
    assert blocks("python")
    for text in blocks("python"):
        exec(compile(text, "README.md", "exec"), {})


def test_yaml_of_the_readme(tmp_path: Path) -> None:
    dataset, *others = blocks("yaml")
    (tmp_path / "crops.yaml").write_text(dataset)
    assert load_config(DatasetConfig, tmp_path / "crops.yaml").layout == "pattern"
    assert len(others) == 2
    for text in others:
        assert reid_config(yaml.safe_load(text), "README.md").augmentation is not None


def test_commands_for_a_folder_of_crops_are_the_tutorials_which_has_a_test_of_its_own() -> None:
    tutorial = (ROOT / "examples" / "own_dataset.md").read_text().splitlines()
    (three,) = blocks("sh")
    assert len(three.splitlines()) == 3
    assert set(three.splitlines()) <= set(tutorial)


def test_example_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_world(tmp_path / "world", 16, 4, 0, workers=1, progress=False)
    example = runpy.run_path(str(ROOT / "examples" / "train_with_poses.py"))
    loss = example["main"](tmp_path / "world", epochs=1)
    assert 0 < loss < 10
    assert "rendered" in capsys.readouterr().out


def test_make_targets_of_the_readme_exist() -> None:
    for target in ("demo", "test"):
        done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_every_linked_file_exists() -> None:
    text = (ROOT / "README.md").read_text()
    for path in re.findall(r"\]\(([^)#:]+)\)", text) + re.findall(r"`(examples/[^`]+|configs/[^`*]+)`", text):
        assert (ROOT / path).exists(), path
