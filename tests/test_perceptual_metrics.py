"""LPIPS, FID and IS: against their formulas, and from weights that lie in a cache of torch."""

import json
import sys
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch
from command_lines import EVALUATE
from torch import nn

from xingaug.errors import BadInput
from xingaug.training.perceptual_metrics import (
    inception_score,
    load_networks,
    perceptual_scores,
)

pytestmark = pytest.mark.slow  # torchmetrics imports half of torch
ALEXNET, INCEPTION = "alexnet-owt-7be5be79.pth", "weights-inception-2015-12-05-6726825d.pth"


def random_state(network: nn.Module) -> dict[str, torch.Tensor]:
    """Weights that keep a signal's size from layer to layer."""
    with torch.no_grad():
        for name, value in network.named_parameters():
            if value.ndim == 4:
                nn.init.kaiming_normal_(value)
            elif "bias" in name:
                value.zero_()
    return network.state_dict()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TORCH_HOME with random weights under the names that the libraries look for."""
    import torch_fidelity.feature_extractor_inceptionv3 as fidelity
    from torchvision.models import alexnet

    home = tmp_path_factory.mktemp("torch")
    folder = home / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    with torch.random.fork_rng(devices=[]), pytest.MonkeyPatch.context() as patch:
        torch.manual_seed(0)
        torch.save(random_state(alexnet(weights=None)), folder / ALEXNET)
        # Its constructor loads weights, which are to be made here.
        patch.setattr(fidelity, "load_state_dict_from_url", lambda *_, **__: None)
        patch.setattr(fidelity.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        network = fidelity.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
        torch.save(random_state(network), folder / INCEPTION)
    return home


@pytest.fixture
def cache(weights: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(weights))
    return weights / "hub" / "checkpoints"


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty TORCH_HOME, and nothing to fill it from."""

    def fail(url: str, *_: object, **__: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    return tmp_path / "empty" / "hub" / "checkpoints"


def test_inception_score_is_its_formula_and_leaves_the_draws_alone() -> None:
    sure = torch.eye(4).repeat(10, 1) * 100  # every image of one class of four, all classes alike
    torch.manual_seed(0)
    wanted = torch.rand(3)
    torch.manual_seed(0)
    score = inception_score(sure)
    assert (torch.rand(3) == wanted).all()
    assert 2 < score <= 4  # 4 if each of the 10 splits had all classes
    assert inception_score(sure) == score
    assert inception_score(torch.zeros(40, 4)) == pytest.approx(1)
    assert inception_score(torch.rand(1, 4)) == pytest.approx(1)


def test_lpips_of_pairs(cache: Path) -> None:
    rng = np.random.default_rng(0)
    true = rng.integers(0, 256, (3, 40, 32, 3), dtype=np.uint8)
    near = np.clip(true.astype(int) + rng.integers(-9, 10, true.shape), 0, 255).astype(np.uint8)
    networks = load_networks(("lpips",), (40, 32))
    scores = perceptual_scores(networks, {"same": true, "near": near, "far": true[[2, 1, 0]]}, true, batch_size=2)
    assert scores["same"] == {"lpips": 0}
    assert 0 < scores["near"]["lpips"] < scores["far"]["lpips"]
    alone = [perceptual_scores(networks, {"x": near[i : i + 1]}, true[i : i + 1])["x"]["lpips"] for i in range(3)]
    assert scores["near"]["lpips"] == pytest.approx(np.mean(alone), rel=1e-5)
    assert networks.describe() == {
        "lpips": "AlexNet of torchvision with LPIPS 0.1's linear weights, images of 40x32 not resized"
    }


def test_fid_and_is_equal_torchmetrics_own_way(cache: Path, tmp_path: Path, no_network: Path) -> None:
    from torchmetrics.image.fid import FrechetInceptionDistance

    rng = np.random.default_rng(0)
    true = rng.integers(0, 256, (4, 32, 16, 3), dtype=np.uint8)
    flat = np.full_like(true, 90) + np.arange(4, dtype=np.uint8)[:, None, None, None] * 20
    networks = load_networks(("is", "fid"), (32, 16), inception=cache / INCEPTION)  # the file alone, without a cache
    assert networks.names == ("fid", "is")
    scores = perceptual_scores(networks, {"same": true, "flat": flat}, true, batch_size=3)
    metric = FrechetInceptionDistance(feature=2048, feature_extractor_weights_path=str(cache / INCEPTION))
    for images in (flat, true):
        metric.update(torch.from_numpy(images).movedim(-1, 1), real=images is true)
    expected = metric.compute().item()
    assert scores["flat"]["fid"] == pytest.approx(expected, rel=1e-3)
    assert scores["flat"]["fid"] > 1e-3
    assert scores["same"]["fid"] == pytest.approx(0, abs=1e-6 * expected)
    assert all(score["is"] >= 1 - 1e-9 for score in scores.values())
    text = networks.describe()
    assert all("images of 32x16 resized to 299x299, bilinear" in text[name] for name in ("fid", "is"))


def test_evaluate_prints_them(run, cache: Path) -> None:
    code, out, err = run(f"{EVALUATE} --perceptual is lpips fid --json")
    figures = json.loads(out)
    assert (code, err) == (0, "")
    assert list(figures["perceptual"]) == ["lpips", "fid", "is"]
    for row in (figures, *figures["baselines"].values()):
        assert row["lpips"] > 0
        assert row["fid"] > 0
        assert row["is"] >= 1 - 1e-9
    code, out, _ = run(f"{EVALUATE} --perceptual lpips")
    lines = out.splitlines()
    assert code == 0
    assert all(", lpips 0." in line for line in lines[1:4])
    assert lines[4].strip().startswith("lpips: AlexNet of torchvision")


@pytest.mark.parametrize(("name", "file"), [("lpips", ALEXNET), ("fid", INCEPTION), ("is", INCEPTION)])
def test_weights_that_cannot_be_had_are_told_in_one_line(name: str, file: str, run, no_network: Path) -> None:
    code, out, err = run(f"{EVALUATE} --perceptual {name}")
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {no_network / file}: missing (")
    assert "cannot be downloaded (<urlopen error no route to host>); put the file there, set TORCH_HOME" in err
    assert err.count("\n") == 1
    assert ("--inception" in err) == (name != "lpips")


@pytest.mark.parametrize("name", ["lpips", "fid"])
@pytest.mark.parametrize("kind", ["text", "other tensors", "list"])
def test_files_that_hold_other_weights(name: str, kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    path = folder / (ALEXNET if name == "lpips" else INCEPTION)
    if kind == "text":
        path.write_text("from,to\n")
    else:
        torch.save({"a": torch.zeros(2)} if kind == "other tensors" else [1], path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    said = {
        "text": "cannot be read as tensors",
        "other tensors": "not (torchvision|torch-fidelity)'s",
        "list": "holds a list",
    }
    with pytest.raises(BadInput, match=rf"^\S+{path.name}: .*{said[kind]}[^\n]+$"):
        load_networks((name,), (64, 32))


def test_a_file_that_runs_code_is_not_run(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "touched",)  # type: ignore[return-value]

    torch.save({"a": Harm()}, tmp_path / "harm.pth")
    with pytest.raises(BadInput, match="cannot be read as tensors saved by torch"):
        load_networks(("fid",), (64, 32), inception=tmp_path / "harm.pth")
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("module", ["torchmetrics.image.lpip", "torchmetrics.image.fid", "torch_fidelity"])
def test_packages_that_are_not_installed(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for loaded in [name for name in sys.modules if name.startswith(module + ".")]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, module, None)
    name = "lpips" if "lpip" in module else "fid"
    package = module.partition(".")[0]
    with pytest.raises(BadInput, match=rf"^{package} is not installed, which {name} needs; pip install 'xingaug\[metr"):
        load_networks((name,), (64, 32))


def test_images_too_small_for_alexnet() -> None:
    with pytest.raises(BadInput, match="lpips: images of 64x30, AlexNet needs at least 31 pixels"):
        load_networks(("lpips",), (64, 30))
