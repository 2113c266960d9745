"""Generated datasets that were tampered with: every reader ends in one line, soon, and takes nothing that grows."""

import dataclasses
import gzip
import io
import json
import os
import tarfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from generating import TRAIN, Blend
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from xingaug.errors import BadInput, WorkFailed
from xingaug.generators.many import render_images
from xingaug.keypoints import Keypoints
from xingaug.offline.config import GenerateConfig
from xingaug.offline.formats import read_shard
from xingaug.offline.generate import generate
from xingaug.offline.journal import Entry, Journal, write_entries
from xingaug.offline.manifest import ManifestLine, read_manifest, write_manifest
from xingaug.offline.target import read_facts
from xingaug.offline.verify import verify

LINE = ManifestLine(
    "a/b.jpg", "00", "b.jpg", -1, 2, 0, 5, [[1.5, 2.0, 1.0]] * 18, "near", "frame", 3, {"contrast": 0.1}, "g", "k",
    "b.jpg",
)  # fmt: skip


def entry(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.size, made.type, made.linkname = size, kind, link
    return made


def archive(*entries: tuple[tarfile.TarInfo, bytes], form: int = tarfile.USTAR_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as tar:
        for made, data in entries:
            tar.addfile(made, io.BytesIO(data))
    return stream.getvalue()


PLAIN = (entry("a.jpg", 3), b"abc")
HUGE = entry("b.jpg", 100_000_000_000).tobuf(tarfile.GNU_FORMAT)
SHARDS = {
    "symbolic link": archive(PLAIN, (entry("b.jpg", kind=tarfile.SYMTYPE, link="/etc/passwd"), b"")),
    "hard link": archive(PLAIN, (entry("b.jpg", kind=tarfile.LNKTYPE, link="a.jpg"), b"")),
    "link to nothing": archive((entry("b.jpg", kind=tarfile.LNKTYPE, link="none.jpg"), b"")),
    "pipe": archive((entry("b.jpg", kind=tarfile.FIFOTYPE), b"")),
    "folder": archive((entry("b.jpg", kind=tarfile.DIRTYPE), b"")),
    "twice": archive(PLAIN, PLAIN),
    "of 100 GB": archive(PLAIN)[:1024] + HUGE + b"x" * 512,
    "compressed": gzip.compress(archive(PLAIN)),
    "torn": archive((entry("a.jpg", 3000), b"x" * 3000))[:1000],
    "empty": b"",
    "text": b"no archive" * 200,
}


@pytest.mark.parametrize("kind", SHARDS)
def test_shards_that_hold_anything_but_plain_files_are_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "shard.tar"
    path.write_bytes(SHARDS[kind])
    with pytest.raises(BadInput, match=f"^{path}: "):
        read_shard(path)


def test_a_bomb_under_the_name_of_a_shard_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "shard.tar"
    path.write_bytes(gzip.compress(bytes(50_000_000)))
    with pytest.raises(BadInput, match="not a readable shard"):
        read_shard(path)
    os.truncate(path, 3_000_000_000)
    with pytest.raises(BadInput, match="needed at most 2,000 MB as shard"):
        read_shard(path)


@settings(max_examples=150, deadline=None)
@given(place=st.integers(0, 1535), bits=st.integers(1, 255), cut=st.integers(0, 4096))
def test_a_damaged_shard_is_read_or_bad_input(
    tmp_path_factory: pytest.TempPathFactory, place: int, bits: int, cut: int
) -> None:
    data = bytearray(archive(PLAIN, (entry("b.json", 2), b"{}"), form=tarfile.PAX_FORMAT))
    data[place] ^= bits
    path = tmp_path_factory.getbasetemp() / "damaged.tar"
    path.write_bytes(data[: len(data) - cut])
    with suppress(BadInput):
        read_shard(path)


@pytest.mark.parametrize("kind", ["symbolic link", "hard link", "of 100 GB"])
def test_such_shards_are_told_by_verify_and_made_again(config: GenerateConfig, kind: str) -> None:
    asked = replace(config, format="webdataset", shard_size=8)
    generate(asked, progress=False, generator=Blend())
    shards = sorted((config.out / "shards").iterdir())
    before = [path.read_bytes() for path in shards]
    for path in shards:
        path.write_bytes(SHARDS[kind])
    assert any("shards/real-000000.tar: cannot be read" in problem for problem in verify(config.out).problems)
    generate(asked, progress=False, generator=Blend())
    assert [path.read_bytes() for path in shards] == before


# Manifests, configurations, journals


def written(**changes: object) -> bytes:
    return (json.dumps({**dataclasses.asdict(LINE), **changes}) + "\n").encode()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"[" * 1100 + b"]" * 1100, "line 1: "),
        (b'{"a": ' * 1100, "line 1: "),
        (b"\xff\n", "line 1: not UTF-8 text"),
        (b"x" * 30_000, "line 1: longer than 20000 bytes"),
        (written() + written(pid=2**70), "line 2: pid: 1180591620717411303424, needed a number of 64 bits"),
        (written(copy=True), "line 1: copy: True, needed int"),
        (written(target_keypoints=[[1, 2]] * 18), "line 1: target_keypoints: "),
        (written(target_keypoints=[[1, 2, "x"]] * 18), "line 1: target_keypoints: "),
        (written(target_keypoints=[[1, 2, float("nan")]] * 18), "line 1: "),
        (written(target_keypoints=[[1, 2, 1]] * 17), "line 1: target_keypoints: "),
        (written(gate={"a": [1]}), "line 1: gate: "),
        (written(seed=1).replace(b'"seed": 1', b'"seed": ' + b"1" * 5000), "line 1: "),
    ],
    ids=range(12),
)
def test_lines_that_no_manifest_has(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "manifest.jsonl"
    path.write_bytes(data)
    with pytest.raises(BadInput, match=f"^{path}, {said}"):
        read_manifest(path)


@settings(max_examples=150, deadline=None)
@given(place=st.integers(0, 10_000), new=st.binary(max_size=3))
def test_a_damaged_manifest_is_read_or_bad_input(
    tmp_path_factory: pytest.TempPathFactory, place: int, new: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.jsonl"
    write_manifest(path, [LINE])
    data = path.read_bytes()
    place %= len(data)
    path.write_bytes(data[:place] + new + data[place + 1 :])
    with suppress(BadInput):
        assert all(isinstance(line, ManifestLine) for line in read_manifest(path))


def test_pipes_and_devices_in_place_of_files_end_soon(config: GenerateConfig) -> None:
    generate(config, progress=False, generator=Blend())
    train = config.out / "bounding_box_train"
    image, manifest = sorted(train.glob("*_x*.jpg"))[0], config.out / "manifest.jsonl"
    image.unlink()
    os.mkfifo(image)
    assert any(f"{image.name}: is a pipe" in problem for problem in verify(config.out).problems)
    for target in ("/dev/zero", "pipe"):
        manifest.unlink()
        manifest.symlink_to(target) if target.startswith("/") else os.mkfifo(manifest)
        with pytest.raises(BadInput, match=r"manifest\.jsonl: is a (pipe|device); needed a regular file"):
            verify(config.out)
    (config.out / "config.json").unlink()
    os.mkfifo(config.out / "config.json")
    assert read_facts(config.out) == {}


def test_a_pipe_among_the_images_is_an_image_that_cannot_be_read(config: GenerateConfig) -> None:
    gallery = config.data / "bounding_box_test" / "0003_c3s1_000300_00.jpg"
    os.mkfifo(gallery)
    with pytest.raises(WorkFailed, match="cannot be read"):
        generate(config, progress=False, generator=Blend())
    assert len(list((config.out / "bounding_box_train").glob("*_x*.jpg"))) == 27


@pytest.mark.parametrize("text", ["[" * 1100, '{"batch_size": "x"}', '{"batch_size": 1e30}', "[]", "nul"])
def test_facts_that_generate_did_not_write(config: GenerateConfig, text: str) -> None:
    config.out.mkdir()
    (config.out / "config.json").write_text(text)
    with pytest.raises(BadInput):
        generate(replace(config, batch_size=None), progress=False, generator=Blend())


@pytest.mark.parametrize(
    "line", ["[" * 1100, '{"name": [], "sha256": "", "gate": {}}', '{"name": "", "sha256": 3, "gate": {}}', "[]", "\0"]
)
def test_a_journal_of_others_is_not_believed(tmp_path: Path, line: str) -> None:
    journal = Journal(tmp_path)
    journal.write(0, [Entry("a", "00", {})])
    assert journal.entries(0, ["a"]) == [Entry("a", "00", {})]
    write_entries(tmp_path / ".journal" / "000000" / "000000000.jsonl", [])
    (tmp_path / ".journal" / "000000" / "000000000.jsonl").write_text(line)
    assert journal.entries(0, ["a"]) == []


# Links, numbers


def test_links_out_of_the_dataset_are_refused_unless_asked_for(config: GenerateConfig, tmp_path: Path) -> None:
    image = config.data / "bounding_box_train" / TRAIN[0]
    image.rename(tmp_path / "secret.jpg")
    image.symlink_to(tmp_path / "secret.jpg")
    with pytest.raises(BadInput, match=rf"{TRAIN[0]}: leads to .*secret\.jpg, out of .* by --follow-links"):
        generate(config, progress=False, generator=Blend())
    assert not config.out.exists()
    assert generate(replace(config, follow_links=True), progress=False, generator=Blend()).real == 9


def test_images_that_are_not_finite_are_not_written(config: GenerateConfig) -> None:
    class Broken(Blend):
        def forward(self, source: Tensor, source_heatmaps: Tensor, target_heatmaps: Tensor) -> Tensor:
            return super().forward(source, source_heatmaps, target_heatmaps) * torch.nan

    with pytest.raises(WorkFailed, match="the generator gives numbers that are not finite"):
        generate(config, progress=False, generator=Broken())
    assert not list((config.out / "bounding_box_train").glob("*_x*.jpg"))


def test_images_of_one_colour_are_told_by_verify(config: GenerateConfig) -> None:
    class Black(Blend):
        def forward(self, source: Tensor, source_heatmaps: Tensor, target_heatmaps: Tensor) -> Tensor:
            return torch.full_like(source, -1)

    generate(config, progress=False, generator=Black())
    problems = verify(config.out).problems
    assert len(problems) == 27
    assert all("has one colour throughout" in problem for problem in problems)


def test_images_that_are_not_finite_are_not_measured() -> None:
    class Broken(torch.nn.Module):
        def forward(self, source: Tensor, *maps: Tensor) -> Tensor:
            return source * torch.nan

    person = Keypoints(torch.rand(2, 18, 2) * 8, torch.ones(2, 18))
    with pytest.raises(WorkFailed, match="not finite"):
        render_images(Broken(), np.zeros((2, 32, 16, 3), np.uint8), person, person)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 2**64}, "seed: "), ({"per_image": None, "per_identity": 10**30}, "per_identity: "),
        ({"budget": 10**12}, "budget: "), ({"shard_size": 10**9}, "shard_size: "),
        ({"batch_size": 10**9}, "batch_size: "), ({"engine": "ray", "workers": 10**6}, "workers: "),
    ],
)  # fmt: skip
def test_numbers_that_nothing_has_are_refused(config: GenerateConfig, change: dict, said: str) -> None:
    with pytest.raises(BadInput, match=f"^{said}"):
        replace(config, **change)
