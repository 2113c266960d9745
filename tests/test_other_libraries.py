"""The examples for other libraries, with stand-ins where these are not installed."""

import importlib.util
import runpy
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from xingaug.data.pedestrians import write_world

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("drawn") / "world"
    write_world(root, 8, 4, 3, workers=1, progress=False)
    return root


class MPerClassSampler:
    """Batches of m images of a class, as the library's, by label."""

    def __init__(self, labels: list[int], m: int, batch_size: int | None = None, length_before_new_iter: int = 100000):
        self.labels, self.m, self.length = np.array(labels), m, length_before_new_iter

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Any:
        rng, rows = np.random.default_rng(0), []
        while len(rows) < self.length:
            for label in rng.permutation(np.unique(self.labels)):
                rows += rng.choice(np.flatnonzero(self.labels == label), self.m).tolist()
        return iter(rows[: self.length])


class TripletMarginLoss(nn.Module):
    """All triplets of a batch."""

    def __init__(self, margin: float = 0.05) -> None:
        super().__init__()
        self.margin = margin

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        apart, same = torch.cdist(embeddings, embeddings), labels[:, None] == labels
        return (apart[:, :, None] - apart[:, None] + self.margin).clamp(min=0)[same[:, :, None] & ~same[:, None]].mean()


class LightningModule(nn.Module):
    """What the example uses of Lightning's."""

    current_epoch = 0


class Trainer:
    """A loop with Lightning's hooks."""

    def __init__(self, max_epochs: int, **_: Any) -> None:
        self.max_epochs = max_epochs

    def fit(self, model: Any, loader: Any) -> None:
        optimiser = model.configure_optimizers()
        for model.current_epoch in range(self.max_epochs):
            for number, batch in enumerate(loader):
                loss = model.training_step(model.on_after_batch_transfer(batch, 0), number)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str, **contents: Any) -> None:
    """Puts a module in the place of a library, unless it is installed."""
    if importlib.util.find_spec(name) is None:
        module = ModuleType(name)
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)


def test_pytorch_metric_learning(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {"losses": ModuleType("losses"), "samplers": ModuleType("samplers")}
    vars(parts["losses"])["TripletMarginLoss"] = TripletMarginLoss
    vars(parts["samplers"])["MPerClassSampler"] = MPerClassSampler
    stand_in(monkeypatch, "pytorch_metric_learning", **parts)
    rendered = runpy.run_path(str(ROOT / "examples" / "metric_learning.py"))["main"](world, epochs=1)
    assert 0 < rendered < 16


def test_lightning(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, "lightning", LightningModule=LightningModule, Trainer=Trainer)
    rendered = runpy.run_path(str(ROOT / "examples" / "lightning_module.py"))["main"](world, epochs=2)
    assert 0 < rendered < 32
