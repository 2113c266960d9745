"""Labels, weights and triplets of synthetic rows: against loops, against torchreid, and in training."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reid_world import StandIn, write_tree
from reid_world import settings as run_settings
from torch import Tensor, nn

from reid_integration.compat import load_torchreid
from reid_integration.config import ReidConfig, reid_config
from reid_integration.engines import PolicyStep, Teacher
from reid_integration.policies import hardest_triplets, label_targets, supervised, weighted_cross_entropy
from reid_integration.train import run
from xingaug.errors import BadInput

SYNTHETIC = torch.tensor([False, True, False, True])
PIDS = torch.tensor([0, 1, 2, 2])


def logits(seed: int = 0) -> Tensor:
    return torch.randn(4, 5, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("eps", [0.0, 0.1])
def test_real_rows_are_smoothed_as_torchreid_smooths(eps: float) -> None:
    theirs = load_torchreid().losses.CrossEntropyLoss(5, eps=eps, use_gpu=False)
    targets = label_targets(PIDS, SYNTHETIC, 5, "same_id", eps)
    ours = weighted_cross_entropy(logits(), targets, torch.ones(4))
    torch.testing.assert_close(ours, theirs(logits(), PIDS))


def test_labels_of_synthetic_rows() -> None:
    real = label_targets(PIDS, SYNTHETIC, 5, "same_id", 0.1)
    taught = logits(1)
    for labels, expected in (
        ("lsr", torch.tensor([0.06, 0.76, 0.06, 0.06, 0.06])), ("lsro", torch.full((5,), 0.2)),
        ("soft", taught[1].softmax(0)),
    ):  # fmt: skip
        targets = label_targets(PIDS, SYNTHETIC, 5, labels, 0.1, 0.3, taught)  # type: ignore[arg-type]
        torch.testing.assert_close(targets[1], expected)
        assert torch.equal(targets[~SYNTHETIC], real[~SYNTHETIC])
        torch.testing.assert_close(targets.sum(1), torch.ones(4))
    with pytest.raises(ValueError, match=r"teacher: logits \(4, 3\), needed \(4, 5\) for soft labels"):
        label_targets(PIDS, SYNTHETIC, 5, "soft", 0.1, teacher=taught[:, :3])


def test_weights_are_of_a_mean() -> None:
    targets = label_targets(PIDS, SYNTHETIC, 5, "same_id", 0.0)
    each = -logits().log_softmax(1)[torch.arange(4), PIDS]
    weights = torch.tensor([1.0, 0.5, 1.0, 0.5])
    found = weighted_cross_entropy(logits(), targets, weights)
    torch.testing.assert_close(found, (each * weights).sum() / 4)
    assert weighted_cross_entropy(logits(), targets, torch.zeros(4)) == 0


def slow_triplets(features: Tensor, pids: Tensor, synthetic: Tensor, triplets: str, margin: float) -> float:
    rows = [i for i in range(len(pids)) if not (triplets == "exclude" and synthetic[i])]
    losses = []
    for anchor in rows:
        if triplets == "anchor_real_only" and synthetic[anchor]:
            continue
        apart = {other: float((features[anchor] - features[other]).norm()) for other in rows}
        negatives = [apart[other] for other in rows if pids[other] != pids[anchor]]
        if negatives:
            positive = max(apart[other] for other in rows if pids[other] == pids[anchor])
            losses.append(max(0.0, positive - min(negatives) + margin))
    return float(np.mean(losses)) if losses else 0.0


@given(st.integers(0, 10_000), st.sampled_from(["include", "exclude", "anchor_real_only"]))
@settings(max_examples=40, deadline=None)
def test_triplets_against_a_loop(seed: int, triplets: str) -> None:
    rng = torch.Generator().manual_seed(seed)
    features = torch.randn(9, 4, generator=rng)
    pids = torch.randint(0, 3, (9,), generator=rng)
    synthetic = torch.rand(9, generator=rng) < 0.5
    found = hardest_triplets(features, pids, synthetic, triplets, 0.3)  # type: ignore[arg-type]
    assert float(found) == pytest.approx(slow_triplets(features, pids, synthetic, triplets, 0.3), abs=2e-4)


def test_triplets_of_all_rows_are_torchreids() -> None:
    features = torch.randn(8, 6, generator=torch.Generator().manual_seed(2))
    pids = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    theirs = load_torchreid().losses.TripletLoss(margin=0.3)(features, pids)
    ours = hardest_triplets(features, pids, torch.zeros(8, dtype=torch.bool), "include", 0.3)
    torch.testing.assert_close(ours, theirs)


def test_nothing_to_compare_is_no_loss() -> None:
    features = torch.randn(3, 4, requires_grad=True)
    for synthetic, triplets in (
        (torch.ones(3, dtype=torch.bool), "exclude"),
        (torch.zeros(3, dtype=torch.bool), "include"),
    ):
        loss = hardest_triplets(features, torch.zeros(3).long(), synthetic, triplets, 0.3)  # type: ignore[arg-type]
        loss.backward()
        assert loss == 0
        assert torch.equal(features.grad, torch.zeros(3, 4))


def test_several_outputs_are_averaged() -> None:
    parts = [torch.tensor([1.0, 2.0]), torch.tensor([5.0, 6.0])]
    assert supervised(torch.sum, parts) == 7
    assert supervised(torch.sum, parts[0]) == 3


# In training


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tree(tmp_path_factory.mktemp("data") / "world")


def configured(tree: Path, out: Path, loss: str = "softmax", **changes: Any) -> ReidConfig:
    return reid_config(run_settings(tree, out, loss={"name": loss}, **changes), "here")


@pytest.mark.parametrize("loss", ["softmax", "triplet"])
def test_our_step_is_the_stock_engines_where_nothing_is_synthetic(
    tree: Path, tmp_path: Path, loss: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = {"train_sampler": "RandomIdentitySampler", "num_instances": 2}
    triplet = {"name": loss, "triplet": {"weight_x": 0.5}}
    plain = configured(tree, tmp_path / "plain", sampler=sampler) if loss == "softmax" else reid_config(
        run_settings(tree, tmp_path / "plain", sampler=sampler, loss=triplet), "here"
    )  # fmt: skip
    policy = {"labels": "lsro", "weight": 0.5, **({"triplet": "exclude"} if loss == "triplet" else {})}
    changes = {"augment": {"p": 0, **policy}, "sampler": sampler}
    ours = reid_config(run_settings(tree, tmp_path / "ours", **changes, loss=triplet), "here")
    assert not plain.has_policy
    assert ours.has_policy
    first, second = run(plain), run(ours, generator=StandIn())
    for one, other in zip(first.history, second.history, strict=True):
        assert {k: v for k, v in one.items() if k != "seconds"} == {k: v for k, v in other.items() if k != "seconds"}
    # And its own computation, which runs in every other case, is the same to rounding.
    monkeypatch.setattr(PolicyStep, "_is_stock", lambda *_: False)
    third = run(
        reid_config(run_settings(tree, tmp_path / "third", **changes, loss=triplet), "here"), generator=StandIn()
    )
    for key in {*first.history[0]} - {"seconds"}:
        assert third.history[0][key] == pytest.approx(first.history[0][key], rel=1e-4), key


@pytest.mark.parametrize(
    "policy",
    [
        {"labels": "lsr"}, {"labels": "lsro", "weight": 0.5}, {"weight": 0}, {"labels": "lsro", "warmup_epochs": 2},
        {"triplet": "exclude"}, {"triplet": "anchor_real_only", "mode": "append"},
    ],
    ids=str,
)  # fmt: skip
def test_policies_train(tree: Path, tmp_path: Path, policy: dict[str, Any]) -> None:
    loss = "triplet" if "triplet" in policy else "softmax"
    sampler = {"train_sampler": "RandomIdentitySampler", "num_instances": 2}
    config = configured(tree, tmp_path / "run", loss, augment={"p": 0.5, **policy}, sampler=sampler)
    result = run(config, generator=StandIn())
    assert result.iterations == 4
    assert 0 < result.synthetic_share < 1
    same = run(configured(tree, tmp_path / "same", loss, augment={"p": 0.5, "mode": policy.get("mode", "replace")},
                          sampler=sampler), generator=StandIn())  # fmt: skip
    key = "loss_t" if loss == "triplet" else "loss"
    assert [entry[key] for entry in result.history] != [entry[key] for entry in same.history]


def test_a_teacher_is_an_earlier_runs_model(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = run(configured(tree, tmp_path / "teacher"))
    asked = {"p": 1.0, "labels": "soft", "teacher": str(teacher.directory / "model.safetensors")}
    result = run(configured(tree, tmp_path / "run", augment=asked), generator=StandIn())
    same = run(configured(tree, tmp_path / "same", augment={"p": 1.0}), generator=StandIn())
    assert result.iterations == 4
    assert result.history[0]["loss"] != pytest.approx(same.history[0]["loss"], rel=1e-3)
    rows: list[int] = []
    forward = Teacher.forward
    monkeypatch.setattr(Teacher, "forward", lambda self, images: rows.append(len(images)) or forward(self, images))
    half = configured(tree, tmp_path / "half", augment=asked | {"p": 0.5})
    result = run(half, generator=StandIn())
    assert 0 < sum(rows) == result.synthetic_share * result.iterations * half.train.batch_size  # of real rows nothing
    other = write_tree(tmp_path / "other", identities=4)
    with pytest.raises(BadInput, match=r"augment.teacher: .*: not the weights of this model"):
        run(configured(other, tmp_path / "no", augment=asked), generator=StandIn())


@pytest.mark.parametrize("loss", ["softmax", "triplet"])
def test_bfloat16_trains(tree: Path, tmp_path: Path, loss: str) -> None:
    sampler = {"train_sampler": "RandomIdentitySampler", "num_instances": 2}
    result = run(configured(tree, tmp_path / "run", loss, train__precision="bfloat16", sampler=sampler))
    plain = run(configured(tree, tmp_path / "plain", loss, sampler=sampler))
    key = "loss_t" if loss == "triplet" else "loss"
    assert result.history[0][key] == pytest.approx(plain.history[0][key], rel=0.2)
    assert result.history[0][key] != plain.history[0][key]


def test_the_weight_rises_over_the_first_epochs() -> None:
    people = SimpleNamespace(num_train_pids=3)
    engine = SimpleNamespace(datamanager=people, epoch=0, model=nn.Identity(), forward_backward=None)
    asked = {"weight": 0.8, "warmup_epochs": 4, "start_epoch": 2}
    step = PolicyStep(reid_config({"augment": asked}, "here"), engine, None)
    found = []
    for engine.epoch in range(9):
        found.append(step._weight())
    assert found == pytest.approx([0, 0, 0, 0.2, 0.4, 0.6, 0.8, 0.8, 0.8])


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        ({"labels": "soft"}, "labels: 'soft', teacher: None; soft labels need a teacher, others none"),
        ({"teacher": "x.pth"}, "labels: 'same_id', teacher: x.pth"),
        ({"weight": -1}, "weight: -1.0, needed a number from 0"),
        ({"triplet": "exclude"}, "triplet: 'exclude' acts on the triplet loss; needed loss.name triplet"),
        ({"gate": {"min_identity": 2}}, "needed min_identity in [-1, 1]"),
        ({"gate": {"min_identty": 0.2}}, "did you mean 'min_identity'?"),
    ],
)
def test_policies_that_make_no_sense(augment: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput) as caught:
        reid_config({"augment": augment}, "here")
    assert message in str(caught.value)


def test_policies_that_no_loss_would_see_are_refused() -> None:
    with pytest.raises(BadInput, match=r"act on the classifier's loss; needed loss.triplet.weight_x above 0"):
        reid_config({"augment": {"labels": "lsro"}, "loss": {"name": "triplet"}}, "here")


def test_half_precision_needs_a_gpu(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"train.precision: float16 needs a GPU; use bfloat16 or float32"):
        run(configured(tree, tmp_path / "run", train__precision="float16", use_gpu=False))


@pytest.mark.parametrize(("gate", "kept"), [(True, True), ({"min_contrast": 0.01}, False), (False, True)])
def test_the_gate_of_a_run(tree: Path, tmp_path: Path, gate: Any, kept: bool) -> None:
    """The stand-in paints one colour, which has no contrast."""
    result = run(configured(tree, tmp_path / "run", augment={"p": 1.0, "gate": gate}), generator=StandIn())
    rejecting = gate is not False
    assert (result.synthetic_share == 0) == rejecting
    assert (result.skipped["rejected"] > 0) == rejecting
