"""How generated images are stored, and whether what was written is whole."""

import gc
import io
import json
import shutil
import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from generating import GALLERY, QUERY, TRAIN, run, tree

from xingaug.cli import main
from xingaug.data.annotations import read_npz, write_npz
from xingaug.errors import BadInput
from xingaug.offline.config import GenerateConfig
from xingaug.offline.formats import ShardStore, read_shard
from xingaug.offline.manifest import read_manifest
from xingaug.offline.verify import verify

# Formats


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves files open
def test_shards_are_read_by_webdataset(config: GenerateConfig) -> None:
    import webdataset

    (config.data / "bounding_box_train" / "0011_c4s1_000001_00.jpg.jpg").write_bytes(
        (config.data / "bounding_box_train" / TRAIN[0]).read_bytes()
    )
    asked = replace(config, format="webdataset", shard_size=8)
    assert run(asked).synthetic == 27
    shards = sorted(str(path) for path in (config.out / "shards").iterdir())
    assert [Path(path).name for path in shards] == [
        *(f"real-{n:06d}.tar" for n in range(2)), *(f"synthetic-{n:06d}.tar" for n in range(4)),
    ]  # fmt: skip
    samples = list(webdataset.WebDataset(shards, shardshuffle=False).decode("rgb8"))
    assert len(samples) == 37
    hashes = {line.file: line for line in read_manifest(config.out / "manifest.jsonl")}
    labels = Counter()
    for sample in samples:
        about = sample["json"]
        assert sample["jpg"].shape == (32, 16, 3)
        labels[about["pid"], about["synthetic"]] += 1
        if about["synthetic"]:
            line = hashes[f"shards/{Path(sample['__url__']).name}/{sample['__key__']}.jpg"]
            assert (line.pid, line.camid, line.source, line.copy) == (
                about["pid"], about["camid"], about["source"], about["copy"],
            )  # fmt: skip
            assert about["keypoints"] == line.target_keypoints
    assert labels == {(2, False): 3, (7, False): 3, (11, False): 4, (2, True): 9, (7, True): 9, (11, True): 9}
    assert len(read_npz(config.out / "annotations.npz").names) == 36
    assert verify(config.out).problems == []
    gc.collect()  # here, where the complaint about the open files is passed over


def test_shards_hold_the_images_of_the_folder(config: GenerateConfig) -> None:
    run(config)
    shards = replace(config, format="webdataset", shard_size=8, real="omit", out=config.out.with_name("shards"))
    run(shards)
    members = {}
    for path in sorted((shards.out / "shards").iterdir()):
        members |= {name: data for name, data in read_shard(path).items() if name.endswith(".jpg")}
    folder = config.out / "bounding_box_train"
    assert members == {path.name: path.read_bytes() for path in folder.glob("*_x*.jpg")}


def test_shards_go_on_and_are_mended(config: GenerateConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = replace(config, format="webdataset", shard_size=8)
    reference = replace(asked, out=config.out.with_name("reference"))
    run(reference)
    original = ShardStore.write

    def write(store: ShardStore, part: int, samples: list) -> None:
        if store.kind == "synthetic" and part == 2:
            raise KeyboardInterrupt
        original(store, part, samples)

    monkeypatch.setattr(ShardStore, "write", write)
    with pytest.raises(KeyboardInterrupt):
        run(asked)
    monkeypatch.undo()
    assert run(asked).rendered == 11
    assert tree(config.out) == tree(reference.out)
    shard = config.out / "shards" / "synthetic-000001.tar"
    shard.write_bytes(shard.read_bytes()[:3000])
    (config.out / "shards" / "real-000000.tar").unlink()
    assert run(asked).rendered == 8
    assert tree(config.out) == tree(reference.out)


def test_the_format_and_links_are_part_of_the_configuration(config: GenerateConfig) -> None:
    run(config)
    with pytest.raises(BadInput, match=r"format = folder, now it is webdataset; shard_size = None, now it is 8"):
        run(replace(config, format="webdataset", shard_size=8))
    with pytest.raises(BadInput, match="shards hold the images themselves; needed copy or omit"):
        replace(config, format="webdataset", real="link")


# Verifying


def damaged(config: GenerateConfig) -> dict[str, str]:
    """Damages a folder in every way; what should be said of each."""
    train = config.out / "bounding_box_train"
    files = sorted(train.glob("*_x*.jpg"))
    files[0].unlink()
    files[1].write_bytes(files[2].read_bytes())
    shutil.copy(files[3], train / "0002_c1s1_000201_00_x777.jpg")
    (config.out / "query" / QUERY[0]).write_bytes(b"\xff\xd8 no image \xff\xd9")
    (config.out / "query" / "stray.jpg").write_bytes(b"")
    (config.out / "bounding_box_test" / GALLERY[2]).unlink()
    manifest = config.out / "manifest.jsonl"
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    lines[4]["pid"] = 12
    lines[5]["file"] = "bounding_box_train/../../x.jpg"
    lines[6]["copy"] = 1000
    lines[7]["source"] = lines[10]["source"]
    manifest.write_text("".join(json.dumps(line) + "\n" for line in [*lines, lines[9]]))
    known = read_npz(config.out / "annotations.npz")
    write_npz(config.out / "annotations.npz", known.names[:-1].tolist(), known.xy[:-1], known.visibility[:-1])
    return {
        "missing": f"bounding_box_train/{files[0].name}: no such image",
        "other content": f"bounding_box_train/{files[1].name}: has changed since it was written",
        "unlisted": "0002_c1s1_000201_00_x777.jpg: neither in manifest.jsonl nor in real.sha256",
        "stray": "query/stray.jpg: neither in manifest.jsonl nor",
        "real": f"query/{QUERY[0]}: has changed",
        "missing real": f"bounding_box_test/{GALLERY[2]}: no such image",
        "label": "labelled 12, camera",
        "outside": "bounding_box_train/../../x.jpg: leaves the directory",
        "copy": "copy: 1000, needed 0..999",
        "name": f"copy 1 of {lines[10]['source']} is named ",
        "doubled": "manifest.jsonl: 1 images have two lines",
        "keypoints": "annotations.npz: lacks 1 synthetic images",
    }


def test_verify_finds_what_is_wrong(config: GenerateConfig, capsys: pytest.CaptureFixture[str]) -> None:
    run(config)
    assert verify(config.out).problems == []
    assert main(["generate", "--verify", str(config.out)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "whole"
    expected = damaged(config)
    found = verify(config.out).problems
    for kind, text in expected.items():
        assert any(text in problem for problem in found), (kind, found)
    assert main(["generate", "--verify", str(config.out), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["problems"] == found


def test_verify_finds_what_is_wrong_with_shards(config: GenerateConfig) -> None:
    run(replace(config, format="webdataset", shard_size=8))
    shards = config.out / "shards"
    (shards / "synthetic-000000.tar").unlink()
    (shards / "real-000000.tar").write_bytes(b"torn")
    with tarfile.open(shards / "synthetic-000001.tar", "a") as tar:
        tar.add(config.data / "query" / QUERY[0], "0002_c1s1_000201_00_x777.jpg")
    problems = verify(config.out).problems
    for text in (
        "shards/synthetic-000000.tar: cannot be read", "shards/real-000000.tar: cannot be read",
        "x777.jpg: neither in manifest.jsonl nor in", "_x000.jpg: missing",
        "shards/real-000000.tar/0002_c1s1_000201_00.jpg: missing",
    ):  # fmt: skip
        assert any(text in problem for problem in problems), (text, problems)


def test_labels_in_shards_are_compared_and_mended(config: GenerateConfig) -> None:
    asked = replace(config, format="webdataset", shard_size=8)
    run(asked)
    before = tree(config.out)
    for kind, expected in (("real", 3), ("synthetic", 8)):
        path = config.out / "shards" / f"{kind}-000000.tar"
        files = read_shard(path)
        with tarfile.open(path, "w") as tar:
            for name, data in files.items():
                content = data.replace(b'"pid":2', b'"pid":9') if name.endswith(".json") else data
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
        problems = verify(config.out).problems
        assert len(problems) == expected, problems
        assert all("its labels do not match the image" in problem for problem in problems)
        run(asked)
        assert verify(config.out).problems == []
    assert tree(config.out) == before
    with tarfile.open(config.out / "shards" / "real-000000.tar", "a") as tar:
        tar.add(config.data / "bounding_box_train" / TRAIN[0], TRAIN[0])
    assert "occurs twice" in verify(config.out).problems[0]


def test_only_finished_datasets_can_be_verified(config: GenerateConfig) -> None:
    with pytest.raises(BadInput, match=r"holds no config.json of generate"):
        verify(config.data)
    run(config)
    (config.out / "manifest.jsonl").unlink()
    with pytest.raises(BadInput, match=r"has no manifest.jsonl yet; start generate again"):
        verify(config.out)
