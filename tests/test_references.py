"""Which image of a person is rendered: poses compared, generated datasets, batches, pairs to measure."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from generating import SIZE, STANDING, Blend, build_dataset, run, tree, write_images
from torch import Tensor

from xingaug.augment.references import References
from xingaug.augment.transform import XingPose
from xingaug.data.annotations import write_npz
from xingaug.data.market1501 import parse_name
from xingaug.errors import BadInput, WorkFailed
from xingaug.images import bytes_to_unit, read_image
from xingaug.keypoints import JOINTS, Keypoints
from xingaug.offline.config import GenerateConfig
from xingaug.offline.manifest import read_manifest
from xingaug.offline.verify import verify
from xingaug.poses.bank import PoseBank
from xingaug.poses.descriptor import shapes_of
from xingaug.poses.references import Candidates, Reference, likeness
from xingaug.training import evaluate

FACE = [JOINTS.index(name) for name in ("nose", "right_eye", "left_eye")]
NAMES = [f"0002_c{camid}s1_{i:06d}_00.jpg" for camid in (1, 2) for i in range(4)] + ["0007_c1s1_000000_00.jpg"]

NONE = np.full(9, -1)


class SourceItself(Blend):
    """The source, unchanged."""

    content_hash = "source itself"

    def forward(self, source: Tensor, source_heatmaps: Tensor, target_heatmaps: Tensor) -> Tensor:
        return source


def stepping(wide: float, faces: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """A standing person with the feet `wide` apart, in pixels of `SIZE`, from the front or from behind."""
    shares = STANDING.copy()
    shares[[10, 13], 0] = 0.5 + np.array([-wide, wide], np.float32) / 2
    visibility = np.ones(18, np.float32)
    if not faces:
        visibility[FACE] = 0
    return shares * (SIZE[1], SIZE[0]) - 0.5, visibility


def poses_of(*people: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    xy, visibility = (np.stack(part) for part in zip(*people, strict=True))
    return xy, visibility


def test_a_pose_is_most_like_itself_and_a_face_counts() -> None:
    shapes = shapes_of(*poses_of(stepping(0.1), stepping(0.3), stepping(0.6), stepping(0.1, faces=False)))
    table = likeness(shapes[:, None], shapes[None])
    np.testing.assert_allclose(table.diagonal(), 1)
    np.testing.assert_allclose(table, table.T)
    assert table[0, 1] > table[0, 2]
    assert table[0, 3] == pytest.approx(15 / 18)


def test_the_nearest_image_of_the_person_and_camera_is_chosen() -> None:
    people = [stepping(wide) for wide in (0.1, 0.3, 0.5)]
    shapes = shapes_of(*poses_of(*people, *people, *people))
    pids, camids = np.array([1, 1, 1, 1, 1, 1, 2, 2, 2]), np.array([1, 1, 1, 2, 2, 2, 1, 1, 1])
    targets = shapes_of(*poses_of(stepping(0.5), stepping(0.28), stepping(0.1), stepping(0.5)))
    found = Candidates.of(shapes, pids, camids).nearest(np.array([0, 0, 5, 6]), targets, NONE[:4])
    assert found.tolist() == [2, 1, 3, 8]


def test_an_image_is_kept_where_no_other_is_nearer() -> None:
    shapes = shapes_of(*poses_of(stepping(0.3), stepping(0.3), stepping(0.3)))
    ones, rows = np.ones(3, np.int64), np.arange(3)
    assert Candidates.of(shapes, ones, ones).nearest(rows, shapes, NONE[:3]).tolist() == [0, 1, 2]
    without_torso = shapes_of(np.zeros((3, 18, 2)), np.zeros((3, 18)))
    assert Candidates.of(without_torso, ones, ones).nearest(rows, shapes, NONE[:3]).tolist() == [0, 1, 2]


def test_an_image_is_not_chosen_for_its_own_pose_or_with_too_few_joints() -> None:
    few = stepping(0.5)
    few[1][[0, *FACE, 3, 4, 6, 7, 9, 12, 16, 17]] = 0  # 7 joints
    shapes = shapes_of(*poses_of(stepping(0.1), stepping(0.5), stepping(0.3), few))
    candidates = Candidates.of(shapes, np.ones(4, np.int64), np.ones(4, np.int64))
    target = shapes[[1]]
    assert candidates.nearest(np.array([0]), target, np.array([-1])).tolist() == [1]
    assert candidates.nearest(np.array([0]), target, np.array([1])).tolist() == [2]
    assert candidates.nearest(np.array([0]), shapes_of(*poses_of(few)), np.array([1])).tolist() != [3]


@pytest.fixture
def steps(tmp_path: Path) -> GenerateConfig:
    """Two persons: one by two cameras in four poses each, which are the bank's poses too, and one in a single image."""
    config = replace(build_dataset(tmp_path / "nine"), per_image=4)
    people = [stepping(wide) for wide in (0.1, 0.25, 0.4, 0.55)]
    write_images(tmp_path / "steps" / "bounding_box_train", NAMES, 5)
    xy, visibility = poses_of(*people, *people, people[0])
    write_npz(tmp_path / "steps.npz", NAMES, xy, visibility)
    frame = Keypoints(torch.from_numpy(xy[:4]), torch.from_numpy(visibility[:4])).resize(SIZE, (128, 64))
    PoseBank.build(frame, names=[f"0099_c1s1_{i:06d}_00.jpg" for i in range(4)]).save(tmp_path / "bank")
    return replace(
        config, data=tmp_path / "steps", annotations=tmp_path / "steps.npz", bank=tmp_path / "bank",
        reference="camera", out=tmp_path / "out",
    )  # fmt: skip


def test_images_are_rendered_from_the_nearest_of_the_same_person_and_camera(steps: GenerateConfig) -> None:
    assert run(steps, SourceItself()).synthetic == 36
    lines = read_manifest(steps.out / "manifest.jsonl")
    for line in lines:
        wanted = line.source if line.source == NAMES[8] else f"{line.source[:10]}{line.bank_row:06d}_00.jpg"
        assert line.reference == wanted
        image, real = (read_image(path) for path in (steps.out / line.file, steps.data / real_file(line.reference)))
        assert np.abs(image.astype(int) - real).mean() < 12  # JPEG of noise; another image is 60 levels away
    assert any(line.reference != line.source for line in lines)


def real_file(name: str) -> str:
    return f"bounding_box_train/{name}"


def test_no_image_is_rendered_in_its_own_pose(steps: GenerateConfig) -> None:
    bank = PoseBank.load(steps.bank)
    PoseBank.build(bank.keypoints(range(4)), names=NAMES[:4]).save(steps.bank.with_name("own"))
    run(replace(steps, bank=steps.bank.with_name("own")), SourceItself())
    lines = read_manifest(steps.out / "manifest.jsonl")
    assert all(line.reference != NAMES[line.bank_row] for line in lines)
    assert any(line.reference != line.source for line in lines)


def test_a_reference_of_someone_else_is_found(steps: GenerateConfig) -> None:
    run(steps)
    assert not verify(steps.out).problems
    path = steps.out / "manifest.jsonl"
    first, *rest = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps({**json.loads(first), "reference": NAMES[4]}), *rest]) + "\n")
    assert [problem.partition(": ")[2] for problem in verify(steps.out).problems] == [
        f"rendered from {NAMES[4]}, needed an image of the person and camera of {NAMES[0]}"
    ]


def test_names_labels_and_poses_do_not_depend_on_it(steps: GenerateConfig) -> None:
    run(steps)
    run(replace(steps, reference="image", out=steps.out.with_name("image")))
    by_camera, by_image = (read_manifest(out / "manifest.jsonl") for out in (steps.out, steps.out.with_name("image")))
    for one, other in zip(by_camera, by_image, strict=True):
        assert replace(one, sha256="", reference="") == replace(other, sha256="", reference="")
        assert other.reference == other.source
        assert (one.sha256 == other.sha256) == (one.reference == other.source)


def test_a_stopped_run_goes_on_and_another_reference_is_refused(steps: GenerateConfig) -> None:
    run(replace(steps, out=steps.out.with_name("whole")))
    calls = []

    class Interrupted(Blend):
        def forward(self, *maps: Tensor) -> Tensor:
            calls.append(1)
            if len(calls) == 4:
                raise KeyboardInterrupt
            return super().forward(*maps)

    with pytest.raises(KeyboardInterrupt):
        run(steps, Interrupted())
    with pytest.raises(BadInput, match="reference = camera, now it is None"):
        run(replace(steps, reference="image"))
    run(steps)
    assert tree(steps.out) == tree(steps.out.with_name("whole"))


def test_an_image_that_cannot_be_read_is_named_not_its_neighbours(steps: GenerateConfig) -> None:
    path = steps.data / real_file(NAMES[1])
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(WorkFailed, match=rf"1 images cannot be read \({NAMES[1]}\)"):
        run(steps)
    made = {line.source for line in read_manifest(steps.out / "manifest.jsonl")}
    assert made >= {NAMES[0], NAMES[2], NAMES[3]}


def test_another_image_cannot_be_fitted_to(steps: GenerateConfig) -> None:
    with pytest.raises(BadInput, match="reference: 'camera', fit: 'source'; needed fit 'frame'"):
        replace(steps, fit="source")
    with pytest.raises(BadInput, match="reference: 'person', needed one of image, camera"):
        replace(steps, reference="person")


def test_a_manifest_without_references_is_of_the_sources(steps: GenerateConfig) -> None:
    run(replace(steps, reference="image"))
    path = steps.out / "manifest.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({k: v for k, v in line.items() if k != "reference"}) + "\n" for line in lines))
    assert [line.reference for line in read_manifest(path)] == [line["source"] for line in lines]


@pytest.fixture
def batch(steps: GenerateConfig) -> tuple[References, Tensor, Keypoints]:
    """The images of `steps` as a batch in [0, 1], with their keypoints, and the references to render from."""
    paths = [steps.data / real_file(name) for name in NAMES]
    people = [stepping(wide) for wide in (0.1, 0.25, 0.4, 0.55)]
    keypoints = Keypoints(*(torch.from_numpy(part) for part in poses_of(*people, *people, people[0])))
    labels = [parse_name(name) for name in NAMES]
    pids, camids = np.array([label.pid for label in labels]), np.array([label.camid for label in labels])
    images = bytes_to_unit(torch.from_numpy(np.stack([read_image(path) for path in paths])))
    return References(paths, NAMES, keypoints, pids, camids, SIZE), images, keypoints


@pytest.mark.parametrize("reuse", [1, 3])
def test_a_batch_is_rendered_from_the_nearest_images(
    steps: GenerateConfig, batch: tuple[References, Tensor, Keypoints], reuse: int
) -> None:
    references, images, keypoints = batch
    bank = PoseBank.load(steps.bank)
    aug = XingPose(SourceItself(), bank, p=1, dtype="float32", reuse=reuse, references=references)
    for epoch in range(3):
        out = aug(images, keypoints, keys=NAMES, epoch=epoch)
        rows = out.draw.bank_rows.tolist()
        wanted = [4 * (i // 4) + row if i < 8 else 8 for i, row in enumerate(rows)]
        assert wanted != list(range(9))
        assert torch.allclose(out.images, images[wanted], atol=1e-3 if reuse == 1 else 1 / 255)
    some = [1, 6]
    alone = aug(images[some], keypoints[some], keys=[NAMES[i] for i in some], epoch=2)
    assert torch.allclose(alone.images, out.images[some], atol=1e-3 if reuse == 1 else 1 / 255)
    new = aug(images, keypoints, keys=[f"x{name}" for name in NAMES])
    assert torch.allclose(new.images, images, atol=1 / 255)  # not among the references


@pytest.mark.parametrize("folder", ["", "data/bounding_box_train/"])
def test_an_image_named_by_another_path_is_not_rendered_in_its_own_pose(
    batch: tuple[References, Tensor, Keypoints], folder: str
) -> None:
    references, images, keypoints = batch
    for taken_from, is_there in ((f"{folder}{NAMES[1]}", False), ("elsewhere.jpg", True)):
        out, _ = references.replace(images[:1], keypoints[[0]], NAMES[:1], keypoints[[1]], [taken_from])
        assert torch.equal(out[0], images[1]) == is_there


def test_references_are_checked(steps: GenerateConfig, batch: tuple[References, Tensor, Keypoints]) -> None:
    references, images, keypoints = batch
    bank = PoseBank.load(steps.bank)
    with pytest.raises(ValueError, match=r"reference: 'camera', fit: 'source'; needed fit 'frame'"):
        XingPose(Blend(), bank, fit="source", references=references)
    with pytest.raises(ValueError, match=r"references: str, needed References or None"):
        XingPose(Blend(), bank, references="camera")  # type: ignore[arg-type]
    small = Blend()
    small.size = (16, 8)
    with pytest.raises(ValueError, match=r"references: of \(32, 16\), needed the generator's \(16, 8\)"):
        XingPose(small, bank, references=references)
    with pytest.raises(ValueError, match=r"paths, names, keypoints, pids, camids: \[1, 9, 9, 9, 9\] of them"):
        References(NAMES[:1], NAMES, keypoints, np.arange(9), np.arange(9), SIZE)
    aug = XingPose(Blend(), bank, p=1, references=references)
    with pytest.raises(ValueError, match="keys"):
        aug(images, keypoints, draw=aug.draw(keypoints, NAMES, size=SIZE))
    for name in NAMES[:4]:
        (steps.data / real_file(name)).unlink()
    with pytest.raises(BadInput, match="0002_c1s1_00000"):
        aug(images[:4], keypoints[:4], keys=NAMES[:4])


def test_pairs_are_measured_from_the_nearest_image_but_never_from_the_target(
    steps: GenerateConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "load_generator", lambda *_: SourceItself())

    def figures(pairs: list[tuple[int, int]], reference: Reference) -> dict:
        path = steps.out.with_name(f"{reference}.csv")
        path.write_text("from,to\n" + "".join(f"{NAMES[a]},{NAMES[b]}\n" for a, b in pairs))
        config = evaluate.EvaluateConfig(
            "", steps.data, steps.annotations, path, split="train", reference=reference, dtype="float32"
        )
        return evaluate.evaluate(config, progress=False)

    # 3 and 7 have the same pose, and 7 is of another camera than 0.
    by_camera = figures([(0, 3), (0, 7), (4, 7)], "camera")
    assert by_camera.pop("reference") == "camera"
    assert by_camera == figures([(2, 3), (3, 7), (6, 7)], "image")
    assert by_camera != figures([(0, 3), (0, 7), (4, 7)], "image")
