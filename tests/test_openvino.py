"""OpenVINO as what computes a generator on a CPU: torch's images, whatever the company and the number of threads."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from networks import TINY, awake
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from xingaug.bench.networks import example_batch, variants_of
from xingaug.errors import BadInput
from xingaug.generators import XingGANPlusPlus, load_generator, save_generator
from xingaug.generators.base import PoseGenerator
from xingaug.generators.core import Core
from xingaug.generators.openvino_core import ROWS, OpenVinoCore
from xingaug.generators.signal_stack import current_signal_stack

pytest.importorskip("openvino")
SIGMA = 2.0


def with_everything() -> PoseGenerator:
    """One that keeps the ground, which has every part that a generator can have."""
    return awake(lambda: XingGANPlusPlus(**{**TINY, "keep_ground": True})).eval()


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> PoseGenerator:
    path = tmp_path_factory.mktemp("openvino") / "ground.safetensors"
    return load_generator(save_generator(with_everything(), path))


def persons(count: int, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(count)
    images = torch.rand(count, 3, *size, generator=rng) * 2 - 1
    xy = torch.rand(count, 2, 18, 2, generator=rng) * torch.tensor([size[1] - 1.0, size[0] - 1.0])
    return images, xy, (torch.rand(count, 2, 18, generator=rng) > 0.1).float()


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xingaug.generators.core.is_installed", lambda: True)


@pytest.mark.parametrize(("dtype", "least"), [(torch.float32, 90.0), (torch.bfloat16, 40.0)])
def test_it_gives_torchs_images_in_any_company_on_any_number_of_threads(
    network: PoseGenerator, dtype: torch.dtype, least: float
) -> None:
    inputs = persons(2 * ROWS + 3, network.size)
    one, three = (OpenVinoCore(network, dtype, threads, SIGMA) for threads in (1, 3))
    whole, expected = one(*inputs), Core(network, SIGMA)(*inputs)
    assert -10 * ((whole - expected) / 2).square().mean().log10() > least
    assert torch.equal(three(*inputs), whole)
    for rows in ([2], [5, 2 * ROWS + 1]):
        assert torch.equal(one(*(x[rows] for x in inputs)), whole[rows])
    assert one(*(x[:0] for x in inputs)).shape == (0, 3, *network.size)


class Rendered(Dataset[Tensor]):
    """Each item one rendered image."""

    def __init__(self, core: Core, inputs: tuple[Tensor, Tensor, Tensor]) -> None:
        self.core, self.inputs = core, inputs

    def __len__(self) -> int:
        return len(self.inputs[0])

    def __getitem__(self, row: int) -> Tensor:
        return self.core(*(x[[row]] for x in self.inputs))[0]


def test_processes_forked_after_the_first_image_render_too(network: PoseGenerator) -> None:
    items = Rendered(Core(network, SIGMA, runtime="openvino"), persons(2, network.size))
    first = items[0]
    loader = DataLoader(items, batch_size=1, num_workers=1, multiprocessing_context="fork", timeout=120)
    assert torch.equal(torch.cat(list(loader))[0], first)
    assert torch.equal(items[0], first)


def test_a_forked_process_that_rendered_ends_as_any_other() -> None:
    program = (
        "import os, sys, torch\n"
        "from xingaug.generators import load_generator\n"
        "from xingaug.generators.core import Core\n"
        "core = Core(load_generator(sys.argv[1]), runtime='openvino')\n"
        "inputs = torch.zeros(1, 3, *core.generator.size), torch.full((1, 2, 18, 2), 20.0), torch.ones(1, 2, 18)\n"
        "core(*inputs)\n"
        "if child := os.fork():\n"
        "    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
        "core(*inputs)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "pedestrians-small"], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr


def test_signals_keep_their_stack_which_openvino_would_take_and_free(network: PoseGenerator) -> None:
    def stack() -> tuple[object, ...]:
        found = current_signal_stack()
        return () if found is None else (found.pointer, found.flags, found.size)

    before = stack()
    first, second = (OpenVinoCore(network, torch.float32, 1, SIGMA) for _ in range(2))
    assert stack() == before
    inputs = persons(2, network.size)
    assert torch.equal(first(*inputs), second(*inputs))
    del first
    del second
    assert stack() == before


def test_a_graph_is_kept_and_a_damaged_one_made_again(
    network: PoseGenerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    inputs, caplog.handler.level = persons(1, network.size), logging.WARNING
    images = []
    for said in (1, 0, 1):
        caplog.clear()
        images.append(OpenVinoCore(network, torch.float32, 1, SIGMA)(*inputs))
        assert len([r for r in caplog.records if "converting the generator, once" in r.message]) == said
        (kept,) = (tmp_path / "xingaug" / "openvino").iterdir()
        if said == 0:
            kept.write_bytes(kept.read_bytes()[:-1] + b"?")
    assert torch.equal(images[0], images[1])
    assert torch.equal(images[0], images[2])


def test_auto_takes_it_for_a_loaded_generator_on_a_cpu(network: PoseGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Core(network, dtype="float32", runtime="auto").describe() == "float32 by openvino on cpu"
    assert Core(network, dtype="bfloat16", runtime="auto").describe() == "bfloat16 by openvino on cpu"
    assert Core(network).describe() == "float32 by torch on cpu"
    assert Core(network, dtype=torch.float16, runtime="auto").describe() == "float16 by torch on cpu"
    assert Core(with_everything(), runtime="auto").describe() == "float32 by torch on cpu"
    with pytest.raises(BadInput, match=r"runtime: 'openvino', on cpu in torch.float16; needed a CPU, in float32 or"):
        Core(network, dtype=torch.float16, runtime="openvino").plan()
    monkeypatch.setattr("xingaug.generators.core.is_installed", lambda: False)
    assert Core(network, runtime="auto").describe() == "float32 by torch on cpu"
    monkeypatch.setattr("xingaug.generators.openvino_core.find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"'openvino', but openvino is not installed; pip install 'xingaug\[openvino\]'"):
        Core(network, runtime="openvino").plan()


def test_bench_measures_it_beside_the_other_forms(network: PoseGenerator) -> None:
    variants = {(v.form, v.dtype): v.run for v in variants_of("ground", network, example_batch(network, 2))}
    plain, openvino = (variants[form, "float32"]() for form in ("plain", "openvino"))
    assert isinstance(plain, Tensor)
    assert isinstance(openvino, Tensor)
    torch.testing.assert_close(openvino, plain, atol=1e-3, rtol=0)
