"""Which images are generated: copies, budgets, the gate; what that takes, and the page about it."""

import json
import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from generating import GALLERY, TRAIN, Blend, poses, run, tree
from torch import Tensor

from xingaug.augment.gate import GateConfig
from xingaug.augment.transform import XingPose
from xingaug.data.market1501 import read_split
from xingaug.errors import BadInput, WorkFailed
from xingaug.images import read_image
from xingaug.keypoints import Keypoints
from xingaug.offline import describe, resources, target
from xingaug.offline.config import GenerateConfig
from xingaug.offline.coverage import groups_of
from xingaug.offline.generate import estimate
from xingaug.offline.manifest import read_manifest
from xingaug.offline.verify import verify
from xingaug.poses.bank import PoseBank
from xingaug.report.dataset import groups_seen


class GreyOrNot(Blend):
    """As `Blend`, but an image whose target pose stands in the left half of the frame comes out empty."""

    content_hash = "grey or not"

    def forward(self, source: Tensor, source_heatmaps: Tensor, target_heatmaps: Tensor) -> Tensor:
        made = super().forward(source, source_heatmaps, target_heatmaps)
        across = target_heatmaps.sum((1, 2)) / target_heatmaps.sum((1, 2, 3))[:, None]
        middle = (across * torch.arange(across.shape[1])).sum(1)
        return torch.where(middle[:, None, None, None] < 7.5, torch.zeros_like(made), made)


def per_identity(out: Path) -> Counter[int]:
    return Counter(read_split(out, "train").pids.tolist())


# Which


def test_one_copy_is_the_default(config: GenerateConfig) -> None:
    assert run(replace(config, per_image=None)).synthetic == 9


def test_identities_are_filled_up(config: GenerateConfig) -> None:
    summary = run(replace(config, per_image=None, per_identity=8))
    assert summary.synthetic == 15
    assert per_identity(config.out) == {2: 8, 7: 8, 11: 8}
    copies = Counter(line.source for line in read_manifest(config.out / "manifest.jsonl"))
    assert [copies[name] for name in TRAIN] == [2, 2, 1] * 3  # its images take turns


def test_identities_that_have_enough_get_nothing(config: GenerateConfig) -> None:
    with pytest.raises(BadInput, match="per_identity: 3, every identity has as many training images already"):
        run(replace(config, per_image=None, per_identity=3))
    (config.data / "bounding_box_train" / TRAIN[0]).unlink()
    assert run(replace(config, per_image=None, per_identity=3)).synthetic == 1
    assert per_identity(config.out) == {2: 3, 7: 3, 11: 3}


def test_identities_are_filled_up_without_their_real_images(config: GenerateConfig) -> None:
    run(replace(config, per_image=None, per_identity=4, real="omit"))
    assert per_identity(config.out) == {2: 4, 7: 4, 11: 4}


@pytest.mark.parametrize("budget", [1, 9, 14, 20])
def test_a_budget_is_spread(config: GenerateConfig, budget: int) -> None:
    assert run(replace(config, per_image=None, budget=budget)).synthetic == budget
    copies = Counter(line.source for line in read_manifest(config.out / "manifest.jsonl"))
    counts = [copies[name] for name in TRAIN]
    assert max(counts) - min(counts) <= 1


def test_a_smaller_budget_is_part_of_a_larger_one(config: GenerateConfig) -> None:
    files = []
    for budget in (5, 12):
        out = config.out.with_name(str(budget))
        run(replace(config, budget=budget, out=out))
        files.append({line.file for line in read_manifest(out / "manifest.jsonl")})
    assert files[0] < files[1]


def test_a_budget_that_is_not_reached_changes_nothing(config: GenerateConfig) -> None:
    assert run(replace(config, budget=1000)).synthetic == 27


def test_poses_of_test_images_may_be_allowed(config: GenerateConfig) -> None:
    bank = config.bank.with_name("test-bank")
    PoseBank.build(Keypoints(*poses(20, (128, 64), 4)), names=[f"a{i}" for i in range(19)] + [GALLERY[2]]).save(bank)
    config = replace(config, bank=bank)
    with pytest.raises(BadInput, match=r"1 poses are of test images, such as .* allow it"):
        run(config)
    assert run(replace(config, allow_test=True)).synthetic == 27
    assert {line.source for line in read_manifest(config.out / "manifest.jsonl")} == set(TRAIN)


# The gate


def test_rejected_images_are_tried_in_other_poses(config: GenerateConfig) -> None:
    gated = replace(config, gate=GateConfig(), tries=6)
    summary = run(gated, GreyOrNot())
    lines = read_manifest(config.out / "manifest.jsonl")
    rejected = [json.loads(line) for line in (config.out / "rejected.jsonl").read_text().splitlines()]
    assert (summary.synthetic, summary.rejected) == (len(lines), len(rejected))
    assert summary.rejected > 3
    assert all(line.gate["contrast"] >= 0.05 for line in lines)
    assert all(entry["gate"]["contrast"] < 0.05 and entry["sha256"] is None for entry in rejected)
    once = run(replace(gated, tries=1, out=config.out.with_name("once")), GreyOrNot())
    assert once.synthetic + once.rejected == 27
    assert once.given_up == once.rejected
    assert summary.given_up == 27 - summary.synthetic
    assert once.synthetic < summary.synthetic <= 27
    # A further try is a further copy, in the pose of its epoch.
    aug = XingPose(Blend(), PoseBank.load(config.bank), p=1)
    kp = Keypoints(*poses(9, (32, 16), 3))
    for line in lines:
        row = TRAIN.index(line.source)
        draw = aug.draw(kp[row : row + 1], [line.source], epoch=line.copy, size=(32, 16))
        assert draw.bank_rows.tolist() == [line.bank_row]
    assert max(line.copy for line in lines) > 2


def test_an_identity_is_filled_up_by_its_other_images(config: GenerateConfig) -> None:
    run(replace(config, per_image=None, per_identity=6, gate=GateConfig(), tries=20), GreyOrNot())
    assert per_identity(config.out) == {2: 6, 7: 6, 11: 6}


def test_replacements_stay_within_the_budget_and_are_made(config: GenerateConfig) -> None:
    summary = run(replace(config, per_image=1000, budget=12, gate=GateConfig(), tries=30), GreyOrNot())
    assert 6 <= summary.synthetic <= 12 < summary.rejected


def test_a_gated_run_goes_on_and_stays_finished(config: GenerateConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    gated = replace(config, gate=GateConfig(), tries=3)
    reference = config.out.with_name("reference")
    run(replace(gated, out=reference), GreyOrNot())
    calls = []

    class Interrupted(GreyOrNot):
        def forward(self, *maps: Tensor) -> Tensor:
            calls.append(1)
            if len(calls) == 9:  # in the second round
                raise KeyboardInterrupt
            return super().forward(*maps)

    with pytest.raises(KeyboardInterrupt):
        run(gated, Interrupted())
    run(gated, GreyOrNot())
    assert tree(config.out) == tree(reference)
    assert run(gated, Interrupted()).rendered == 0
    assert tree(config.out) == tree(reference)
    with pytest.raises(BadInput, match=r"gate = \{.*\}, now it is None; tries = 3, now it is None"):
        run(config, GreyOrNot())


def test_a_gate_that_lets_nothing_through(config: GenerateConfig) -> None:
    class Empty(Blend):
        def forward(self, source: Tensor, *maps: Tensor) -> Tensor:
            return torch.zeros_like(source)

    for format in ("folder", "webdataset"):
        asked = replace(config, gate=GateConfig(), tries=2, format=format, out=config.out.with_name(format))
        summary = run(asked, Empty())
        assert (summary.synthetic, summary.rejected) == (0, 54)

        class Untouchable(Empty):
            def forward(self, *_: Tensor) -> Tensor:
                raise AssertionError("rendered again")

        assert run(asked, Untouchable()).rejected == 54
        assert verify(asked.out).problems == []


# Resources


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(config: GenerateConfig) -> None:
    before = tree(config.out.parent)
    said = estimate(config, Blend())
    assert (said.real, said.synthetic, said.identities, said.parts, said.batch_size) == (9, 27, 3, 7, 4)
    assert said.images_per_second > 0
    assert said.seconds == pytest.approx(27 / said.images_per_second)
    assert tree(config.out.parent) == before
    run(config)
    on_disk = sum(path.stat().st_blocks * 512 for path in config.out.rglob("*.jpg"))
    assert on_disk <= said.bytes < 1.3 * on_disk
    shards = replace(config, format="webdataset", out=config.out.with_name("shards"))
    run(shards)
    on_disk = sum(path.stat().st_size for path in (shards.out / "shards").iterdir())
    assert on_disk / 1.3 < estimate(shards, Blend()).bytes < 1.7 * on_disk


def test_a_disk_without_room_is_told_before_anything_is_written(
    config: GenerateConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(config.out.parent)
    monkeypatch.setattr(resources.shutil, "disk_usage", lambda _: usage._replace(free=20_000))
    with pytest.raises(BadInput, match=r"out: needs about .* kB, 20 kB are free; make room"):
        run(config)
    assert not config.out.exists()


@pytest.mark.parametrize(
    ("memory", "threads", "expected"), [(64 << 30, 2, 16), (1 << 30, 1, 8), (1 << 30, 4, 2), (1 << 20, 1, 1)]
)
def test_the_batch_fits_into_memory(monkeypatch: pytest.MonkeyPatch, memory: int, threads: int, expected: int) -> None:
    class Large(Blend):
        size = (128, 64)

    monkeypatch.setattr(resources, "available_memory", lambda: memory)
    assert resources.fitting_batch_size(Large(), torch.device("cpu"), threads) == expected


def test_memory_is_read_from_this_machine() -> None:
    assert 1 << 20 < resources.available_memory() < 1 << 45


def test_a_run_goes_on_with_the_batch_that_it_began_with(
    config: GenerateConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = replace(config, batch_size=None)
    run(asked)
    assert target.read_facts(config.out)["batch_size"] == 16
    monkeypatch.setattr(resources, "available_memory", lambda: 1 << 20)
    assert run(asked).rendered == 0
    other = replace(asked, out=config.out.with_name("small"))
    run(other)
    assert target.read_facts(other.out)["batch_size"] > 0


@pytest.mark.parametrize(("count", "text"), [(12, "12 bytes"), (4300, "4.3 kB"), (3.25e9, "3.25 GB")])
def test_sizes_as_people_say_them(count: float, text: str) -> None:
    assert resources.as_size(count) == text


# The page


def test_the_page_counts_poses_before_and_after(config: GenerateConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}

    def keep(path: Path, figures: object, samples: object) -> None:
        seen["figures"], seen["samples"] = figures, samples

    monkeypatch.setattr(describe, "write_dataset_page", keep)
    run(replace(config, gate=GateConfig(), tries=1), GreyOrNot())
    figures, lines = seen["figures"], read_manifest(config.out / "manifest.jsonl")
    bank = PoseBank.load(config.bank)
    groups = groups_of(bank, TRAIN, Keypoints(*poses(9, (32, 16), 3)), (32, 16))
    assert (figures.real, figures.synthetic) == (9, len(lines))
    assert figures.before.tolist() == [[2] * 3 + [7] * 3 + [11] * 3, groups.tolist()]
    expected = Counter(zip(*figures.before.tolist(), strict=True))
    expected += Counter((line.pid, int(bank.clusters[line.bank_row])) for line in lines)
    assert Counter(zip(*figures.after.tolist(), strict=True)) == expected
    assert figures.images_of_identity[:, 0].tolist() == [3, 3, 3]
    assert figures.images_of_identity[:, 1].sum() == 9 + len(lines)
    assert figures.counts.judged.total() == 27
    assert figures.counts.kept.total() == len(lines)
    written = [read_image(config.out / line.file) for line in lines]
    assert len(seen["samples"]) == min(12, len(lines))
    for sample in seen["samples"]:
        assert any(np.array_equal(sample.image, image) for image in written)
        assert sample.image.shape == sample.source.shape == (32, 16, 3)


def test_groups_are_those_of_the_bank_or_of_its_nearest_pose() -> None:
    xy, visibility = poses(40, (128, 64), 4)
    bank = PoseBank.build(Keypoints(xy, visibility), names=[f"a{i}" for i in range(40)])
    half = Keypoints(xy / 2, visibility)  # not exactly the frame's half, but far nearer to itself than to others
    assert groups_of(bank, bank.names.tolist(), half, (64, 32)).tolist() == bank.clusters.tolist()
    assert groups_of(bank, ["?"] * 40, half, (64, 32)).tolist() == bank.clusters.tolist()
    hidden = visibility.copy()
    hidden[3] = 0
    assert groups_of(bank, ["?"] * 40, Keypoints(xy / 2, hidden), (64, 32))[3] == -1


def test_groups_seen_counts_each_group_once() -> None:
    pids, groups = np.array([1, 1, 1, 2, 2, 3]), np.array([0, 0, 4, 1, -1, -1])
    assert groups_seen(pids, groups).tolist() == [2, 1]


def test_the_page_is_one_file_that_says_what_it_counts(config: GenerateConfig) -> None:
    run(replace(config, gate=GateConfig(), tries=1), GreyOrNot())
    page = (config.out / "report.html").read_text()
    assert "9 real and" in page
    assert "Quality gate" in page
    assert page.count("<svg") == 2
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)


def test_sources_that_cannot_be_read_do_not_change_their_neighbours(config: GenerateConfig) -> None:
    run(config)
    whole = tree(config.out / "bounding_box_train")
    path = config.data / "bounding_box_train" / TRAIN[4]
    path.write_bytes(path.read_bytes()[:-200])
    out = config.out.with_name("other")
    with pytest.raises(WorkFailed, match=TRAIN[4]):
        run(replace(config, out=out))
    rest = tree(out / "bounding_box_train")
    stem = TRAIN[4].removesuffix(".jpg")
    assert {name: sha for name, sha in whole.items() if stem not in name} == {
        name: sha for name, sha in rest.items() if stem not in name
    }
    assert not any(stem in name for name in rest)  # nor is it copied
    assert verify(out).problems == []
