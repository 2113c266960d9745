"""Every example of the README and of the pages that it links runs, from top to bottom, in one directory."""

import re
import runpy
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from command_lines import NoProcesses, run_here
from patn import write_patn_csv

from reid_integration.config import reid_config
from xingaug.config import load_config
from xingaug.data.annotations import read_annotations
from xingaug.data.pedestrians import write_world
from xingaug.data.readers.config import DatasetConfig

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
TUTORIAL = ROOT / "examples" / "own_dataset.md"  # has a test of its own
PAGES = [README, *sorted(path for path in (ROOT / "examples").glob("*.md") if path != TUTORIAL)]

# What makes an example small enough for a test.
SHORTER = {
    "xingaug demo": ["--iterations", "1"],
    "xingaug world runs/pedestrians_starved": ["--identities", "16", "--images-per-identity", "6"],
    "xingaug world": ["--identities", "12", "--images-per-identity", "4"],
    "xingaug augment": ["--budget", "4", "--work", "work"],
    "xingaug train configs/train_market1501.yaml": ["steps=1", "batch_size=2", "validation.identities=1"],
    "xingaug train": ["steps=1", "data.identities=2", "data.poses=2", "batch_size=2", "validation.identities=0"],
    "python -m reid_integration.train": ["train.max_iterations=1", "train.batch_size=8"],
    "python -m reid_integration.compare": [
        "iterations=1",
        "seeds=[1]",
        "synthetic.per_image=1",
        "common.train.batch_size=8",
    ],
}


def blocks(language: str, *pages: Path) -> list[str]:
    found = [re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL) for page in pages]
    return [text for page in found for kind, text in page if kind == language]


def commands() -> list[str]:
    """Each once: a page repeats what it needs, to be readable alone."""
    lines = [line for text in blocks("bash", *PAGES) for line in text.splitlines()]
    return list(dict.fromkeys(line for line in lines if line.strip() and not line.startswith(("#", "make "))))


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


@pytest.mark.slow
def test_every_command_of_the_pages_runs(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(user)
    monkeypatch.setattr("xingaug.demo.subprocess", NoProcesses)
    ran = []
    for line in commands():
        program = next((known for known in SHORTER if line.startswith(known)), None)
        run_here(shlex.split(line) + (SHORTER[program] if program else []))
        ran.append(line)
    assert len(ran) >= 15
    for written in ("runs/market-demo/report.html", "runs/bank.html", "runs/augmented/manifest.jsonl",
                    "runs/generator/generator.safetensors", "runs/market-generator/best.safetensors",
                    "runs/compare_pedestrians/results.csv"):  # fmt: skip
        assert (user / written).is_file(), written


@pytest.mark.slow
def test_python_of_the_pages(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(user)
    found = {page.name: blocks("python", page) for page in PAGES}
    assert len(found["README.md"]) == len(found["python.md"]) == 1
    for name, texts in found.items():
        for text in texts:
            exec(compile(text, name, "exec"), {})


def test_yaml_of_the_pages(tmp_path: Path) -> None:
    (dataset,) = blocks("yaml", ROOT / "examples" / "datasets.md")
    (tmp_path / "crops.yaml").write_text(dataset)
    assert load_config(DatasetConfig, tmp_path / "crops.yaml").layout == "pattern"
    others = blocks("yaml", README, ROOT / "examples" / "torchreid.md")
    assert len(others) == 3
    assert len(blocks("yaml", *PAGES)) == 4
    for text in others:
        assert reid_config(yaml.safe_load(text), "README.md").augmentation is not None


def test_commands_for_a_folder_of_crops_are_the_tutorials_which_has_a_test_of_its_own() -> None:
    tutorial = TUTORIAL.read_text().splitlines()
    (three,) = blocks("sh", *PAGES)
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
    for page in (*PAGES, TUTORIAL):
        text = page.read_text()
        for path in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (page.parent / path).exists(), (page, path)
        for path in re.findall(r"`((?:examples|configs|xingaug|tests)/[^`*]+)`", text):
            assert (ROOT / path).exists(), (page, path)


def test_the_readme_is_short_and_leads_to_every_page() -> None:
    text = README.read_text()
    assert len(text.splitlines()) <= 200
    for page in (*PAGES[1:], TUTORIAL):
        assert f"](examples/{page.name})" in text
        assert page.read_text().startswith("# ")
