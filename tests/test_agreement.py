"""Two annotations of the same images: made cases whose figures can be told in the head."""

import json

import numpy as np
import pytest
from annotating import write_colour

from xingaug.data.annotations import Annotations, write_npz
from xingaug.errors import BadInput
from xingaug.keypoints import FLIP_ORDER, JOINTS
from xingaug.poses.agreement import compare, torso_length

NECK, NOSE = JOINTS.index("neck"), JOINTS.index("nose")
ARMS = [JOINTS.index(f"{side}_{part}") for side in ("right", "left") for part in ("shoulder", "elbow", "wrist")]
LEGS = [JOINTS.index(f"{side}_{part}") for side in ("right", "left") for part in ("hip", "knee", "ankle")]


def person() -> np.ndarray:
    """(18, 2): neck 30 px above the middle of the hips; right joints at x = 20, left ones at x = 40."""
    heights = {"shoulder": 22, "elbow": 36, "wrist": 48, "hip": 50, "knee": 75, "ankle": 100, "eye": 8, "ear": 9}
    sides = {"right": 20, "left": 40}
    xy = [(sides[name.split("_")[0]], heights[name.split("_")[1]]) if "_" in name else (30, 10) for name in JOINTS]
    xy[NECK] = (30, 20)
    return np.array(xy, np.float32)


def moved(x: float, y: float = 0) -> np.ndarray:
    return person() + np.array([x, y], np.float32)


def made(names: str, xy: np.ndarray, seen: np.ndarray | None = None) -> Annotations:
    """One image for each letter."""
    xy = np.broadcast_to(xy, (len(names), 18, 2))
    seen = np.ones((len(names), 18)) if seen is None else np.broadcast_to(seen, (len(names), 18))
    return Annotations(np.array([f"{name}.jpg" for name in names]), xy, seen, names)


def without(*joints: int) -> np.ndarray:
    seen = np.ones(18)
    seen[list(joints)] = 0
    return seen


def test_equal_annotations_agree_fully():
    found = compare(made("abc", person()), made("cab", person()))
    assert found.names.tolist() == ["a.jpg", "b.jpg", "c.jpg"]
    assert found.figures() == {
        "images_in_both": 3, "images_only_in_a": 0, "images_only_in_b": 0, "joints_in_both": 54,
        "joints_only_in_a": 0, "joints_only_in_b": 0, "median_px": 0, "p90_px": 0, "pck_0.2": 1,
        "swapped_arms": 0, "swapped_legs": 0,
    }  # fmt: skip
    assert found.mean_px.tolist() == [0, 0, 0]


def test_rows_are_matched_by_name():
    shifts = {"a": 0, "b": 3, "c": 5, "d": 9}
    a = made("abc", person())
    found = compare(a, made("dcb", np.stack([moved(shifts[name]) for name in "dcb"])))
    assert (found.names.tolist(), found.only_a, found.only_b) == (["b.jpg", "c.jpg"], 1, 1)
    assert found.mean_px.tolist() == [3, 5]


def test_distances_are_the_quantiles_over_all_images():
    xy = np.stack([moved(0.3 * length, 0.4 * length) for length in range(1, 12)])
    found = compare(made("abcdefghijk", person()), made("abcdefghijk", xy))
    for joint in (found.all_joints, found.joints["left_knee"]):
        assert joint.median_px == pytest.approx(3)
        assert joint.p90_px == pytest.approx(5)


def test_pck_counts_the_first_ones_joints_below_a_fifth_of_the_torso():
    xy = np.stack([moved(shift) for shift in (0, 5.9, 6, 6.1)])  # of 30 px
    found = compare(made("abcd", person()), made("abcd", xy))
    assert found.all_joints.pck == found.joints["nose"].pck == 0.5
    missing = compare(made("abcd", person()), made("abcd", xy, without(NOSE)))
    assert (missing.joints["nose"].pck, missing.joints["neck"].pck) == (0, 0.5)
    more = compare(made("abcd", person(), without(NOSE)), made("abcd", xy))
    assert (more.joints["nose"].pck, more.joints["nose"].median_px) == (None, None)
    no_torso = compare(made("abcd", person(), without(NECK)), made("abcd", xy))
    assert no_torso.all_joints.pck is None
    assert no_torso.all_joints.median_px == pytest.approx(5.95)


def test_the_torso_ends_at_the_middle_of_the_hips_or_at_the_only_one():
    xy = np.stack([person()] * 4)
    seen = np.stack([without(), without(LEGS[0]), without(LEGS[0], LEGS[3]), without(NECK)]) > 0
    np.testing.assert_allclose(torso_length(xy, seen), [30, np.hypot(10, 30), np.nan, np.nan])


def test_joints_that_one_alone_shows_are_counted():
    found = compare(made("ab", person(), without(0, 3)), made("ab", person(), without(3, 5, 6)))
    assert (found.all_joints.both, found.all_joints.only_a, found.all_joints.only_b) == (2 * 14, 4, 2)
    nose, elbow = found.joints["nose"], found.joints["right_elbow"]
    assert (nose.both, nose.only_a, nose.only_b) == (0, 0, 2)
    assert (elbow.both, elbow.only_a, elbow.only_b) == (0, 0, 0)


def exchanged(joints: list[int], noise: float = 0.0) -> np.ndarray:
    xy = person()
    xy[joints] = person()[[FLIP_ORDER[joint] for joint in joints]] + (noise, 0)
    return xy


def test_exchanged_sides_are_found_by_limbs():
    cases = {"a": person(), "b": exchanged(ARMS), "c": exchanged(LEGS), "d": exchanged([*ARMS, *LEGS])}
    xy = np.stack(list(cases.values()))
    for first, second in ((made("abcd", person()), made("abcd", xy)), (made("abcd", xy), made("abcd", person()))):
        assert compare(first, second).swapped == {"arms": ["b.jpg", "d.jpg"], "legs": ["c.jpg", "d.jpg"]}
    whole = person()[list(FLIP_ORDER)]
    assert compare(made("a", person()), made("a", whole)).swapped == {"arms": ["a.jpg"], "legs": ["a.jpg"]}


@pytest.mark.parametrize(
    ("noise", "seen_a", "seen_b", "found"),
    [
        (6.5, without(), without(), True),  # 20 - 6.5 px as named on the right, 20 + 6.5 on the left, 6.5 exchanged
        (10.5, without(), without(), False),  # exchanged is more than half of 20 px
        (0, without(*LEGS[:2]), without(), True),  # four joints are left
        (0, without(*LEGS[:2]), without(LEGS[2]), False),  # three
        (0, without(NECK), without(), False),  # no torso to measure by
    ],
)
def test_an_exchange_must_be_clear(noise, seen_a, seen_b, found):
    a, b = made("a", person(), seen_a), made("a", exchanged(LEGS, noise), seen_b)
    assert compare(a, b).swapped["legs"] == ["a.jpg"] * found


def test_narrow_persons_are_not_called_exchanged():
    narrow = person()
    narrow[:, 0] = 30 + (narrow[:, 0] - 30) * 0.1  # sides are 2 px apart, a tenth of the torso is 3
    other = narrow.copy()
    other[LEGS] = narrow[[FLIP_ORDER[joint] for joint in LEGS]]
    assert compare(made("a", narrow), made("a", other)).swapped["legs"] == []


def test_nothing_in_common_is_told():
    with pytest.raises(BadInput, match=r"no image in common: 2 and 1 annotations, such as 'a.jpg' and 'c.jpg'"):
        compare(made("ab", person()), made("c", person()))


def test_the_command_prints_lists_and_draws(run, tmp_path):
    for name in ("a.png", "b.png", "c.png"):
        write_colour(tmp_path / "images" / name, 0)
    names = ["a.png", "b.png", "c.png"]
    xy = np.stack([person(), exchanged(LEGS), moved(2)])
    write_npz(tmp_path / "a.npz", names, np.stack([person()] * 3), np.ones((3, 18)), "first")
    write_npz(tmp_path / "b.npz", names, xy, np.ones((3, 18)), "second")
    line = f"compare-annotations {tmp_path}/a.npz {tmp_path}/b.npz"
    code, out, err = run(f"{line} --data {tmp_path}/images --preview {tmp_path}/p.html --preview-count 2 --json")
    figures = json.loads(out)
    assert (code, err) == (0, "")
    assert (figures["images_in_both"], figures["median_px"]) == (3, 0)
    assert figures["swapped"] == {"arms": [], "legs": ["b.png"]}
    assert figures["joints"]["nose"] == {
        "both": 3, "only_a": 0, "only_b": 0, "median_px": 0.0, "p90_px": pytest.approx(1.6), "pck": 1.0,
    }  # fmt: skip
    page = (tmp_path / "p.html").read_text()
    assert page.count("data:image/jpeg") == 2
    assert page.index("6.7 px, swapped: legs") < page.index("2.0 px")
    code, out, _ = run(line)
    assert code == 0
    assert out.splitlines()[0] == "images_in_both: 3"
    assert out.splitlines()[-1] == "swapped legs: b.png"
    assert "nose            3     0       0       0.0        1.6     1.0" in out
