import base64
import io
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image
from skeletons import random_people, small_bank

from xingaug.errors import BadInput
from xingaug.keypoints import Keypoints
from xingaug.poses.bank import PoseBank
from xingaug.poses.samplers import SAMPLERS
from xingaug.report.bank import DRAWS, bank_wall, write_bank_page
from xingaug.report.demo import Pairs, write_demo_page
from xingaug.report.figures import cmc_svg, png_uri, skeleton
from xingaug.report.page import image_rows, image_wall, paragraph, table, write_page
from xingaug.training.quality import Quality

EVIL = '<b onload="x">&\''
GROUND = np.array([0x1B, 0x1F, 0x27])


class Outline(HTMLParser):
    """The elements and texts of a page; every element that is opened has to be closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.images: list[str] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "img":
            self.images.append(dict(attributes)["src"] or "")
        if tag not in ("img", "meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def decode(uri: str) -> np.ndarray:
    head, _, data = uri.partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def noise(*batch: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*batch, 16, 8, 3), dtype=np.uint8)


def self_contained(page: str) -> bool:
    """Whether a browser has nothing to fetch; names of XML namespaces are no addresses that it opens."""
    return "<script" not in page and not re.search(r"""(src|href|url)\s*[=(]\s*["']?\s*(https?:|//|file:)""", page)


# Figures


def test_png_uri_decodes_to_the_image():
    image = noise()
    np.testing.assert_array_equal(decode(png_uri(image)), image)
    np.testing.assert_array_equal(decode(png_uri(image, scale=3)), image.repeat(3, 0).repeat(3, 1))


def test_skeleton_draws_nothing_for_missing_joints():
    xy = np.full((18, 2), 20.0)
    blank = skeleton(xy, np.zeros(18), (40, 30), scale=2)
    assert blank.shape == (80, 60, 3)
    assert (blank == GROUND).all()


def test_skeleton_draws_joints_and_the_limbs_between_present_ones():
    xy, visibility = np.zeros((18, 2)), np.zeros(18)
    xy[2], xy[3], xy[4] = (5, 5), (5, 20), (20, 20)  # shoulder, elbow, wrist
    visibility[[2, 4]] = 1
    apart = skeleton(xy, visibility, (32, 32), scale=2)
    drawn = (apart != GROUND).any(-1)
    assert drawn[11, 11]
    assert drawn[41, 41]
    assert not drawn[11:41, 20:34].any()  # no limb without its elbow
    assert not drawn[25, 11]
    visibility[3] = 0.2
    whole = (skeleton(xy, visibility, (32, 32), scale=2) != GROUND).any(-1)
    assert whole[25, 11]
    assert whole[41, 25]
    assert not whole[:3].any()  # nothing at (0, 0), where the missing joints are said to be


def test_skeleton_outside_the_frame_is_cut_off():
    assert skeleton(np.full((18, 2), -50.0), np.ones(18), (16, 8), scale=1).shape == (16, 8, 3)


def test_cmc_svg():
    curves = {"real only": np.linspace(0.5, 1, 30), "a < b & c": np.linspace(0.4, 0.9, 30)}
    text = cmc_svg(curves, ranks=10)
    root = ElementTree.fromstring(text)
    assert root.tag.endswith("svg")
    assert self_contained(text)
    assert len(cmc_svg({"one": np.array([0.5])})) < len(text)  # shorter than there are ranks


# Pages


def test_page_escapes_text(tmp_path):
    content = paragraph(EVIL) + paragraph(EVIL, "note") + table([EVIL], [[EVIL]])
    content += image_rows([[png_uri(noise())]], [EVIL]) + image_wall([png_uri(noise())], EVIL)
    path = write_page(tmp_path / "p.html", EVIL, paragraph("lead"), [(EVIL, content)])
    page = path.read_text(encoding="utf-8")
    outline = Outline(page)
    assert "<b " not in page
    assert "b" not in outline.tags
    assert outline.texts.count(EVIL) == 8  # two titles, heading, two paragraphs, head, cell, label
    assert len(outline.images) == 2
    assert self_contained(page)
    assert list(tmp_path.iterdir()) == [path]


def test_image_rows_need_a_label_for_every_image():
    uri = png_uri(noise())
    with pytest.raises(ValueError, match="zip"):
        image_rows([[uri, uri]], ["one"])


@pytest.fixture(scope="module")
def bank() -> PoseBank:
    people = random_people(12)
    visibility = people.visibility.clone()
    visibility[0] = 0  # one that cannot be drawn
    return PoseBank.build(Keypoints(people.xy, visibility), pids=np.arange(12) // 3)


@pytest.mark.parametrize(("count", "shown"), [(1, 1), (4, 4), (11, 11), (50, 11)])
def test_bank_wall_shows_usable_poses_spread_over_the_bank(bank, count, shown):
    images = Outline(bank_wall(bank, count)).images
    assert len(images) == shown
    assert len(set(images)) == shown
    np.testing.assert_array_equal(decode(images[0]), skeleton(bank.xy[1], bank.visibility[1], bank.frame, scale=1))


def test_bank_page(bank, tmp_path):
    page = write_bank_page(bank, tmp_path / "bank.html", count=5).read_text(encoding="utf-8")
    outline = Outline(page)
    counts = "12 poses, 11 of them usable, of 4 identities under 0 cameras, in 1 clusters of similar poses."
    assert counts in outline.texts
    assert {"Map", "Clusters of similar poses", "Cameras", "Identities", "5 of the poses"} <= set(outline.texts)
    assert len(outline.images) == 1 + 1 + 5  # map, group, wall; without names no draws
    assert self_contained(page)
    with pytest.raises(BadInput, match=r"bank\.htm: expected a name that ends in \.html"):
        write_bank_page(bank, tmp_path / "bank.htm")
    with pytest.raises(BadInput, match="count: 0, needed at least 1"):
        write_bank_page(bank, tmp_path / "none.html", count=0)
    assert [path.name for path in tmp_path.iterdir()] == ["bank.html"]


def test_bank_page_shows_what_samplers_draw_and_who_was_seen_where(tmp_path):
    bank = small_bank()
    name = str(bank.names[bank.usable_rows[3]])
    page = write_bank_page(bank, tmp_path / "bank.html", count=5, name=name).read_text(encoding="utf-8")
    outline = Outline(page)
    assert f"What samplers draw for {name}" in outline.texts
    assert set(SAMPLERS) <= set(outline.texts)
    groups = len(bank.by_cluster.sizes)
    assert len(outline.images) == 1 + groups + len(SAMPLERS) * (1 + DRAWS) + 5
    source = skeleton(bank.xy[bank.usable_rows[3]], bank.visibility[bank.usable_rows[3]], bank.frame, scale=1)
    np.testing.assert_array_equal(decode(outline.images[1 + groups]), source)
    for camid in range(1, 7):
        row = outline.texts.index(f"camera {camid}")
        here = bank.usable & (bank.camids == camid)
        assert outline.texts[row + 1] == str(here.sum())
        assert outline.texts[row + 3] == f"{len(np.unique(bank.clusters[here]))} of {groups}"
    with pytest.raises(BadInput, match=r"name: the bank has no usable pose of 'x\.jpg'"):
        write_bank_page(bank, tmp_path / "none.html", name="x.jpg")


@pytest.mark.parametrize("usable", [1, 2])
def test_bank_page_of_hardly_any_usable_pose_and_of_identities_without_one(tmp_path, usable):
    people = random_people(6, seed=2)
    people = Keypoints(people.xy, people.visibility * (torch.arange(6) < usable)[:, None])
    bank = PoseBank.build(people, pids=[-1] * usable + [3] * (6 - usable), camids=[-1] * 6)
    outline = Outline(write_bank_page(bank, tmp_path / "bank.html").read_text(encoding="utf-8"))
    assert any(text.startswith(f"6 poses, {usable} of them usable, of 0 identities") for text in outline.texts)
    assert "Identities" not in outline.texts
    assert len(outline.images) == 1 + 1 + usable


@pytest.mark.parametrize(("is_world", "are_held_out"), [(True, True), (False, True), (False, False)])
def test_demo_page_shows_its_figures_and_says_what_they_are_worth(bank, tmp_path, is_world, are_held_out):
    people = random_people(3)
    person_ssim = 0.612 if is_world else None
    pairs = Pairs(
        noise(3), people, noise(3), noise(3),
        Quality(3, 0.7123, person_ssim, 0.05, 21.0), Quality(3, 0.5321, person_ssim, 0.09, 17.5), are_held_out,
    )  # fmt: skip
    row = {"mAP": 0.4321, "rank1": 0.5, "rank5": 0.75, "rank10": 0.8, "mINP": 0.2, "cmc": [0.5, 0.75, 1.0]}
    cells = [{"arm": arm, "results": {"data": row}, "train_seconds": 61.4} for arm in ("real", "xinggan_pose")]
    offline = {"real": 8, "synthetic": 7, "without_annotation": 1, "unusable_keypoints": 0}
    path = write_demo_page(
        tmp_path / "report.html", is_world, "pedestrians-small", 150, {"train": 8, "query": 4, "gallery": 12}, bank,
        pairs, [(noise(), noise(2))], offline, {"cells": cells}, {"pose bank": 1.25, "report": 2.0},
    )  # fmt: skip
    page = path.read_text(encoding="utf-8")
    texts = Outline(page).texts
    assert self_contained(page)
    for shown in ("0.712", "0.532", "43.2", "75.0", "61", "3.2", "real only", "augment: xinggan_pose", "mINP"):
        assert shown in texts, shown
    assert ("0.612" in texts) == is_world
    assert ("–" in texts) == (not is_world)
    told = " ".join(texts)
    assert "not that accuracy improves" in told
    assert ("The persons are from the training images" in told) == (not are_held_out)
    assert ("The persons are procedurally drawn" in told) == is_world
    assert ("has seen drawn pedestrians only" in told) == (not is_world)
    assert len(Outline(page).images) == 3 * 4 + 3 + 11
