import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from skeletons import hide, random_people, small_bank

from xingaug.errors import BadInput
from xingaug.keypoints import JOINTS, Keypoints
from xingaug.poses.bank import PoseBank
from xingaug.poses.descriptor import shapes_of
from xingaug.poses.index import IndexSettings

FRAME = (128, 64)


@pytest.fixture(scope="module")
def bank() -> PoseBank:
    return small_bank()


# Search


def slow_search(bank: PoseBank, person: Keypoints, k: int) -> tuple[list[int], list[float]]:
    rows = [row for row in range(len(bank)) if bank.usable[row]]
    similarity = {row: float(bank.oks(person, np.array([[row]]))[0, 0]) for row in rows}
    best = sorted(rows, key=lambda row: (-similarity[row], row))[:k]
    return best, [similarity[row] for row in best]


@pytest.mark.parametrize("k", [1, 5, 30])
def test_search_against_loops(bank, k):
    people = random_people(25, seed=21, missing=0.2)
    hits = bank.search(people, k=k)
    assert hits.indices.shape == hits.oks.shape == (25, k)
    assert hits.indices.dtype == torch.int64
    assert hits.oks.dtype == torch.float32
    for row in range(25):
        best, similarity = slow_search(bank, people[row : row + 1], k)
        assert hits.indices[row].tolist() == best
        assert hits.oks[row].tolist() == pytest.approx(similarity)


def test_a_pose_of_the_bank_finds_itself_wherever_it_stands(bank):
    rows = bank.usable_rows
    poses = bank.keypoints(rows)
    hits = bank.search(Keypoints(poses.xy * 2 + 31, poses.visibility), k=1)
    assert hits.indices[:, 0].tolist() == rows.tolist()
    torch.testing.assert_close(hits.oks, torch.ones(len(rows), 1))


def test_a_query_is_answered_the_same_in_any_batch():
    # All but equal poses: their order by distance changes with the least rounding.
    noise = torch.from_numpy(np.random.default_rng(0).normal(0, 0.02, (3040, 18, 2)).astype(np.float32))
    people = Keypoints(random_people(1, seed=4).xy + noise, torch.ones(3040, 18))
    bank, people = PoseBank.build(people[:3000]), people[3000:]
    together = bank.search(people, k=20)
    for row in range(40):
        alone = bank.search(people[row : row + 1], k=20)
        assert alone.indices[0].tolist() == together.indices[row].tolist()
        assert alone.oks[0].tolist() == together.oks[row].tolist()


@pytest.mark.parametrize("k", [5, 40])
def test_equal_poses_come_by_row(k):
    person = random_people(1)[0]
    many = PoseBank.build(Keypoints.stack([random_people(1, seed=8)[0], *[person] * 300]))
    assert many.search(Keypoints.stack([person]), k=k).indices[0].tolist() == list(range(1, k + 1))


def test_poses_of_equal_oks_come_by_row_and_not_by_distance():
    xy = random_people(1).xy.repeat(60, 1, 1)
    wrist = JOINTS.index("right_wrist")
    xy[:, wrist] = torch.from_numpy(np.random.default_rng(0).uniform((0, 40), (60, 70), (60, 2)).astype(np.float32))
    same_but_for_a_wrist = PoseBank.build(Keypoints(xy, torch.ones(60, 18)))
    hits = same_but_for_a_wrist.search(hide(random_people(1), "right_wrist"), k=30)
    assert hits.indices[0].tolist() == list(range(30))


def test_unusable_poses_are_never_found():
    people = random_people(20, seed=6)
    visibility = people.visibility.clone()
    visibility[::2, 2:8] = 0
    visibility[::2, 14:] = 0
    visibility[::2, 0] = 0
    few = PoseBank.build(Keypoints(people.xy, visibility))
    assert few.usable.tolist() == [False, True] * 10
    assert set(few.search(people, k=10).indices.ravel().tolist()) == set(range(1, 20, 2))
    with pytest.raises(BadInput, match="k: 11 poses requested, the bank has 10 usable ones of 20; needed k <= 10"):
        few.search(people, k=11)


def test_search_refuses_what_it_cannot_answer(bank):
    with pytest.raises(BadInput, match=r"k: 301 poses requested, the bank has \d+ usable ones of 300"):
        bank.search(random_people(1), k=301)
    with pytest.raises(ValueError, match="k: 0, needed at least 1"):
        bank.search(random_people(1), k=0)
    with pytest.raises(ValueError, match="keypoints: row 0 has no torso"):
        bank.search(hide(random_people(1), "right_hip", "left_hip"))
    with pytest.raises(ValueError, match=r"keypoints: batch shape \(\), needed \(N,\)"):
        bank.search(random_people(1)[0])
    assert bank.search(random_people(3)[:0], k=3).indices.shape == (0, 3)


# Building


def test_the_bank_keeps_poses_in_frame_pixels(bank):
    people = random_people(300, seed=1, missing=0.15)
    kept = bank.keypoints(torch.tensor([[3, 7], [3, 299]]))
    assert kept.shape == (2, 2)
    torch.testing.assert_close(kept.visibility[0, 1], people.visibility[7], rtol=0, atol=0)
    torch.testing.assert_close(kept.xy[0, 1][kept.present[0, 1]], people.xy[7][people.present[7]], rtol=0, atol=0)
    assert len(bank) == 300
    assert bank.frame == (128, 64)
    assert bank.pids[9] == 2
    assert bank.camids[9] == 4
    for index in (-1, 300):
        with pytest.raises(ValueError, match=f"indices: {index} to {index}, needed 0 to 299"):
            bank.keypoints([index])


def test_names_identities_and_cameras_may_be_left_out():
    bare = PoseBank.build(random_people(3))
    assert bare.names.tolist() == [""] * 3
    assert bare.pids.tolist() == bare.camids.tolist() == [-1] * 3


def test_build_refuses_what_is_no_bank():
    with pytest.raises(BadInput, match="pose bank: none of 0 poses is usable in a frame of 128x64; needed"):
        PoseBank.build(random_people(3)[:0])
    with pytest.raises(BadInput, match="none of 3 poses is usable in a frame of 32x16"):
        PoseBank.build(random_people(3), frame=(32, 16))
    with pytest.raises(ValueError, match=r"pids: shape \(2,\), needed \(3,\), one for each pose"):
        PoseBank.build(random_people(3), pids=[1, 2])
    with pytest.raises(ValueError, match=r"keypoints: batch shape \(\), needed \(N,\)"):
        PoseBank.build(random_people(3)[0])


def test_the_content_hash_changes_with_the_content():
    people = random_people(4)
    names = ["a", "b", "c", "d"]
    first = PoseBank.build(people, names=names, pids=[1, 2, 3, 4])
    assert first.content_hash == PoseBank.build(people, names=names, pids=[1, 2, 3, 4]).content_hash
    unseen = Keypoints(people.xy.clone(), people.visibility.clone())
    unseen.visibility[0, 4] = 0
    other_xy = unseen.xy.clone()
    other_xy[0, 4] = 99
    hidden = PoseBank.build(unseen, names=names, pids=[1, 2, 3, 4])
    assert (
        hidden.content_hash == PoseBank.build(Keypoints(other_xy, unseen.visibility), names, [1, 2, 3, 4]).content_hash
    )
    hashes = {
        first.content_hash,
        hidden.content_hash,
        PoseBank.build(people, names=["a", "b", "c", "e"], pids=[1, 2, 3, 4]).content_hash,
        PoseBank.build(people, names=names, pids=[1, 2, 3, 5]).content_hash,
        PoseBank.build(people, names=names, pids=[1, 2, 3, 4], camids=[1, 1, 1, 1]).content_hash,
        PoseBank.build(people, names=names, pids=[1, 2, 3, 4], frame=(129, 64)).content_hash,
        PoseBank.build(people[[1, 0, 2, 3]], names=names, pids=[1, 2, 3, 4]).content_hash,
    }
    assert len(hashes) == 7


# Appending and merging


def test_appended_poses_are_those_of_a_bank_built_at_once():
    people = random_people(60, seed=2, missing=0.1)
    names = [f"{index}.jpg" for index in range(60)]
    whole = PoseBank.build(people, names, np.arange(60), np.ones(60))
    first = PoseBank.build(people[:40], names[:40], np.arange(40), np.ones(40))
    grown = first.append(people[40:], names[40:], np.arange(40, 60), np.ones(20))
    assert grown.content_hash == whole.content_hash
    assert len(first) == 40
    queries = random_people(5, seed=9)
    assert grown.search(queries, k=9).indices.tolist() == whole.search(queries, k=9).indices.tolist()


def test_poses_that_are_not_usable_may_be_appended():
    bank = PoseBank.build(random_people(20))
    lost = Keypoints(torch.zeros(3, 18, 2), torch.zeros(3, 18))
    assert bank.append(lost).usable.tolist() == [*bank.usable.tolist(), False, False, False]


def test_merging_keeps_the_order_and_settings():
    parts = [
        PoseBank.build(random_people(20, seed=s), [f"{s}_{i}" for i in range(20)], settings=IndexSettings(probes=s + 1))
        for s in range(3)
    ]
    merged = PoseBank.merge(parts)
    assert merged.names.tolist() == [name for part in parts for name in part.names.tolist()]
    np.testing.assert_array_equal(merged.xy, np.concatenate([part.xy for part in parts]))
    assert merged.settings.probes == 1


def test_banks_that_do_not_go_together_are_refused():
    first = PoseBank.build(random_people(3), names=["a", "b", "c"])
    with pytest.raises(BadInput, match="2 images are in more than one of them, such as 'b'; needed each in one"):
        first.append(random_people(3, seed=1), names=["b", "c", "d"])
    with pytest.raises(BadInput, match=r"frames \(128, 64\) and \(256, 128\)"):
        PoseBank.merge([first, PoseBank.build(random_people(3), frame=(256, 128))])
    with pytest.raises(BadInput, match="none to merge"):
        PoseBank.merge([])


# What is not seen


def test_the_uncertainty_is_how_far_a_hidden_joint_lies_from_its_completion():
    people = random_people(4000, seed=1)
    bank = PoseBank.build(people)
    hidden = hide(people[:1000], "left_wrist")
    wrist = JOINTS.index("left_wrist")
    shapes = shapes_of(hidden.xy.numpy(), hidden.visibility.numpy())
    completed = bank.statistics.complete(shapes).reshape(-1, 18, 2)[:, wrist]
    distance = np.linalg.norm(completed - bank.descriptors[:1000].reshape(-1, 18, 2)[:, wrist], axis=-1)
    stated = bank.statistics.uncertainty(shapes)
    assert np.sqrt((distance**2).mean()) == pytest.approx(float(stated[0, wrist]), rel=0.1)
    assert (np.delete(stated, wrist, axis=1) == 0).all()
    farther = hide(hidden, "left_elbow")
    shapes = shapes_of(farther.xy.numpy(), farther.visibility.numpy())
    assert (bank.statistics.uncertainty(shapes)[:, wrist] > stated[:, wrist]).all()


def test_the_uncertainty_of_rows():
    bank = PoseBank.build(random_people(50, seed=1, missing=0.2))
    stated = bank.uncertainty([[0, 1], [2, 3]])
    assert stated.shape == (2, 2, 18)
    np.testing.assert_array_equal(stated.reshape(4, 18) == 0, bank.visibility[:4] > 0)


# Storage


@pytest.fixture
def stored(bank, tmp_path) -> Path:
    bank.save(tmp_path / "bank")
    return tmp_path / "bank"


def rewrite(folder: Path, name: str, array: np.ndarray) -> None:
    """Replaces an array and its checksum, as a faulty writer would."""
    np.save(folder / f"{name}.npy", array)
    manifest = json.loads((folder / "bank.json").read_text())
    manifest["sha256"][f"{name}.npy"] = hashlib.sha256((folder / f"{name}.npy").read_bytes()).hexdigest()
    (folder / "bank.json").write_text(json.dumps(manifest))


def test_a_stored_bank_comes_back_the_same(bank, stored):
    back = PoseBank.load(stored)
    assert isinstance(back.xy, np.memmap)
    assert back.content_hash == bank.content_hash
    assert back.frame == bank.frame
    for name in ("xy", "visibility", "names", "pids", "camids", "usable", "descriptors", "clusters", "rarity"):
        np.testing.assert_array_equal(getattr(back, name), getattr(bank, name))
    people = random_people(10, seed=30, missing=0.2)
    found, expected = back.search(people, k=7), bank.search(people, k=7)
    assert found.indices.tolist() == expected.indices.tolist()
    assert found.oks.tolist() == expected.oks.tolist()
    back.keypoints([0, 1]).xy.zero_()  # a copy, neither read-only nor written through
    np.testing.assert_array_equal(back.xy, bank.xy)


def test_saving_twice_gives_the_same_bytes_and_never_overwrites(bank, stored, tmp_path):
    bank.save(tmp_path / "again")
    for file in stored.iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()
    with pytest.raises(BadInput, match="again: exists and is not empty"):
        bank.save(tmp_path / "again")


def test_a_directory_without_a_bank(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path, tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(BadInput, match=rf"{path}: no pose bank here \(bank\.json is missing\); needed"):
            PoseBank.load(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[" * 1100, "not usable JSON"),
        ("[]", "not the description of a pose bank"),
        ('{"format": "other"}', "not the description of a pose bank"),
        ('{"format": "xingaug-pose-bank", "version": 1}', "version 1, needed 2; build the bank again"),
        ('{"format": "xingaug-pose-bank", "version": 2}', "frame, poses, index or sha256 is missing or malformed"),
        (
            '{"format": "xingaug-pose-bank", "version": 2, "frame": [128, 0], "poses": 3, "sha256": {}, "index": {}}',
            "frame, poses, index or sha256 is missing or malformed",
        ),
        (
            '{"format": "xingaug-pose-bank", "version": 2, "frame": [128, 64], "poses": 0, "sha256": {}, "index": {}}',
            "frame, poses, index or sha256 is missing or malformed",
        ),
        (
            '{"format": "xingaug-pose-bank", "version": 2, "frame": [128, 64], "poses": 3, "sha256": {}, "index": {}}',
            "truncated or changed",
        ),
    ],
)
def test_a_faulty_description_is_refused(stored, text, message):
    (stored / "bank.json").write_text(text)
    with pytest.raises(BadInput, match=message) as error:
        PoseBank.load(stored)
    assert str(error.value).startswith(str(stored))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["xy", "names", "usable", "clusters", "mean", "landmarks"])
def test_a_spoilt_file_is_named(stored, name):
    file = stored / f"{name}.npy"
    whole = file.read_bytes()
    changed = bytearray(whole)
    changed[-1] ^= 1
    for contents in (whole[:-8], b"", bytes(changed)):
        file.write_bytes(contents)
        with pytest.raises(BadInput, match=rf"{name}\.npy: truncated or changed"):
            PoseBank.load(stored)
    file.unlink()
    with pytest.raises(BadInput, match=rf"{name}\.npy: missing from the pose bank"):
        PoseBank.load(stored)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("xy", np.full((300, 18, 2), np.nan, np.float32), "NaN or infinite values"),
        ("covariance", np.full((36, 36), np.inf), "NaN or infinite values"),
        ("xy", np.zeros((299, 18, 2), np.float32), r"needed <f4 \(300, 18, 2\)"),
        ("xy", np.zeros((300, 18, 2), np.float64), r"needed <f4 \(300, 18, 2\)"),
        ("names", np.zeros(300, np.int64), r"needed U \(300,\)"),
        ("names", np.full(300, 0xD800, np.uint32).view("<U1"), "names with numbers that are no characters"),
        ("usable", np.zeros(300, bool), "no pose is usable"),
        ("visibility", np.full((300, 18), 1.5, np.float32), r"values outside \[0, 1\]"),
        ("visibility", np.full((300, 18), -1, np.float32), r"values outside \[0, 1\]"),
        ("descriptors", np.full((300, 36), 1e30, np.float32), "values outside"),
        ("rarity", np.full(300, -1, np.float32), "values outside"),
        ("covariance", np.zeros((36, 36)), "not positive definite"),
        ("clusters", np.full(300, -1, np.int32), "a usable pose without a group"),
    ],
)
def test_files_of_other_contents_are_refused(stored, name, array, message):
    rewrite(stored, name, array)
    with pytest.raises(BadInput, match=rf"{name}\.npy: .*{message}"):
        PoseBank.load(stored)


@pytest.mark.parametrize("change", [{"visibility": 0}, {"xy": 0}, {"xy": 1e5}])
def test_poses_that_are_marked_usable_and_are_not_are_refused(bank, stored, change):
    for name, value in change.items():
        rewrite(stored, name, np.full_like(getattr(bank, name), value))
    with pytest.raises(BadInput, match=r"usable\.npy: a pose is marked usable that has too few joints, no torso, or"):
        PoseBank.load(stored)


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ({"factory": 5}, r"bank\.json: index\.factory: 5 \(a whole number\), expected a string"),
        ({"candidates": 1.5}, r"bank\.json: index\.candidates: 1.5 \(a number\), expected a whole number"),
        ({"candidates": 10**9}, "candidates: 1000000000, needed at most 65536"),
        ({"probes": -1}, "probes: -1, needed 0"),
        ({"prober": 1}, "unknown key 'index.prober'"),
        ({"factory": "HNSW0"}, "'HNSW0' does not fit 300 poses"),
        ({"factory": "IVF100000000,Flat"}, "100000000 after IVF, needed 1 to 300"),
    ],
)
def test_an_index_that_no_bank_has_is_refused(stored, index, said):
    manifest = json.loads((stored / "bank.json").read_text())
    (stored / "bank.json").write_text(json.dumps(manifest | {"index": index}))
    with pytest.raises(BadInput, match=said):
        PoseBank.load(stored)


def test_the_index_of_another_bank_is_refused(bank, tmp_path):
    settings = IndexSettings("IVF4,Flat")
    replace(bank, settings=settings).save(tmp_path / "bank")
    PoseBank.build(random_people(90, seed=2), settings=settings).save(tmp_path / "other")
    foreign = (tmp_path / "other" / "index.faiss").read_bytes()
    (tmp_path / "bank" / "index.faiss").write_bytes(foreign)
    manifest = json.loads((tmp_path / "bank" / "bank.json").read_text())
    manifest["sha256"]["index.faiss"] = hashlib.sha256(foreign).hexdigest()
    (tmp_path / "bank" / "bank.json").write_text(json.dumps(manifest))
    with pytest.raises(BadInput, match=r"index\.faiss: of \d+ vectors of 288, not of this bank"):
        PoseBank.load(tmp_path / "bank").search(random_people(2, seed=3), k=1)


def test_pipes_and_files_with_holes_are_refused_at_once(stored):
    os.truncate(stored / "names.npy", 100_000_000_000)
    with pytest.raises(BadInput, match=r"names\.npy: truncated or changed, it has 100000000000 bytes"):
        PoseBank.load(stored)
    (stored / "names.npy").unlink()
    os.mkfifo(stored / "names.npy")
    with pytest.raises(BadInput, match=r"names\.npy: missing from the pose bank"):
        PoseBank.load(stored)
    (stored / "bank.json").unlink()
    os.mkfifo(stored / "bank.json")
    with pytest.raises(BadInput, match=r"bank\.json: is a pipe"):
        PoseBank.load(stored)


def test_a_bank_knows_whether_it_is_saved(bank, stored, tmp_path):
    assert bank.is_saved_as(stored)
    assert not PoseBank.build(random_people(90, seed=2)).is_saved_as(stored)
    assert not bank.is_saved_as(tmp_path)


def test_pickled_objects_are_refused(stored):
    rewrite(stored, "names", np.array(["a"] * 300, dtype=object))
    with pytest.raises(BadInput, match=r"names\.npy: not readable"):
        PoseBank.load(stored)


@pytest.mark.skipif("XINGAUG_POSES" not in os.environ, reason="XINGAUG_POSES names no folder of real poses")
def test_on_real_poses():
    with np.load(Path(os.environ["XINGAUG_POSES"]) / "train_14point.npz", allow_pickle=False) as stored:
        xy = stored["xy"].astype(np.float32) - 1
        names, joints = stored["names"], stored["joints"].tolist()
    # Their knee of the left leg and so on follow in the order of the file; the head has no counterpart.
    ours = {
        "neck": "neck",
        "sho": "shoulder",
        "elb": "elbow",
        "wri": "wrist",
        "hip": "hip",
        "kne": "knee",
        "ank": "ankle",
    }
    all_xy, visibility = np.zeros((len(xy), 18, 2), np.float32), np.zeros((len(xy), 18), np.float32)
    for column, joint in enumerate(joints):
        if joint == "head":
            continue
        side = {"r": "right_", "l": "left_"}.get(joint[0], "") if joint != "neck" else ""
        index = JOINTS.index(side + ours[joint if joint == "neck" else joint[1:]])
        all_xy[:, index], visibility[:, index] = xy[:, column], 1
    real = PoseBank.build(Keypoints(torch.from_numpy(all_xy), torch.from_numpy(visibility)), names=names)
    assert real.usable.mean() > 0.95
    rows = real.usable_rows[::97]
    hits = real.search(real.keypoints(rows), k=10)
    assert (hits.oks[:, 0] > 0.999).all()
    assert hits.oks[:, 1:].mean() > 0.8
    assert hits.oks.diff(dim=1).max() <= 0
