"""Annotations that lie beside images are found, whatever program left them."""

import json
from pathlib import Path

import numpy as np
import pytest
from patn import write_patn_csv
from telling import told
from trees import write_crops

from xingaug.data.annotations import Annotations, write_npz
from xingaug.data.beside import find_beside, read_given
from xingaug.data.listing import list_images

NAMES = ["a/0001_c1.jpg", "a/0002_c1.jpg", "b/0001_c1.jpg"]
POINTS = np.arange(36, dtype=np.float32).reshape(18, 2) + 10


def crops(tmp_path: Path) -> tuple[Path, list[str], list[Path]]:
    root = tmp_path / "crops"
    write_crops(root, a=[Path(name).name for name in NAMES[:2]], b=["0001_c1.jpg"])
    return root, *list_images(root)


def table(names: list[str]) -> Annotations:
    xy = POINTS[None] + np.arange(len(names), dtype=np.float32)[:, None, None]
    return Annotations(np.array(names), xy, np.ones((len(names), 18), np.float32))


def openpose(folder: Path, stem: str, shift: float) -> None:
    folder.mkdir(exist_ok=True)
    joints = [number for x, y in (POINTS + shift).tolist() for number in (x, y, 1.0)]
    (folder / f"{stem}_keypoints.json").write_text(json.dumps({"people": [{"pose_keypoints_2d": joints}]}))


def write(kind: str, root: Path) -> None:
    if kind == "npz":
        write_npz(root / "annotations.npz", NAMES, table(NAMES).xy, table(NAMES).visibility)
    elif kind == "patn-csv":  # in two files
        write_patn_csv(root / "train-annotation.csv", table(NAMES[:2]))
        both = Annotations(np.array([NAMES[2]]), table(NAMES).xy[2:], np.ones((1, 18), np.float32))
        write_patn_csv(root / "other.csv", both)
        (root / "labels.csv").write_text("name,pid\n")
    elif kind == "openpose-json":  # beside the images, where one name stands in two folders
        for number, name in enumerate(NAMES):
            openpose(root / Path(name).parent, Path(name).stem, number)
    else:
        joints = [[*point, 1.0] for point in (POINTS[:17]).tolist()]
        flat = [number for joint in joints for number in joint]
        if kind == "alphapose-json":
            entries = [{"image_id": name, "keypoints": flat, "score": 1.0} for name in NAMES]
            (root / "alphapose-results.json").write_text(json.dumps(entries))
            return
        images = [{"id": i, "file_name": name} for i, name in enumerate(NAMES)]
        persons = [{"image_id": i, "keypoints": flat} for i in range(3)]
        (root / "person_keypoints.json").write_text(json.dumps({"images": images, "annotations": persons}))
        (root / "settings.json").write_text("{}")


@pytest.mark.parametrize("kind", ["npz", "patn-csv", "openpose-json", "coco-json", "alphapose-json"])
def test_every_format_is_found(tmp_path: Path, kind: str) -> None:
    root, names, paths = crops(tmp_path)
    write(kind, root)
    found = find_beside(root, names, paths)
    assert found is not None
    assert found.kind == kind
    assert sorted(found.annotations.names.tolist()) == NAMES
    xy = found.annotations.xy[found.annotations.lookup(NAMES)]
    if kind in ("npz", "patn-csv", "openpose-json"):
        assert np.array_equal(xy, table(NAMES).xy)
    assert (found.annotations.visibility > 0).any(1).all()
    content = found.content
    assert find_beside(root, names, paths).content == content  # type: ignore[union-attr]
    for file in found.files:
        for part in sorted(file.glob("*.json")) if file.is_dir() else [file]:
            part.write_bytes(part.read_bytes() + b" ")
    assert found.content != content


def test_files_in_a_folder_of_their_own_are_matched_by_their_stems(tmp_path: Path) -> None:
    root, names, paths = crops(tmp_path)
    openpose(root / "poses", "0002_c1", 5)
    openpose(root / "poses", "0001_c1", 3)  # of two images: nothing is guessed
    found = find_beside(root, names, paths)
    assert found is not None
    assert found.annotations.names.tolist() == [NAMES[1]]
    assert np.array_equal(found.annotations.xy[0], POINTS + 5)


def test_what_annotates_nothing_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root, names, paths = crops(tmp_path)
    assert find_beside(root, names, paths) is None
    (root / "annotations.npz").write_bytes(b"damaged")
    (root / "gone_keypoints.json").symlink_to(root / "nowhere")
    with (root / "large.csv").open("wb") as file:
        file.truncate(300_000_000)
    write_patn_csv(root / "others.csv", table(["x.jpg"]))
    write("coco-json", root)
    found = find_beside(root, names, paths)
    assert found is not None
    assert found.kind == "coco-json"
    assert "annotations.npz: not an annotation .npz" in caplog.text
    assert "large.csv: has 300 MB" in caplog.text
    assert "gone_keypoints.json: no such annotation file" in caplog.text
    assert "others.csv: annotates none of the 3 training images; such as x.jpg" in caplog.text


def test_a_file_that_is_named_must_be_one(tmp_path: Path) -> None:
    root, names, paths = crops(tmp_path)
    write("patn-csv", root)
    assert read_given(root / "train-annotation.csv", names, paths).annotations.names.tolist() == NAMES[:2]
    assert "unknown annotations; needed those of" in told(read_given, root / "labels.csv", names, paths)
    assert "unknown annotations" in told(read_given, root / "a", names, paths)
    assert "no such annotation file" in told(read_given, root / "none.json", names, paths)
    (root / "deep.json").write_text("[" * 100)
    assert "unknown annotations" in told(read_given, root / "deep.json", names, paths)
    write_npz(root / "bare.npz", NAMES, table(NAMES).xy, np.zeros((3, 18), np.float32))
    assert "every joint of all 3 training images is missing" in told(read_given, root / "bare.npz", names, paths)
