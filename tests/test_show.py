"""`xingaug show`: what the page holds, and that a browser clicks through it."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from browser import browser
from generating import build_dataset
from generating import run as generate
from PIL import Image

from xingaug.augment.gate import GateConfig
from xingaug.data.annotations import read_annotations
from xingaug.data.market1501 import read_split
from xingaug.offline.look import show_dataset
from xingaug.offline.manifest import read_manifest
from xingaug.report import show
from xingaug.report.show import Rendering, doubt_of_rendering, write_show_page


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated dataset of three identities, some of whose images the gate rejected."""
    config = build_dataset(tmp_path_factory.mktemp("show"))
    generate(replace(config, out=config.out.with_name("gated"), gate=GateConfig(min_contrast=0.0), tries=1))
    seen = [line.gate["contrast"] for line in read_manifest(config.out.with_name("gated") / "manifest.jsonl")]
    gate = GateConfig(min_contrast=float(np.median(seen)))
    generate(replace(config, out=config.out.with_name("half"), gate=gate, tries=1))
    return config.out.with_name("half")


def data_of(page: Path) -> dict:  # type: ignore[type-arg]
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_the_page_holds_every_image_with_its_pose(made: Path, tmp_path: Path) -> None:
    shown = show_dataset(made, tmp_path / "page.html")
    train, lines = read_split(made, "train"), read_manifest(made / "manifest.jsonl")
    identities = data_of(tmp_path / "page.html")["identities"]
    assert (shown.images, shown.identities, shown.renderings) == (len(train), 3, len(lines))
    assert shown.rejected == sum(entry["rejected"] for entry in identities) > 0
    assert [entry["doubt"] for entry in identities] == sorted((entry["doubt"] for entry in identities), reverse=True)
    images = {image["file"]: image for entry in identities for image in entry["real"] + entry["made"]}
    assert set(images) == {train.file(i) for i in range(len(train))}
    table = read_annotations(made / "annotations.npz")
    for line in lines:
        assert images[line.file]["gate"] == line.gate
        assert images[line.file]["joints"] == line.target_keypoints
        assert images[line.file]["of"] == line.source
    real = next(image for entry in identities for image in entry["real"])
    row = int(table.lookup([Path(real["file"]).name])[0])
    assert np.allclose(np.array(real["joints"])[:, :2], table.xy[row], atol=0.01)
    assert all(image["src"].startswith("data:image/jpeg;base64,") for image in images.values())
    assert "http" not in re.sub(r'"data:[^"]*"|http://www.w3.org/2000/svg', "", (tmp_path / "page.html").read_text())


def test_any_dataset_is_shown(made: Path, tmp_path: Path) -> None:
    config = made.parent / "data"
    shown = show_dataset(config, tmp_path / "page.html")
    assert (shown.images, shown.renderings, shown.rejected) == (9, 0, 0)
    assert all(
        image["joints"] == [] for entry in data_of(tmp_path / "page.html")["identities"] for image in entry["real"]
    )
    with_poses = show_dataset(config, tmp_path / "page.html", made.parent / "annotations.npz")
    assert with_poses.images == 9
    assert all(len(image["joints"]) == 18 for e in data_of(tmp_path / "page.html")["identities"] for image in e["real"])


def test_many_images_become_thumbnails_of_the_most_doubtful(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    show_dataset(made, tmp_path / "whole.html")
    first = data_of(tmp_path / "whole.html")["identities"][0]
    monkeypatch.setattr(show, "WHOLE_IMAGES", 5)
    monkeypatch.setattr(show, "MOST_IMAGES", len(first["real"]) + len(first["made"]))
    monkeypatch.setattr(show, "_THUMBNAIL", (16, 16))
    show_dataset(made, tmp_path / "thumbnails.html")
    identities = data_of(tmp_path / "thumbnails.html")["identities"]
    assert [entry["pid"] for entry in identities] == [first["pid"]]
    assert len(identities[0]["real"][0]["src"]) < len(first["real"][0]["src"])
    assert identities[0]["real"][0]["size"] == [16, 32]  # the image's own, in which its joints are
    assert "the 1 most doubtful identities of 3" in (tmp_path / "thumbnails.html").read_text()


def test_names_cannot_leave_the_data(made: Path, tmp_path: Path) -> None:
    train = read_split(made, "train").select([0])
    hostile = Rendering("</script><script>alert(1)</script>", [[0, 0, 1.0]] * 18, {"<img>": 1.0})
    write_show_page(tmp_path / "page.html", train, {}, {train.file(0): hostile})
    assert (tmp_path / "page.html").read_text().count("<script") == 2
    assert data_of(tmp_path / "page.html")["identities"][0]["made"][0]["of"] == hostile.source


@pytest.mark.parametrize(
    ("gate", "doubt"),
    [({}, 0), ({"contrast": 0.0}, 1), ({"contrast": 0.05, "saturated": 0}, 1),
     ({"contrast": 0.2, "saturated": 0.03}, 0.25),
     ({"contrast": 0.5, "identity": 0.9}, 0.2), ({"contrast": 0.5, "pose": 0.2}, 1)],
)  # fmt: skip
def test_doubt_is_the_nearness_of_a_threshold(gate: dict[str, float], doubt: float) -> None:
    assert doubt_of_rendering(gate) == pytest.approx(doubt)


def test_a_browser_clicks_through(made: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    show_dataset(made, page)
    pids = [entry["pid"] for entry in data_of(page)["identities"]]
    with browser(tmp_path / "profile") as tab:
        tab.open(page)

        def current() -> int:
            return int(tab.evaluate("document.querySelector('#view h2').textContent").removeprefix("Identity "))

        assert current() == pids[0]
        for key, place in (("ArrowRight", 1), ("ArrowRight", 2), ("ArrowRight", 2), ("ArrowLeft", 1), ("Home", 0)):
            tab.press(key)
            assert current() == pids[place]
            marked = "document.querySelector('[aria-current=true]').firstChild.textContent"
            assert tab.evaluate(marked) == str(pids[place])
        tab.evaluate(f"document.querySelectorAll('nav button')[{len(pids) - 1}].click()")
        assert current() == pids[-1]
        assert tab.evaluate("location.hash") == f"#{pids[-1]}"
        broken = "[...document.images].filter(image => !image.complete || !image.naturalWidth).length"
        tab.evaluate("Promise.all([...document.images].map(image => image.decode().catch(() => 0))).then(() => 0)")
        assert tab.evaluate("document.images.length") > 3
        assert tab.evaluate(broken) == 0
        shown = "getComputedStyle(document.querySelector('.frame svg')).display"
        assert tab.evaluate(shown) == "block"
        tab.press("s")
        assert tab.evaluate(shown) == "none"
        tab.screenshot(tmp_path / "shot.png")
        assert len(np.unique(np.asarray(Image.open(tmp_path / "shot.png").convert("RGB")).reshape(-1, 3), axis=0)) > 500
