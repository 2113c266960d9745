"""The sentences of a comparison's page, and what it draws."""

import re
from typing import Any

import numpy as np
import pytest

from reid_integration.arms import Cut
from reid_integration.compare_page import answer, cost, plot_svg, write_compare_page
from reid_integration.comparison import CompareConfig, ComparisonResult
from reid_integration.evaluation import ReidResult
from reid_integration.result import TrainResult

CUTS = [Cut(0.2), Cut(identities=0.2)]


def result(tmp_path: Any, gains: list[float], **changes: Any) -> ComparisonResult:
    """Online exceeds real by `gains`, in points, seed by seed, with 20 % of the images; other cells are missing."""
    config = CompareConfig(
        tmp_path, {"real": {}, "online": {}}, seeds=[1, 2, 3], shares=[0.2], identity_shares=[0.2], **changes
    )
    cells = {}
    for seed, gain in enumerate(gains, start=1):
        for arm, extra in (("real", 0.0), ("online", gain)):
            reid = ReidResult((40 + seed + extra) / 100, 0.1, np.array([0.5]), 10)
            seconds = 200.0 if arm == "online" else 100.0
            cells[arm, CUTS[0], seed] = TrainResult(
                tmp_path, {"market1501": reid}, train_seconds=seconds, evaluation_seconds=50.0, machine="a core"
            )
    return ComparisonResult(config, cells)


@pytest.mark.parametrize(
    ("gains", "said"),
    [
        (
            [2.0, 2.1, 1.9],
            "Synthesised poses help: with 20 % of the images, online reaches an mAP of 44.0 % and real one",
        ),
        ([-2.0, -2.1, -1.9], "Synthesised poses harm: with 20 % of the images, online reaches an mAP of 40.0 %"),
        ([3.0, -2.0, 0.5], "No significant difference: with 20 % of the images"),
        (
            [2.0],
            "With 20 % of the images, online reaches an mAP of 43.0 % and real one of 41.0 %, of a single seed each",
        ),
        ([], "online and real have no finished cells in common yet"),
    ],
)
def test_the_answer_is_one_sentence(tmp_path: Any, gains: list[float], said: str) -> None:
    assert answer(result(tmp_path, gains).to_mapping()).startswith(said)


def test_the_interval_is_in_the_answer(tmp_path: Any) -> None:
    assert answer(result(tmp_path, [2.0, 2.1, 1.9]).to_mapping()).endswith(": +2.0 (+1.8 to +2.2) points over 3 seeds.")


def test_the_means_are_of_the_seeds_that_both_have(tmp_path: Any) -> None:
    found = result(tmp_path, [2.0, 2.0, 2.0])
    del found.cells["online", CUTS[0], 3]
    said = answer(found.to_mapping())
    assert "online reaches an mAP of 43.5 % and real one of 41.5 %: +2.0 (+2.0 to +2.0) points over 2 seeds." in said


def test_the_answer_is_about_another_arm_than_the_first_control(tmp_path: Any) -> None:
    said = answer(result(tmp_path, [2.0], against=["online"]).to_mapping())
    assert said.startswith("With 20 % of the images, real reaches an mAP of 41.0 % and online one of 43.0 %")
    with pytest.raises(ValueError, match="headline: 'real' is the first control; needed another arm"):
        result(tmp_path, [], headline="real")


def test_arms_of_different_images_are_told(tmp_path: Any) -> None:
    found = result(tmp_path, [2.0])
    for arm, images in (("real", "a"), ("online", "b")):
        found.cells[arm, CUTS[0], 1].sources = {"images": images}
    assert found.mixed() == [
        "real and online, 20 % of the images: trained on different real images, so their difference mixes these."
    ]


def test_seeds_of_different_images_are_told_once_for_each_arm(tmp_path: Any) -> None:
    found = result(tmp_path, [2.0, 2.0])
    for (arm, _, seed), cell in found.cells.items():
        cell.sources = {"images": "ab"[seed - 1]}
        assert arm in ("real", "online")
    assert [sentence.partition(",")[0] for sentence in found.mixed()] == ["real", "online"]


def test_what_it_cost(tmp_path: Any) -> None:
    assert cost(result(tmp_path, [2.0, 2.1]).to_mapping()) == (
        "What it cost: a training of online takes 2.00 times as long as one of real; 4 cells took 0.2 hours on a core."
    )


def test_missing_cells_are_counted_and_not_averaged(tmp_path: Any) -> None:
    comparison = result(tmp_path, [2.0, 4.0])
    del comparison.cells["real", CUTS[0], 2]
    data = comparison.to_mapping()
    assert data["missing"] == 12 - 3
    assert [(row["arm"], row["seeds"]) for row in data["summary"]] == [("real", 1), ("online", 2)]
    (gain,) = data["differences"]
    assert (gain["seeds"], gain["mAP"]["mean"]) == (1, pytest.approx(0.02))
    assert (gain["share"], gain["identity_share"]) == (0.2, 1.0)


def test_a_mean_over_different_generators_is_said(tmp_path: Any) -> None:
    comparison = result(tmp_path, [2.0, 4.0])
    for (arm, _, seed), cell in comparison.cells.items():
        cell.sources = {"images": "i", "rendering": f"on machine {seed}"} | (
            {"generator": "g"} if arm != "real" else {}
        )
    assert comparison.mixed() == []
    comparison.cells["online", CUTS[0], 2].sources |= {"generator": "h", "ground": "others"}
    (sentence,) = comparison.mixed()
    assert sentence.startswith("online, 20 % of the images: the seeds were made with different generator and ground,")
    assert sentence in write_compare_page(tmp_path, comparison.to_mapping()).read_text()


def test_a_headline_must_be_an_arm(tmp_path: Any) -> None:
    with pytest.raises(ValueError, match="headline: 'offline' is none of the arms"):
        result(tmp_path, [], headline="offline")


def test_the_plots_show_shares_alone(tmp_path: Any) -> None:
    compared = result(tmp_path, [30.0, -30.0])
    (online,) = [row for row in compared.summary() if row["arm"] == "online"]
    assert online["mAP"]["low"] < 0
    assert online["mAP"]["high"] > 1
    ticks = re.findall(r"<!-- (.?[\d.]+) -->", plot_svg(compared.to_mapping(), "mAP"))
    assert {"0", "100"} <= set(ticks)
    assert all(0 <= float(tick.replace("\N{MINUS SIGN}", "-")) <= 100 for tick in ticks)
