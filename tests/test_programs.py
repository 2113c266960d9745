"""Programs of torch.export: loading, running, and files that are none."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from xingaug.errors import BadInput
from xingaug.programs import device_problem, load_program, run_program


class Means(nn.Module):
    """Three means of each image, weighted."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3)) * self.weight


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("programs") / "means.pt2"
    batch = {0: torch.export.Dim("batch")}
    torch.export.save(torch.export.export(Means(), (torch.rand(2, 3, 8, 4),), dynamic_shapes=(batch,)), path)
    return path


@pytest.mark.slow  # torch.export alone takes seconds to import
def test_a_saved_program_does_what_the_network_did(program: Path) -> None:
    loaded = load_program(program, "a network")
    for count in (1, 2, 5):
        images = torch.rand(count, 3, 8, 4)
        torch.testing.assert_close(run_program(loaded, program, images), Means()(images))


@pytest.mark.slow
def test_other_sizes_are_refused_in_one_line(program: Path) -> None:
    loaded = load_program(program, "a network")
    said = r"means.pt2: does not take images \(2, 3, 9, 4\) \(.+\); export it for this size and any batch$"
    with pytest.raises(BadInput, match=said):
        run_program(loaded, program, torch.rand(2, 3, 9, 4))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tensors", "cut"])
def test_archives_that_are_no_program(kind: str, program: Path, tmp_path: Path, caplog, capfd) -> None:
    path = tmp_path / "other.pt2"
    if kind == "tensors":
        torch.save({"weight": torch.zeros(3)}, path)
    else:
        path.write_bytes(program.read_bytes()[:-700])
    with pytest.raises(BadInput, match=r"other.pt2: .+; needed a net saved|other.pt2: cannot be loaded as a net"):
        load_program(path, "a net")
    assert caplog.text == ""
    assert capfd.readouterr() == ("", "")


def test_files_that_are_no_archive(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"none.pt2: no such file; needed a pose estimator saved by torch.export.save$"):
        load_program(tmp_path / "none.pt2", "a pose estimator")
    (tmp_path / "text.pt2").write_text("from,to\n")
    with pytest.raises(BadInput, match=r"text.pt2: no program of torch.export; needed a pose estimator"):
        load_program(tmp_path / "text.pt2", "a pose estimator")


@pytest.fixture
def onnx_file(tmp_path: Path) -> Path:
    """The means of each image, for images of 8x4."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [helper.make_node("GlobalAveragePool", ["x"], ["m"]), helper.make_node("Flatten", ["m"], ["y"])]
    given, made = (
        helper.make_tensor_value_info("x", kind, ["n", 3, 8, 4]),
        helper.make_tensor_value_info("y", kind, ["n", 3]),
    )
    model = helper.make_model(
        helper.make_graph(nodes, "means", [given], [made]), opset_imports=[helper.make_opsetid("", 17)]
    )
    model.ir_version = 8
    onnx.save(model, tmp_path / "means.onnx")
    return tmp_path / "means.onnx"


def test_an_onnx_file_does_what_the_network_did(onnx_file: Path) -> None:
    loaded = load_program(onnx_file, "a network")
    for count in (1, 5):
        images = torch.rand(count, 3, 8, 4, requires_grad=True)
        torch.testing.assert_close(run_program(loaded, onnx_file, images), images.detach().mean((2, 3)))
    with pytest.raises(BadInput, match=r"means.onnx: does not take images \(2, 3, 9, 4\) \(.+\); export it for"):
        run_program(loaded, onnx_file, torch.rand(2, 3, 9, 4))


def test_onnx_files_that_cannot_be_used(onnx_file: Path, capfd) -> None:
    with pytest.raises(BadInput, match=r"means.onnx: no gradient goes through an ONNX file; needed a network saved by"):
        load_program(onnx_file, "a network", gradients=True)
    onnx_file.write_bytes(onnx_file.read_bytes()[:-20])
    with pytest.raises(BadInput, match=r"means.onnx: not a network that onnxruntime can load"):
        load_program(onnx_file, "a network")
    assert capfd.readouterr() == ("", "")


def test_devices_that_cannot_be_computed_on_are_told() -> None:
    assert device_problem("cpu") is None
    for name in ("meta", "hpu", "nonsense", "", "cpu:x", "cuda:999"):
        problem = device_problem(name)
        assert problem is not None
        assert problem.startswith(f"'{name}' ")
        assert "\n" not in problem


def test_programs_that_return_no_tensor() -> None:
    class Two(nn.Module):
        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            return images, images

    with pytest.raises(BadInput, match=r"two.pt2: returns a tuple for images \(1, 3, 8, 4\), needed one tensor"):
        run_program(Two(), "two.pt2", torch.rand(1, 3, 8, 4))
