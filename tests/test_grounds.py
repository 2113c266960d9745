"""Rendered persons on other images' grounds."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from generating import Blend, build_dataset, run, tree
from posing import BANK, keys_of
from posing import images_of as images_at
from posing import persons as persons_at
from torch import Tensor

from xingaug.augment.grounds import Grounds
from xingaug.augment.transform import XingPose
from xingaug.errors import BadInput
from xingaug.generators import XingGANPlusPlus, load_generator
from xingaug.keypoints import Keypoints

SIZE = (128, 64)


def persons(count: int) -> Keypoints:
    return persons_at(count, SIZE)


def images_of(count: int) -> Tensor:
    return images_at(count, SIZE)


@pytest.fixture(scope="module")
def network() -> XingGANPlusPlus:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return XingGANPlusPlus(size=SIZE, width=16, blocks=1, keep_ground=True).eval()


def pictures(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *SIZE, 3), np.uint8)


def test_a_person_is_blended_over_a_ground_by_its_mask(network: XingGANPlusPlus) -> None:
    grounds = Grounds.of(network, pictures(3), persons(3), share=1.0)
    assert grounds.pictures.shape == (3, 3, *SIZE)
    images, poses = images_of(5), persons(5)
    mask = torch.zeros(5, 1, *SIZE)
    mask[:, :, 10:20, 8:16] = 1
    mask[:, :, 30:32] = 0.25
    grounds._find = lambda images, means: mask  # type: ignore[method-assign, assignment]
    placed = grounds(images, poses, list("abcde"))
    assert torch.equal(placed[:, :, 10:20, 8:16], images[:, :, 10:20, 8:16])
    donors = grounds.pictures.float() / 255
    for row in placed:
        assert any(torch.allclose(row[:, 40:], donor[:, 40:], atol=1e-6) for donor in donors)
    halves = [0.75 * donor[:, 30:32] + 0.25 * images[0, :, 30:32] for donor in donors]
    assert any(torch.allclose(placed[0, :, 30:32], half, atol=1e-6) for half in halves)


def test_a_row_depends_on_its_key_and_not_on_its_company(network: XingGANPlusPlus) -> None:
    grounds = Grounds.of(network, pictures(4), persons(4), share=0.5)
    images, poses, keys = images_of(12), persons(12), [f"{i}.jpg 3" for i in range(12)]
    together = grounds(images, poses, keys)
    changed = (together != images).flatten(1).any(1)
    assert 0 < int(changed.sum()) < 12
    kept = np.arange(12) % 2 == 0
    assert torch.equal(
        (grounds(images, poses, keys, kept) != images).flatten(1).any(1), changed & torch.from_numpy(kept)
    )
    for i in range(12):
        assert torch.equal(grounds(images[i : i + 1], poses[[i]], keys[i : i + 1])[0], together[i])


def test_the_transform_puts_the_share_on_other_grounds_and_replays_it(network: XingGANPlusPlus) -> None:
    images, poses, keys = images_of(10), persons(10), keys_of(10)
    plain = XingPose(network, BANK, p=1.0)(images, poses, keys)
    aug = XingPose(network, BANK, p=1.0, grounds=Grounds.of(network, pictures(4), persons(4), share=0.5))
    placed = aug(images, poses, keys)
    assert torch.equal(placed.draw.bank_rows, plain.draw.bank_rows)
    changed = (placed.images != plain.images).flatten(1).any(1)
    assert 0 < int(changed.sum()) < 10
    assert torch.equal(aug(images, poses, keys, draw=placed.draw).images, placed.images)
    for replay in (aug, aug.render):
        with pytest.raises(ValueError, match="keys: "):  # without names it would draw other grounds
            replay(images, poses, draw=placed.draw)


def test_a_ground_is_the_image_where_no_person_hides_it() -> None:
    generator = load_generator("market1501-augment")
    gray = np.full((1, 128, 64, 3), 90, np.uint8)
    kept = Grounds.of(generator, gray, persons(1), share=1.0).pictures
    assert (kept[0, :, :, :2].float() - 90).abs().max() <= 1


def test_images_come_as_bytes_or_as_a_tensor() -> None:
    generator = load_generator("market1501-augment")
    units = torch.from_numpy(pictures(2)).permute(0, 3, 1, 2) / 255
    given = [Grounds.of(generator, images, persons(2)).pictures.int() for images in (pictures(2), units)]
    assert (given[0] - given[1]).abs().max() <= 1
    for wrong in (units[..., :-1], pictures(2)[:, 1:], pictures(2).transpose(0, 3, 1, 2)):
        with pytest.raises(ValueError, match=r"images: .*, needed"):
            Grounds.of(generator, wrong, persons(2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda network: Grounds.of(load_generator("market1501-small"), pictures(1), persons(1)),
            "needed one that does",
        ),
        (lambda network: Grounds.of(network, pictures(1)[:0], persons(1)[:0]), "no images whose persons can be taken"),
        (lambda network: Grounds.of(network, pictures(1), persons(1), share=1.5), "1.5, needed a probability"),
        (lambda network: XingPose(network, BANK, grounds=network), "needed Grounds or None"),
    ],
)
def test_what_does_not_fit_is_told(network: XingGANPlusPlus, make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(network)  # type: ignore[operator]


def test_generate_puts_its_images_on_other_grounds_unless_told_not_to(tmp_path: Path) -> None:
    config = build_dataset(tmp_path)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        keeping = XingGANPlusPlus(width=16, blocks=1, keep_ground=True).eval()
    made = {}
    for name, ground in (("placed", None), ("again", 1.0), ("kept", 0.0)):
        out = tmp_path / name
        run(replace(config, out=out, ground=ground), keeping)
        made[name] = tree(out)
        assert json.loads((out / "config.json").read_text())["ground"] == (1.0 if ground is None else ground or None)
    assert made["placed"] == made["again"]
    synthetic = [file for file in made["kept"] if "_x0" in file]
    assert synthetic
    assert not any(made["placed"][file] == made["kept"][file] for file in synthetic)
    with pytest.raises(BadInput, match="ground: this generator does not separate person and ground"):
        run(replace(config, out=tmp_path / "refused", ground=0.5), Blend())
    assert not (tmp_path / "refused").exists()
