"""A trained re-ID network as a file: the same features, usable where the package asks for such a file."""

import shutil
from pathlib import Path

import pytest
import torch
from reid_world import settings, write_tree

from reid_integration import export as export_module
from reid_integration.config import reid_config
from reid_integration.export import Features, export_features, main
from reid_integration.models import build_model
from reid_integration.train import run
from xingaug.augment.gate import GateConfig, build_gate
from xingaug.errors import BadInput, WorkFailed
from xingaug.programs import load_program, run_program


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("export")
    asked = settings(write_tree(place / "world"), place / "run", train__max_iterations=1, augment=None)
    return run(reid_config(asked)).directory


@pytest.mark.parametrize("ending", ["onnx", "pt2"])
def test_the_file_gives_the_features_of_the_test(trained: Path, tmp_path: Path, ending: str) -> None:
    out = export_features(trained, tmp_path / f"net.{ending}")
    tested = {"load_weights": str(trained / "model.safetensors"), "pretrained": False, "name": "osnet_x0_25"}
    config = reid_config({"model": tested, "data": {"height": 32, "width": 16}, "test": {"evaluate": True}})
    model = build_model(config, 6, torch.device("cpu")).eval()
    images = torch.rand(5, 3, 32, 16)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (config.data.norm_mean, config.data.norm_std))
    found = run_program(load_program(out, "a network"), str(out), images)
    torch.testing.assert_close(found, model((images - mean) / std), rtol=1e-3, atol=1e-4)
    gate = build_gate(GateConfig(features=str(out)), (128, 64))
    assert gate.features is not None


def test_gradients_go_through_a_program(trained: Path, tmp_path: Path) -> None:
    network = load_program(export_features(trained, tmp_path / "net.pt2"), "a network", gradients=True)
    images = torch.rand(2, 3, 64, 32, requires_grad=True)
    network(images).square().sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0


def test_what_cannot_be_written_is_told(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match=r"net.pth: needed a name that ends in .onnx or .pt2"):
        export_features(trained, tmp_path / "net.pth")
    with pytest.raises(BadInput, match=r"has no config.yaml; needed the directory of a finished re-ID training"):
        export_features(tmp_path, tmp_path / "net.pt2")

    unfinished = tmp_path / "unfinished"
    shutil.copytree(trained, unfinished)
    (unfinished / "result.json").unlink()
    with pytest.raises(BadInput, match=r"has no result.json; needed the directory of a finished re-ID training"):
        export_features(unfinished, tmp_path / "net.pt2")
    shutil.rmtree(unfinished)

    class Doubled(Features):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(images) * (1 if torch.compiler.is_compiling() else 2)

    monkeypatch.setattr(export_module, "Features", Doubled)
    with pytest.raises(WorkFailed, match=r"net.pt2: its features differ from the model's by 0.5, above 0.001"):
        export_features(trained, tmp_path / "net.pt2")
    assert not list(tmp_path.iterdir())


def test_the_command(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(trained), str(tmp_path / "net.pt2")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "net.pt2")
    assert main([str(tmp_path / "none"), str(tmp_path / "other.pt2")]) == 2
