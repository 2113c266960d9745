"""What several test files share: a folder to type commands in, tiny training runs, and a dataset to generate from."""

import json
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import generating
import numpy as np
import pytest
import torch
from command_lines import TINY
from patn import write_patn_csv
from training_runs import NARROW, small_data

import xingaug
from xingaug.cli import main
from xingaug.data.annotations import read_npz, write_npz
from xingaug.data.layouts import LAYOUTS
from xingaug.data.market1501 import read_split
from xingaug.data.pairs import PairData
from xingaug.data.pedestrians import write_world
from xingaug.generators import XingGANPlusPlus, save_generator
from xingaug.offline.config import GenerateConfig
from xingaug.poses import PoseBank
from xingaug.poses.collect import bank_from_tree


@pytest.fixture(autouse=True)
def denormals_as_before() -> Iterator[None]:
    yield
    torch.set_flush_denormal(False)  # a command sets it for its process, which here is that of all tests


@pytest.fixture(autouse=True)
def no_lines_of_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xingaug.progress.EVERY", float("inf"))  # a slow machine would say more than a test expects


@pytest.fixture(autouse=True)
def torch_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xingaug.generators.core.is_installed", lambda: False)  # a conversion takes long


@pytest.fixture(autouse=True, scope="session")
def cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a world, its bank, a generator that has learned nothing, pairs, and things that are wrong."""
    place = tmp_path_factory.mktemp("place")
    write_world(place / "world", 8, 4, 0, workers=1, progress=False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_generator(XingGANPlusPlus(**TINY), place / "tiny.safetensors")
    bank_from_tree(place / "world", place / "world" / "annotations.npz").save(place / "bank")
    annotations = read_npz(place / "world" / "annotations.npz")
    write_patn_csv(place / "patn.csv", annotations)
    visibility = annotations.visibility.copy()
    visibility[0] = 0
    bare = read_npz(place / "world" / "annotations.npz").keypoints(range(len(annotations)))
    poses = xingaug.Keypoints(bare.xy, torch.from_numpy(visibility))
    PoseBank.build(poses, names=annotations.names).save(place / "bank_with_bare_pose")

    gallery = read_split(place / "world", "gallery")
    first, other = np.flatnonzero(gallery.pids == gallery.pids[0]), np.flatnonzero(gallery.pids != gallery.pids[0])
    a, b, c = (str(gallery.names[i]) for i in (first[0], first[1], other[0]))
    d = str(gallery.names[np.flatnonzero(gallery.pids == gallery.pids[other[0]])[1]])
    (place / "pairs.csv").write_text(f"from,to\n{a},{b}\n{b},{a}\n{c},{d}\n")
    (place / "pairs_header.csv").write_text(f"source,target\n{a},{b}\n")
    (place / "pairs_fields.csv").write_text(f"from,to\n{a},{b}\n{a}\n")
    (place / "pairs_names.csv").write_text(f"from,to\n{a},none.jpg\n")
    (place / "pairs_persons.csv").write_text(f"from,to\n{a},{c}\n")
    (place / "pairs_itself.csv").write_text(f"from,to\n{a},{a}\n")
    (place / "pairs_none.csv").write_text("from,to\n")
    rows = annotations.lookup([b])
    write_npz(place / "one.npz", annotations.names[rows], annotations.xy[rows], annotations.visibility[rows])
    train = annotations.lookup(read_split(place / "world", "train").names[:1])
    write_npz(place / "train_a.npz", annotations.names[train], annotations.xy[train], annotations.visibility[train])
    (place / "header.csv").write_text("name,x,y\n")
    (place / "train.yaml").write_text("steps: 2\nperceptual: none\n")
    (place / "train_open.yaml").write_text("steps: 2\n")
    (place / "train_key.yaml").write_text("stesp: 2\n")
    (place / "full").mkdir()
    (place / "full" / "mine.txt").write_text("mine")
    (place / "folder.npz").mkdir()
    (place / "tiny_alone.safetensors").write_bytes((place / "tiny.safetensors").read_bytes())
    write_wrong_annotations(place)
    return place


def write_wrong_annotations(place: Path) -> None:
    """Files of other programs that cannot be read, or not for the world of the place."""
    good = np.arange(1.0, 29).reshape(1, 14, 2)
    with_nan = good.copy()
    with_nan[0, 2] = np.nan, 5
    names = np.array(["a.jpg"])
    np.savez(place / "lsp_other.npz", names=names, xy=good)
    np.savez(place / "lsp_nan.npz", names=names, xy=with_nan)
    np.savez(place / "lsp_joint.npz", names=names, xy=good, joints=np.array(["tail"] * 14))
    np.savez(place / "lsp_short.npz", names=names, xy=good[:, :13], joints=np.array(LAYOUTS["lsp14"]))
    for folder, text in (
        ("op_text", "people"),
        ("op_short", json.dumps({"people": [{"pose_keypoints_2d": [1.0] * 51}]})),
        ("op_empty", json.dumps({"people": []})),
    ):
        (place / folder).mkdir()
        (place / folder / "a_keypoints.json").write_text(text)
    images = [{"id": 1, "file_name": "a.jpg"}]
    for file, contents in (
        ("coco_key.json", {"annotations": []}),
        ("alpha_joints.json", [{"image_id": "a.jpg", "keypoints": [1] * 48, "score": 1.0}]),
        ("coco_image.json", {"images": images, "annotations": [{"image_id": 7, "keypoints": [1] * 51}]}),
        ("coco_nan.json", {"images": images, "annotations": [{"image_id": 1, "keypoints": [1, 2, 1] + [np.nan] * 48}]}),
    ):
        (place / file).write_text(json.dumps(contents))


@pytest.fixture
def run(place, monkeypatch, capsys):
    """Runs a command in the place; returns its exit code, stdout and stderr."""
    monkeypatch.chdir(place)

    def command(line: str) -> tuple[int, str, str]:
        try:
            code = main(shlex.split(line))
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        said = capsys.readouterr()
        return code, said.out, said.err

    return command


@pytest.fixture(scope="module")
def data() -> PairData:
    """Drawn pairs that a generator trains on."""
    return small_data()


@pytest.fixture
def given(data: PairData, monkeypatch: pytest.MonkeyPatch) -> PairData:
    """Lets `train` use the images that are there already."""
    monkeypatch.setattr("xingaug.training.loop.pairs_from_pedestrians", lambda *_, **__: data)
    return data


@pytest.fixture
def narrow_discriminators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xingaug.training.trainer.KINDS", NARROW)


@pytest.fixture
def config(tmp_path: Path) -> GenerateConfig:
    """Offline generation from a small dataset."""
    return generating.build_dataset(tmp_path)


@pytest.fixture
def reference(config: GenerateConfig) -> dict[str, str]:
    """The tree of an uninterrupted run into another directory."""
    out = config.out.with_name("reference")
    generating.run(replace(config, out=out))
    return generating.tree(out)
