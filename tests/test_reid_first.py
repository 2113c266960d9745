"""`python -m reid_integration.compare --data`: a first answer without a configuration file."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from reid_world import write_tree
from telling import told

from reid_integration.compare import cell_configs, main
from reid_integration.first import FEWEST_ITERATIONS, first_comparison
from xingaug.data.annotations import read_npz, write_npz

SMALL = ["iterations=2", "seeds=[1]", "common.train.batch_size=8", "common.data.height=32", "common.data.width=16"]


def with_synthetic(tree: Path) -> Path:
    """As `xingaug augment` leaves it: an image `_x000` beside every real one."""
    table = read_npz(tree / "annotations.npz")
    train = sorted((tree / "bounding_box_train").glob("*.jpg"))
    for image in train:
        shutil.copyfile(image, image.with_name(f"{image.stem}_x000.jpg"))
    rows = table.lookup([image.name for image in train])
    names = [*table.names.tolist(), *(f"{image.stem}_x000.jpg" for image in train)]
    xy, seen = np.concatenate([table.xy, table.xy[rows]]), np.concatenate([table.visibility, table.visibility[rows]])
    write_npz(tree / "annotations.npz", names, xy, seen)
    return tree


def test_an_augmented_dataset_gets_three_arms(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = with_synthetic(write_tree(tmp_path / "augmented"))
    assert main(["--data", str(tree), *SMALL, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["arms"] == ["real", "duplicates", "offline"]
    assert printed["controls"] == ["real", "duplicates"]
    cells = {cell["arm"]: cell for cell in printed["cells"]}
    assert {arm: cell["images"] for arm, cell in cells.items()} == {"real": 24, "duplicates": 48, "offline": 48}
    assert cells["real"]["synthetic_share"] == 0
    assert 0.2 < cells["offline"]["synthetic_share"] < 0.8
    assert (tmp_path / "augmented_compare" / "report.html").is_file()


def test_a_real_dataset_is_rendered_in_the_loop(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "tree")
    config = first_comparison(tree, ["out=elsewhere"])
    assert list(config.arms) == ["real", "duplicates", "online"]
    assert config.out == Path("elsewhere")
    cells = cell_configs(config)
    assert len(cells) == 3 * 2
    for (arm, _, _), cell in cells.items():
        assert (cell.augmentation is not None) == (arm == "online")


def test_few_images_are_one_batch(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "tree")
    assert first_comparison(tree).common["train"]["batch_size"] == 24
    assert first_comparison(tree, ["validation=0.5"]).common["train"]["batch_size"] < 24
    assert first_comparison(tree, ["common.train.batch_size=8"]).common["train"]["batch_size"] == 8


def test_more_persons_are_trained_for_longer(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "tree")
    assert first_comparison(tree).iterations == FEWEST_ITERATIONS
    (image, *_) = sorted((tree / "bounding_box_train").glob("*.jpg"))
    for pid in range(1, 752):
        shutil.copyfile(image, image.with_name(f"{pid:04d}_c1s1_000001_01.jpg"))
    assert first_comparison(tree).iterations == pytest.approx(1800, abs=30)
    assert first_comparison(tree, ["iterations=7"]).iterations == 7


def test_what_cannot_be_compared_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = write_tree(tmp_path / "tree")
    assert "unknown key 'itertions'; did you mean 'iterations'?" in told(first_comparison, tree, ["itertions=1"])
    shutil.move(tree / "annotations.npz", tmp_path / "kept.npz")
    assert "holds no annotations.npz" in told(first_comparison, tree)
    shutil.rmtree(tree / "query")
    assert "it is tested on persons that are not trained on" in told(first_comparison, tree)
    assert "no such folder" in told(first_comparison, tmp_path / "none")
    for words in ([], ["--data", str(tree), "--config", "x.yaml"]):
        with pytest.raises(SystemExit):
            main(words)
        assert capsys.readouterr().err.count("\n") == 1
