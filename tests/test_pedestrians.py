import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xingaug.data import pedestrians as ped
from xingaug.data.pedestrians.body import body_joints
from xingaug.data.pedestrians.workers import spread
from xingaug.errors import BadInput, WorkFailed

NAME = re.compile(r"\d{4}_c[1-6]s\d_\d{6}_\d{2}\.jpg")
R_SHOULDER, L_SHOULDER, NOSE, EYES, EARS = 2, 5, 0, (14, 15), (16, 17)
SPLITS = ("bounding_box_train", "query", "bounding_box_test")


def _background(camera, **changes):
    """A background without occluder or jitter."""
    background = ped.draw_background(3, 0, camera, 0)
    return replace(background, occluder="none", fill=0.88, foot=(0.5, 0.96), **changes)


def _rendered(yaw=0.0, activity="stand", index=0, camera_index=0, **pose):
    camera = ped.make_camera(camera_index, 3)
    pose = ped.Pose(activity=activity, yaw_deg=yaw, **{"variant": 0.9, **pose})
    return ped.render(ped.draw_identity(3, index), pose, camera, _background(camera))


def _files(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("pedestrians") / "world"
    summary = ped.write_world(root, identities=12, images_per_identity=6, seed=5, workers=1, progress=False)
    return root, summary


def test_same_seed_gives_same_bytes_whatever_the_number_of_workers(world, tmp_path):
    root, summary = world
    again = ped.write_world(tmp_path / "again", 12, 6, 5, workers=2, progress=False)
    assert _files(root) == _files(tmp_path / "again")
    assert replace(again, root=root) == summary


def test_another_seed_gives_other_people():
    assert ped.draw_identity(1, 0) == ped.draw_identity(1, 0)
    assert ped.draw_identity(1, 0) != ped.draw_identity(2, 0)
    assert len({ped.draw_identity(1, index).top_colour for index in range(50)}) == 50


def test_layout_is_that_of_market1501(world):
    root, summary = world
    images = {split: sorted(path.name for path in (root / split).glob("*.jpg")) for split in SPLITS}
    everything = [name for names in images.values() for name in names]
    assert len(everything) == len(set(everything)) == 12 * 6
    assert all(NAME.fullmatch(name) for name in everything)
    assert [len(images[split]) for split in SPLITS] == [
        summary.train_images,
        summary.query_images,
        summary.gallery_images,
    ]
    train = {name[:4] for name in images["bounding_box_train"]}
    test = {name[:4] for name in images["bounding_box_test"]}
    assert train == {f"{pid:04d}" for pid in range(1, 7)}
    assert test == {name[:4] for name in images["query"]} == {f"{pid:04d}" for pid in range(7, 13)}
    for split, names in images.items():
        for name in names:
            assert cv2.imread(str(root / split / name)).shape == (128, 64, 3)
            mask = cv2.imread(str(root / split / name).replace(".jpg", ".png"), cv2.IMREAD_UNCHANGED)
            assert mask.shape == (128, 64)
            assert set(np.unique(mask)) <= {0, 255}


@pytest.mark.parametrize("count", [2, 3, 4, 5, 8, 13])
def test_every_query_has_a_match_under_another_camera(count):
    gallery, queries = defaultdict(set), []
    for plan in ped.plan_world(80, count, seed=count):
        if plan.split == "bounding_box_test":
            gallery[plan.identity_index].add(plan.camera_index)
        elif plan.split == "query":
            queries.append((plan.identity_index, plan.camera_index))
    assert len({identity for identity, _ in queries}) == 40
    assert len(set(queries)) == len(queries) <= 40 * max(1, count // 3)
    assert all(gallery[identity] - {camera} for identity, camera in queries)


def test_annotations_are_what_the_reader_expects(world):
    root, _ = world
    with np.load(root / "annotations.npz", allow_pickle=False) as stored:
        names, xy, visibility = stored["names"], stored["xy"], stored["visibility"]
    assert sorted(names) == sorted(path.name for path in root.rglob("*.jpg"))
    assert xy.shape == (len(names), 18, 2)
    assert xy.dtype == visibility.dtype == np.float32
    assert np.isfinite(xy).all()
    assert set(np.unique(visibility)) == {0.0, 1.0}
    seen = xy[visibility > 0]
    assert (seen >= -0.5).all()
    assert (seen < [63.5, 127.5]).all()


def test_written_world_is_found_again(world):
    root, _ = world
    loaded = ped.load_world(root)
    with np.load(root / "annotations.npz") as stored:
        columns = (stored["names"], stored["xy"], stored["visibility"])
    rows = {name: (xy, seen) for name, xy, seen in zip(*columns, strict=True)}
    assert loaded.names() == list(rows)
    for name in loaded.names()[::9]:
        true = loaded.render_in_pose(name, name)
        path = next(root.rglob(name))
        written = cv2.imdecode(cv2.imencode(".jpg", true.image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1], 1)
        assert np.array_equal(written, cv2.imread(str(path)))
        assert np.array_equal(true.mask, cv2.imread(str(path.with_suffix(".png")), cv2.IMREAD_UNCHANGED))
        assert np.array_equal(true.xy, rows[name][0])
        assert np.array_equal(true.visibility, rows[name][1])


def test_true_image_in_another_pose_keeps_person_and_place(world):
    loaded = ped.load_world(world[0])
    first, second = loaded.names("bounding_box_train")[:2]
    identity, _, camera, background = loaded.request(first)
    expected = ped.render(identity, loaded.request(second)[1], camera, background)
    assert np.array_equal(loaded.render_in_pose(first, second).image, expected.image)
    assert not np.array_equal(expected.image, loaded.render(first).image)


def test_the_world_says_what_it_does_not_have(world, tmp_path):
    loaded = ped.load_world(world[0])
    for name in ("0001_c1s1_999999_00.jpg", "9999_c1s1_000001_00.jpg", "portrait.jpg"):
        with pytest.raises(BadInput, match="no image of this name"):
            loaded.request(name)
    with pytest.raises(BadInput, match=re.escape("world.json")):
        ped.load_world(tmp_path)
    (tmp_path / "world.json").write_text(json.dumps({"version": 0}))
    with pytest.raises(BadInput, match="version"):
        ped.load_world(tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [{"seed": -1}, {"seed": 2**64}, {"identities": 1e9}, {"images_per_identity": 10**9}, {"train_poses": None},
     {"train_poses": {"yaws_deg": 3}}],
)  # fmt: skip
def test_a_world_json_that_does_not_describe_one_is_bad_input(world, tmp_path, wrong):
    described = json.loads((world[0] / "world.json").read_text())
    (tmp_path / "world.json").write_text(json.dumps(described | wrong))
    with pytest.raises(BadInput, match="does not describe a world"):
        ped.load_world(tmp_path)


def test_a_world_that_is_there_already_stays_as_it_is(world, tmp_path):
    ped.write_world(tmp_path / "w", 4, 4, 3, workers=1, progress=False)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "w").rglob("*")}
    summary = ped.write_world(tmp_path / "w", 4, 4, 3, workers=1, progress=False)
    assert summary.train_images + summary.query_images + summary.gallery_images == 16
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "w").rglob("*")} == before
    with pytest.raises(BadInput, match="not empty"):
        ped.write_world(tmp_path / "w", 4, 4, 4, workers=1, progress=False)


def test_a_signal_leaves_no_folder_and_its_workers_say_nothing(tmp_path):
    command = [sys.executable, "-m", "xingaug", "world", str(tmp_path / "w"), "--identities", "400"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    child = subprocess.Popen(command, stderr=subprocess.PIPE, env=environment, process_group=0)
    while not list(tmp_path.glob(".*/*/*.jpg")):
        time.sleep(0.05)
        assert child.poll() is None
    os.killpg(child.pid, signal.SIGTERM)
    assert child.communicate()[1] == b"error: ended by SIGTERM\n"
    assert child.returncode == 128 + signal.SIGTERM
    assert not list(tmp_path.iterdir())


def test_bad_input_leaves_nothing_behind(tmp_path):
    out = tmp_path / "out"
    for arguments in ((1, 8, 0), (10_000, 8, 0), (4, 1, 0), (4, 301, 0), (4, 4, -1)):
        with pytest.raises(BadInput):
            ped.write_world(out, *arguments, progress=False)
    with pytest.raises(BadInput, match="train_poses"):
        ped.write_world(out, 4, 4, 0, train_poses="few", progress=False)
    assert not list(tmp_path.iterdir())
    out.mkdir()
    (out / "keep.txt").write_text("mine")
    with pytest.raises(BadInput, match="not empty"):
        ped.write_world(out, 4, 4, 0, progress=False)
    assert _files(tmp_path) == {"out/keep.txt": b"mine"}


def test_starved_training_identities_are_seen_in_two_neighbouring_poses(tmp_path):
    ped.write_world(tmp_path / "w", 8, 12, 1, train_poses="starved", workers=1, progress=False)
    loaded = ped.load_world(tmp_path / "w")
    poses = defaultdict(list)
    for name in loaded.names():
        poses[int(name[:4])].append(loaded.request(name)[1])

    def arc(yaws):
        """Smallest arc that holds all directions."""
        yaws = np.sort(yaws)
        return 360 - np.diff(np.append(yaws, yaws[0] + 360)).max()

    for pid, seen in poses.items():
        if pid <= 4:
            assert len({pose.activity for pose in seen}) == 1
            assert arc([pose.yaw_deg for pose in seen]) <= 45 + 2 * 12
        else:
            assert arc([pose.yaw_deg for pose in seen]) > 120


def test_a_distribution_of_ones_own_survives_the_file(tmp_path):
    frontal = ped.PoseDistribution(yaws_deg=(0.0,), yaw_spread_deg=5.0, activities=(("stand", 1.0),))
    ped.write_world(tmp_path / "w", 4, 4, 1, train_poses=frontal, workers=1, progress=False)
    loaded = ped.load_world(tmp_path / "w")
    assert loaded.train_poses == frontal
    for name in loaded.names("bounding_box_train"):
        pose = loaded.request(name)[1]
        assert pose.activity == "stand"
        assert min(pose.yaw_deg, 360 - pose.yaw_deg) <= 5


def test_pose_distribution_checks_itself():
    with pytest.raises(ValueError, match="fly"):
        ped.PoseDistribution(activities=(("fly", 1.0),))
    with pytest.raises(ValueError, match="weights"):
        ped.PoseDistribution(activities=(("walk", 0.0),))
    with pytest.raises(ValueError, match="neighbours"):
        ped.PoseDistribution.starved(0, 0, neighbours=9)
    with pytest.raises(ValueError, match="index"):
        ped.make_camera(6, 0)


def test_seen_from_the_front_and_from_behind():
    front, back = _rendered(yaw=0), _rendered(yaw=180)
    assert front.xy[R_SHOULDER, 0] < front.xy[L_SHOULDER, 0]
    assert back.xy[R_SHOULDER, 0] > back.xy[L_SHOULDER, 0]
    assert front.visibility[[NOSE, *EYES, R_SHOULDER, L_SHOULDER]].all()
    assert not back.visibility[[NOSE, *EYES]].any()
    assert back.visibility[[1, R_SHOULDER, L_SHOULDER]].all()


def test_a_profile_hides_the_far_side():
    facing_right, facing_left = _rendered(yaw=90, variant=0.9), _rendered(yaw=270, variant=0.9)
    assert facing_right.xy[NOSE, 0] > facing_right.xy[1, 0]
    assert facing_left.xy[NOSE, 0] < facing_left.xy[1, 0]
    # Who faces right turns the right side to the camera.
    assert facing_right.visibility[[R_SHOULDER, EARS[0]]].all()
    assert not facing_right.visibility[[L_SHOULDER, EARS[1]]].any()
    assert facing_left.visibility[[L_SHOULDER, EARS[1]]].all()
    assert not facing_left.visibility[[R_SHOULDER, EARS[0]]].any()


def test_opposite_yaw_mirrors_a_symmetric_pose():
    swap = [0, 1, 5, 6, 7, 2, 3, 4, 11, 12, 13, 8, 9, 10, 15, 14, 17, 16]
    for yaw in (20.0, 75.0, 130.0):
        # Arms before the chest; with equal phases of both legs the body is its own mirror image.
        one = _rendered(yaw=yaw, variant=0.1, phase=0.0).xy
        other = _rendered(yaw=-yaw, variant=0.1, phase=0.0).xy
        upper = [0, 1, 2, 3, 4, 5, 6, 7, 14, 15, 16, 17]
        centre = 0.5 * 128 / 2 - 0.25  # of the foot line, pixels
        mirrored = np.stack([2 * centre - other[swap, 0], other[swap, 1]], axis=1)
        assert np.abs(one - mirrored)[upper].max() < 0.75


def test_the_person_fills_the_image():
    for index in range(6):
        for yaw in (0, 90, 225):
            rows = np.flatnonzero(_rendered(yaw=yaw, activity="walk", index=index, camera_index=index).mask.any(1))
            assert 0.80 * 128 < rows[-1] - rows[0] < 0.99 * 128


def test_mask_covers_the_visible_joints():
    for index in range(24):
        camera = ped.make_camera(index % 6, 9)
        pose = ped.draw_pose((9, index), ped.PoseDistribution.any(), camera.pitch_deg)
        one = ped.render(ped.draw_identity(9, index), pose, camera, ped.draw_background(9, index, camera, 0))
        covered = cv2.dilate(one.mask, np.ones((3, 3), np.uint8))
        for (x, y), seen in zip(np.rint(one.xy).astype(int), one.visibility, strict=True):
            assert not seen or covered[y, x] == 255


def test_only_the_person_changes_with_the_pose():
    for camera_index in range(6):
        camera = ped.make_camera(camera_index, 3)
        background, person = ped.draw_background(3, 1, camera, 4), ped.draw_identity(3, 1)
        one, other = (
            ped.render(person, ped.Pose(yaw_deg=yaw, phase=yaw / 400), camera, background) for yaw in (30, 200)
        )
        # The blur reaches a few pixels over the edge of the masks.
        near = cv2.dilate(one.mask | other.mask, np.ones((11, 11), np.uint8)) > 0
        assert not near.all()
        assert np.array_equal(one.image[~near], other.image[~near])
        assert not np.array_equal(one.image[near], other.image[near])


def test_images_of_one_person_under_one_camera_share_their_place():
    camera = ped.make_camera(2, 3)
    views = [ped.draw_background(3, 7, camera, image) for image in range(4)]
    assert len({view.place for view in views}) == 1
    assert len({view.noise_seed for view in views}) == 4
    assert ped.draw_background(3, 8, camera, 0).place != views[0].place


def test_occluders_hide_joints_and_leave_the_mask():
    camera = ped.make_camera(1, 3)
    person, pose = ped.draw_identity(3, 2), ped.Pose(activity="stand", variant=0.9)
    free = ped.render(person, pose, camera, _background(camera))
    for kind in ped.OCCLUDERS[1:]:
        hidden = ped.render(person, pose, camera, replace(_background(camera), occluder=kind, occluder_seed=5))
        assert np.array_equal(hidden.xy, free.xy)
        assert (hidden.visibility <= free.visibility).all()
        assert ((hidden.mask > 0) <= (free.mask > 0)).all()
        assert not np.array_equal(hidden.image, free.image)


def test_a_bag_shows_from_one_side_only():
    person = replace(ped.draw_identity(3, 4), bag="backpack", bag_colour=(250.0, 20.0, 20.0), hair_style="short")
    plain = replace(person, bag="none")
    camera = ped.make_camera(3, 3)

    def changed(yaw):
        pose = ped.Pose(activity="stand", variant=0.9, yaw_deg=yaw)
        one, other = (ped.render(who, pose, camera, _background(camera)).image.astype(int) for who in (person, plain))
        return int((np.abs(one - other).max(2) > 40).sum())

    assert changed(180) > 400
    assert changed(180) > 3 * changed(0)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**31), index=st.integers(0, 5))
def test_everything_drawn_is_finite_and_in_range(seed, index):
    camera = ped.make_camera(index, seed)
    pose = ped.draw_pose(seed, ped.PoseDistribution.any())
    one = ped.render(ped.draw_identity(seed, index), pose, camera, ped.draw_background(seed, index, camera, 0))
    assert one.image.shape == (*ped.SIZE, 3)
    assert one.image.dtype == one.mask.dtype == np.uint8
    assert one.xy.shape == (18, 2)
    assert one.xy.dtype == one.visibility.dtype == np.float32
    assert np.isfinite(one.xy).all()
    assert set(np.unique(one.visibility)) <= {0.0, 1.0}
    assert one.visibility.sum() >= 3
    assert 0.04 < (one.mask > 0).mean() < 0.8


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_bones_keep_their_length(seed):
    pose, build = ped.draw_pose(seed, ped.PoseDistribution.any()), ped.draw_identity(seed, 0).build
    joints = body_joints(pose, build)
    for start, end, length in (
        ("hip", "knee", 0.245 * build.legs),
        ("knee", "ankle", 0.238 * build.legs),
        ("shoulder", "elbow", 0.165),
        ("elbow", "wrist", 0.145),
    ):
        for side in (0, 1):
            assert np.linalg.norm(joints[f"{end}{side}"] - joints[f"{start}{side}"]) == pytest.approx(length, rel=0.02)
    assert min(joint[1] for name, joint in joints.items() if "head" not in name) > -0.01


def test_render_many_agrees_with_render():
    pairs = ped.draw_pairs(30, seed=4, identities=10)
    requests = [request for pair in pairs for request in pair]
    batch = ped.render_many(requests, workers=2)
    assert batch.images.shape == (60, 128, 64, 3)
    for index in (0, 33, 59):
        one = ped.render(*requests[index])
        for many, single in zip(
            (batch.images, batch.xy, batch.visibility, batch.masks),
            (one.image, one.xy, one.visibility, one.mask),
            strict=True,
        ):
            assert np.array_equal(many[index], single)
    for source, target in pairs:
        assert source[0] == target[0]
        assert source[1] != target[1]
        assert source[2:] == target[2:]
    assert ped.render_many([]).images.shape == (0, 128, 64, 3)


def _fails(items):
    raise ValueError(f"no {items[0]}")


def test_a_failing_worker_is_reported():
    with pytest.raises(WorkFailed, match="TypeError: the JSON object must be str"):
        spread(json.loads, (), [0] * 100, workers=2)
    with pytest.raises(ValueError, match="workers"):
        spread(_fails, (), [1], workers=0)
    with pytest.raises(ValueError, match="no 1"):
        spread(_fails, (), [1], workers=1)


def test_importing_xingaug_does_not_import_opencv():
    code = "import sys, xingaug; sys.exit('cv2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
