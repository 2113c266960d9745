import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from xingaug.data.annotations import write_npz
from xingaug.data.foreign import READERS, read_alphapose_json, read_any_npz, read_coco_json, read_openpose_json
from xingaug.data.layouts import LAYOUTS
from xingaug.errors import BadInput
from xingaug.keypoints import JOINTS

NECK, NOSE, RIGHT_HIP = JOINTS.index("neck"), JOINTS.index("nose"), JOINTS.index("right_hip")


def flat(count: int, confidence: float = 0.5, shift: float = 0) -> list[float]:
    """Joint j at (j + shift, 2 j)."""
    return [number for joint in range(count) for number in (joint + shift, 2 * joint, confidence)]


def openpose(folder: Path, **files: Any) -> Path:
    """A folder with the people of each image stem."""
    folder.mkdir(exist_ok=True)
    for stem, people in files.items():
        contents = {"version": 1.3, "people": [{"person_id": [-1], "pose_keypoints_2d": person} for person in people]}
        (folder / f"{stem}_keypoints.json").write_text(json.dumps(contents))
    return folder


def coco(path: Path, annotations: list[Any], images: Any = None, **more: Any) -> Path:
    images = [{"id": 3, "file_name": "a.jpg"}, {"id": 4, "file_name": "train/b.jpg"}] if images is None else images
    path.write_text(json.dumps({"images": images, "annotations": annotations, **more}))
    return path


# OpenPose


def test_openpose_folders_of_18_and_25_joints(tmp_path):
    folder = openpose(tmp_path / "op", b=[flat(25)], a=[flat(18)])
    (folder / "notes.txt").write_text("not read")
    annotations, report = read_openpose_json(folder)
    assert report.lines() == []
    assert annotations.names.tolist() == ["a.jpg", "b.jpg"]
    np.testing.assert_array_equal(annotations.xy[0], [(j, 2 * j) for j in range(18)])
    assert annotations.xy[1, RIGHT_HIP].tolist() == [9, 18], "pixels count from 0 and BODY_25 has a middle hip before"
    assert (annotations.visibility == 0.5).all()
    assert annotations.source == "OpenPose JSON op"


def test_openpose_takes_the_surest_of_several_persons(tmp_path):
    sure, unsure, hidden = flat(18, 0.9, shift=30), flat(18, 0.8), flat(18, 0)
    folder = openpose(tmp_path / "op", a=[unsure, sure, hidden], b=[hidden], c=[], d=[hidden, sure])
    annotations, report = read_openpose_json(folder)
    assert annotations.names.tolist() == ["a.jpg", "d.jpg"]
    assert annotations.xy[:, 0].tolist() == [[30, 0], [30, 0]]
    assert report.lines() == [
        "2 images show no person and were dropped: b.jpg, c.jpg",
        "1 images show several persons; the one of highest confidence was taken: a.jpg",
    ]


def test_openpose_confidences_are_clipped(tmp_path):
    person = flat(18)
    person[2], person[5] = 1.02, -0.1
    annotations, _ = read_openpose_json(openpose(tmp_path / "op", a=[person]))
    assert annotations.visibility[0, :3].tolist() == [1, 0, 0.5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"a_keypoints\.json: not JSON \(Expecting value"),
        ("[" * 100_000, r"a_keypoints\.json: not usable JSON \(nested deeper than 64"),
        ('{"people": [' + "[" * 40 + "]" * 40 + "]}", r"people\[0\]: a list; needed an object"),
        ("[]", r"a_keypoints\.json: a list; needed an object with 'people'"),
        ("{}", r"a_keypoints\.json: has no key 'people'; needed an object with 'people'"),
        ('{"people": 1}', r"a_keypoints\.json: people: '1', needed a list"),
        ('{"people": [1]}', r"people\[0\]: '1'; needed an object with 'pose_keypoints_2d'"),
        ('{"people": [{}]}', r"people\[0\]: has no key 'pose_keypoints_2d'"),
        ('{"people": [{"pose_keypoints_2d": "x"}]}', r"people\[0\]: pose_keypoints_2d: 'x', needed 54 or 75 numbers"),
        (json.dumps({"people": [{"pose_keypoints_2d": flat(17)}]}), "51 entries, needed 54 or 75 numbers: x, y, conf"),
    ],
)
def test_openpose_files_of_other_contents_are_refused(tmp_path, text, message):
    folder = openpose(tmp_path / "op")
    (folder / "a_keypoints.json").write_text(text)
    with pytest.raises(BadInput, match=message) as error:
        read_openpose_json(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e39, 10**400, None, "1", True, [1]])
def test_what_is_no_number_is_refused(tmp_path, value):
    person: list[Any] = flat(18)
    person[7] = value
    with pytest.raises(BadInput, match=r"people\[0\]: pose_keypoints_2d\[7\]: .*, needed a finite number"):
        read_openpose_json(openpose(tmp_path / "op", a=[person]))


# COCO


def test_coco_people_and_detections(tmp_path):
    person = flat(17, 2)
    person[2], person[5] = 0, 1  # the nose is missing, the left eye hidden
    path = coco(tmp_path / "c.json", [
        {"image_id": 4, "keypoints": person, "category_id": 1},
        {"image_id": 3, "keypoints": flat(17, 0.25), "score": 0.7},
    ], categories=[{"id": 1, "keypoints": list(LAYOUTS["coco17"])}, {"id": 2}])  # fmt: skip
    annotations, report = read_coco_json(path)
    assert report.lines() == []
    assert annotations.names.tolist() == ["train/b.jpg", "a.jpg"]
    assert annotations.visibility[0].tolist() == [0] + [1] * 17
    assert annotations.xy[0, NECK].tolist() == [5.5, 11], "between the joints 5 and 6"
    assert annotations.xy[0, RIGHT_HIP].tolist() == [12, 24]
    assert (annotations.visibility[1] == 0.25).all()
    assert annotations.source == "COCO JSON c.json"


def test_coco_takes_the_highest_score_and_then_the_surest(tmp_path):
    many, few = flat(17, 0.9), flat(17, 0.4, shift=30)
    path = coco(tmp_path / "c.json", [
        {"image_id": 3, "keypoints": many, "score": 0.2},
        {"image_id": 3, "keypoints": few, "score": 0.8},
        {"image_id": 4, "keypoints": few},
        {"image_id": 4, "keypoints": many},
    ])  # fmt: skip
    annotations, report = read_coco_json(path)
    assert annotations.xy[:, NOSE].tolist() == [[30, 0], [0, 0]]
    assert report.lines() == [
        "2 images show several persons; the one of highest confidence was taken: a.jpg, train/b.jpg"
    ]


IMAGES = [{"id": 3, "file_name": "a.jpg"}]
GOOD = [{"image_id": 3, "keypoints": flat(17)}]


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ([], r"c\.json: a list; needed an object with 'images'"),
        ({"annotations": GOOD}, "has no key 'images'"),
        ({"images": []}, "has no key 'annotations'"),
        ({"images": {}, "annotations": GOOD}, "images: an object, needed a list"),
        ({"images": [{"id": 3}], "annotations": GOOD}, r"images\[0\]: has no key 'file_name'"),
        ({"images": [{"file_name": "a.jpg"}], "annotations": GOOD}, r"images\[0\]: has no key 'id'"),
        (
            {"images": [{"id": 3, "file_name": ""}], "annotations": GOOD},
            "file_name: '', needed the file name",
        ),
        (
            {"images": [{"id": 3, "file_name": 5}], "annotations": GOOD},
            "file_name: '5', needed the file name",
        ),
        ({"images": [{"id": [3], "file_name": "a.jpg"}], "annotations": GOOD}, r"images\[0\]: id: a list, needed a"),
        (
            {"images": [{"id": 3, "file_name": "x/a.jpg"}, {"id": 4, "file_name": "./x//a.jpg"}], "annotations": GOOD},
            r"images\[1\]: id 4 or name 'x/a\.jpg' is that of an earlier image",
        ),
        (
            {"images": [{"id": 3, "file_name": "a.jpg"}, {"id": 3, "file_name": "b.jpg"}], "annotations": GOOD},
            r"images\[1\]: id 3 or name 'b\.jpg' is that of an earlier image",
        ),
        ({"images": IMAGES, "annotations": [{"keypoints": flat(17)}]}, r"annotations\[0\]: has no key 'image_id'"),
        (
            {"images": IMAGES, "annotations": [{"image_id": 9, "keypoints": flat(17)}]},
            r"image_id 9 is the id of none of the 1 images",
        ),
        (
            {"images": IMAGES, "annotations": [{"image_id": {}, "keypoints": flat(17)}]},
            r"annotations\[0\]: image_id: an object, needed a",
        ),
        ({"images": IMAGES, "annotations": [{"image_id": 3}]}, r"annotations\[0\]: has no key 'keypoints'"),
        (
            {"images": IMAGES, "annotations": [*GOOD, {"image_id": 3, "keypoints": flat(18)}]},
            r"\[1\]: keypoints: 54 entries, needed 51",
        ),
        (
            {"images": IMAGES, "annotations": [{**GOOD[0], "score": "high"}]},
            r"annotations\[0\]: score: 'high', needed a finite number",
        ),
        (
            {"images": IMAGES, "annotations": [{**GOOD[0], "score": float("nan")}]},
            r"score: 'nan', needed a finite number",
        ),
        ({"images": IMAGES, "annotations": [5]}, r"annotations\[0\]: '5'; needed an object with 'image_id'"),
        ({"images": IMAGES, "annotations": []}, "shows no person in 0 annotated images"),
        (
            {"images": IMAGES, "annotations": GOOD, "categories": [{"keypoints": ["nose"] * 17}]},
            r"categories\[0\]: keypoints: not COCO's",
        ),
    ],
)
def test_coco_files_of_other_contents_are_refused(tmp_path, contents, message):
    path = tmp_path / "c.json"
    path.write_text(json.dumps(contents))
    with pytest.raises(BadInput, match=message) as error:
        read_coco_json(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


# AlphaPose


def alphapose(path: Path, *entries: Any) -> Path:
    path.write_text(json.dumps(list(entries)))
    return path


def found(image: Any, count: int = 17, confidence: float = 0.5, score: float = 1.0, shift: float = 0) -> dict[str, Any]:
    keypoints = flat(count, confidence, shift)
    return {
        "image_id": image,
        "category_id": 1,
        "keypoints": keypoints,
        "score": score,
        "box": [0, 0, 9, 9],
        "idx": [0.0],
    }


def test_alphapose_persons_of_17_and_26_joints(tmp_path):
    path = alphapose(tmp_path / "alphapose-results.json", found("b.png", 26), found("x/a.jpg", 17, confidence=1.7))
    annotations, report = read_alphapose_json(path)
    assert report.lines() == []
    assert annotations.names.tolist() == ["b.png", "x/a.jpg"]
    assert annotations.xy[0, [NOSE, NECK, RIGHT_HIP]].tolist() == [[0, 0], [18, 36], [12, 24]], "Halpe has a neck"
    assert annotations.xy[1, NECK].tolist() == [5.5, 11], "COCO has none"
    assert annotations.visibility[:, 0].tolist() == [0.5, 1]
    assert annotations.source == "AlphaPose JSON alphapose-results.json"


def test_alphapose_takes_the_highest_score(tmp_path):
    first, second = found("a.jpg", confidence=0.9, score=2.1), found("a.jpg", confidence=0.4, score=3.2, shift=30)
    hidden = found("a.jpg", confidence=0, score=6.5)
    path = alphapose(tmp_path / "r.json", first, second, hidden, found("b.jpg", confidence=0))
    annotations, report = READERS["alphapose-json"](path, None)
    assert annotations.xy[:, NOSE].tolist() == [[30, 0]]
    assert report.lines() == [
        "1 images show no person and were dropped: b.jpg",
        "1 images show several persons; the one of highest confidence was taken: a.jpg",
    ]


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (
            {"a.jpg": {"version": 0.1, "bodies": []}},
            r"an object, as AlphaPose's --format cmu and open write; needed",
        ),
        (5, "no list; needed the list that it writes without --format"),
        ([], "shows no person in 0 annotated images"),
        ([5], r"\[0\]: '5'; needed an object with 'image_id'"),
        ([found("a.jpg"), {"image_id": "b.jpg"}], r"\[1\]: has no key 'keypoints'"),
        ([found(7)], r"\[0\]: image_id: '7', needed the file name of an image"),
        ([found("")], r"\[0\]: image_id: '', needed the file name of an image"),
        ([found("a.jpg", 16)], r"\[0\]: keypoints: 48 entries, needed 51 or 78 numbers"),
        ([found("a.jpg", 136)], r"\[0\]: keypoints: 408 entries, needed 51 or 78 numbers"),
        ([{**found("a.jpg"), "score": "high"}], r"\[0\]: score: 'high', needed a finite number"),
        ([found("a.jpg", confidence=float("nan"))], r"\[0\]: keypoints\[2\]: 'nan', needed a finite number"),
    ],
)
def test_alphapose_files_of_other_contents_are_refused(tmp_path, contents, message):
    path = tmp_path / "r.json"
    path.write_text(json.dumps(contents))
    with pytest.raises(BadInput, match=message) as error:
        read_alphapose_json(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


# joints.mat


def lsp(count: int = 2) -> np.ndarray:
    """(3, 14, count): joint j of image i at pixel (j + i, 2 j), counted from 0, and 1 where it is hidden: nowhere."""
    joint = np.arange(14.0)[:, None].repeat(count, 1)
    return np.stack([joint + np.arange(count) + 1, 2 * joint + 1, 0 * joint])


def test_lsp_counts_from_1_and_marks_hidden_joints(tmp_path):
    joints = lsp()
    joints[2, 12, 0], joints[2, 2, 1] = 1, 1
    joints[:2, 2, 1] = -3.5
    savemat(tmp_path / "joints.mat", {"joints": joints})
    annotations, report = READERS["lsp-mat"](tmp_path / "joints.mat", None)
    assert report.lines() == []
    assert annotations.names.tolist() == ["im0001.jpg", "im0002.jpg"]
    assert annotations.xy[0, RIGHT_HIP].tolist() == [2, 4]
    assert annotations.xy[1, NECK].tolist() == [13, 24]
    assert annotations.visibility[:, [RIGHT_HIP, NECK, NOSE]].tolist() == [[1, 0, 0], [0, 1, 1]]
    assert annotations.visibility.sum(1).tolist() == [12, 13], "the nose is derived from the neck"
    assert annotations.source == "LSP joints.mat"


def test_the_extended_set_marks_visible_joints(tmp_path):
    joints = lsp(3)
    joints[2] = 1
    joints[:, 2, 0] = -0.7, -12, 0
    savemat(tmp_path / "joints.mat", {"joints": joints.transpose(1, 0, 2)})
    annotations, _ = READERS["lsp-mat"](tmp_path / "joints.mat", None)
    assert annotations.names.tolist() == ["im00001.jpg", "im00002.jpg", "im00003.jpg"]
    assert annotations.visibility[:, RIGHT_HIP].tolist() == [0, 1, 1]
    assert annotations.xy[1:, RIGHT_HIP].tolist() == [[3, 4], [4, 4]]
    assert annotations.source == "LSP extended joints.mat"


def flagged(value: float) -> np.ndarray:
    joints = lsp()
    joints[2, 3, 1] = value
    return joints


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({"points": lsp()}, "holds no array `joints`; needed Leeds Sports Pose's joints.mat"),
        ({"joints": lsp()[:2]}, r"joints: float64 of shape \(2, 14, 2\), needed \(3, 14, N\) or \(14, 3, N\)"),
        ({"joints": "none"}, r"joints: <U4 of shape \(\), needed"),
        ({"joints": flagged(2)}, r"im0002\.jpg: left_hip: flag 2, needed 0 or 1"),
        ({"joints": flagged(np.nan)}, r"im0002\.jpg: left_hip: flag nan, needed 0 or 1"),
        (
            {"joints": lsp() * [[[1e9]], [[1]], [[1]]]},
            r"im0001\.jpg: right_ankle at \(1000000000.0, 1.0\), needed pixels",
        ),
    ],
)
def test_a_mat_of_other_contents_is_refused(tmp_path, contents, message):
    path = tmp_path / "joints.mat"
    savemat(path, contents)
    with pytest.raises(BadInput, match=message) as error:
        READERS["lsp-mat"](path, None)
    assert str(error.value).startswith(str(path))


def test_files_that_are_no_mat_are_refused(tmp_path):
    savemat(tmp_path / "whole.mat", {"joints": lsp()}, do_compression=True)
    whole = (tmp_path / "whole.mat").read_bytes()
    cases = {
        "cut": whole[:200],
        "text": b"from,to\n" * 40,
        "empty": b"",
        "hdf": b"MATLAB 7.3".ljust(124) + b"\0\2IM" * 9,
    }
    for name, contents in cases.items():
        (tmp_path / "a.mat").write_bytes(contents)
        with pytest.raises(BadInput, match=r"a\.mat: (not )?a MATLAB file of version ") as error:
            READERS["lsp-mat"](tmp_path / "a.mat", None)
        assert "\n" not in str(error.value), name
        assert ("7.3" in str(error.value)) == (name == "hdf")


# .npz


def points14(count: int = 2) -> np.ndarray:
    """1-based pixels: joint j at (j + 1, 2 j + 1)."""
    joint = np.arange(14)
    return np.tile(np.stack([joint + 1, 2 * joint + 1], -1).astype(np.uint8), (count, 1, 1))


NAMES = np.array(["a.jpg", "b.jpg"])


def test_npz_of_14_points_counts_from_1(tmp_path):
    np.savez(tmp_path / "a.npz", names=NAMES, xy=points14())
    annotations, report = read_any_npz(tmp_path / "a.npz")
    assert report.lines() == []
    assert annotations.names.tolist() == NAMES.tolist()
    assert annotations.xy[0, RIGHT_HIP].tolist() == [2, 4]
    assert annotations.xy[0, NECK].tolist() == [12, 24]
    assert annotations.visibility.sum(-1).tolist() == [14, 14]
    assert annotations.source == "a.npz, 14 joints"


def test_npz_may_state_its_joints_and_their_visibility(tmp_path):
    joints = np.array([*LAYOUTS["lsp14"][::-1]])
    visibility = np.full((2, 14), 0.5)
    visibility[1, 13] = 0  # the right ankle, which comes last here
    xy = points14().astype(np.float32)[:, ::-1]
    xy[1, 13] = np.nan
    np.savez(tmp_path / "a.npz", names=NAMES, xy=xy, joints=joints, visibility=visibility)
    annotations, _ = read_any_npz(tmp_path / "a.npz")
    assert annotations.xy[0, RIGHT_HIP].tolist() == [2, 4]
    assert annotations.visibility[:, JOINTS.index("right_ankle")].tolist() == [0.5, 0]
    assert annotations.visibility[:, NOSE].tolist() == [0.5, 0.5]


def test_npz_without_visibility_has_no_joint_where_no_pixel_is(tmp_path):
    xy = points14()
    xy[1, 12] = 0  # the neck
    np.savez(tmp_path / "a.npz", names=NAMES, xy=xy)
    annotations, _ = read_any_npz(tmp_path / "a.npz")
    assert annotations.visibility[:, [NECK, NOSE]].tolist() == [[1, 1], [0, 0]]


def test_the_native_npz_is_read_as_it_is(tmp_path):
    xy = np.random.default_rng(0).uniform(0, 60, (2, 18, 2)).astype(np.float32)
    write_npz(tmp_path / "a.npz", NAMES, xy, np.ones((2, 18)), "made up")
    annotations, _ = READERS["npz"](tmp_path / "a.npz", None)
    np.testing.assert_array_equal(annotations.xy, xy)
    assert annotations.source == "made up"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": None}, "holds joints, xy; needed names, xy and at most joints, visibility"),
        ({"more": np.zeros(1)}, "holds joints, more, names, xy; needed"),
        ({"xy": None}, "holds joints, names; needed names, xy"),
        ({"xy": points14()[:, :13]}, r"xy: uint8 of shape \(2, 13, 2\), needed numbers of shape \(2, 14, 2\)"),
        ({"xy": points14(3)}, r"xy: uint8 of shape \(3, 14, 2\), needed numbers of shape \(2, 14, 2\)"),
        ({"xy": np.full((2, 14, 2), "a")}, r"xy: <U1 of shape"),
        ({"xy": np.full((2, 14, 2), np.inf)}, r"a\.jpg: right_ankle at \(inf, inf\), needed pixels or visibility 0"),
        ({"xy": np.full((2, 14, 2), 1e300)}, r"a\.jpg: right_ankle at \(1e\+300"),
        ({"joints": np.array(["tail"] * 14)}, "unknown joint 'tail'"),
        ({"joints": np.array(["neck"] * 14)}, "joint 'neck' is given twice"),
        ({"joints": np.arange(14)}, "unknown joint '0'"),
        ({"joints": np.array(LAYOUTS["coco17"])}, r"needed numbers of shape \(2, 17, 2\), 17 joints for each name"),
        ({"visibility": np.ones((2, 13))}, r"visibility: float64 of shape \(2, 13\), needed numbers of shape"),
        ({"visibility": np.full((2, 14), 3.0)}, r"visibility: values outside \[0, 1\]"),
        ({"visibility": np.full((2, 14), np.nan)}, r"visibility: values outside \[0, 1\] or NaN"),
        ({"names": np.array(["a.jpg"] * 2)}, r"names: 'a\.jpg' occurs 2 times, needed once"),
        ({"names": np.arange(2)}, r"names: int64 of shape \(2,\), needed \(N,\) strings"),
        ({"names": np.array(["a", "b"], object)}, r"not an annotation \.npz"),
    ],
)
def test_an_npz_of_other_contents_is_refused(tmp_path, change, message):
    contents = {"names": NAMES, "xy": points14(), "joints": np.array(LAYOUTS["lsp14"]), **change}
    np.savez(tmp_path / "a.npz", **{key: value for key, value in contents.items() if value is not None})
    with pytest.raises(BadInput, match=message) as error:
        read_any_npz(tmp_path / "a.npz")
    assert str(error.value).startswith(str(tmp_path / "a.npz"))
    assert "\n" not in str(error.value)


@pytest.mark.skipif("XINGAUG_POSES" not in os.environ, reason="XINGAUG_POSES names no folder of real poses")
def test_on_the_real_14_points():
    annotations, report = read_any_npz(Path(os.environ["XINGAUG_POSES"]) / "train_14point.npz")
    assert (len(annotations), report.lines()) == (12936, [])
    assert annotations.names[0] == "0002_c1s1_000451_03.jpg"
    assert (annotations.visibility.sum(-1) == 14).all()
    assert annotations.xy[:, :14].min() >= 0
    assert (annotations.xy[:, :14].max(axis=(0, 1)) <= [63, 127]).all()
    heights = {name: float(np.median(annotations.xy[:, JOINTS.index(name), 1])) for name in JOINTS[:14]}
    for side in ("right", "left"):
        down = ["nose", "neck", *(f"{side}_{part}" for part in ("shoulder", "elbow", "hip", "knee", "ankle"))]
        assert [heights[name] for name in down] == sorted(heights[name] for name in down)
    hips = annotations.xy[:, [JOINTS.index("right_hip"), JOINTS.index("left_hip")]].mean(1)
    assert np.median(np.linalg.norm(annotations.xy[:, NECK] - hips, axis=-1)) == pytest.approx(43.54, abs=0.01)
    shoulders = (
        annotations.xy[:, JOINTS.index("left_shoulder"), 0] - annotations.xy[:, JOINTS.index("right_shoulder"), 0]
    )
    assert (shoulders > 0).mean() == pytest.approx(0.56, abs=0.02), "more persons are seen from the front"
