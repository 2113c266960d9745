"""A pose estimator over a dataset: which images, what becomes of each, going on after a kill, and the page."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import annotating
import numpy as np
import pytest
from annotating import ByColour, write_colour
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st
from PIL import Image
from trees import describe, write_crops, write_veri

from xingaug.data.annotations import Annotations, read_npz, write_npz
from xingaug.data.listing import list_images, matched, named_as
from xingaug.data.market1501 import read_split
from xingaug.data.readers import read_split as read_any_split
from xingaug.errors import BadInput, WorkFailed
from xingaug.keypoints import JOINTS, Keypoints
from xingaug.poses.annotate import NOBODY, annotate, count_rejected, rejected, write_rejected
from xingaug.poses.parts import Parts

ROOT = Path(__file__).resolve().parent.parent


# Which images


def test_any_folder_is_listed_whole(tmp_path):
    for name in ("b/2.PNG", "b/1.jpeg", "a.jpg", "B.Bmp", "b/c/d.webp", ".hidden.jpg", ".git/e.jpg", "b/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    names, paths = list_images(tmp_path)
    assert names == ["B.Bmp", "a.jpg", "b/1.jpeg", "b/2.PNG", "b/c/d.webp"]
    assert paths == [tmp_path / name for name in names]
    with pytest.raises(BadInput, match=r"--splits: .* is a plain folder, which has none"):
        list_images(tmp_path, ["train"])


def test_odd_folders(tmp_path):
    write_crops(tmp_path, query=["a.jpg"])
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert list_images(tmp_path)[0] == ["query/a.jpg"]
    (tmp_path / os.fsdecode(b"caf\xe9.jpg")).write_text("")
    with pytest.raises(BadInput, match=r"a file name that is not UTF-8; rename the file"):
        list_images(tmp_path)


def test_a_tree_is_listed_by_its_splits(place):
    names, paths = list_images(place / "world")
    train = read_split(place / "world", "train")
    assert names == train.names.tolist()
    assert paths == [train.path(index) for index in range(len(train))]
    both, files = list_images(place / "world", ["gallery", "query"])
    wanted = [*read_split(place / "world", "gallery").names, *read_split(place / "world", "query").names]
    assert both == wanted
    assert all(file.is_file() for file in files)
    with pytest.raises(BadInput, match=r"but .*world is one in the layout market1501"):
        list_images(place)


def test_other_datasets_are_listed_as_their_readers_name_them(tmp_path):
    veri = write_veri(tmp_path / "veri")
    names, paths = list_images(veri)
    assert names == read_any_split(veri, "train").names.tolist()
    assert names[0].startswith("image_train/")
    assert all(path.is_file() for path in paths)
    write_crops(tmp_path / "crops", train=["1_1_a.jpg", "2_1_b.jpg"], query=["3_1_c.jpg"])
    described = describe(
        tmp_path / "crops.yaml", "crops", train="{pid:d}_{camid:d}_*.jpg", query="{pid:d}_{camid:d}_*.jpg"
    )
    assert list_images(described)[0] == ["train/1_1_a.jpg", "train/2_1_b.jpg"]
    assert list_images(described, ["query"])[0] == ["query/3_1_c.jpg"]


def test_a_name_of_two_splits_is_refused(tmp_path):
    for folder in ("query", "bounding_box_test"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "0002_c1s1_000451_03.jpg").write_text("")
    with pytest.raises(BadInput, match=r"'0002_c1s1_000451_03.jpg' is in two of the splits query, gallery"):
        list_images(tmp_path, ["query", "gallery"])


def renamed(given: list[str], names: list[str], root: str = "/data/set") -> list[str]:
    poses = Annotations(
        np.array(given), np.random.default_rng(0).random((len(given), 18, 2)), np.ones((len(given), 18))
    )
    again = named_as(poses, names, [Path(root) / name for name in names])
    np.testing.assert_array_equal(again.xy, poses.xy)
    return again.names.tolist()


@pytest.mark.parametrize(
    ("given", "names", "expected", "why"),
    [
        (["a.jpg", "c.jpg"], ["p/a.jpg", "q/c.jpg"], ["p/a.jpg", "q/c.jpg"], "a name without folder, once"),
        (["x/b.jpg"], ["p/b.jpg"], ["x/b.jpg"], "a folder that contradicts"),
        (["x/p/b.jpg", "/home/x/c.jpg"], ["p/b.jpg", "c.jpg"], ["p/b.jpg", "/home/x/c.jpg"], "c lies in set, not x"),
        (["set/c.jpg", "/home/set/d.jpg"], ["c.jpg", "d.jpg"], ["c.jpg", "d.jpg"], "the folder that they lie in"),
        (["t/1.jpg", "m/1.jpg"], ["m/1.jpg", "t/1.jpg"], ["t/1.jpg", "m/1.jpg"], "the very paths"),
        (["z/t/1.jpg", "z/m/1.jpg"], ["m/1.jpg", "t/1.jpg"], ["t/1.jpg", "m/1.jpg"], "the longest path decides"),
        (["t/1.jpg"], ["a/t/1.jpg", "b/t/1.jpg", "c/m/1.jpg"], ["t/1.jpg"], "two images could be meant"),
        (["t/1.jpg"], ["a/t/1.jpg", "t/1.jpg"], ["t/1.jpg"], "the very path before a longer one"),
        (["a.jpg"], ["p/a.jpg", "q/a.jpg"], ["a.jpg"], "two images could be meant"),
        (["y/p/a.jpg", "z/p/a.jpg"], ["p/a.jpg"], ["y/p/a.jpg", "z/p/a.jpg"], "two rows could be meant"),
        (["x/p/a.jpg", "a.jpg"], ["p/a.jpg"], ["p/a.jpg", "a.jpg"], "the longer path decides"),
        (["a.jpg", "b.jpg"], ["p/a.png", "p/b.jpg"], ["p/a.png", "p/b.jpg"], "OpenPose knows no suffix"),
        (["x/a.jpg"], ["p/a.png"], ["x/a.jpg"], "a folder that contradicts, without suffix too"),
        (["a.b.jpg"], ["a.b.png"], ["a.b.png"], "a dot in the name"),
    ],
)
def test_rows_take_the_names_of_the_images_where_that_is_certain(given, names, expected, why):
    assert renamed(given, names) == expected, why


PARTS = st.lists(st.sampled_from("ab"), min_size=1, max_size=3).map("/".join)


@settings(max_examples=300, deadline=None)
@drawn(st.lists(PARTS, min_size=1, max_size=6, unique=True), st.lists(PARTS, min_size=1, max_size=6, unique=True))
def test_matching_is_that_of_a_slow_comparison_of_all_with_all(given, names):
    """Every name is compared with every image, component by component."""
    folders = {i: (name if "/" in name else f"set/{name}").split("/") for i, name in enumerate(names)}

    def common(row: int, image: int) -> int:
        """How many components both share from their ends; 0 where a folder contradicts."""
        a, b = given[row].split("/")[::-1], folders[image][::-1]
        same = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
        return same if same in (len(a), len(b)) else 0

    exact = {row: names.index(name) for row, name in enumerate(given) if name in names}
    best: dict[int, tuple[int, int]] = {}
    for row in set(range(len(given))) - set(exact):
        agreeing = [(common(row, i), i) for i in folders if common(row, i)]
        most = max((length for length, _ in agreeing), default=0)
        # Of images that share as much, the one that has no other folder is meant.
        meant = [i for length, i in agreeing if length == most]
        whole = [i for i in meant if len(folders[i]) == most]
        meant = whole or meant
        if len(meant) == 1 and meant[0] not in exact.values():
            best[row] = (most, meant[0])
    expected = dict(exact)
    for image in {image for _, image in best.values()}:
        claims = sorted((length, row) for row, (length, i) in best.items() if i == image)
        if len(claims) == 1 or claims[-1][0] > claims[-2][0]:
            expected[claims[-1][1]] = image
    assert matched(given, names, [Path("/data/set") / name for name in names]) == expected


# What becomes of each


@pytest.fixture
def folder(tmp_path):
    """Seven images: good ones, one in a folder and larger, too few joints, nobody, none inside, two unreadable."""
    root = tmp_path / "images"
    write_colour(root / "0.png", 18)
    write_colour(root / "1.png", 12, outside=3, shift=128)
    write_colour(root / "2.png", 5)
    write_colour(root / "3.png", 0)
    write_colour(root / "4.png", 6, outside=6)
    (root / "5.jpg").write_bytes(b"no image")
    write_colour(root / "6.png", 18)
    whole = (root / "6.png").read_bytes()
    (root / "6.png").write_bytes(whole[: len(whole) // 2])
    write_colour(root / "sub" / "7.png", 9, size=(200, 100))
    return root


def test_the_joints_are_those_that_the_estimator_found(folder, tmp_path):
    names, paths = list_images(folder)
    estimator = ByColour()
    done = annotate(names, paths, estimator, tmp_path / "a.npz", {"min_confidence": 0.3}, batch_size=3)
    stored = read_npz(tmp_path / "a.npz")
    assert stored.names.tolist() == done.annotations.names.tolist() == ["0.png", "1.png", "2.png", "sub/7.png"]
    assert stored.source == "by colour, none.pt2, 0123456789ab, confidence 0.3 and above"
    assert (stored.visibility > 0).sum(1).tolist() == [18, 9, 5, 9]
    joint = np.arange(18)
    np.testing.assert_allclose(stored.xy[0], np.stack([2 + joint / 4, 20 + 4 * joint], -1))
    np.testing.assert_allclose(stored.visibility[0], 0.3 + 0.7 * joint / 18, rtol=1e-6)
    np.testing.assert_allclose(stored.xy[1, 3], [2.75 + 0.5, 32.5])
    assert stored.xy[1, :3].tolist() == [[0, 0]] * 3, "joints outside the image are missing"
    assert done.joints_outside == 3 + 6
    assert estimator.batches == [(3, True), (2, True), (1, True)], "unreadable images are no part of a batch"
    assert not (tmp_path / "a.npz.parts").exists()
    assert sorted(done.unreadable) == ["5.jpg", "6.png"]

    reasons = rejected(stored, names, done.unreadable, NOBODY)
    assert [name for name, _ in reasons] == ["2.png", "3.png", "4.png", "5.jpg", "6.png"]
    assert dict(reasons)["2.png"] == "too few joints: 5, needed 8"
    assert dict(reasons)["3.png"] == dict(reasons)["4.png"] == "nobody found"
    assert dict(reasons)["5.jpg"].startswith("unreadable: not a readable image (none of JPEG")
    assert count_rejected(reasons) == {"nobody_found": 2, "unreadable": 2, "too_few_joints": 1}
    write_rejected(tmp_path / "new" / "r.csv", reasons)
    with (tmp_path / "new" / "r.csv").open(newline="") as stream:
        assert list(csv.reader(stream)) == [["name", "reason"], *map(list, reasons)]


def test_images_of_several_sizes_come_as_a_list(tmp_path):
    for i, size in enumerate([(128, 64), (130, 64), (128, 64)]):
        write_colour(tmp_path / f"{i}.png", 18, size=size)
    estimator = ByColour()
    annotate(*list_images(tmp_path), estimator, tmp_path / "a.npz", batch_size=3)
    assert estimator.batches == [(3, False)]


def test_a_row_without_joints_shows_nobody():
    annotations = Annotations(np.array(["a"]), np.zeros((1, 18, 2)), np.zeros((1, 18)))
    assert rejected(annotations, ["a", "b"], {}, "no annotation") == [("a", NOBODY), ("b", "no annotation")]


def test_nobody_at_all_is_a_failure(tmp_path):
    write_colour(tmp_path / "a.png", 0)
    (tmp_path / "b.png").write_bytes(b"")
    with pytest.raises(WorkFailed, match=r"nobody was found in any of 2 images; 1 are unreadable, the first b.png:"):
        annotate(*list_images(tmp_path), ByColour(), tmp_path / "a.npz")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]


@pytest.mark.parametrize(("scale", "said"), [(1 / 128, "gives no coordinate beyond 1"), (4, "joints outside their")])
def test_an_estimator_of_another_unit_is_told(tmp_path, scale, said):
    write_colour(tmp_path / "a.png", 18)

    class Scaled(ByColour):
        def __call__(self, images):
            found = super().__call__(images)
            return Keypoints(found.xy * scale, found.visibility)

    with pytest.raises(BadInput, match=f"by colour.*{said}.*; needed pixels of each image"):
        annotate(*list_images(tmp_path), Scaled(), tmp_path / "a.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_an_estimator_that_refuses_the_images_leaves_nothing(folder, tmp_path):
    class Refusing(ByColour):
        def __call__(self, images):
            raise BadInput("w.pt2: does not take images (3, 3, 128, 64)")

    with pytest.raises(BadInput, match="does not take images"):
        annotate(*list_images(folder), Refusing(), tmp_path / "a.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


# Going on


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """600 images; four batches of 16 make a part of 64."""
    root = tmp_path_factory.mktemp("many")
    for i in range(600):
        write_colour(root / f"{i % 7}" / f"{i:04d}.png", 4 + i % 15, shift=i % 256, size=(100 + i % 2, 30))
    (root / "0" / "0007.png").write_bytes(b"no image")
    return root


class Interrupted(ByColour):
    """Stops after some batches."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def __call__(self, images):
        if len(self.batches) == self.after:
            raise KeyboardInterrupt
        return super().__call__(images)


def test_an_interrupted_run_goes_on(many, tmp_path):
    images = list_images(many)
    annotate(*images, ByColour(), tmp_path / "whole.npz", {"device": "cpu"})
    out = tmp_path / "a.npz"
    for after, parts in ((3, 0), (17, 4), (8, 6)):
        with pytest.raises(KeyboardInterrupt):
            annotate(*images, Interrupted(after), out, {"device": "cpu"})
        assert (tmp_path / "a.npz.parts").exists() == (parts > 0)
        assert len(list((tmp_path / "a.npz.parts").glob("*.npz"))) == parts
        assert not out.exists()
    torn = sorted((tmp_path / "a.npz.parts").glob("*.npz"))[1]
    torn.write_bytes(torn.read_bytes()[:500])
    last = ByColour()
    done = annotate(*images, last, out, {"device": "cpu"})
    assert done.resumed == 5 * 64
    assert sum(count for count, _ in last.batches) == 600 - 5 * 64
    assert out.read_bytes() == (tmp_path / "whole.npz").read_bytes()
    assert not (tmp_path / "a.npz.parts").exists()


def test_other_settings_do_not_go_on(many, tmp_path):
    names, paths = list_images(many)
    out = tmp_path / "a.npz"
    with pytest.raises(KeyboardInterrupt):
        annotate(names, paths, Interrupted(9), out, {"min_confidence": 0.3})
    other = ByColour()
    other.name = "another, w.onnx, ba9876543210"
    for said, arguments in (
        (r"estimator = by colour.*, now it is another, w", (names, paths, other, out, {"min_confidence": 0.3})),
        (r"min_confidence = 0.3, now it is 0.4; use", (names, paths, ByColour(), out, {"min_confidence": 0.4})),
        (r"min_confidence = 0.3, now it is None; use", (names, paths, ByColour(), out)),
        (r"batch_size = 16, now it is 8", (names, paths, ByColour(), out, {"min_confidence": 0.3}, 8)),
        (r"images = 600, now it is 599", (names[1:], paths[1:], ByColour(), out, {"min_confidence": 0.3})),
        (r"names_sha256 = ", (["x", *names[1:]], paths, ByColour(), out, {"min_confidence": 0.3})),
    ):
        with pytest.raises(BadInput, match=rf"config.json: was made with {said}.*--restart to start over$"):
            annotate(*arguments)
    others = [paths[1], paths[0], *paths[2:]]  # the same names, other files
    with pytest.raises(BadInput, match=r"files_sha256 = "):
        annotate(names, others, ByColour(), out, {"min_confidence": 0.3})
    done = annotate(names, paths, ByColour(), out, {"min_confidence": 0.4}, restart=True)
    assert (done.resumed, len(done.annotations)) == (0, 599)


def test_folders_of_others_are_left_alone(many, tmp_path):
    parts = tmp_path / "a.npz.parts"
    parts.mkdir()
    (parts / "mine.txt").write_text("mine")
    for restart in (False, True):
        with pytest.raises(
            BadInput,
            match=r"a.npz.parts: not empty and without config.json, but holds mine.txt; parts",
        ):
            annotate(*list_images(many), ByColour(), tmp_path / "a.npz", restart=restart)
    assert (parts / "mine.txt").read_text() == "mine"
    (tmp_path / "b.npz.parts").write_text("mine")
    with pytest.raises(BadInput, match=r"b.npz.parts: is no directory"):
        annotate(*list_images(many), ByColour(), tmp_path / "b.npz")


def test_two_at_once_are_told(many, tmp_path):
    parts = Parts(tmp_path / "a.npz.parts")
    with (
        parts.claimed({}),
        pytest.raises(BadInput, match=r"a.npz.parts: another process is annotating; wait for it to end"),
    ):
        annotate(*list_images(many), ByColour(), tmp_path / "a.npz")


def test_who_waited_with_an_open_lock_does_not_take_one_that_was_removed(tmp_path):
    parts = Parts(tmp_path / "p")
    with parts.claimed({}):
        parts.remove()
        with parts.claimed({}):  # another run in a new folder of the same name
            assert (tmp_path / "p" / "config.json").exists()


# The command


def start(arguments: list[str], delay: float) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XINGAUG_TEST_DELAY": str(delay), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, annotating.__file__, "annotate", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.mark.slow
def test_a_killed_command_goes_on_and_writes_the_same_bytes(many, tmp_path):
    def arguments(name: str) -> list[str]:
        return [str(many), "--estimator", "program", "--weights", "w.pt2", "--out", str(tmp_path / name), "--json"]

    whole = start(arguments("whole.npz"), 0)
    out, err = whole.communicate()
    assert whole.returncode == 0, err
    assert json.loads(out)["resumed"] == 0
    parts = tmp_path / "a.npz.parts"
    for wanted, delay in ((1, 1.0), (5, 0.5)):
        process = start(arguments("a.npz"), delay)
        while len(list(parts.glob("*.npz"))) < wanted:
            assert process.poll() is None
            time.sleep(0.02)
        if wanted == 1:
            second = start(arguments("a.npz"), 0)
            assert second.communicate() == (
                "", f"error: {parts}: another process is annotating; wait for it to end\n"
            )  # fmt: skip
            assert second.returncode == 2
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert not (tmp_path / "a.npz").exists()
    last = start(arguments("a.npz"), 0)
    out, err = last.communicate()
    assert (last.returncode, err) == (0, "")
    figures = json.loads(out)
    assert 5 * 64 <= figures["resumed"] < 600
    assert (figures["images"], figures["annotations"], figures["unreadable"]) == (600, 599, 1)
    assert figures["too_few_joints"] == sum(4 + i % 15 < 8 for i in range(600) if i != 7)
    assert figures["images_per_second"] > 0
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "whole.npz"]


@pytest.fixture
def by_colour(monkeypatch):
    monkeypatch.setattr("xingaug.poses.estimators.load_estimator", annotating.load)


def test_the_command_reports_and_writes_a_page(by_colour, folder, run, tmp_path):
    line = f"annotate {folder} --estimator vitpose --weights w.onnx --out {tmp_path}/a.npz --json"
    code, out, err = run(f"{line} --rejected {tmp_path}/r.csv --preview {tmp_path}/p.html --min-confidence 0.1")
    assert (code, err) == (0, "")
    figures = json.loads(out)
    assert figures.pop("images_per_second") > 0
    assert figures == {
        "written": f"{tmp_path}/a.npz", "annotations": 4, "images": 8, "nobody_found": 2, "unreadable": 2,
        "too_few_joints": 1, "joints_outside": 9, "resumed": 0,
    }  # fmt: skip
    assert read_npz(tmp_path / "a.npz").source == "vitpose, w.onnx, confidence 0.1 and above"
    assert len((tmp_path / "r.csv").read_text().splitlines()) == 6
    page = (tmp_path / "p.html").read_text()
    assert 'src="http' not in page
    assert page.count("data:image/jpeg") == 3 + 1 + 2
    sheet = re.findall(r"<span>([^<]+)</span><span>([^<]+)</span>", page)
    assert sheet == [
        ("sub/7.png", "9 joints, 0.23"), ("1.png", "9 joints, 0.29"), ("0.png", "18 joints, 0.63"),
        ("2.png", "5 joints, 0.10"),
    ]  # fmt: skip
    for row in ("usable poses</td><td>3</td><td>37.5%", "nobody found</td><td>2", "unreadable</td><td>2"):
        assert row in page


def test_the_command_begins_anew_when_told_to(by_colour, many, run, tmp_path):
    names, paths = list_images(many)
    with pytest.raises(KeyboardInterrupt):
        annotate(names, paths, Interrupted(9), tmp_path / "a.npz")
    line = f"annotate {many} --estimator program --batch-size 100 --workers 1 --out {tmp_path}/a.npz"
    code, out, err = run(line)
    assert (code, out) == (2, "")
    assert re.fullmatch(r"error: .*config.json: was made with estimator = .*, or --restart to start over\n", err)
    code, out, _ = run(f"{line} --restart")
    assert code == 0
    assert "resumed: 0\n" in out
    assert not (tmp_path / "a.npz.parts").exists()


def test_the_page_of_an_import_shows_the_worst_first(place, run, tmp_path):
    stored = read_npz(place / "world" / "annotations.npz")
    train = read_split(place / "world", "train").names.tolist()
    rows = stored.lookup(train)[:6]
    visibility = np.ones((6, 18), np.float32) * np.array([0.9, 0.2, 0.5, 0.6, 0, 0.7], np.float32)[:, None]
    write_npz(tmp_path / "n.npz", stored.names[rows], stored.xy[rows], visibility, "<made> up")
    code, out, _ = run(
        f"annotate world --from npz {tmp_path}/n.npz --out {tmp_path}/o.npz --json "
        f"--preview {tmp_path}/p.html --preview-count 3 --rejected {tmp_path}/r.csv"
    )
    assert code == 0
    assert json.loads(out) == {
        "written": f"{tmp_path}/o.npz", "annotations": 6, "images": 16, "no_annotation": 10, "nobody_found": 1,
    }  # fmt: skip
    page = (tmp_path / "p.html").read_text()
    assert "&lt;made&gt; up" in page
    sheet = re.findall(r"<span>([^<]+)</span><span>([^<]+)</span>", page)
    assert sheet == [(train[i], f"18 joints, {share}") for i, share in ((1, "0.20"), (2, "0.50"), (3, "0.60"))]
    assert page.count("data:image/jpeg") == 3 + 11
    assert len(page) < 400_000


def test_an_import_fits_a_folder_of_images(run, tmp_path):
    for name in ("p/a.png", "q/b.png"):
        write_colour(tmp_path / "images" / name, 0)
    points = [number for joint in range(18) for number in (joint, 2 * joint, 0.5)]
    (tmp_path / "op").mkdir()
    for stem in ("a", "c"):
        contents = {"people": [{"pose_keypoints_2d": points}]}
        (tmp_path / "op" / f"{stem}_keypoints.json").write_text(json.dumps(contents))
    code, _, err = run(f"annotate {tmp_path}/images --from openpose-json {tmp_path}/op")
    assert code == 0
    assert "1 rows name an image that is not in the split: c.jpg" in err
    assert read_npz(tmp_path / "images" / "annotations.npz").names.tolist() == ["p/a.png", "c.jpg"]


def test_keypoints_of_another_origin_are_not_replaced_unasked(by_colour, folder, run, tmp_path):
    write_npz(folder / "annotations.npz", ["0.png"], np.full((1, 18, 2), 5.0), np.ones((1, 18)), "by hand")
    before = (folder / "annotations.npz").read_bytes()
    line = f"annotate {folder} --estimator vitpose --weights w.onnx"
    code, _, err = run(line)
    assert code == 2
    assert "annotations.npz: has keypoints of another origin ('by hand', now it is 'vitpose, w.onnx')" in err
    write_npz(tmp_path / "n.npz", ["0.png"], np.full((1, 18, 2), 5.0), np.ones((1, 18)), "by a program")
    assert "has keypoints of another origin" in run(f"annotate {folder} --from npz {tmp_path}/n.npz")[2]
    assert (folder / "annotations.npz").read_bytes() == before
    for _ in range(2):
        assert run(f"{line} --out {folder}/annotations.npz")[0] == 0
    assert run(line)[0] == 0  # its own
    (folder / "annotations.npz").write_bytes(b"damaged")
    assert "or this one to replace it (--out)" in run(line)[2]


def test_skeletons_lie_where_the_joints_are():
    from xingaug.report.figures import overlay

    xy = np.full((18, 2), 4.0)
    xy[JOINTS.index("neck")], xy[JOINTS.index("right_shoulder")] = (7, 3), (7, 11)
    seen = np.zeros(18)
    seen[[JOINTS.index("neck"), JOINTS.index("right_shoulder")]] = 1, 0.3
    drawn = overlay(np.zeros((16, 16, 3), np.uint8), [(xy, seen)], box=(160, 200))
    assert drawn.shape == (160, 160, 3)
    assert drawn[35, 75].tolist() == [255, 255, 255], "a joint at pixel (7, 3), about pixel centres"
    assert drawn[115, 75].tolist() == [255, 59, 48], "an unsure one"
    assert drawn[75, 75].tolist() == [230, 25, 75], "the limb between them"
    assert not drawn[:, :70].any()
    assert Image.fromarray(drawn).size == (160, 160)
