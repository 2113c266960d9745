"""Folders as torchreid datasets, and the loader that re-renders drawn rows."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from reid_world import BODY, COLOUR, StandIn, settings, write_tree
from trees import describe, write_crops, write_msmt17

from reid_integration import loader as loader_module
from reid_integration.compat import load_torchreid, quiet
from reid_integration.config import reid_config
from reid_integration.datamanager import build_datamanager, find_folder, register_market_folder
from reid_integration.loader import TrainingImages, attach_poses
from reid_integration.samplers import MixedIdentities
from xingaug.augment.transform import XingPose
from xingaug.data.annotations import read_npz, write_npz
from xingaug.errors import BadInput
from xingaug.images import read_image
from xingaug.poses.collect import bank_from_tree

PLAIN = ("random_flip", "random_crop")  # leave a picture of one colour as it is


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return write_tree(tmp_path_factory.mktemp("data") / "world")


def build(tree, transforms=PLAIN, batch_size=8, workers=0, sampler="RandomSampler", **changes):
    tree_settings = settings(tree, "unused", data__transforms=list(transforms), data__workers=workers, **changes)
    tree_settings["train"]["batch_size"] = batch_size
    tree_settings["sampler"] = {"train_sampler": sampler}
    return build_datamanager(reid_config(tree_settings))


def posed(tree, p=0.5, seed=0, mode="replace", transforms=PLAIN, start_epoch=0, stop_epoch=None, **options):
    manager = build(tree, transforms, **options)
    persons = TrainingImages.read([entry[0] for entry in manager.train_loader.dataset.data])
    augment = XingPose(StandIn(), persons.build_bank((128, 64)), p=p, seed=seed, mode=mode)
    attach_poses(manager, augment, persons, transforms, start_epoch=start_epoch, stop_epoch=stop_epoch)
    return manager.train_loader


def seed_all(seed=5):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def global_state():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


def drawn(batches):
    """Whether each image was rendered, by name."""
    return {
        Path(path).name: bool(flag)
        for batch in batches
        for path, flag in zip(batch["impath"], batch["is_synthetic"], strict=True)
    }


def painted():
    """COLOUR as the chain normalises it."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (torch.tensor(COLOUR) - mean) / std


# Datasets


def test_folder_is_a_torchreid_dataset(tree):
    manager = build(tree)
    images = manager.train_loader.dataset.data
    assert len(images) == 24
    assert sorted({pid for _, pid, _, _ in images}) == list(range(6)) == list(range(manager.num_train_pids))
    for path, pid, camid, dsetid in images:
        name = Path(path).name
        assert pid == (int(name[:4]) - 2) // 3
        assert camid == int(name[6]) - 1
        assert dsetid == 0
    (splits,) = manager.test_dataset.values()
    assert len(splits["query"]) == 6
    assert len(splits["gallery"]) == 13
    assert 0 in {pid for _, pid, _, _ in splits["gallery"]}  # the distractor


def test_registered_by_name_for_torchreids_own_manager(tree):
    assert register_market_folder(tree, "my_world") == register_market_folder(tree, "my_world") == "my_world"
    with quiet():
        manager = load_torchreid().data.ImageDataManager(sources="my_world", height=32, width=16, workers=0)
    assert manager.num_train_pids == 6
    with pytest.raises(BadInput, match="'my_world': torchreid has another dataset"):
        register_market_folder(tree.parent, "my_world")
    with pytest.raises(BadInput, match="no such folder"):
        register_market_folder(tree / "nowhere")


def test_offline_synthetic_images_keep_their_labels(tmp_path):
    root = write_tree(tmp_path / "offline", identities=3)
    source = root / "bounding_box_train" / "0005_c2s1_000001_00.jpg"
    (root / "bounding_box_train" / "0005_c2s1_000001_00_x000.jpg").write_bytes(source.read_bytes())
    for folder in ("query", "bounding_box_test"):  # a folder that is only trained on needs neither
        for path in (root / folder).iterdir():
            path.unlink()
        (root / folder).rmdir()
    target = write_tree(tmp_path / "real", identities=3, seed=1)
    manager = build(root, data__sources=["offline"], data__targets=[str(target)])
    images = {Path(path).name: rest for path, *rest in manager.train_loader.dataset.data}
    assert len(images) == 13
    assert images["0005_c2s1_000001_00_x000.jpg"] == [1, 1, 1]
    assert images["0005_c2s1_000001_00.jpg"] == [1, 1, 0]
    persons = TrainingImages.read([path for path, *_ in manager.train_loader.dataset.data])
    assert (~persons.keypoints.present.any(-1)).sum() == 1
    assert len(persons.build_bank((128, 64))) == 12


def test_two_sources_are_joined_as_torchreid_joins_them(tree, tmp_path):
    other = write_tree(tmp_path / "other", identities=3, seed=1)
    manager = build(tree, data__sources=["world", str(other)])
    assert manager.num_train_pids == 9
    assert len(manager.train_loader.dataset) == 36
    assert next(iter(manager.train_loader))["img"].shape == (8, 3, 32, 16)


def test_folders_are_found(tree, tmp_path):
    assert find_folder(tree.parent, "world") == tree
    assert find_folder("elsewhere", str(tree)) == tree
    assert find_folder(tree, "market1501") == tree
    unpacked = write_tree(tmp_path / "market1501" / "Market-1501-v15.09.15", identities=2, annotations=False)
    assert find_folder(tmp_path, "market1501") == unpacked
    with pytest.raises(BadInput, match="no dataset 'dukemtmcreid' in Market-1501 layout below"):
        find_folder(tree.parent, "dukemtmcreid")


def test_other_layouts_are_torchreid_datasets(tree, tmp_path):
    root = write_msmt17(tmp_path / "msmt17" / "MSMT17_V1")
    assert find_folder(tmp_path, "msmt17") == root
    text = "{pid}_{camid:d}_*.jpg"
    write_crops(
        tmp_path / "crops", train=[f"{who}_{c}_a.jpg" for who in ("ann", "bob") for c in (1, 2)],
        query=["cy_1_a.jpg"], gallery=["cy_2_a.jpg", "dan_1_a.jpg"],
    )  # fmt: skip
    file = describe(tmp_path / "crops.yaml", "crops", train=text, query=text, gallery=text)
    manager = build(
        tree, data__root=str(tmp_path), data__sources=["crops.yaml", "msmt17"], batch_size=4, data__targets=[str(tree)]
    )
    images = {str(Path(path).relative_to(tmp_path)): rest for path, *rest in manager.train_loader.dataset.data}
    assert images == {
        "crops/train/ann_1_a.jpg": [0, 0, 0], "crops/train/ann_2_a.jpg": [0, 1, 0],
        "crops/train/bob_1_a.jpg": [1, 0, 0], "crops/train/bob_2_a.jpg": [1, 1, 0],
        "msmt17/MSMT17_V1/train/0000/0000_000_01_0303morning_0015_0.jpg": [2, 2, 1],
        "msmt17/MSMT17_V1/train/0000/0000_001_14_0303morning_0016_0.jpg": [2, 15, 1],
        "msmt17/MSMT17_V1/train/0001/0001_000_05_0303noon_0152_1.jpg": [3, 6, 1],
    }  # fmt: skip
    assert next(iter(manager.train_loader))["img"].shape == (4, 3, 32, 16)
    manager = build(tree, data__targets=[str(file), str(root)])
    crops, msmt17 = (manager.test_dataset[str(path)] for path in (file, root))
    assert [entry[1:3] for entry in crops["query"] + crops["gallery"]] == [(3, 0), (3, 1), (4, 0)]
    assert [entry[1:3] for entry in msmt17["query"]] == [(10_001, 2)]
    with pytest.raises(BadInput, match=r"crops\.yaml: augment needs a Market-1501 tree; make one of it with `xingaug"):
        build(tree, data__sources=[str(file)], augment={"p": 0.5})


def test_test_images_are_never_trained_on(tree):
    with pytest.raises(BadInput, match="query images are among the training images"):
        build(tree, data__combineall=True)


def test_too_large_batches_are_refused(tree):
    with pytest.raises(BadInput, match="batch_size: 100, but RandomSampler gives only 24"):
        build(tree, batch_size=100)
    with pytest.raises(BadInput, match="RandomIdentitySampler cannot form batches of 64"):
        build(tree, batch_size=64, sampler="RandomIdentitySampler")


def test_an_unreadable_image_is_an_error(tmp_path):
    root = write_tree(tmp_path / "broken", identities=2)
    (root / "bounding_box_train" / "0002_c1s1_000000_00.jpg").write_bytes(b"nothing")
    with pytest.raises(BadInput, match=r"0002_c1s1_000000_00.jpg: not a readable image"):
        list(build(root, batch_size=2).train_loader)


# The hook


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("sampler", ["RandomSampler", "RandomIdentitySampler"])
def test_p_0_gives_the_very_same_batches(tree, sampler, workers):
    transforms = ("random_flip", "random_crop", "random_erase", "color_jitter")
    plain = build(tree, transforms, sampler=sampler, workers=workers).train_loader
    ours = posed(tree, p=0.0, transforms=transforms, sampler=sampler, workers=workers)
    seed_all()
    expected = [batch for _ in range(2) for batch in plain]
    state = global_state()
    seed_all()
    batches = [batch for _ in range(2) for batch in ours]
    assert global_state() == state
    assert len(batches) == len(expected) > 0
    for batch, other in zip(batches, expected, strict=True):
        assert torch.equal(batch["img"], other["img"])
        assert torch.equal(batch["pid"], other["pid"])
        assert not batch["is_synthetic"].any()
        assert set(batch) == {*other, "is_synthetic"}


def test_rendered_rows_are_replaced_and_the_others_are_not(tree):
    plain = build(tree).train_loader
    ours = posed(tree)
    seed_all()
    expected = list(plain)
    state = global_state()
    seed_all()
    batches = list(ours)
    assert global_state() == state  # rendering moves no global random generator
    rendered = 0
    for batch, other in zip(batches, expected, strict=True):
        chosen = batch["is_synthetic"]
        rendered += int(chosen.sum())
        assert torch.equal(batch["img"][~chosen], other["img"][~chosen])
        colour = painted().view(3, 1, 1).expand(3, 32, 16)
        for image in batch["img"][chosen]:
            torch.testing.assert_close(image, colour, atol=2e-6, rtol=0)
    assert 4 <= rendered <= 20
    assert (ours.rows, ours.synthetic) == (24, rendered)


def test_draws_depend_on_seed_epoch_and_name_alone(tree):
    first = drawn(posed(tree))
    assert len(set(first.values())) == 2
    assert drawn(posed(tree, batch_size=4, workers=2)) == first
    ours = posed(tree, batch_size=6)
    assert drawn(ours) == first
    second = drawn(ours)
    assert second != first
    ours.set_epoch(0)
    assert drawn(ours) == first
    assert drawn(ours) == second
    assert drawn(posed(tree, seed=1)) != first


def test_flips_of_rendered_rows_repeat_with_seed_epoch_and_step(tree):
    transforms = ("random_flip", "random_erase")
    runs = []
    for _ in range(2):
        ours = posed(tree, p=1.0, transforms=transforms, sampler="SequentialSampler")
        runs.append([batch["img"] for _ in range(2) for batch in ours])
        torch.rand(3)  # the global generator stands elsewhere the second time
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
    assert not torch.equal(runs[0][0], runs[0][1])  # another step
    assert not torch.equal(runs[0][0], runs[0][3])  # another epoch


def test_epochs_without_rendering(tree):
    ours = posed(tree, p=1.0, start_epoch=1, stop_epoch=2)
    assert [any(drawn(ours).values()) for _ in range(3)] == [False, True, False]


def test_epoch_0_may_be_the_first_without_rendering(tree):
    assert not any(drawn(posed(tree, p=1.0, stop_epoch=0)).values())


def test_append_lengthens_the_batch_and_labels_follow(tree):
    for batch in posed(tree, mode="append"):
        chosen = batch["is_synthetic"]
        assert not chosen[:8].any()
        assert chosen[8:].all()
        assert len(chosen) == len(batch["img"]) == len(batch["impath"]) == len(batch["pid"]) == len(batch["dsetid"])
        for path, pid in zip(batch["impath"], batch["pid"].tolist(), strict=True):
            assert pid == (int(Path(path).name[:4]) - 2) // 3
        assert len(chosen) > 8


def test_what_a_loader_offers_is_forwarded(tree):
    ours = posed(tree)
    assert len(ours) == 3
    assert ours.batch_size == 8
    assert ours.sampler is ours.loader.sampler
    assert ours.batch_sampler is ours.loader.batch_sampler
    assert len(ours.dataset) == 24
    assert ours.dataset.num_train_pids == 6
    with pytest.raises(AttributeError):
        _ = ours.nothing_of_that_name


def test_every_image_is_decoded_once(tree, monkeypatch):
    read, paths = loader_module.read_image, []
    monkeypatch.setattr(loader_module, "read_image", lambda path: paths.append(path) or read(path))
    list(posed(tree, p=1.0))
    assert len(paths) == len(set(paths)) == 24


def test_images_of_another_size_bring_their_keypoints_along(tmp_path):
    root = write_tree(tmp_path / "large", identities=2, size=(256, 96))
    ours = posed(root, p=1.0, batch_size=4)
    known = read_npz(root / "annotations.npz")
    for index in (0, 5):
        item = ours.dataset[index]
        assert item["source"].shape == (128, 64, 3)
        assert item["source"].dtype == torch.uint8
        row = known.lookup([Path(item["impath"]).name])[0]
        expected = (torch.tensor(known.xy[row]) + 0.5) * torch.tensor([64 / 96, 128 / 256]) - 0.5
        torch.testing.assert_close(item["source_xy"], expected)
        bank = ours.augment.bank
        place = list(bank.names).index(Path(item["impath"]).name)
        torch.testing.assert_close(bank.keypoints([place]).xy[0], expected)
    assert all(batch["is_synthetic"].all() for batch in ours)


def test_images_without_keypoints_stay_real_and_are_counted(tree, tmp_path):
    manager = build(tree)
    paths = [entry[0] for entry in manager.train_loader.dataset.data]
    whole = read_npz(tree / "annotations.npz")
    rows = whole.lookup([Path(path).name for path in paths[4:]])
    partial = tmp_path / "partial.npz"
    write_npz(partial, whole.names[rows], whole.xy[rows], whole.visibility[rows])
    persons = TrainingImages.read(paths, partial)
    assert (~persons.keypoints.present.any(-1)).sum() == 4
    attach_poses(manager, XingPose(StandIn(), persons.build_bank((128, 64)), p=1.0), persons, PLAIN)
    flags = drawn(manager.train_loader)
    assert {name for name, flag in flags.items() if not flag} == {Path(path).name for path in paths[:4]}
    assert manager.train_loader.skipped == {"rejected": 0, "unusable_keypoints": 4, "no_pose": 0}


def test_sources_with_the_same_names_are_kept_apart(tmp_path):
    trees = [write_tree(tmp_path / name, identities=3, seed=seed) for seed, name in enumerate(("one", "two"))]
    config = reid_config(settings(trees[0], tmp_path / "x", data__sources=["one", "two"]), "here")
    manager = build_datamanager(config)
    paths = [entry[0] for entry in manager.train_loader.dataset.data]
    persons = TrainingImages.read(paths)
    assert len(set(persons.names)) == len(paths) == 24
    with pytest.raises(BadInput, match=r"one.annotations\.npz: \d{4}_\S+ could be \S+ or \S+; leave augment\.annot"):
        TrainingImages.read(paths, tmp_path / "one" / "annotations.npz")
    assert len(set(persons.pids.tolist())) == 6
    bank = persons.build_bank((128, 64))
    assert sorted(bank.names) == sorted(persons.names)

    class Mean(StandIn):
        """The mean colour of the source."""

        def forward(self, source, source_heatmaps, target_heatmaps):
            return source.mean((2, 3), keepdim=True).expand_as(source).clone()

    attach_poses(manager, XingPose(Mean(), bank, p=1.0, reuse=4), persons, PLAIN)
    for _ in range(3):
        for batch in manager.train_loader:
            for path, image in zip(batch["impath"], batch["img"], strict=True):
                own = torch.from_numpy(read_image(Path(path))).float().mean((0, 1)) / 255
                found = image.mean((1, 2)) * torch.tensor([0.229, 0.224, 0.225]) + torch.tensor([0.485, 0.456, 0.406])
                assert torch.allclose(found, own, atol=0.01)


def test_annotations_must_be_there_and_fit(tree, tmp_path):
    bare = write_tree(tmp_path / "bare", identities=2, annotations=False)
    paths = [str(path) for path in sorted((bare / "bounding_box_train").iterdir())]
    with pytest.raises(BadInput, match=r"annotations.npz: no such annotation file"):
        TrainingImages.read(paths)
    renamed = [
        path.replace("_c1s1_", "_c1s4_").replace("_c2s1_", "_c2s4_").replace("_c3s1_", "_c3s4_") for path in paths
    ]
    with pytest.raises(BadInput, match="has keypoints for none of the 8 images"):
        TrainingImages.read(renamed, tree / "annotations.npz")


@pytest.mark.parametrize("loss", ["softmax", "triplet"])
@pytest.mark.parametrize("mode", ["replace", "append"])
def test_stock_engines_run_unchanged(tree, tmp_path, loss, mode):
    torchreid = load_torchreid()
    manager = build(tree, sampler="RandomIdentitySampler")
    persons = TrainingImages.read([entry[0] for entry in manager.train_loader.dataset.data])
    attach_poses(manager, XingPose(StandIn(), persons.build_bank((128, 64)), mode=mode), persons, PLAIN)
    with quiet():
        model = torchreid.models.build_model("osnet_x0_25", manager.num_train_pids, loss=loss, pretrained=False)
        optimizer = torchreid.optim.build_optimizer(model)
        scheduler = torchreid.optim.build_lr_scheduler(optimizer)
        stock = {"softmax": torchreid.engine.ImageSoftmaxEngine, "triplet": torchreid.engine.ImageTripletEngine}[loss]
        engine = stock(manager, model, optimizer, scheduler=scheduler, use_gpu=False)
        engine.run(save_dir=str(tmp_path / "log"), max_epoch=1, print_freq=1, ranks=[1, 5])
    assert (tmp_path / "log" / "model" / "model.pth.tar-1").is_file()
    assert manager.train_loader.synthetic > 0


def test_images_that_are_synthetic_already_stay_unless_asked(tmp_path):
    root = write_tree(tmp_path / "offline", identities=3)
    train = root / "bounding_box_train"
    sources = sorted(train.iterdir())
    made = [train / f"{path.stem}_x000.jpg" for path in sources]
    for source, path in zip(sources, made, strict=True):
        path.write_bytes(source.read_bytes())
    xy, visibility = np.tile(BODY, (24, 1, 1)), np.ones((24, 18), np.float32)
    write_npz(root / "annotations.npz", [path.name for path in sources + made], xy, visibility)
    for rerender in (False, True):
        manager = build(root, data__sources=["offline"], data__targets=[str(write_tree(tmp_path / f"r{rerender}"))])
        persons = TrainingImages.read([entry[0] for entry in manager.train_loader.dataset.data])
        augment = XingPose(StandIn(), persons.build_bank((128, 64)), p=1.0)
        rendered = drawn(attach_poses(manager, augment, persons, PLAIN, rerender=rerender))
        assert all(flag for name, flag in rendered.items() if "_x" not in name)
        assert all(flag == rerender for name, flag in rendered.items() if "_x" in name)


@given(st.integers(1, 4), st.integers(1, 4), st.floats(0, 1), st.data())
@hypothesis_settings(deadline=None)
def test_identities_are_mixed_of_real_and_synthetic_rows(identities, instances, share, data):
    pids = data.draw(st.lists(st.integers(0, 6), min_size=1, max_size=40))
    synthetic = data.draw(st.lists(st.booleans(), min_size=len(pids), max_size=len(pids)))
    sampler = MixedIdentities(pids, synthetic, identities * instances, instances, share)
    rows = list(sampler)
    assert len(rows) == len(sampler) == len(set(pids)) // identities * identities * instances
    seen = []
    for start in range(0, len(rows), instances):
        group = rows[start : start + instances]
        (pid,) = {pids[row] for row in group}
        seen.append(pid)
        kinds = {synthetic[row] for row in range(len(pids)) if pids[row] == pid}
        made = sum(synthetic[row] for row in group)
        assert made == (round(share * instances) if len(kinds) == 2 else instances * kinds.pop())
        for kind in (True, False):
            mine = [row for row in group if synthetic[row] == kind]
            there = [row for row in range(len(pids)) if pids[row] == pid and synthetic[row] == kind]
            assert len(set(mine)) == min(len(mine), len(there)) or len(mine) > len(there)
    assert len(set(seen)) == len(seen)


def test_the_bank_is_the_one_that_the_command_builds(tmp_path):
    root = write_tree(tmp_path / "world", identities=3, size=(60, 40))
    table = read_npz(root / "annotations.npz")
    xy = table.xy.copy()
    xy[:, 4] = (45, 30)  # a wrist outside the image
    write_npz(root / "annotations.npz", table.names.tolist(), xy, table.visibility)
    ours = TrainingImages.read([str(path) for path in sorted((root / "bounding_box_train").iterdir())]).build_bank(
        (128, 64)
    )
    theirs = bank_from_tree(root, root / "annotations.npz")
    assert ours.content_hash == theirs.content_hash
