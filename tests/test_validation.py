"""The best checkpoint is chosen by what the configuration names."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from judging import colours_network
from test_evaluators import movenet
from training_runs import config

from xingaug.data.pairs import pairs_from_pedestrians
from xingaug.errors import BadInput
from xingaug.training.config import MEASURES, Validation
from xingaug.training.loop import plan, train
from xingaug.training.validation import Validator, score


def test_the_score_is_the_product_of_what_is_named() -> None:
    figures = {"ssim": 0.3, "sharpness": 1.4, "reid_map": 0.6, "pck": 0.9, "frechet": 50.0}
    assert score(figures, ("ssim",)) == 0.3
    assert type(score({"ssim": np.float64(0.3)}, ("ssim",))) is float  # or a checkpoint that holds it is not read
    assert score(figures, ("ssim", "sharpness")) == 0.3  # sharper than a photo is no better
    assert score({**figures, "sharpness": 0.5}, ("ssim", "sharpness")) == pytest.approx(0.15)
    assert score(figures, ("reid_map", "pck")) == pytest.approx(0.54)
    assert score(figures, ("pck", "frechet")) == pytest.approx(0.9 / 50)


def test_a_score_of_masks_is_refused_before_the_first_step_where_there_are_none() -> None:
    data = pairs_from_pedestrians(2, 1, 2, seed=5, workers=1, progress=False)
    size, device = (128, 64), torch.device("cpu")
    best = Validation(best=("ssim", "person_ssim"))
    Validator(best, data, size, device)
    with pytest.raises(BadInput, match=r"validation.best: 'person_ssim' cannot be measured: it needs a mask"):
        Validator(best, replace(data, masks=None), size, device)
    Validator(Validation(best="ssim"), replace(data, masks=None), size, device)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"best": "rank1"}, "best: 'rank1', needed one of ssim, mask_ssim, person_ssim"),
        ({"best": ()}, "best: nothing named"),
        ({"best": "reid_map"}, "best: 'reid_map' is measured by validation.reid, which names no file"),
        ({"best": ("ssim", "pck")}, "best: 'pck' is measured by validation.pose_estimator"),
        ({"best": "frechet"}, "best: 'frechet' is measured by validation.vgg16"),
    ],
)
def test_nothing_else_is_taken_in_silence(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Validation(**settings)  # type: ignore[arg-type]
    assert set(Validation().measures) <= set(MEASURES)


def stats(run: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
    return [line for line in lines if "validation_ssim" in line]


def test_networks_choose_the_best(tmp_path: Path) -> None:
    colours_network(tmp_path / "reid.onnx")
    movenet(tmp_path / "pose.onnx", sure=0.5)
    asked = config(
        steps=3,
        validation={
            "identities": 2, "pairs": 4, "every": 1, "best": ["reid_map", "sharpness"],
            "reid": str(tmp_path / "reid.onnx"), "pose_estimator": str(tmp_path / "pose.onnx"),
        },
    )  # fmt: skip
    train(asked, tmp_path / "run", progress=False)
    measured = stats(tmp_path / "run")
    assert len(measured) == 3
    values = [line["validation_reid_map"] * min(line["validation_sharpness"], 1) for line in measured]
    best = json.loads((tmp_path / "run" / "best.json").read_text())
    assert best["best"] == {"measure": ["reid_map", "sharpness"], "value": pytest.approx(max(values), abs=1e-5)}
    assert best["step"] == 1 + values.index(max(values))
    assert {"reid_rank1", "pck", "mask_ssim", "person_ssim"} <= set(best["validation"])


def test_a_plan_loads_the_networks_too(tmp_path: Path) -> None:
    asked = config(validation={"identities": 1, "best": "reid_map", "reid": str(tmp_path / "no.onnx")})
    with pytest.raises(BadInput, match=r"no.onnx: no such file; needed a feature network"):
        plan(asked, tmp_path / "run")


def test_pairs_know_their_cameras() -> None:
    data = pairs_from_pedestrians(2, 2, 2, seed=5, workers=1, progress=False)
    assert data.camids is not None
    assert [f"c{camera}" for camera in data.camids] == [name.split("_")[1] for name in data.names]
    half = data.select(data.pids == 1)
    assert half.camids is not None
    assert half.camids.tolist() == data.camids[data.pids == 1].tolist()
