"""A generator as ONNX: the same images without torch."""

import builtins
import json
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import BUILDERS, awake, least_effect

from xingaug.cli import main
from xingaug.errors import BadInput, WorkFailed
from xingaug.generators import export, load_generator, save_generator
from xingaug.generators.export import export_onnx
from xingaug.keypoints import Keypoints, render_heatmaps


def batch(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(count)
    source = rng.random((count, 3, 32, 16), np.float32) * 2 - 1
    xy = torch.from_numpy(rng.random((2, count, 18, 2), np.float32)) * torch.tensor([15.0, 31.0])
    return [source, *render_heatmaps(Keypoints(xy, torch.ones(2, count, 18)), (32, 16), sigma=2.0).numpy()]


@pytest.mark.parametrize("kind", ["light", "paper", "patches", "xinggan"])
def test_an_export_gives_torchs_images_for_any_batch_size(kind: str, tmp_path: Path) -> None:
    network = awake(BUILDERS[kind])
    source, first, second = map(torch.from_numpy, batch(1))
    assert least_effect(network, (source, first, second)) > 3e-3
    path = save_generator(network.eval(), tmp_path / "g.safetensors")
    figures = export_onnx(path, tmp_path / "new" / "g.onnx")
    # Poses at random: an ulp more in the inputs moves the image of the light network by up to 2e-4.
    assert figures["largest_difference"] < 2e-4
    assert figures["size"] == [32, 16]
    # In a process without torch.
    np.savez(tmp_path / "in.npz", **{str(n): x for n in (1, 5) for x in [np.concatenate(batch(n), 1)]})
    run = (
        "import sys, numpy as np, onnxruntime\n"
        "session = onnxruntime.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider'])\n"
        "data, out = np.load(sys.argv[2]), {}\n"
        "for n, x in data.items():\n"
        "    feed = dict(source=x[:, :3], source_heatmaps=x[:, 3:21], target_heatmaps=x[:, 21:])\n"
        "    (out[n],) = session.run(['generated_image'], feed)\n"
        "assert 'torch' not in sys.modules\n"
        "np.savez(sys.argv[3], **out)\n"
    )
    arguments = [tmp_path / "new" / "g.onnx", tmp_path / "in.npz", tmp_path / "out.npz"]
    subprocess.run([sys.executable, "-c", run, *map(str, arguments)], check=True)
    generator, images = load_generator(path), np.load(tmp_path / "out.npz")
    for n in (1, 5):
        with torch.no_grad():
            expected = generator(*map(torch.from_numpy, batch(n))).numpy()
        np.testing.assert_allclose(images[str(n)], expected, atol=2e-4)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    save_generator(awake(BUILDERS["light"]).eval(), tmp_path / "g.safetensors")
    assert main(shlex.split("export --generator g.safetensors --onnx g.onnx --json")) == 0
    said = capsys.readouterr()
    figures = json.loads(said.out)
    assert said.err == ""
    assert figures["written"] == "g.onnx"
    assert figures["megabytes"] == pytest.approx(Path("g.onnx").stat().st_size / 1e6, abs=0.01)


def test_a_wrong_export_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_generator(awake(BUILDERS["light"]).eval(), tmp_path / "g.safetensors")
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    with pytest.raises(WorkFailed, match=r"g\.onnx: onnxruntime's images differ from torch's by"):
        export_onnx(path, tmp_path / "g.onnx")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["g.json", "g.safetensors"]


def test_without_onnx_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_generator(awake(BUILDERS["light"]).eval(), tmp_path / "g.safetensors")
    real = builtins.__import__

    def missing(name: str, *args: object, **kwargs: object) -> object:
        if name == "onnxruntime":
            raise ImportError("no", name="onnxruntime")
        return real(name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(BadInput, match=r"onnxruntime is not installed; pip install 'xingaug\[onnx\]'"):
        export_onnx(path, tmp_path / "g.onnx")
