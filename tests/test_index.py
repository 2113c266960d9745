import numpy as np
import pytest
import torch
from skeletons import random_people, small_bank

from xingaug.errors import BadInput
from xingaug.keypoints import Keypoints
from xingaug.poses import bank as bank_module
from xingaug.poses.bank import PoseBank
from xingaug.poses.descriptor import oks, shapes_of
from xingaug.poses.index import IndexSettings
from xingaug.poses.kernel import LENGTH, KernelFeatures
from xingaug.poses.spacing import evenly_spaced


def shapes(count: int, seed: int = 0, missing: float = 0.15):
    people = random_people(count, seed, missing)
    return shapes_of(people.xy.numpy(), people.visibility.numpy())


# Features


def test_the_inner_product_is_the_sum_of_what_oks_exceeds_the_threshold_by():
    poses, queries = shapes(400, seed=1), shapes(30, seed=2)
    features = KernelFeatures.fit(poses)
    found = features.of_queries(queries, 0.8) @ features.of_poses(poses).T
    exact = oks(queries[:, None], poses[None])
    both = (queries.present[:, None] & poses.present[None]).sum(-1)
    np.testing.assert_allclose(found / both, exact - 0.8, atol=0.06)
    assert np.abs(found / both - (exact - 0.8)).mean() < 2e-3


def test_a_threshold_for_each_query():
    features, queries = KernelFeatures.fit(shapes(100)), shapes(4, seed=2)
    each = features.of_queries(queries, np.array([0.1, 0.9, 0.5, 0.3]))
    for row, threshold in enumerate([0.1, 0.9, 0.5, 0.3]):
        np.testing.assert_allclose(each[row], features.of_queries(queries[row : row + 1], threshold)[0], atol=1e-3)


def test_features_of_a_joint_that_was_never_seen():
    poses = shapes(50, missing=0)
    poses.present[:, 4] = False
    features = KernelFeatures.fit(poses).of_poses(shapes(5, seed=3))
    assert features.shape == (5, LENGTH)
    assert np.isfinite(features).all()


# Indexes


@pytest.fixture(scope="module")
def poses() -> Keypoints:
    return random_people(4000, seed=1, missing=0.1)


@pytest.mark.parametrize("factory", ["Flat", "IVF32,Flat", "PQ24np", "IVF32,PQ24np", "IVF32,SQ8"])
def test_an_index_recalls_the_ten_best(poses, factory):
    bank = PoseBank.build(poses, settings=IndexSettings(factory, probes=16))
    queries = random_people(40, seed=3, missing=0.1)
    best = -np.sort(-bank.oks(queries, np.tile(bank.usable_rows, (40, 1))), axis=1)[:, :10]
    found = bank.search(queries, k=10).oks.numpy()
    assert (found >= best[:, 9:] - 1e-6).mean() >= 0.95
    assert (np.diff(found, axis=1) <= 0).all()


def test_more_poses_than_the_probed_lists_hold(poses):
    bank = PoseBank.build(poses[:400], settings=IndexSettings("IVF64,Flat", probes=1))
    hits = bank.search(poses[:20], k=len(bank.usable_rows))
    for row in hits.indices.tolist():
        assert sorted(row) == bank.usable_rows.tolist()


@pytest.mark.parametrize("factory", ["HNSW32", "OPQ24,IVF4,PQ24np", "PCA64,IVF32,Flat"])
def test_indexes_that_find_fewer_than_are_asked_for(poses, factory):
    bank = PoseBank.build(poses[:400], settings=IndexSettings(factory, probes=1))
    queries = poses[400:410]
    hits = bank.search(queries, k=200)
    exact = -np.sort(-bank.oks(queries, np.tile(bank.usable_rows, (10, 1))), axis=1)[:, :200]
    assert all(len(set(row)) == 200 for row in hits.indices.tolist())
    assert (hits.oks.numpy() <= exact + 1e-6).all()
    np.testing.assert_allclose(hits.oks.numpy(), bank.oks(queries, hits.indices))


def test_probes_reach_lists_behind_a_transform(poses):
    few, all_ = (
        PoseBank.build(poses, settings=IndexSettings("PCA64,IVF64,Flat", candidates=64, probes=probes))
        for probes in (1, 64)
    )
    queries = random_people(40, seed=3)
    assert all_.search(queries, k=4).oks.mean() > few.search(queries, k=4).oks.mean()


def test_a_large_bank_is_stored_with_its_index(poses, tmp_path, monkeypatch):
    settings = IndexSettings("IVF16,PQ24np", probes=8)
    bank = PoseBank.build(poses, settings=settings)
    bank.save(tmp_path / "bank")
    monkeypatch.setattr(bank_module.CandidateIndex, "build", lambda *_: pytest.fail("the stored index is there"))
    back = PoseBank.load(tmp_path / "bank")
    assert back.settings == settings
    assert back.search(poses[:9], k=4).indices.tolist() == bank.search(poses[:9], k=4).indices.tolist()
    (tmp_path / "bank" / "index.faiss").write_bytes(b"x")
    with pytest.raises(BadInput, match=r"index\.faiss: truncated or changed"):
        PoseBank.load(tmp_path / "bank")


def test_an_index_that_is_not_the_banks_own_is_refused(poses, tmp_path):
    PoseBank.build(poses[:100]).save(tmp_path / "bank")
    (tmp_path / "bank" / "index.faiss").write_bytes(b"x")
    with pytest.raises(BadInput, match=r"index\.faiss: truncated or changed"):
        PoseBank.load(tmp_path / "bank")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_scan_on_a_gpu_finds_the_same(poses):
    faiss = pytest.importorskip("faiss")
    if not faiss.get_num_gpus():
        pytest.skip("FAISS sees no GPU")
    bank, queries = PoseBank.build(poses), random_people(40, seed=3)
    assert bank._index.searched is not bank._index.on_cpu
    on_gpu = bank.search(queries, k=10)
    bank._index.searched = bank._index.on_cpu
    # float16 may change which candidates are found, not what they are worth.
    torch.testing.assert_close(on_gpu.oks, bank.search(queries, k=10).oks, rtol=0, atol=1e-3)


def test_the_factory_follows_the_number_of_poses():
    settings = IndexSettings()
    assert settings.factory_for(200_000) == "Flat"
    assert settings.factory_for(1_000_000) == "IVF4000,PQ24np"
    assert IndexSettings("IVF8,Flat").factory_for(10) == "IVF8,Flat"


def test_settings_that_do_not_fit_are_refused(poses, tmp_path):
    with pytest.raises(ValueError, match="probes: -1, needed 0"):
        IndexSettings(probes=-1)
    with pytest.raises(ValueError, match="candidates: 65537, needed at most 65536"):
        IndexSettings(candidates=65537)
    for factory in ("Flt", "IVF5000,Flat", "HNSW0", "IVF100000000,Flat", "PQ24x40", "PCA900,Flat", "IVF4", "Flat" * 99):
        with pytest.raises(BadInput, match=f"index: '{factory[:80]}.* does not fit 100 poses"):
            PoseBank.build(poses[:100], settings=IndexSettings(factory)).search(poses[:1], k=1)
        with pytest.raises(BadInput, match=f"index: '{factory[:80]}.* does not fit 100 poses"):
            PoseBank.build(poses[:100], settings=IndexSettings(factory)).save(tmp_path / "bank")
        assert not (tmp_path / "bank").exists()


def test_draws_may_differ_by_the_settings_and_so_does_the_hash(poses):
    first, second = (PoseBank.build(poses[:300], settings=IndexSettings("IVF16,Flat", probes=p)) for p in (1, 16))
    assert first.content_hash != second.content_hash
    assert (
        first.content_hash == PoseBank.build(poses[:300], settings=IndexSettings("IVF16,Flat", probes=1)).content_hash
    )


def test_evenly_spaced_positions_of_very_many():
    for count in (1, 7, 20_000_000):
        chosen = evenly_spaced(count, min(count, 2048))
        assert (chosen[0], chosen[-1]) == (0, count - 1)
        assert len(np.unique(chosen)) == min(count, 2048)
    assert evenly_spaced(2, 4).tolist() == [0, 0, 1, 1]


# Mirrored queries


def test_a_mirrored_pose_is_found_on_request_only():
    bank = small_bank()
    rows = bank.usable_rows[:40]
    queries = bank.keypoints(rows).flip(bank.frame[1])
    plain, both = bank.search(queries, k=1), bank.search(queries, k=5, mirror=True)
    assert not plain.mirrored.any()
    assert both.indices[:, 0].tolist() == rows.tolist()
    assert both.mirrored[:, 0].all()
    torch.testing.assert_close(both.oks[:, 0], torch.ones(40))
    assert (plain.oks[:, 0] < 0.999).any()


def test_a_row_is_found_once_though_both_readings_resemble_it():
    bank = small_bank()
    hits = bank.search(random_people(10, seed=5), k=len(bank.usable_rows), mirror=True)
    for row in hits.indices.tolist():
        assert sorted(row) == bank.usable_rows.tolist()
    flipped = bank.search(random_people(10, seed=5).flip(64), k=len(bank.usable_rows), mirror=True)
    torch.testing.assert_close(hits.oks, flipped.oks)
