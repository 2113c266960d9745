"""The tutorial for a dataset of one's own: every command runs, word for word and in its order, on drawn persons."""

import csv
import json
import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from command_lines import run_here
from pose_networks import memory_network

from xingaug.data.annotations import Annotations, read_annotations
from xingaug.data.layouts import LAYOUTS
from xingaug.data.market1501 import read_split
from xingaug.data.pedestrians import write_world
from xingaug.images import read_image
from xingaug.keypoints import JOINTS

ROOT = Path(__file__).resolve().parent.parent
TUTORIAL = ROOT / "examples" / "own_dataset.md"
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", TUTORIAL.read_text(), re.MULTILINE | re.DOTALL)
FOLDERS = {"bounding_box_train": "train", "query": "query", "bounding_box_test": "gallery"}

SMALL = ["model.name=osnet_x0_25", "data.height=128", "data.width=64", "data.workers=0", "train.batch_size=8"]
# What makes a command small enough for a test.
SHORTER = {
    "xingaug generate": ["--budget", "8"],
    "xingaug train": ["steps=1", "batch_size=2", "validation.identities=1", "validation.pairs=1"],
    "python -m reid_integration.train": ["train.max_iterations=1", *SMALL],
    "python -m reid_integration.compare": ["iterations=1", "seeds=[1, 2]", *(f"common.{word}" for word in SMALL)],
}


def commands() -> list[str]:
    text = "".join(text for kind, text in BLOCKS if kind == "bash").replace("\\\n", " ")
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


@dataclass(frozen=True)
class Walked:
    """The directory in which the tutorial was walked.

    Attributes:
        home: it.
        world: the drawn persons, whose images its crops are, with their exact joints.
        old: name of each of the world's images by its crop's path below `crops`.
        nobody: the crop on which the estimator finds nobody.
        said: what each command printed.
    """

    home: Path
    world: Path
    old: dict[str, str]
    nobody: str
    said: dict[str, str]


def write_crops(world: Path, crops: Path) -> dict[str, str]:
    """The world's images in names of another grammar; says which image each is."""
    old = {}
    for folder, split in FOLDERS.items():
        (crops / split).mkdir(parents=True)
        for number, image in enumerate(sorted((world / folder).glob("*.jpg"))):
            person, camera = image.name.split("_")[:2]
            name = f"{split}/{int(person) + 200}_{camera[:2]}_{number:03d}.jpg"
            shutil.copyfile(image, crops / name)
            old[name] = image.name
    return old


def of_coco(table: Annotations, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """(N, 17, 2) and (N, 17) of the images in this order."""
    rows = table.lookup(names)[:, None]
    joints = [JOINTS.index(joint) for joint in LAYOUTS["coco17"]]
    return table.xy[rows, joints], table.visibility[rows, joints]


def write_coco(path: Path, names: list[str], xy: np.ndarray, seen: np.ndarray) -> None:
    """What another program might have found."""
    images = [{"id": i, "file_name": name} for i, name in enumerate(names)]
    joints = np.concatenate([xy + 1, seen[..., None]], -1).reshape(len(names), -1)  # it errs by one pixel
    persons = [{"image_id": i, "score": 1.0, "keypoints": row} for i, row in enumerate(joints.tolist())]
    path.write_text(json.dumps({"images": images, "annotations": persons}))


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Walked:
    home, world = tmp_path_factory.mktemp("user"), tmp_path_factory.mktemp("drawn") / "world"
    (home / "configs").symlink_to(ROOT / "configs")
    (home / "examples").symlink_to(ROOT / "examples")
    write_world(world, 8, 6, 5, workers=1, progress=False)
    old = write_crops(world, home / "crops")
    (home / "crops.yaml").write_text(next(text for kind, text in BLOCKS if kind == "yaml"))

    train = [name for name in old if name.startswith("train/")]
    xy, seen = of_coco(read_annotations(world / "annotations.npz"), [old[name] for name in train])
    write_coco(home / "detections.json", train, xy, seen)
    nobody = train[3]
    known = seen * (np.array(train) != nobody)[:, None]
    memory_network(home / "rtmpose-m.onnx", [read_image(home / "crops" / name) for name in train], xy, known)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        return Walked(home, world, old, nobody, {line: run(line) for line in commands()})


def run(line: str) -> str:
    """Runs a command of the tutorial, shortened, and returns what it printed."""
    more = next((words for known, words in SHORTER.items() if line.startswith(known)), [])
    return run_here([*shlex.split(line), *more])


def said(walked: Walked, program: str) -> str:
    """What the one command that begins so printed."""
    (text,) = (text for line, text in walked.said.items() if line.startswith(program))
    return text


@pytest.mark.slow
def test_the_folder_is_read_and_has_no_leaks(walked: Walked) -> None:
    lines = said(walked, "xingaug check").splitlines()
    assert lines == [
        "train: 24 images, 4 identities, 6 cameras",
        f"query: 8 images, 4 identities, {cameras(walked, 'query')} cameras",
        f"gallery: 16 images, 4 identities, {cameras(walked, 'gallery')} cameras",
        "no leaks",
    ]


def cameras(walked: Walked, split: str) -> int:
    return len({name.split("_")[1] for name in walked.old if name.startswith(split)})


@pytest.mark.slow
def test_the_joints_that_were_found_are_the_drawn_ones(walked: Walked) -> None:
    truth = read_annotations(walked.world / "annotations.npz")
    found = read_annotations(walked.home / "runs" / "keypoints.npz")
    train = [name for name in walked.old if name.startswith("train/")]
    assert found.names.tolist() == [name for name in train if name != walked.nobody]
    assert found.source.startswith("rtmpose rtmpose-m.onnx")
    xy, seen = of_coco(truth, [walked.old[name] for name in found.names])
    xy_found, seen_found = of_coco(found, found.names.tolist())
    assert ((seen > 0) == (seen_found > 0)).all()
    off = np.linalg.norm(xy - xy_found, axis=-1)[seen > 0]
    assert np.median(off) < 0.5
    assert off.max() < 1


@pytest.mark.slow
def test_rejected_images_and_pages(walked: Walked) -> None:
    runs = walked.home / "runs"
    with (runs / "rejected.csv").open() as file:
        reasons = {row["name"]: row["reason"] for row in csv.DictReader(file)}
    assert reasons[walked.nobody] == "nobody found"
    page = (runs / "poses.html").read_text()
    assert "Usable poses, worst first" in page
    assert "Without a person" in page
    compared = said(walked, "xingaug compare-annotations")
    median = float(re.search(r"median_px: (\S+)", compared)[1])  # type: ignore[index]
    assert median == pytest.approx(2**0.5, abs=0.4)  # by which the other program errs
    assert "Largest differences" in (runs / "differences.html").read_text()


@pytest.mark.slow
def test_the_imported_keypoints_are_those_of_their_images(walked: Walked) -> None:
    tree = walked.home / "runs" / "crops"
    with (tree / "names.csv").open() as file:
        old = {row["new"]: row["old"] for row in csv.DictReader(file)}
    assert set(old.values()) == set(walked.old)
    for new, name in old.items():
        assert (tree / new).read_bytes() == (walked.home / "crops" / name).read_bytes()
    before, after = read_annotations(walked.home / "runs" / "keypoints.npz"), read_annotations(tree / "annotations.npz")
    assert len(after) == len(before) == 23
    for name in after.names:
        row, other = int(after.lookup([name])[0]), int(before.lookup([old[f"bounding_box_train/{name}"]])[0])
        assert other >= 0
        assert np.array_equal(after.xy[row], before.xy[other])
        assert np.array_equal(after.visibility[row], before.visibility[other])
    assert np.unique(read_split(tree, "train").pids).tolist() == [1, 2, 3, 4]


@pytest.mark.slow
def test_the_first_training_renders(walked: Walked) -> None:
    result = json.loads((walked.home / "runs" / "crops_first" / "result.json").read_text())
    assert result["synthetic_share"] > 0
    assert 0 <= result["results"]["crops"]["mAP"] <= 1


@pytest.mark.slow
def test_samples_and_generator(walked: Walked) -> None:
    runs = walked.home / "runs"
    assert len(list((runs / "crops_look" / "bounding_box_train").glob("*_x*.jpg"))) == 8
    assert "Samples" in (runs / "crops_look" / "report.html").read_text()
    assert (runs / "crops_generator" / "best.safetensors").is_file()
    assert list((runs / "crops_generator" / "samples").iterdir())


@pytest.mark.slow
def test_map_with_and_without(walked: Walked) -> None:
    out = walked.home / "runs" / "compare_crops"
    results = json.loads((out / "results.json").read_text())
    assert results["arms"] == ["real", "online", "own"]
    assert len(results["cells"]) == 6
    for row in results["summary"]:
        assert 0 <= row["mAP"]["mean"] <= 1
    for cell in results["cells"]:
        assert (cell["synthetic_share"] > 0) == (cell["arm"] != "real")
    report = (out / "report.html").read_text()
    assert all(text in report for text in ("online - real", "own - real", "95 % interval"))
    assert {"mAP.svg", "rank1.svg", "results.csv"} <= {file.name for file in out.iterdir()}


def test_what_the_tutorial_promises() -> None:
    lines = commands()
    assert len(lines) >= 8
    first = [line.split(" --")[0] for line in lines]
    annotate = first.index("xingaug annotate crops.yaml")
    later = first[annotate:]
    assert later.index("xingaug import crops.yaml") < later.index("python -m reid_integration.train")
    for path in re.findall(r"(?:configs|examples|tests)/\w+\.\w+", TUTORIAL.read_text()):
        assert (ROOT / path).is_file(), path
    assert max(len(line) for kind, text in BLOCKS if kind == "yaml" for line in text.splitlines()) <= 120
