"""Offline generation: the tree it writes, and its bytes."""

import dataclasses
import hashlib
import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from generating import GALLERY, QUERY, SIZE, TRAIN, Blend, poses, run, tree
from PIL import Image

from xingaug.augment.transform import XingPose
from xingaug.data.annotations import read_npz, write_npz
from xingaug.data.market1501 import parse_name, read_split
from xingaug.errors import BadInput, WorkFailed
from xingaug.images import read_image
from xingaug.keypoints import Keypoints
from xingaug.offline import target
from xingaug.offline.config import GenerateConfig
from xingaug.offline.manifest import ManifestLine, read_manifest, synthetic_name, write_manifest
from xingaug.poses.bank import PoseBank
from xingaug.poses.placing import Fit


def test_output_is_a_complete_dataset(config: GenerateConfig) -> None:
    summary = run(config)
    assert (summary.real, summary.synthetic, summary.rendered) == (9, 27, 27)
    assert summary.images_per_second > 0
    train = read_split(config.out, "train")
    assert train.names.tolist() == sorted(TRAIN + [synthetic_name(name, n) for name in TRAIN for n in range(3)])
    assert train.synthetic.sum() == 27
    for folder, names in (("bounding_box_train", TRAIN), ("query", QUERY), ("bounding_box_test", GALLERY)):
        for name in names:
            assert (config.out / folder / name).read_bytes() == (config.data / folder / name).read_bytes()
    assert sorted(os.listdir(config.out / "query")) == sorted(QUERY)
    assert sorted(os.listdir(config.out / "bounding_box_test")) == sorted(GALLERY)
    assert sorted(os.listdir(config.out)) == [
        ".lock", "annotations.npz", "bounding_box_test", "bounding_box_train", "config.json", "manifest.jsonl", "query",
        "real.sha256", "report.html",
    ]  # fmt: skip


def test_manifest_and_annotations_tell_the_truth(config: GenerateConfig) -> None:
    run(config)
    bank = PoseBank.load(config.bank)
    lines = read_manifest(config.out / "manifest.jsonl")
    annotations = read_npz(config.out / "annotations.npz")
    assert sorted(annotations.names.tolist()) == read_split(config.out, "train").names.tolist()
    assert len(lines) == 27
    for line in lines:
        path = config.out / line.file
        assert hashlib.sha256(path.read_bytes()).hexdigest() == line.sha256
        name = parse_name(path.name)
        assert (name.pid, name.camid, name.synthetic) == (line.pid, line.camid, line.copy)
        assert synthetic_name(line.source, line.copy) == path.name
        assert (line.sampler, line.seed, line.generator, line.bank) == ("uniform", 0, "blend", bank.content_hash)
        expected = bank.keypoints([line.bank_row]).resize(bank.frame, SIZE)
        stored = annotations.keypoints(annotations.lookup([path.name]))
        assert torch.equal(stored.xy, expected.xy)
        assert torch.allclose(torch.tensor(line.target_keypoints)[:, :2], expected.xy[0], atol=1e-3)
    source = annotations.keypoints(annotations.lookup(TRAIN))
    assert torch.equal(source.xy, torch.from_numpy(poses(9, SIZE, 3)[0]))


@pytest.mark.parametrize("fit", ["frame", "source"])
def test_images_are_those_that_the_transform_gives_in_the_epoch_of_the_copy(config: GenerateConfig, fit: Fit) -> None:
    config = replace(config, fit=fit)
    run(config)
    assert {line.fit for line in read_manifest(config.out / "manifest.jsonl")} == {fit}
    aug = XingPose(Blend(), PoseBank.load(config.bank), p=1, fit=fit)
    images = np.stack([read_image(config.data / "bounding_box_train" / name) for name in TRAIN])
    kp = Keypoints(*poses(9, SIZE, 3))
    rows = {line.file: line.bank_row for line in read_manifest(config.out / "manifest.jsonl")}
    for copy in range(3):
        out = aug(torch.from_numpy(images).movedim(-1, 1) / 255, kp, keys=TRAIN, epoch=copy)
        for name, row, image in zip(TRAIN, out.draw.bank_rows.tolist(), out.images, strict=True):
            file = f"bounding_box_train/{synthetic_name(name, copy)}"
            assert rows[file] == row
            written = torch.from_numpy(read_image(config.out / file).copy()).movedim(-1, 0) / 255
            assert (written - image).abs().mean() < 0.06  # JPEG


def test_same_configuration_same_bytes(config: GenerateConfig, reference: dict[str, str]) -> None:
    run(config)
    assert tree(config.out) == reference
    other = replace(config, out=config.out.with_name("other"), seed=1)
    run(other)
    changed = tree(other.out)
    assert changed.keys() == reference.keys()
    assert changed["manifest.jsonl"] != reference["manifest.jsonl"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 5}, r"config.json: was made with seed = 0, now it is 5"),
        ({"per_image": 2, "seed": 5}, "per_image = 3, now it is 2"),
        ({"sampler": "far"}, "sampler = uniform, now it is far"),
        ({"real": "omit"}, "real = copy, now it is omit"),
    ],
)
def test_another_configuration_is_refused(config: GenerateConfig, change: dict, message: str) -> None:
    run(config)
    before = tree(config.out)
    with pytest.raises(BadInput, match=message):
        run(replace(config, **change))
    assert tree(config.out) == before


def test_another_generator_is_refused(config: GenerateConfig) -> None:
    run(config)
    other = Blend()
    other.content_hash = "other"
    with pytest.raises(BadInput, match="generator = blend, now it is other"):
        run(config, other)


def test_a_directory_of_something_else_is_refused(config: GenerateConfig) -> None:
    config.out.mkdir()
    (config.out / "thesis.tex").write_text("precious")
    with pytest.raises(BadInput, match=r"out: not empty and without config.json"):
        run(config)
    assert os.listdir(config.out) == ["thesis.tex"]
    (config.out / "config.json").write_text("[1]")
    with pytest.raises(BadInput, match=r"config.json: does not say what it was made with; use"):
        run(config)
    file = config.out / "thesis.tex"
    with pytest.raises(BadInput, match="is no directory"):
        run(replace(config, out=file))


def test_real_images_can_be_linked_or_left_out(config: GenerateConfig) -> None:
    linked = replace(config, real="link")
    run(linked)
    for folder, name in (("bounding_box_train", TRAIN[0]), ("query", QUERY[0]), ("bounding_box_test", GALLERY[0])):
        assert (config.out / folder / name).samefile(config.data / folder / name)
    omitted = replace(config, real="omit", out=config.out.with_name("omitted"))
    assert run(omitted).real == 0
    assert len(read_split(omitted.out, "train")) == 27
    assert read_split(omitted.out, "train").synthetic.all()
    assert len(read_npz(omitted.out / "annotations.npz").names) == 27
    assert len(read_split(omitted.out, "query")) == 1
    assert len(read_split(omitted.out, "gallery")) == 2


def test_links_across_file_systems_are_refused(config: GenerateConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Path.stat

    def stat(path: Path, **arguments: bool) -> os.stat_result:
        result = original(path, **arguments)
        if path == config.data / "query":
            return os.stat_result((*result[:2], result.st_dev + 1, *result[3:]))
        return result

    monkeypatch.setattr(target.Path, "stat", stat)
    with pytest.raises(BadInput, match=r"another file system .* use real=copy"):
        run(replace(config, real="link"))
    assert not config.out.exists()


def test_images_without_usable_keypoints_are_counted(config: GenerateConfig) -> None:
    xy, visibility = poses(9, SIZE, 3)
    visibility[1, 7:] = 0
    xy[2, 4:] += 100  # outside the image: missing
    write_npz(config.annotations, TRAIN[:8], xy[:8], visibility[:8])
    summary = run(config)
    assert (summary.without_annotation, summary.unusable_keypoints, summary.synthetic) == (1, 2, 18)
    assert summary.real == 9
    sources = {line.source for line in read_manifest(config.out / "manifest.jsonl")}
    assert sources == set(TRAIN[:8]) - {TRAIN[1], TRAIN[2]}


def test_copies_without_pose_are_counted(config: GenerateConfig) -> None:
    PoseBank.build(Keypoints(*poses(1, (128, 64), 4)), names=[TRAIN[3]]).save(config.bank.with_name("one"))
    summary = run(replace(config, bank=config.bank.with_name("one")))
    assert (summary.copies_without_pose, summary.synthetic) == (3, 24)
    assert summary.rendering == "float32 by torch on cpu"


def test_images_of_several_sizes(config: GenerateConfig) -> None:
    path = config.data / "bounding_box_train" / TRAIN[4]
    Image.open(path).resize((48, 96)).save(path)
    xy, visibility = poses(9, SIZE, 3)
    xy[4] = (xy[4] + 0.5) * 3 - 0.5
    write_npz(config.annotations, TRAIN, xy, visibility)
    assert run(config).synthetic == 27
    for line in read_manifest(config.out / "manifest.jsonl"):
        assert read_image(config.out / line.file).shape == (*SIZE, 3)
    assert read_image(config.out / "bounding_box_train" / TRAIN[4]).shape == (96, 48, 3)


@pytest.mark.parametrize("kept", [0, -200])
def test_unreadable_images_fail_at_the_end_with_the_rest_done(config: GenerateConfig, kept: int) -> None:
    path = config.data / "bounding_box_train" / TRAIN[4]
    path.write_bytes(path.read_bytes()[:kept])  # nothing, or a header without the end of the pixels
    for _ in range(2):
        with pytest.raises(
            WorkFailed, match=rf"1 images cannot be read \({TRAIN[4]}\), all are listed in .*unreadable.txt"
        ):
            run(config)
        lines = read_manifest(config.out / "manifest.jsonl")
        assert len(lines) == 24
        assert TRAIN[4] not in {line.source for line in lines}
        assert (config.out / "unreadable.txt").read_text() == f"{TRAIN[4]}\n"


def bad_inputs() -> dict[str, tuple[Callable[[GenerateConfig], GenerateConfig], str]]:
    def with_test_poses(config: GenerateConfig) -> GenerateConfig:
        PoseBank.build(Keypoints(*poses(2, (128, 64), 4)), names=["a.jpg", GALLERY[2]]).save(config.bank / "test")
        return replace(config, bank=config.bank / "test")

    def with_synthetic(config: GenerateConfig) -> GenerateConfig:
        folder = config.data / "bounding_box_train"
        (folder / synthetic_name(TRAIN[0], 0)).write_bytes((folder / TRAIN[0]).read_bytes())
        return config

    def with_other_annotations(config: GenerateConfig) -> GenerateConfig:
        write_npz(config.annotations, ["../x.jpg"], *poses(1, SIZE, 0))
        return config

    def inside(config: GenerateConfig) -> GenerateConfig:
        return replace(config, out=config.data / "more")

    return {
        "data": (lambda c: replace(c, data=c.data / "nowhere"), "nowhere: no such folder"),
        "annotations": (lambda c: replace(c, annotations=c.data / "no.npz"), r"no.npz: no such"),
        "bank": (lambda c: replace(c, bank=c.data), "data"),
        "test poses": (with_test_poses, f"1 poses are of test images, such as {GALLERY[2]}"),
        "generated data": (with_synthetic, "holds synthetic images already"),
        "no sources": (with_other_annotations, r"none of 9 training images can be re-rendered \(9 without annotation"),
        "per_image": (lambda c: replace(c, per_image=0), "per_image: 0, needed 1 to 1000"),
        "batch_size": (lambda c: replace(c, batch_size=0), "batch_size: 0, needed at least 1"),
        "sampler": (lambda c: replace(c, sampler="best"), "sampler: unknown 'best'; known: uniform"),
        "real": (lambda c: replace(c, real="move"), "real: 'move', needed one of copy, link, omit"),
        "inside": (inside, "contain one another"),
    }


@pytest.mark.parametrize("name", bad_inputs())
def test_bad_input_writes_nothing(config: GenerateConfig, name: str) -> None:
    change, message = bad_inputs()[name]
    with pytest.raises(BadInput, match=message):
        run(change(config))
    assert not config.out.exists()
    assert not (config.data / "more").exists()


def test_a_directory_that_cannot_be_written(config: GenerateConfig) -> None:
    (config.out.parent / "file").write_text("")
    with pytest.raises(BadInput, match=r"file/out: lies below a file"):
        run(replace(config, out=config.out.parent / "file" / "out"))


def test_synthetic_names() -> None:
    assert synthetic_name("0002_c1s1_000451_03.jpg", 7) == "0002_c1s1_000451_03_x007.jpg"
    assert parse_name(synthetic_name("0002_c1s1_000451_03.jpg.jpg", 999)).synthetic == 999
    for name in ("../0002_c1s1_000451_03.jpg", "/etc/0002_c1s1_000451_03.jpg", "a\\0002_c1s1_000451_03.jpg"):
        with pytest.raises(BadInput, match="would leave the dataset's directory"):
            synthetic_name(name, 0)
    with pytest.raises(BadInput, match="synthetic itself"):
        synthetic_name("0002_c1s1_000451_03_x000.jpg", 0)
    with pytest.raises(BadInput):
        synthetic_name("..", 0)
    with pytest.raises(ValueError, match=r"copy: 1000, needed 0..999"):
        synthetic_name("0002_c1s1_000451_03.jpg", 1000)


def test_manifest_round_trip_and_damage(tmp_path: Path) -> None:
    line = ManifestLine(
        "a/b.jpg", "00", "b.jpg", -1, 2, 0, 5, [[1.5, 2.0, 1.0]] * 18, "near", "frame", 3, {"contrast": 0.1}, "g", "k",
        "b.jpg",
    )  # fmt: skip
    path = tmp_path / "manifest.jsonl"
    write_manifest(path, [line, line])
    assert read_manifest(path) == [line, line]
    path.write_text(path.read_text() + '{"file": "torn')
    with pytest.raises(BadInput, match=r"manifest.jsonl, line 3: not JSON"):
        read_manifest(path)
    path.write_text(json.dumps({**dataclasses.asdict(line), "pid": "2"}) + "\n")
    with pytest.raises(BadInput, match="line 1: pid: '2', needed int"):
        read_manifest(path)
    path.write_text(json.dumps({"file": "x"}) + "\n")
    with pytest.raises(BadInput, match=r"line 1: needed an object with the keys file, sha256"):
        read_manifest(path)
    with pytest.raises(BadInput, match="none: no such manifest"):
        read_manifest(tmp_path / "none")


def test_progress_bar_is_silent_where_asked(config: GenerateConfig, capfd: pytest.CaptureFixture[str]) -> None:
    run(config)
    assert capfd.readouterr().err == ""


def test_images_that_changed_are_told_apart_from_those_that_did_not(config: GenerateConfig) -> None:
    run(config)
    path = config.data / "bounding_box_train" / TRAIN[4]
    path.write_bytes(path.read_bytes()[:-2] + b"\xff\xd9")
    run(config)
    data = bytearray(path.read_bytes())
    data[-10] ^= 1
    path.write_bytes(data)  # of the same size
    with pytest.raises(BadInput, match=r"config.json: was made with data = "):
        run(config)
    path.unlink()
    with pytest.raises(BadInput, match=r"config.json: was made with images.train = 9, now it is 8; data = "):
        run(config)


@pytest.mark.parametrize("kind", ["dangling link", "bomb"])
def test_files_that_are_no_images_are_passed_over(
    config: GenerateConfig, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path = config.data / "bounding_box_train" / TRAIN[4]
    if kind == "bomb":
        Image.new("L", (400, 400)).save(path)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # twice as much is refused
    else:
        path.unlink()
        path.symlink_to("nowhere")
    with pytest.raises(WorkFailed, match=rf"1 images cannot be read \({TRAIN[4]}\)"):
        run(config)
    assert len(read_manifest(config.out / "manifest.jsonl")) == 24
    assert (config.out / "query" / QUERY[0]).exists()


def test_real_images_are_listed_for_sha256sum(config: GenerateConfig) -> None:
    run(config)
    done = subprocess.run(["sha256sum", "--check", "real.sha256"], cwd=config.out, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(": OK\n") == len(TRAIN) + len(QUERY) + len(GALLERY)
