"""CMC, mAP and mINP against slow loops and against torchreid's own Python metrics."""

import importlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from reid_integration import evaluation
from reid_integration.compat import load_torchreid
from reid_integration.evaluation import (
    ReidResult,
    distances,
    evaluate,
    evaluate_features,
    evaluate_model,
    extract_features,
)


def random_case(seed, queries=12, gallery=40, identities=5, cameras=3, ties=False):
    rng = np.random.default_rng(seed)
    distmat = rng.random((queries, gallery)).astype(np.float32)
    if ties:
        distmat = np.round(distmat * 4) / 4
    pids = (rng.integers(1, identities + 1, queries), rng.integers(0, identities + 1, gallery))  # 0: distractors
    camids = (rng.integers(0, cameras, queries), rng.integers(0, cameras, gallery))
    return distmat, *pids, *camids


def by_loops(distmat, q_pids, g_pids, q_camids, g_camids, max_rank=50):
    """The protocol, spelled out; None where no query counts."""
    average_precisions, penalties, firsts = [], [], []
    for q in range(len(distmat)):
        position, hits, precisions = 0, 0, []
        for g in np.argsort(distmat[q]):
            if g_pids[g] == q_pids[q] and g_camids[g] == q_camids[q]:
                continue
            position += 1
            if g_pids[g] == q_pids[q]:
                hits += 1
                precisions.append(hits / position)
                last = position
                if hits == 1:
                    firsts.append(position)
        if hits:
            average_precisions.append(sum(precisions) / hits)
            penalties.append(hits / last)
    if not firsts:
        return None
    cmc = [sum(f <= r for f in firsts) / len(firsts) for r in range(1, min(max_rank, distmat.shape[1]) + 1)]
    return float(np.mean(average_precisions)), float(np.mean(penalties)), np.array(cmc)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1), queries=st.integers(1, 9), gallery=st.integers(1, 30),
    identities=st.integers(1, 6), cameras=st.integers(1, 4), ties=st.booleans(),
)  # fmt: skip
def test_equals_the_loops(seed, queries, gallery, identities, cameras, ties):
    case = random_case(seed, queries, gallery, identities, cameras, ties)
    expected = by_loops(*case)
    if expected is None:
        with pytest.raises(ValueError, match="no query has a true match"):
            evaluate(*case)
        return
    result = evaluate(*case)
    assert result.mAP == pytest.approx(expected[0], abs=1e-9)
    assert result.mINP == pytest.approx(expected[1], abs=1e-9)
    np.testing.assert_allclose(result.cmc, expected[2], atol=1e-9)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("queries", [30, 600])  # 600: more than one chunk
def test_equals_torchreid(ties, queries):
    evaluate_rank = load_torchreid().metrics.evaluate_rank
    for seed in range(3):
        case = random_case(seed, queries=queries, gallery=90, identities=8, ties=ties)
        cmc, mean_ap = evaluate_rank(*case, use_cython=False)
        result = evaluate(*case)
        assert result.mAP == pytest.approx(mean_ap, abs=1e-9)
        # torchreid rounds its CMC to float32
        np.testing.assert_array_equal(result.cmc.astype(np.float32), cmc)


def test_known_small_case():
    # Query of identity 1, camera 0. In order: same view (left out), distractor, match, other person, match.
    result = evaluate(
        np.array([[0.1, 0.2, 0.3, 0.4, 0.5]]), np.array([1]), np.array([1, 0, 1, 2, 1]),
        np.array([0]), np.array([0, 1, 1, 1, 2]),
    )  # fmt: skip
    assert result.mAP == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert result.mINP == pytest.approx(2 / 4)
    np.testing.assert_array_equal(result.cmc, [0, 1, 1, 1, 1])
    assert (result.rank1, result.rank5, result.rank10) == (0, 1, 1)


def test_queries_without_a_match_do_not_count():
    distmat = np.array([[0.1, 0.2], [0.1, 0.2]])
    result = evaluate(distmat, np.array([1, 9]), np.array([1, 2]), np.array([0, 0]), np.array([1, 1]))
    assert result.queries == 1
    assert result.mAP == 1


def test_bad_inputs_are_named():
    distmat, q_pids, g_pids, q_camids, g_camids = random_case(0)
    with pytest.raises(ValueError, match=r"g_pids: shape \(39,\), needed \(40,\)"):
        evaluate(distmat, q_pids, g_pids[:-1], q_camids, g_camids)
    with pytest.raises(ValueError, match="distmat: shape"):
        evaluate(distmat[0], q_pids, g_pids, q_camids, g_camids)
    distmat[0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        evaluate(distmat, q_pids, g_pids, q_camids, g_camids)


def test_result_survives_plain_data():
    result = evaluate(*random_case(3))
    again = ReidResult.from_mapping(result.to_mapping())
    assert again.figures() == result.figures()
    np.testing.assert_array_equal(again.cmc, result.cmc)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_distances_equal_torchreid(metric):
    rng = torch.Generator().manual_seed(0)
    query, gallery = torch.randn(5, 16, generator=rng), torch.randn(9, 16, generator=rng)
    expected = load_torchreid().metrics.compute_distance_matrix(query, gallery, metric).numpy()
    np.testing.assert_allclose(distances(query, gallery, metric), expected, rtol=1e-5, atol=1e-5)


def test_normalised_euclidean_is_twice_cosine():
    query, gallery = torch.randn(4, 8), torch.randn(6, 8) * 7
    np.testing.assert_allclose(
        distances(query, gallery, "euclidean", normalize=True), 2 * distances(query, gallery, "cosine"), atol=1e-5
    )


class MeanColour(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, images):
        assert not self.training
        return images.mean((2, 3)) * self.scale


def batches(colours, pids, camids):
    for start in range(0, len(pids), 2):
        rows = slice(start, start + 2)
        images = torch.tensor(colours[rows]).view(-1, 3, 1, 1).expand(-1, 3, 4, 2)
        yield {"img": images, "pid": torch.tensor(pids[rows]), "camid": torch.tensor(camids[rows])}


def test_model_is_evaluated_and_left_in_its_mode():
    red, blue = [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]
    model = MeanColour().train()
    features, pids, camids = extract_features(model, batches([red, blue, red], [1, 2, 1], [0, 0, 1]))
    assert model.training
    assert features.tolist() == [red, blue, red]
    assert (pids.tolist(), camids.tolist()) == ([1, 2, 1], [0, 0, 1])
    result = evaluate_model(
        model, batches([red, blue], [1, 2], [0, 0]), batches([blue, red, red], [2, 1, 1], [1, 1, 0])
    )
    assert result.mAP == 1
    queries, gallery = [[red, blue], [1, 2], [0, 0]], [[blue] * 3 + [red] * 3, [1] * 3 + [2] * 3, [1] * 6]
    for length in (2, 5, 50):
        result = evaluate_model(model, batches(*queries), batches(*gallery), max_rank=length)
        assert [result.rank(k) for k in (3, 4, 60)] == ([0, 0, 0] if length == 2 else [0, 1, 1])


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("normalize", [False, True])
def test_features_a_few_queries_at_a_time_give_the_same(metric, normalize, monkeypatch):
    rng = np.random.default_rng(3)
    query, gallery = (torch.from_numpy(rng.normal(size=(count, 8)).astype(np.float32)) for count in (50, 130))
    known = [rng.integers(0, 12, 50), rng.integers(0, 12, 130), rng.integers(0, 3, 50), rng.integers(0, 3, 130)]
    expected = evaluate(distances(query, gallery, metric, normalize), *known)
    monkeypatch.setattr(evaluation, "QUERIES_PER_CHUNK", 7)
    found = evaluate_features(query, gallery, *known, metric, normalize)
    assert found.mAP == pytest.approx(expected.mAP, abs=1e-9)
    assert found.mINP == pytest.approx(expected.mINP, abs=1e-9)
    np.testing.assert_allclose(found.cmc, expected.cmc)
    query[3, 2] = torch.nan
    with pytest.raises(ValueError, match="features: NaN or infinite"):
        evaluate_features(query, gallery, *known)


def test_reranking_is_torchreids_on_the_same_distances():
    rng = np.random.default_rng(0)
    pids, camids = np.arange(24) % 8, np.arange(24) // 8
    colours = (rng.normal(size=(8, 3))[pids] + 0.4 * rng.normal(size=(24, 3))).tolist()
    split = (colours[:8], pids[:8].tolist(), camids[:8].tolist()), (colours[8:], pids[8:].tolist(), camids[8:].tolist())
    model = MeanColour()
    seen = []
    result = evaluate_model(model, batches(*split[0]), batches(*split[1]), rerank=True, sheets=seen.append)
    q, g = (torch.tensor(part[0]) for part in split)
    rerank = importlib.import_module(f"{load_torchreid().__name__}.utils.rerank")
    expected = rerank.re_ranking(*(distances(*pair) for pair in ((q, g), (q, q), (g, g))))
    np.testing.assert_allclose(seen[0], expected, atol=1e-5)
    assert result.mAP == pytest.approx(evaluate(expected, pids[:8], pids[8:], camids[:8], camids[8:]).mAP)
