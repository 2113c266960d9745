"""Rendering for loaders of other libraries: a plain one, and a stand-in with fast-reid's names of fields."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reid_world import COLOUR, StandIn, write_tree
from telling import told
from torch.utils.data import DataLoader, Dataset, Sampler

import reid_integration
from reid_integration import by_path
from reid_integration.by_path import MEAN, STD, persons_of, render_by_path, render_fastreid
from xingaug.augment.gate import GateConfig
from xingaug.data.market1501 import read_split
from xingaug.errors import BadInput
from xingaug.images import read_image

SIZE = (64, 32)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tree(tmp_path_factory.mktemp("data") / "tree")


@pytest.fixture(autouse=True)
def painted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_path, "load_generator", lambda name, device: StandIn())


def records(tree: Path) -> list[tuple[str, int, int]]:
    split = read_split(tree, "train")
    return [(str(split.path(i)), int(split.pids[i]), int(split.camids[i]) - 1) for i in range(len(split))]


class Plain(Dataset[Any]):
    """(image, pid, camid, path), the image normalised."""

    def __init__(self, tree: Path) -> None:
        self.records = records(tree)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, row: int) -> Any:
        path, pid, camid = self.records[row]
        image = torch.from_numpy(read_image(path, SIZE)).permute(2, 0, 1).float() / 255
        mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
        return (image - mean) / std, pid, camid, path


class CommDataset(Dataset[Any]):
    """As fast-reid has it: `img_items` of (path, pid, camid) with texts for both, values 0 to 255."""

    def __init__(self, tree: Path) -> None:
        self.img_items = [(path, f"market1501_{pid}", f"market1501_c{camid}") for path, pid, camid in records(tree)]
        self.pid_dict = {pid: i for i, pid in enumerate(sorted({item[1] for item in self.img_items}))}
        self.cam_dict = {camid: i for i, camid in enumerate(sorted({item[2] for item in self.img_items}))}

    def __len__(self) -> int:
        return len(self.img_items)

    def __getitem__(self, row: int) -> dict[str, Any]:
        path, pid, camid = self.img_items[row]
        image = torch.from_numpy(read_image(path, SIZE)).permute(2, 0, 1).float()
        return {"images": image, "targets": self.pid_dict[pid], "camids": self.cam_dict[camid], "img_paths": path}


class Endless(Sampler[int]):
    """As fast-reid's samplers, which never end."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng(0)
        while True:
            yield from rng.permutation(self.count).tolist()


def test_the_hooks_are_handed_on() -> None:
    assert reid_integration.render_fastreid is render_fastreid
    assert reid_integration.render_by_path is render_by_path


def test_a_plain_loader(tree: Path) -> None:
    data = Plain(tree)
    file, gate = tree / "annotations.npz", GateConfig(min_contrast=0)
    loader = render_by_path(DataLoader(data, batch_size=5), data.records, file, p=0.5, transforms=(), gate=gate)
    stock, seen = list(DataLoader(data, batch_size=5)), 0
    expected = (torch.tensor(COLOUR) - torch.tensor(MEAN)) / torch.tensor(STD)
    for epoch in range(2):
        selected = []
        for ours, theirs in zip(loader, stock, strict=True):
            images, pids, camids, paths = ours
            assert torch.equal(pids, theirs[1])
            assert torch.equal(camids, theirs[2])
            assert paths == theirs[3]
            is_same = (images == theirs[0]).flatten(1).all(1)
            made = images[~is_same]
            assert torch.allclose(made, expected[:, None, None].expand_as(made), atol=1e-4)
            selected += (~is_same).tolist()
        persons = loader.persons
        draw = loader.augment.draw(persons.keypoints, persons.names, persons.pids, persons.camids, epoch, (128, 64))
        assert selected == draw.selected.tolist()
        seen += sum(selected)
    assert (loader.rows, loader.synthetic) == (2 * len(data), seen)
    assert len(loader) == len(stock)


def test_nothing_is_drawn_with_p_0(tree: Path) -> None:
    data = Plain(tree)
    loader = render_by_path(DataLoader(data, batch_size=5), data.records, tree / "annotations.npz", p=0)
    for ours, theirs in zip(loader, DataLoader(data, batch_size=5), strict=True):
        assert torch.equal(ours[0], theirs[0])


def test_only_files_of_chosen_rows_are_read(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, read = Plain(tree), []
    loader = render_by_path(DataLoader(data, batch_size=5), data.records, tree / "annotations.npz", p=0.5)
    monkeypatch.setattr(by_path, "read_image", lambda path: read.append(str(path)) or read_image(path))
    for epoch in range(2):
        read.clear()
        list(loader)
        chosen = loader.augment.chosen(loader.persons.names, epoch)
        assert 0 < chosen.sum() < len(data)
        assert sorted(read) == sorted(path for path, use in zip(loader.persons.paths, chosen, strict=True) if use)


@pytest.mark.parametrize("erasing", [0.0, 1.0])
def test_fast_reids_batches(tree: Path, erasing: float) -> None:
    data = CommDataset(tree)
    stock = DataLoader(data, batch_size=6, sampler=Endless(len(data)))
    loader = render_fastreid(stock, tree / "annotations.npz", p=0.5, erasing=erasing)
    batches, drawn = iter(loader), []
    for epoch in range(3):
        rendered = set()
        for _ in range(len(data) // 6):
            batch = next(batches)
            assert set(batch) == {"images", "targets", "camids", "img_paths", "is_synthetic"}
            for row, path in enumerate(batch["img_paths"]):
                index = [item[0] for item in data.img_items].index(path)
                own = data[index]
                assert (batch["targets"][row], batch["camids"][row]) == (own["targets"], own["camids"])
                image = batch["images"][row]
                if not batch["is_synthetic"][row]:
                    assert torch.equal(image, own["images"])
                    continue
                rendered.add(path)
                painted = (image - 255 * torch.tensor(COLOUR)[:, None, None]).abs().amax(0) < 1
                erased = (image - 255 * torch.tensor(MEAN)[:, None, None]).abs().amax(0) < 1
                assert bool((painted | erased).all())
                assert bool(erased.any()) == (erasing == 1)
        persons = loader.persons
        draw = loader.augment.draw(persons.keypoints, persons.names, persons.pids, persons.camids, epoch, (128, 64))
        assert rendered == {persons.paths[i] for i in draw.selected.nonzero()[:, 0].tolist()}
        drawn.append(rendered)
    assert drawn[0] != drawn[1]


class SourceItself(StandIn):
    """The source, unchanged."""

    def forward(self, source, source_heatmaps, target_heatmaps):  # type: ignore[no-untyped-def]
        return source


def test_an_epoch_is_of_all_processes(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = CommDataset(tree)
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    loader = render_fastreid(DataLoader(data, batch_size=2), tree / "annotations.npz")
    assert loader.steps_per_epoch == len(data) // 4


def test_persons_are_rendered_from_their_nearest_images(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_path, "load_generator", lambda name, device: SourceItself())
    data, file = Plain(tree), tree / "annotations.npz"
    loader = DataLoader(data, batch_size=len(data))
    own, nearest = (
        next(iter(render_by_path(loader, data.records, file, p=1, transforms=(), **options)))[0]
        for options in ({}, {"reference": "camera"})
    )
    clean = torch.stack([data[i][0] for i in range(len(data))])
    assert (own - clean).abs().max() < 0.1  # resized there and back
    changed = [i for i in range(len(data)) if (nearest[i] - clean[i]).abs().max() > 0.5]
    assert changed
    for i in changed:
        pid, camid = data.records[i][1:3]
        others = [k for k, record in enumerate(data.records) if record[1:3] == (pid, camid) and k != i]
        assert min(float((nearest[i] - clean[k]).abs().max()) for k in others) < 0.1
    with pytest.raises(BadInput, match="reference: 'person', needed one of image, camera"):
        render_by_path(DataLoader(data), data.records, file, reference="person")


def test_paths_in_folders_are_told_apart(tree: Path, tmp_path: Path) -> None:
    write_tree(tmp_path / "a" / "tree", identities=2)
    write_tree(tmp_path / "b" / "tree", identities=2, annotations=False, seed=1)
    both = [
        (path, f"{folder}{pid}", camid) for folder in "ab" for path, pid, camid in records(tmp_path / folder / "tree")
    ]
    # A name that two files have says neither of them.
    file = tmp_path / "a" / "tree" / "annotations.npz"
    assert f"has keypoints for none of the {len(both)} images" in told(persons_of, both, file)
    persons = persons_of(both[: len(both) // 2], file)
    assert len(set(persons.pids.tolist())) == 2
    assert persons.keypoints.present.any(-1).all()


def test_what_does_not_fit_is_told(tree: Path, tmp_path: Path) -> None:
    data = Plain(tree)
    loader = render_by_path(DataLoader(data, batch_size=5), data.records[:20], tree / "annotations.npz", p=1)
    with pytest.raises(BadInput, match="is in a batch but none of the records"):
        list(loader)
    assert "has no img_items; needed a loader of fast-reid's" in told(
        render_fastreid, DataLoader(data), tree / "annotations.npz"
    )
    others = [("/x/1.jpg", 1, 1), ("/x/2.jpg", 1, 1)]
    assert "has keypoints for none of the 2 images" in told(persons_of, others, tree / "annotations.npz")
    with pytest.raises(BadInput, match="device: 'foo' cannot be used"):
        render_by_path(DataLoader(data), data.records, tree / "annotations.npz", device="foo")
    with pytest.raises(BadInput, match="p: 2, needed a probability"):
        render_by_path(DataLoader(data), data.records, tree / "annotations.npz", p=2)
