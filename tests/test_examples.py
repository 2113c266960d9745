"""The examples, at tiny sizes; those that the README names run with it (`test_readme`)."""

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from command_lines import run_here
from torch import Tensor

from xingaug import poses
from xingaug.data.pedestrians import write_world
from xingaug.images import read_image
from xingaug.keypoints import MIN_VISIBLE, Keypoints, render_heatmaps
from xingaug.poses import samplers
from xingaug.poses.collect import bank_from_tree

ROOT = Path(__file__).resolve().parent.parent
TINY = {"identities": 4, "poses": 2, "seed": 3, "training_identities": 2, "network_steps": 1}


def loaded(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def example() -> ModuleType:
    return loaded("measure_on_world")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("networks")


def words(cache: Path, *more: str) -> list[str]:
    sizes = [word for name, value in TINY.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    return ["--generator", "pedestrians-small", "--cache", str(cache), *sizes, *more]


def test_a_generator_is_measured_and_the_judges_are_kept(
    example: ModuleType,
    cache: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sheet, failures = tmp_path / "sheet.png", tmp_path / "failures.png"
    assert example.main(words(cache, "--json", "--sheet", str(sheet), "--failures", str(failures))) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["settings"] == TINY
    assert list(first["figures"]) == [example.TRUE, example.COPY, "pedestrians-small"]
    for row in first["figures"].values():
        assert all(0 <= row[name] <= 1 for name in ("ssim", "person_ssim", "pck", "rank1"))
        assert row["pck_share"] == pytest.approx(row["pck"] / max(first["figures"][example.TRUE]["pck"], 1e-9))
    assert first["figures"]["pedestrians-small"]["ssim"] > first["figures"][example.COPY]["ssim"]
    # Two lines of two persons, each framed: source, pose, generated, true.
    assert read_image(sheet).shape == read_image(failures).shape == (2 * (128 + 8), 2 * (4 * 64 + 12), 3)

    kept = {path: path.stat().st_mtime_ns for path in cache.iterdir()}
    assert sorted(path.suffix for path in kept) == [".npz", ".safetensors", ".safetensors"]
    for work in ("draw_test_set", "draw_training_set", "train_network"):
        monkeypatch.setattr(example, work, lambda *_: pytest.fail("the cache was not used"))
    assert example.main(words(cache, "--json")) == 0
    assert json.loads(capsys.readouterr().out) == first
    assert {path: path.stat().st_mtime_ns for path in cache.iterdir()} == kept
    assert example.main(words(cache)) == 0
    assert "pedestrians-small" in capsys.readouterr().out


def test_failures_begin_with_the_worst_and_show_each_person_once(example: ModuleType, cache: Path) -> None:
    test = example.load_test_set(example.Settings(**TINY), cache)
    images = test.target.images.copy()  # two of each person
    images[5], images[0] = 0, 255 - images[0]
    images[[2, 3]] = images[[2, 3]] // 2
    worst = example.worst_first(images, test)
    assert sorted(worst[:2]) == [0, 5]
    assert sorted(test.persons[worst]) == [0, 1, 2, 3]
    assert test.persons[worst[2]] == 1


def test_true_images_in_place_of_generated_ones(example: ModuleType, cache: Path) -> None:
    settings = example.Settings(**TINY)
    test, networks = example.load_test_set(settings, cache), example.load_networks(settings, cache)
    true = example.measure(test.target.images, test, networks)
    assert true.ssim == pytest.approx(1)
    assert true.person_ssim == pytest.approx(1)
    again = example.measure_generators(settings, [], cache)
    assert again[example.TRUE] == true
    assert again[example.COPY].ssim < 1


def test_the_test_set_fits_together(example: ModuleType, cache: Path) -> None:
    test = example.load_test_set(example.Settings(**TINY), cache)
    assert test.persons.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert len(test.source.images) == 4
    assert len(test.gallery.images) == 4 * example.GALLERY_IMAGES
    for part in (test.source, test.target, test.gallery):
        assert ((part.visibility > 0).sum(1) >= MIN_VISIBLE).all()
    # Source and target differ on the person only: one camera, one background, the same noise.
    nobody = (test.source.masks[test.persons] == 0) & (test.target.masks == 0)
    apart = np.abs(test.source.images[test.persons].astype(int) - test.target.images).max(3)
    assert np.median(apart[nobody]) == 0


class Oracle(torch.nn.Module):
    """Knows the joints in some images and in their mirror images, and the features of others."""

    def __init__(self, images: Tensor, keypoints: Keypoints, features: list[Tensor]) -> None:
        super().__init__()
        self.images, self.keypoints, self.answers = images, keypoints, iter(features)

    def forward(self, images: Tensor) -> Tensor:
        same = torch.equal(images, self.images)
        assert same or torch.equal(images, self.images.flip(3))
        keypoints = (self.keypoints if same else self.keypoints.flip(64)).resize((128, 64), (32, 16))
        return (render_heatmaps(keypoints, (32, 16), sigma=1.0) + 1e-9).log()

    def features(self, images: np.ndarray) -> Tensor:
        return next(self.answers)


def test_joints_and_ranks_are_counted(example: ModuleType, cache: Path) -> None:
    test = example.load_test_set(example.Settings(**TINY), cache)
    wanted = Keypoints(torch.from_numpy(test.target.xy), torch.ones(test.target.visibility.shape))
    moved = Keypoints(wanted.xy + torch.tensor([8.0, 0.0]), wanted.visibility)
    seen = torch.from_numpy(test.target.visibility > 0)
    inside = seen & wanted.crop(12, 12, (104, 40)).present & moved.crop(12, 12, (104, 40)).present
    queries = torch.eye(4)[test.persons]
    queries[0] = torch.eye(4)[1]  # one of eight is taken for another person
    gallery = torch.eye(4).repeat_interleave(example.GALLERY_IMAGES, 0)
    for keypoints, share in ((wanted, 1.0), (moved, 0.0)):
        oracle = Oracle(example._signed(test.target.images), keypoints, [queries, gallery])
        found = torch.from_numpy(example.JointFinder.joints(oracle, test.target.images))
        near = (found - wanted.xy).norm(dim=2) <= example.RADIUS_PX
        assert near[inside].float().mean() == share
        oracle.joints = lambda images, found=found: found.numpy()  # type: ignore[assignment]
        figures = example.measure(test.target.images, test, (oracle, oracle))
        assert figures.pck == pytest.approx(near[seen].float().mean().item())
        assert figures.rank1 == pytest.approx(7 / 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--identities", "0"], "--identities: 0, needed at least 1"),
        (["--seed", "-1"], "--seed: -1, needed at least 0"),
        (["--generator", "nobody"], "no such file"),
    ],
)
def test_bad_input_is_one_line(
    example: ModuleType, cache: Path, capsys: pytest.CaptureFixture[str], change: list[str], message: str
) -> None:
    assert example.main(words(cache, *change)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("name", ["train_with_loader", "pipeline_torchvision", "pipeline_albumentations"])
def test_the_adapters_examples_render_about_half(name: str, tmp_path: Path) -> None:
    write_world(tmp_path / "world", 8, 4, 3, workers=1, progress=False)
    images = len(list((tmp_path / "world" / "bounding_box_train").glob("*.jpg")))
    said = run_here(["python", str(ROOT / "examples" / f"{name}.py"), str(tmp_path / "world")])
    lines = [line for line in said.splitlines() if line.startswith("epoch ")]
    assert len(lines) == 2
    for line in lines:
        rendered, of = map(int, re.findall(r"(\d+) of (\d+) rendered", line)[0])
        assert of == images
        assert 0 < rendered < images


def test_a_sampler_of_ones_own_draws_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samplers, "SAMPLERS", dict(samplers.SAMPLERS))
    monkeypatch.setattr(poses, "SAMPLERS", samplers.SAMPLERS)
    loaded("compare_own_pose")
    write_world(tmp_path / "world", 4, 2, 0, workers=1, progress=False)
    bank = bank_from_tree(tmp_path / "world", tmp_path / "world" / "annotations.npz")
    names = bank.names[bank.usable_rows].tolist()[::-1]
    rows = samplers.sample(bank, "own", bank.keypoints(np.arange(len(names))), names)
    assert bank.names[rows.numpy()].tolist() == names
    assert samplers.sample(bank, "own", bank.keypoints(np.arange(1)), ["another.jpg"]).tolist() == [-1]
