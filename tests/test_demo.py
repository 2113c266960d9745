"""The demo as a user runs it, on a world of a few persons; its page is looked at in a browser where there is one."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from command_lines import NoProcesses
from patn import write_patn_csv
from PIL import Image

from xingaug import demo
from xingaug.data.annotations import read_annotations
from xingaug.data.market1501 import read_split
from xingaug.data.pedestrians import write_world
from xingaug.demo import DemoConfig, run_demo, write_subset
from xingaug.errors import BadInput
from xingaug.generators import load_generator


@pytest.fixture(scope="module", autouse=True)
def comparison_in_this_process() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "subprocess", NoProcesses)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:  # type: ignore[type-arg]
    out = tmp_path_factory.mktemp("demo") / "out"
    return out, run_demo(DemoConfig(out, identities=6, iterations=2))


def test_demo_reports_what_it_measured(finished: tuple[Path, dict]) -> None:  # type: ignore[type-arg]
    out, figures = finished
    assert set(figures["reid"]) == {"real", "xinggan_pose"}
    assert all(0 <= figures["reid"][arm][key] <= 1 for arm in figures["reid"] for key in ("mAP", "rank1", "mINP"))
    held_out = figures["held_out"]
    assert held_out["generated"]["pairs"] == held_out["copy_source"]["pairs"] > 10
    assert held_out["generated"]["ssim"] > held_out["copy_source"]["ssim"] + 0.1
    assert held_out["generated"]["person_ssim"] > held_out["copy_source"]["person_ssim"] + 0.2
    assert len(figures["seconds"]) == 7
    cells = json.loads((out / "reid" / "results.json").read_text())["cells"]
    assert [cell["iterations"] for cell in cells] == [2, 2]
    assert [cell["synthetic_share"] > 0 for cell in cells] == [False, True]
    assert "load_weights: osnet_x0_25-pedestrians" in (out / "compare.yaml").read_text()
    assert len((out / "augmented" / "manifest.jsonl").read_text().splitlines()) == 6 * 8


def test_page_is_self_contained_and_shows_everything(finished: tuple[Path, dict]) -> None:  # type: ignore[type-arg]
    page = (finished[0] / "report.html").read_text()
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page)
    for text in (
        "target pose", "true image", "copying the source", "mAP", "Rank-1", "Rank-10", "mINP", "not that accuracy",
        "Time of each step", "<svg",
    ):  # fmt: skip
        assert text in page
    assert page.count('src="data:image/png;base64,') > 60


def test_page_in_a_real_browser(finished: tuple[Path, dict], tmp_path: Path) -> None:  # type: ignore[type-arg]
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium is installed")
    picture = tmp_path / "page.png"
    subprocess.run(
        [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
            "--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}",
            "--hide-scrollbars", "--window-size=1200,2400", f"--screenshot={picture}",
            (finished[0] / "report.html").resolve().as_uri(),
        ],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    pixels = np.asarray(Image.open(picture).convert("RGB"))
    assert pixels.shape == (2400, 1200, 3)
    # Photographs of persons have thousands of colours; a page whose pictures are broken has a few dozen.
    assert len(np.unique(pixels[300:].reshape(-1, 3), axis=0)) > 3000


def test_a_finished_demo_is_not_run_again(finished: tuple[Path, dict]) -> None:  # type: ignore[type-arg]
    out, figures = finished
    kept = [
        *(out / "reid").rglob("model.safetensors"),
        *(out / "augmented").rglob("*.jpg"),
        out / "data" / "world.json",
    ]
    before = {path: path.stat().st_mtime_ns for path in kept}
    again = run_demo(DemoConfig(out, identities=6, iterations=2))
    assert {path: path.stat().st_mtime_ns for path in kept} == before
    assert again["reid"] == figures["reid"]
    with pytest.raises(BadInput, match="was made with iterations = 2, now it is 3; name another --out"):
        run_demo(DemoConfig(out, identities=6, iterations=3))


def test_subset_of_a_tree_and_its_demo(tmp_path: Path) -> None:
    world, part = tmp_path / "world", tmp_path / "part"
    write_world(world, 12, 6, 3, workers=1, progress=False)
    table = read_annotations(world / "annotations.npz")
    train = table.lookup(read_split(world, "train").names)
    csv = tmp_path / "train.csv"
    write_patn_csv(csv, type(table)(table.names[train], table.xy[train], table.visibility[train], "test"))
    write_subset(world, csv, part, 3)
    for split in ("train", "query", "gallery"):
        assert len(np.unique(read_split(part, split).pids)) == 3  # type: ignore[arg-type]
    assert set(read_annotations(part / "annotations.npz").names) == set(read_split(part, "train").names)
    figures = run_demo(DemoConfig(tmp_path / "demo", data=world, annotations=csv, identities=4, iterations=1))
    assert "held_out" not in figures
    assert figures["training_pairs"]["generated"]["pairs"] == 4 * 6
    assert "The persons are from the training images" in (tmp_path / "demo" / "report.html").read_text()
    assert "drawn pedestrians only" in (tmp_path / "demo" / "report.html").read_text()
    assert "load_weights: ''" in (tmp_path / "demo" / "compare.yaml").read_text()


def test_query_and_gallery_may_have_images_of_one_name(tmp_path: Path) -> None:
    world, part = tmp_path / "world", tmp_path / "part"
    write_world(world, 6, 3, 3, workers=1, progress=False)
    image = min((world / "query").glob("*.jpg"))
    (world / "bounding_box_test" / image.name).write_bytes(image.read_bytes())
    write_subset(world, world / "annotations.npz", part, 3)
    assert image.name in read_annotations(part / "annotations.npz").names


def test_annotated_test_images_are_the_pairs_of_a_dataset(tmp_path: Path) -> None:
    world, part = tmp_path / "world", tmp_path / "part"
    write_world(world, 12, 6, 3, workers=1, progress=False)
    write_subset(world, world / "annotations.npz", part, 3)
    splits = {name: read_split(part, name) for name in ("train", "query", "gallery")}  # type: ignore[arg-type]
    annotations = read_annotations(part / "annotations.npz")
    assert set(annotations.names) == {name for split in splits.values() for name in split.names}
    config = DemoConfig(tmp_path / "demo", data=world, annotations=world / "annotations.npz")
    pairs = demo._pairs(config, part, splits, annotations, load_generator("pedestrians-small"))
    assert pairs.are_held_out
    assert pairs.generated.pairs == len(splits["gallery"])


def test_bad_input_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="belong together"):
        DemoConfig(tmp_path / "x", data=tmp_path)
    with pytest.raises(BadInput, match="--seed: 77, of the persons that the re-ID network starts from"):
        DemoConfig(tmp_path / "x", seed=77)
    with pytest.raises(BadInput, match="generator 'nobody'"):
        run_demo(DemoConfig(tmp_path / "x", generator="nobody"))
    with pytest.raises(BadInput):
        run_demo(DemoConfig(tmp_path / "x", data=tmp_path / "none", annotations=tmp_path / "none.csv"))
    assert not (tmp_path / "x").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(BadInput, match=r"mine: not empty and without demo\.json, but holds thesis\.txt"):
        run_demo(DemoConfig(tmp_path / "mine"))
