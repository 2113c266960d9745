"""Comparisons: they run, resume and tabulate; stale cells and bad settings are refused."""

import csv
import json

import numpy as np
import pytest
import yaml
from reid_world import StandIn, comparison, settings, write_tree

from reid_integration import compare as compare_module
from reid_integration.arms import Cut, SyntheticConfig
from reid_integration.compare import compare, load_compare_config
from reid_integration.compare import main as compare_main
from reid_integration.config import reid_config
from reid_integration.train import run
from xingaug.errors import BadInput


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return write_tree(tmp_path_factory.mktemp("data") / "world")


def test_comparison_runs_resumes_and_tabulates(tree, tmp_path, monkeypatch):
    config = comparison(tree, tmp_path)
    first = compare(config, generator=StandIn())
    assert list(first.cells) == [(arm, Cut(), seed) for seed in (1, 2) for arm in ("real", "xinggan_pose")]
    assert {cell.iterations for cell in first.cells.values()} == {2}
    assert [cell.synthetic_share for cell in first.cells.values()] == [0, 1, 0, 1]
    with (config.out / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["arm"], row["seed"]) for row in rows] == [(arm, str(seed)) for arm, _, seed in first.cells]
    assert float(rows[0]["mAP"]) == first.cells["real", Cut(), 1].reid.mAP
    data = json.loads((config.out / "results.json").read_text())
    values = [first.cells["real", Cut(), seed].reid.mAP for seed in (1, 2)]
    real, posed = data["summary"]
    assert (real["arm"], posed["arm"]) == ("real", "xinggan_pose")
    assert real["mAP"]["mean"] == pytest.approx(np.mean(values))
    assert real["mAP"]["std"] == pytest.approx(np.std(values, ddof=1))
    assert len(data["cells"]) == 4
    (gain,) = data["differences"]
    assert (gain["arm"], gain["against"]) == ("xinggan_pose", "real")
    pairs = [
        first.cells["xinggan_pose", Cut(), seed].reid.mAP - first.cells["real", Cut(), seed].reid.mAP for seed in (1, 2)
    ]
    assert gain["mAP"]["mean"] == pytest.approx(np.mean(pairs))
    assert gain["mAP"]["high"] - gain["mAP"]["low"] == pytest.approx(
        2 * 12.706 * np.std(pairs, ddof=1) / 2**0.5, rel=1e-4
    )
    page = (config.out / "report.html").read_text()
    assert "xinggan_pose - real" in page
    assert page.count("<svg") == 2

    (config.out / "real" / "share_100" / "seed_2" / "result.json").unlink()
    ran = []
    monkeypatch.setattr(compare_module, "run", lambda cell, *rest: ran.append(cell.data.save_dir) or run(cell, *rest))
    second = compare(config, generator=StandIn())
    assert ran == [str(config.out / "real" / "share_100" / "seed_2")]
    assert [row["mAP"] for row in second.to_mapping()["summary"]] == [row["mAP"] for row in data["summary"]]


def test_a_stale_cell_is_not_passed_off_as_the_result(tree, tmp_path):
    arms = {"xinggan_pose": {"augment": {"p": 1.0}}}
    compare(comparison(tree, tmp_path, arms=arms, seeds=[1]), generator=StandIn())
    with pytest.raises(BadInput, match=r"seed_1: was made with train.max_iterations = 2, now it is 3"):
        compare(comparison(tree, tmp_path, arms=arms, seeds=[1], iterations=3))
    moved = comparison(tree, tmp_path, arms=arms, seeds=[1], out=tmp_path / "here" / ".." / "compare")
    (tmp_path / "here").mkdir()
    assert compare(moved, generator=StandIn()).cells
    other = StandIn()
    other.content_hash = "other"
    with pytest.raises(BadInput, match="generator = stand-in, now it is other"):
        compare(comparison(tree, tmp_path, arms=arms, seeds=[1]), generator=other)


def test_a_cell_of_a_version_that_lacked_a_setting_is_still_finished(tree, tmp_path):
    arms = {"xinggan_pose": {"augment": {"p": 1.0}}}
    config = comparison(tree, tmp_path, arms=arms, seeds=[1])
    compare(config, generator=StandIn())
    file = config.out / "xinggan_pose" / "share_100" / "seed_1" / "config.yaml"
    written = yaml.safe_load(file.read_text())
    assert written["augment"].pop("reference") == "image"
    del written["train"]["ema"]
    file.write_text(yaml.safe_dump(written))
    result = (file.parent / "result.json").stat().st_mtime_ns
    compare(config, generator=StandIn())
    assert (file.parent / "result.json").stat().st_mtime_ns == result
    arms["xinggan_pose"]["augment"]["reference"] = "camera"
    with pytest.raises(BadInput, match=r"augment\.reference = image, now it is camera"):
        compare(comparison(tree, tmp_path, arms=arms, seeds=[1]), generator=StandIn())
    file.write_text(yaml.safe_dump({**written, "of_later": 1}))
    with pytest.raises(BadInput, match=r"of_later = 1, now it is None"):
        compare(config, generator=StandIn())


def test_arms_that_are_only_tested_are_finished_too(tree, tmp_path):
    trained = run(reid_config(settings(tree, tmp_path / "trained", train__max_iterations=1))).directory
    only = {"model": {"load_weights": str(trained / "model.safetensors")}, "test": {"evaluate": True}}
    config = comparison(tree, tmp_path, arms={"a": only, "b": only | {"augment": {"p": 1.0}}}, seeds=[1])
    assert compare(config, generator=StandIn()).summary() == compare(config, generator=StandIn()).summary()


def test_an_arm_may_train_on_another_folder(tree, tmp_path):
    offline = write_tree(tmp_path / "offline", identities=4, seed=3)
    arms = {"real": {}, "offline": {"data": {"sources": [str(offline)]}}}
    result = compare(comparison(tree, tmp_path, arms=arms, seeds=[1]))
    assert [cell.identities for cell in result.cells.values()] == [6, 4]
    assert [list(cell.results) for cell in result.cells.values()] == [["world"], ["world"]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": {"a": {"augmnet": "xinggan_pose"}}}, "arms.a: unknown key 'augmnet'; did you mean 'augment'?"),
        ({"arms": {"a": {"train": {"seed": 3}}}}, "arms.a: sets train.seed, which the comparison sets"),
        ({"arms": {"a/b": {}}}, "arms: 'a/b', needed a name of letters"),
        ({"seeds": [1, 1]}, "seeds, each once"),
        ({"shares": [0.5, 0]}, "shares: [0.5, 0], needed numbers above 0 and up to 1, each once"),
        (
            {"arms": {"a": {"synthetic": "dreams"}}},
            "arms.a.synthetic: 'dreams', needed one of none, offline, duplicates, oracle",
        ),
        ({"against": ["b"]}, "against: 'b' is none of the arms (real, xinggan_pose)"),
        ({"iterations": 0}, "iterations: 0"),
        ({"common": {"train": {"seed": 3}}}, "common: sets train.seed, which the comparison sets"),
        ({"shares": [0.3333333, 0.3333334]}, "some are too close to tell apart"),
        (
            {"arms": {"a": {"synthetic": "offline"}}, "synthetic": SyntheticConfig(sampler="nope")},
            "sampler: unknown 'nope'",
        ),
        ({"arms": {"a": {"model": {"name": "osnet_x9"}}}}, "model.name: Unknown model: osnet_x9"),
        ({"arms": {"a": {"augment": {"ground": 0.5}}}}, "augment.ground: this generator does not separate"),
        ({"arms": {"a": {"augment": {"gate": {"features": "nope.onnx"}}}}}, "nope.onnx: no such file"),
    ],
)
def test_bad_comparisons_are_named(tree, tmp_path, changes, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is compared below
        compare(comparison(tree, tmp_path, **changes))
    assert message in str(caught.value)
    assert not (tmp_path / "compare").exists()


def test_compare_command(tree, tmp_path, capsys):
    (tmp_path / "configs").mkdir()
    base = settings(tree, "unused")
    (tmp_path / "configs" / "base.yaml").write_text(yaml.safe_dump(base))
    path = tmp_path / "configs" / "compare.yaml"
    plain = {"out": str(tmp_path / "out"), "base": "base.yaml", "arms": {"real": {}}, "iterations": 2}
    path.write_text(yaml.safe_dump(plain))
    assert load_compare_config(path).base == tmp_path / "configs" / "base.yaml"
    assert compare_main(["--config", str(path), "iterations=1"]) == 0
    assert "real" in capsys.readouterr().out
    assert compare_main(["--config", str(path), "iterations=1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["arms"] == ["real"]
    assert compare_main(["--config", str(path), "itertions=1"]) == 2
    assert "did you mean 'iterations'?" in capsys.readouterr().err
