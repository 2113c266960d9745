"""The quality gate: its scores against what they mean, and what the transform makes of its verdicts."""

from pathlib import Path

import numpy as np
import pytest
import torch
from posing import images_of, keys_of, make, persons
from torch import Tensor, nn

from xingaug.augment.gate import GateConfig, QualityGate, build_gate
from xingaug.augment.output import Skipped
from xingaug.errors import BadInput
from xingaug.keypoints import Keypoints
from xingaug.programs import load_program


class MeanColour(nn.Module):
    """Features by which images of one colour are alike; batch norm and dropout would show in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.dropout = nn.BatchNorm1d(3, affine=True), nn.Dropout(0.5)

    def forward(self, images: Tensor) -> Tensor:
        return self.dropout(self.norm(images.mean((2, 3)) - 0.5))


def colours(*values: tuple[float, float, float]) -> Tensor:
    return torch.tensor(values)[:, :, None, None].expand(-1, 3, 32, 16) + 0.1 * (images_of(len(values)) - 0.5)


def test_contrast_and_saturation_against_loops() -> None:
    images = torch.cat([images_of(2), torch.full((1, 3, 32, 16), 0.4), (images_of(1, seed=3) > 0.5).float()])
    verdict = QualityGate()(images, images, persons(4))
    for image, contrast, saturated in zip(images.numpy(), *verdict.scores.values(), strict=True):
        grey = 0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2]
        assert contrast == pytest.approx(grey.std(), abs=1e-6)
        ends = sum(round(float(v) * 255) in (0, 1, 254, 255) for v in image.ravel())
        assert saturated == pytest.approx(ends / image.size, abs=1e-6)
    assert list(verdict.scores) == ["contrast", "saturated"]
    assert verdict.kept.tolist() == [True, True, False, False]  # grey throughout; black and white alone


def test_identity_is_the_cosine_of_the_features_in_eval_mode() -> None:
    gate = QualityGate(MeanColour().train(), min_identity=0.5, min_contrast=0)
    gate.train()
    red, blue = (0.9, 0.1, 0.1), (0.1, 0.1, 0.9)
    verdict = gate(colours(red, red), colours(red, blue), persons(2))
    assert verdict.scores["identity"][0] > 0.99
    assert verdict.scores["identity"][1] < 0
    assert verdict.kept.tolist() == [True, False]
    assert not any(p.requires_grad for p in gate.parameters())


def test_pose_is_the_share_of_joints_found_in_place() -> None:
    asked = persons(3)
    asked.visibility[:, 16:] = 0  # not asked for
    found = Keypoints(asked.xy.clone(), torch.ones(3, 18))
    found.xy[0] += torch.tensor([1.0, 1.0])  # 5 % of 32 pixels are 1.6
    found.xy[1, :8] += 5
    found.visibility[2, :12] = 0
    verdict = QualityGate(estimator=lambda _: found, min_pose=0.5)(images_of(3), images_of(3), asked)
    assert verdict.scores["pose"].tolist() == pytest.approx([1, 8 / 16, 4 / 16])
    assert verdict.kept.tolist() == [True, True, False]


def test_rejected_rows_stay_real_and_are_counted_by_identity() -> None:
    images, kp, keys, pids = images_of(8), persons(8), keys_of(8), [0, 0, 1, 1, 2, 2, 3, 3]
    free = make(p=1)(images, kp, keys=keys)
    gate = QualityGate(MeanColour(), min_identity=0)
    out = make(p=1, gate=gate)(images, kp, keys=keys, pids=pids)
    kept = out.scores["identity"] >= 0
    assert 0 < kept.sum() < 8
    assert torch.equal(out.is_synthetic, kept)
    assert torch.equal(out.images[kept], free.images[kept])
    assert torch.equal(out.images[~kept], images[~kept])
    assert torch.equal(out.keypoints.xy[~kept], kp.xy[~kept])
    assert out.skipped == Skipped(rejected=int((~kept).sum()))
    shares = gate.counts.shares()
    assert shares == {pid: float(kept[2 * pid : 2 * pid + 2].float().mean()) for pid in range(4)}
    assert list(shares.values()) == sorted(shares.values())
    assert gate.counts.summary(worst=1).startswith(
        f"quality gate: kept {kept.float().mean():.1%} of 8 rendered images; least"
    )


def test_scores_stand_in_the_rows_that_were_rendered() -> None:
    out = make(p=0.5, gate=QualityGate())(images_of(12), persons(12), keys=keys_of(12))
    rendered = out.draw.bank_rows >= 0
    assert 0 < rendered.sum() < 12
    assert torch.equal(out.scores["contrast"].isnan(), ~rendered)


@pytest.mark.parametrize("mode", ["replace", "append"])
def test_nothing_let_through_is_the_batch_itself(mode: str) -> None:
    images = images_of(4)
    out = make(p=1, mode=mode, gate=QualityGate(min_contrast=1))(images, persons(4), keys=keys_of(4))
    assert out.images is images
    assert out.skipped.rejected == 4


def test_append_leaves_rejected_rows_out() -> None:
    gate = QualityGate(MeanColour(), min_identity=0)
    out = make(p=1, mode="append", gate=gate)(images_of(8), persons(8), keys=keys_of(8))
    kept = out.scores["identity"] >= 0
    assert out.sources.tolist() == [*range(8), *kept.nonzero()[:, 0].tolist()]
    assert len(out.images) == 8 + int(kept.sum())


def test_a_verdict_does_not_depend_on_the_batch_and_replays() -> None:
    images, kp, keys = images_of(8), persons(8), keys_of(8)
    aug = make(p=1, gate=QualityGate(MeanColour(), min_identity=0))
    whole = aug(images, kp, keys=keys)
    for row in range(8):
        part = aug(images[row : row + 1], kp[row : row + 1], keys=keys[row : row + 1])
        assert part.is_synthetic.item() == whole.is_synthetic[row].item()
    again = aug(images, kp, draw=whole.draw)
    assert torch.equal(again.images, whole.images)
    assert again.skipped == whole.skipped


def test_networks_stay_in_eval_mode_and_frozen_and_draw_nothing() -> None:
    class Estimator(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.dropout = nn.Linear(3, 36), nn.Dropout(0.5)

        def forward(self, images: Tensor) -> Keypoints:
            places = self.dropout(self.layer(images.mean((2, 3)))).unflatten(1, (18, 2))
            return Keypoints(places.float(), torch.ones(len(images), 18))

    gate = QualityGate(MeanColour().train(), Estimator().train(), min_pose=0)
    assert not any(p.requires_grad for p in gate.parameters())
    for _ in range(2):
        state = torch.get_rng_state()
        gate(images_of(3), images_of(3), persons(3))
        assert torch.equal(torch.get_rng_state(), state)
        assert not any(module.training for module in gate.modules())
        gate.features.train()  # type: ignore[union-attr]
        gate.estimator.train()  # type: ignore[union-attr]


def test_an_exported_program_may_judge(tmp_path: Path) -> None:
    class Means(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.mean((2, 3)) - 0.5

    file = tmp_path / "features.pt2"
    batch = torch.export.Dim("batch", min=1, max=64)
    torch.export.save(torch.export.export(Means(), (images_of(2),), dynamic_shapes=({0: batch},)), file)
    program = load_program(file, "a feature network")
    gate = QualityGate(program, min_identity=0, min_contrast=0)
    red, blue = (0.9, 0.1, 0.1), (0.1, 0.1, 0.9)
    assert gate.train()(colours(red, red), colours(red, blue), persons(2)).kept.tolist() == [True, False]
    dropouts = [nn.Dropout(), nn.Dropout()]  # before and after a program, which has no eval mode
    QualityGate(nn.Sequential(dropouts[0], program, dropouts[1]), min_identity=0, min_contrast=0)
    assert [dropout.training for dropout in dropouts] == [False, False]


def test_autocast_does_not_reach_the_gate_and_half_precision_works() -> None:
    class Layers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            with torch.random.fork_rng():
                torch.manual_seed(0)
                self.layer = nn.Linear(3 * 32 * 16, 8)

        def forward(self, images: Tensor) -> Tensor:
            return self.layer(images.flatten(1))

    batch = (images_of(6), persons(6))
    plain = make(p=1, gate=QualityGate(Layers()))(*batch, keys=keys_of(6))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = make(p=1, gate=QualityGate(Layers()))(*batch, keys=keys_of(6))
    assert torch.equal(cast.scores["identity"], plain.scores["identity"])
    low = make(p=1, gate=QualityGate(Layers())).to(torch.bfloat16)(*batch, keys=keys_of(6))
    assert torch.allclose(low.scores["identity"], plain.scores["identity"], atol=0.05)


def test_counts_since_an_earlier_moment() -> None:
    gate = QualityGate()
    gate(images_of(2), images_of(2), persons(2), np.array([1, 2]))
    before = gate.counts.copy()
    gate(images_of(2), torch.zeros(2, 3, 32, 16), persons(2), np.array([2, 3]))
    assert gate.counts.since(before).shares() == {2: 0.0, 3: 0.0}
    assert gate.counts.shares() == {3: 0.0, 2: 0.5, 1: 1.0}


def test_unknown_identities_are_counted_together() -> None:
    gate = QualityGate()
    assert gate.counts.summary() == "quality gate: nothing judged"
    gate(images_of(3), images_of(3), persons(3))
    assert gate.counts.shares() == {-1: 1.0}
    assert gate.counts.summary() == "quality gate: kept 100.0% of 3 rendered images"
    gate(images_of(2), torch.zeros(2, 3, 32, 16), persons(2), np.array([5, 5]))
    assert gate.counts.summary() == "quality gate: kept 60.0% of 5 rendered images; least of identity 5 0% of 2"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"min_identity": -2}, r"min_identity: -2, needed a number in \[-1, 1\]"),
        ({"min_pose": 2}, r"min_pose: 2, needed a number in \[0, 1\]"),
        ({"min_contrast": -0.1}, "min_contrast: -0.1"),
        ({"max_saturated": float("nan")}, "max_saturated: nan"),
    ],
)
def test_thresholds_outside_their_range(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QualityGate(**arguments)


def test_networks_that_give_something_else() -> None:
    with pytest.raises(ValueError, match=r"features: gave \(2, 3, 32, 16\), needed \(2, D\)"):
        QualityGate(nn.Identity())(images_of(2), images_of(2), persons(2))
    with pytest.raises(ValueError, match=r"estimator: gave \(3,\), needed Keypoints \(2,\)"):
        QualityGate(estimator=lambda _: persons(3))(images_of(2), images_of(2), persons(2))
    with pytest.raises(ValueError, match="estimator: gave Tensor"):
        QualityGate(estimator=lambda images: images)(images_of(2), images_of(2), persons(2))  # type: ignore[arg-type,return-value]
    with pytest.raises(ValueError, match="gate: float, needed a QualityGate or None"):
        make(gate=0.5)


@pytest.mark.slow  # torch.export takes seconds to import
def test_a_network_that_cannot_judge_is_refused_before_it_is_asked(tmp_path: Path) -> None:
    class Flat(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.mean((1, 2, 3))

    batch = torch.export.Dim("batch", min=1, max=64)
    torch.export.save(torch.export.export(Flat(), (images_of(2),), dynamic_shapes=({0: batch},)), tmp_path / "flat.pt2")
    torch.export.save(torch.export.export(MeanColour().eval(), (images_of(2),)), tmp_path / "two.pt2")
    with pytest.raises(BadInput, match=r"flat.pt2: gives \(1,\) for 1 images, needed \(1, D\)"):
        build_gate(GateConfig(features=str(tmp_path / "flat.pt2")), (32, 16))
    with pytest.raises(BadInput, match=r"two.pt2: does not take images \(1, 3, 32, 16\) .* export it for this size"):
        build_gate(GateConfig(features=str(tmp_path / "two.pt2")), (32, 16))
