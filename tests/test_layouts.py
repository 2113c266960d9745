import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from xingaug.data.layouts import LAYOUTS, NOSE_SHARE, joint_names, to_joints18
from xingaug.errors import BadInput
from xingaug.keypoints import JOINTS, Keypoints

QUICK = settings(max_examples=40, deadline=None)
WIDTH = 64


def numbered(layout: str, count: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Joint j at (j, 100 + j), all visible."""
    index = np.arange(len(LAYOUTS[layout]))
    return np.tile(np.stack([index, 100 + index], -1), (count, 1, 1)), np.ones((count, len(index)))


def joint(keypoints: Keypoints, name: str) -> list[float]:
    """x, y, visibility of the first person."""
    index = JOINTS.index(name)
    return [*keypoints.xy[0, index].tolist(), float(keypoints.visibility[0, index])]


@pytest.mark.parametrize(
    ("layout", "taken"),
    [
        ("lsp14", {"right_ankle": 0, "right_hip": 2, "left_hip": 3, "left_ankle": 5, "right_wrist": 6,
                   "right_shoulder": 8, "left_shoulder": 9, "left_wrist": 11, "neck": 12}),
        ("coco17", {"nose": 0, "left_eye": 1, "right_eye": 2, "left_ear": 3, "right_ear": 4, "left_shoulder": 5,
                    "right_shoulder": 6, "left_elbow": 7, "right_wrist": 10, "left_hip": 11, "right_ankle": 16}),
        ("body25", {"nose": 0, "neck": 1, "right_shoulder": 2, "left_wrist": 7, "right_hip": 9, "right_ankle": 11,
                    "left_hip": 12, "left_ankle": 14, "right_eye": 15, "left_eye": 16, "right_ear": 17,
                    "left_ear": 18}),
        ("openpose18", {"nose": 0, "neck": 1, "right_wrist": 4, "left_hip": 11, "right_eye": 14, "left_ear": 17}),
    ],
)  # fmt: skip
def test_each_joint_comes_from_its_place(layout, taken):
    keypoints = to_joints18(*numbered(layout), layout)
    for name, index in taken.items():
        assert joint(keypoints, name) == [index, 100 + index, 1], name


def test_layouts_are_complete_and_name_nothing_twice():
    assert {name: len(joints) for name, joints in LAYOUTS.items()} == {
        "lsp14": 14, "coco17": 17, "openpose18": 18, "body25": 25, "halpe26": 26,
    }  # fmt: skip
    for joints in LAYOUTS.values():
        assert len(set(joints)) == len(joints)
    assert set(JOINTS) - set(LAYOUTS["coco17"]) == {"neck"}
    assert set(JOINTS) <= set(LAYOUTS["body25"])
    assert set(JOINTS) - set(LAYOUTS["lsp14"]) == {"nose", "right_eye", "left_eye", "right_ear", "left_ear"}


def test_openpose18_is_ours():
    rng = np.random.default_rng(0)
    xy, visibility = rng.uniform(-5, 70, (4, 18, 2)).astype(np.float32), rng.random((4, 18)).astype(np.float32)
    keypoints = to_joints18(xy, visibility, "openpose18")
    np.testing.assert_array_equal(keypoints.xy.numpy(), xy)
    np.testing.assert_array_equal(keypoints.visibility.numpy(), visibility)


def test_a_missing_neck_is_the_middle_of_the_shoulders():
    xy, visibility = numbered("coco17", 3)
    xy[:, 5], xy[:, 6] = (40, 20), (30, 26)
    visibility[0, 5], visibility[0, 6] = 0.5, 0.75
    visibility[1, 5] = visibility[2, 6] = 0
    keypoints = to_joints18(xy, visibility, "coco17")
    neck = JOINTS.index("neck")
    assert joint(keypoints, "neck") == [35, 23, 0.5]
    assert keypoints.visibility[1:, neck].tolist() == [0, 0]
    assert keypoints.visibility[1, JOINTS.index("right_shoulder")] == 1
    assert (keypoints.visibility > 0).sum(-1).tolist() == [18, 16, 16]


def test_a_missing_nose_lies_between_head_top_and_neck():
    xy, visibility = numbered("lsp14", 3)
    xy[:, 13], xy[:, 12] = (30, 4), (34, 24)
    visibility[0, 13], visibility[0, 12] = 0.25, 0.5
    visibility[1, 13] = visibility[2, 12] = 0
    keypoints = to_joints18(xy, visibility, "lsp14")
    assert joint(keypoints, "nose") == pytest.approx([30 + 4 * NOSE_SHARE, 4 + 20 * NOSE_SHARE, 0.25])
    assert keypoints.visibility[1:, JOINTS.index("nose")].tolist() == [0, 0]
    head = [JOINTS.index(f"{side}_{part}") for side in ("right", "left") for part in ("eye", "ear")]
    assert not keypoints.present[:, head].any(), "eyes and ears are not invented"
    assert keypoints.visibility[:, JOINTS.index("neck")].tolist() == [0.5, 1, 0]


def test_nothing_is_derived_from_what_the_layout_lacks():
    keypoints = to_joints18([[[1, 2], [3, 4]]], [[1, 1]], ["head_top", "left_shoulder"])
    assert keypoints.present.nonzero().tolist() == [[0, JOINTS.index("left_shoulder")]]
    # A neck made from shoulders is not the one that the nose's share was measured with.
    keypoints = to_joints18([[[1, 2], [3, 4], [5, 6]]], [[1, 1, 1]], ["head_top", "left_shoulder", "right_shoulder"])
    assert joint(keypoints, "neck") == [4, 5, 1]
    assert joint(keypoints, "nose")[2] == 0


def test_nan_at_a_missing_joint_goes_nowhere():
    xy, visibility = numbered("coco17")
    xy = xy.astype(np.float32)
    xy[0, 5], visibility[0, 5] = np.nan, 0
    keypoints = to_joints18(xy, visibility, "coco17")
    assert keypoints.xy.isfinite().all()
    assert joint(keypoints, "neck") == [0, 0, 0]


def mirrored(xy: np.ndarray, visibility: np.ndarray, layout: str) -> tuple[np.ndarray, np.ndarray]:
    swap = {"right": "left", "left": "right"}
    names = LAYOUTS[layout]
    order = []
    for name in names:
        side, _, part = name.partition("_")
        order.append(names.index(f"{swap[side]}_{part}" if side in swap else name))
    flipped = np.stack([WIDTH - 1 - xy[..., 0], xy[..., 1]], -1)
    return flipped[:, order], visibility[:, order]


@pytest.mark.parametrize("layout", LAYOUTS)
@QUICK
@given(data=st.data())
def test_a_mirrored_person_is_converted_to_the_mirror_image(layout, data):
    joints = len(LAYOUTS[layout])
    xy = data.draw(hnp.arrays(np.float32, (2, joints, 2), elements=st.floats(-20, 150, width=32)))
    visibility = data.draw(hnp.arrays(np.float32, (2, joints), elements=st.sampled_from([0.0, 0.25, 0.5, 1.0])))
    of_mirrored = to_joints18(*mirrored(xy, visibility, layout), layout)
    expected = to_joints18(xy, visibility, layout).flip(WIDTH)
    assert torch.equal(of_mirrored.visibility, expected.visibility)
    present = expected.present
    torch.testing.assert_close(of_mirrored.xy[present], expected.xy[present], rtol=0, atol=1e-4)


def test_names_may_be_given_in_any_order_and_spelling():
    short = ["head", "neck", "rsho", "relb", "rwri", "lsho", "lelb", "lwri", "rhip", "rkne", "rank", "lhip", "lkne",
             "lank"]  # fmt: skip
    names = joint_names(short)
    assert set(names) == set(LAYOUTS["lsp14"])
    assert (names[0], names[2], names[7], names[13]) == ("head_top", "right_shoulder", "left_wrist", "left_ankle")
    assert joint_names(["Head top", "right-hip "]) == ("head_top", "right_hip")
    xy, visibility = numbered("lsp14")
    order = [LAYOUTS["lsp14"].index(name) for name in names]
    for layout in (short, np.array(short), names):
        again = to_joints18(xy[:, order], visibility[:, order], layout)
        assert torch.equal(again.xy, to_joints18(xy, visibility, "lsp14").xy)


def test_any_batch_shape_and_tensors():
    xy, visibility = (torch.tensor(part).float() for part in numbered("body25", 6))
    whole = to_joints18(xy, visibility, "body25")
    keypoints = to_joints18(xy.view(2, 3, 25, 2), visibility.view(2, 3, 25), "body25")
    assert keypoints.shape == (2, 3)
    assert torch.equal(keypoints.xy.view(6, 18, 2), whole.xy)
    assert to_joints18(xy[0], visibility[0], "body25").shape == ()
    assert to_joints18(xy[:0], visibility[:0], "body25").shape == (0,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layout": "mpii"}, "unknown layout 'mpii'; known: lsp14, coco17, openpose18, body25"),
        ({"layout": ["nose", "tail"]}, "unknown joint 'tail'; known: head_top, left_ankle"),
        ({"layout": ["rsho", "Right Shoulder"]}, "joint 'Right Shoulder' is given twice, needed once"),
        ({"layout": "body25"}, r"xy: shape \(2, 17, 2\), needed \(\.\.\., 25, 2\) for the layout's joints"),
        ({"xy": np.zeros((2, 17, 3))}, r"xy: shape \(2, 17, 3\), needed"),
        ({"visibility": np.ones((2, 18))}, r"visibility: shape \(2, 18\), needed \(2, 17\) to fit xy"),
        ({"visibility": np.full((2, 17), 2)}, r"visibility: values outside \[0, 1\] or NaN"),
        ({"visibility": np.full((2, 17), np.nan)}, r"visibility: values outside \[0, 1\] or NaN"),
        ({"xy": np.full((2, 17, 2), np.nan)}, "xy: NaN or infinite at a visible joint"),
        ({"xy": "here"}, "xy: not an array of numbers"),
        ({"xy": [[1, 2], [3]]}, "xy: not an array of numbers"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    xy, visibility = numbered("coco17", 2)
    with pytest.raises(BadInput, match=message):
        to_joints18(**{"xy": xy, "visibility": visibility, "layout": "coco17", **change})
