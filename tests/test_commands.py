"""What the commands do, on a tiny world."""

import csv
import json
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from command_lines import EVALUATE, GENERATE, TINY, NoProcesses, everything

import xingaug
from reid_integration.bench import SIZES as SIZES_OF_MODELS
from reid_integration.bench import bench_evaluation as bench_evaluation_of_models
from xingaug.commands import bench as bench_command
from xingaug.data.annotations import read_npz
from xingaug.data.market1501 import read_images, read_split
from xingaug.generators import SIZES, load_generator
from xingaug.generators.discriminators import PatchDiscriminator, ResidualDiscriminator
from xingaug.generators.fast import has_bfloat16
from xingaug.generators.xinggan import XingGANConfig
from xingaug.generators.xinggan_pp_config import XingGANPlusPlusConfig
from xingaug.poses import PoseBank
from xingaug.poses.index import IndexSettings
from xingaug.poses.samplers import SAMPLERS
from xingaug.training.quality import pckh

ROOT = Path(__file__).resolve().parent.parent


def test_world(place, run, tmp_path):
    code, out, err = run(f"world {tmp_path}/w --identities 4 --images-per-identity 3 --seed 3 --json")
    counts = json.loads(out)
    assert (code, err) == (0, "")
    assert counts["root"] == f"{tmp_path}/w"
    assert (counts["train_identities"], counts["test_identities"], counts["train_images"]) == (2, 2, 6)
    for split in ("train", "query", "gallery"):
        assert len(read_split(tmp_path / "w", split)) == counts[f"{split}_images"]
    code, out, _ = run(f"world {tmp_path}/again --identities 4 --images-per-identity 3 --seed 3")
    assert code == 0
    assert "train_images: 6\n" in out
    for path in (tmp_path / "w").rglob("*.*"):
        if path.is_file():
            assert (tmp_path / "again" / path.relative_to(tmp_path / "w")).read_bytes() == path.read_bytes()


def test_annotate_from_both_formats(place, run, tmp_path):
    stored = read_npz(place / "world" / "annotations.npz")
    code, out, err = run(f"annotate world --from npz world/annotations.npz --out {tmp_path}/a.npz --json")
    assert code == 0
    assert json.loads(out) == {"written": f"{tmp_path}/a.npz", "annotations": 32, "images": 16}
    assert "16" in err  # the images of query and gallery are no training images
    again = read_npz(tmp_path / "a.npz")
    np.testing.assert_array_equal(again.xy, stored.xy)
    code, out, _ = run(f"annotate world --from patn-csv patn.csv --out {tmp_path}/b.npz")
    assert (code, out) == (0, f"written: {tmp_path}/b.npz\nannotations: 32\nimages: 16\n")
    rounded = read_npz(tmp_path / "b.npz")
    assert rounded.names.tolist() == stored.names.tolist()
    both = (rounded.visibility > 0) & (stored.visibility > 0)
    assert both.sum() > 0.9 * (stored.visibility > 0).sum()
    assert np.abs(rounded.xy - stored.xy)[both].max() <= 0.5


def test_annotate_from_other_programs(place, run, tmp_path):
    name = str(read_split(place / "world", "train").names[0])
    points = [number for joint in range(25) for number in (joint, 2 * joint, 0.5)]
    (tmp_path / "op").mkdir()
    (tmp_path / "op" / f"{name.removesuffix('.jpg')}_keypoints.json").write_text(
        json.dumps({"people": [{"pose_keypoints_2d": points}, {"pose_keypoints_2d": [0] * 75}]})
    )
    coco = {"images": [{"id": 5, "file_name": name}], "annotations": [{"image_id": 5, "keypoints": points[:51]}]}
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    np.savez(tmp_path / "lsp.npz", names=np.array([name]), xy=np.arange(1, 29, dtype=np.uint8).reshape(1, 14, 2))
    for kind, file, joints in (("openpose-json", "op", 18), ("coco-json", "coco.json", 18), ("npz", "lsp.npz", 14)):
        code, out, err = run(f"annotate world --from {kind} {tmp_path}/{file} --out {tmp_path}/{kind}.npz --json")
        assert code == 0
        written = f"{tmp_path}/{kind}.npz"
        assert json.loads(out) == {"written": written, "annotations": 1, "images": 16, "no_annotation": 15}
        assert "15 images of the split have no row" in err
        written = read_npz(tmp_path / f"{kind}.npz")
        assert written.names.tolist() == [name]
        assert (written.visibility > 0).sum() == joints


def test_bank_build_show_and_query(place, run, tmp_path):
    code, out, _ = run(f"bank build --data world --annotations world/annotations.npz --out {tmp_path}/bank --json")
    counts = json.loads(out)
    assert (code, counts["poses"], counts["written"]) == (0, 16, f"{tmp_path}/bank")
    bank = PoseBank.load(tmp_path / "bank")
    assert bank.content_hash == PoseBank.load(place / "bank").content_hash
    assert counts["usable"] == len(bank.usable_rows) > 5
    code, out, _ = run(f"bank show --bank {tmp_path}/bank --out {tmp_path}/bank.html --count 3")
    assert (code, out) == (0, f"{tmp_path}/bank.html\n")
    page = (tmp_path / "bank.html").read_text()
    assert page.count("<img") == 1 + len(bank.by_cluster.sizes) + len(SAMPLERS) * 9 + 3
    assert 'src="http' not in page
    assert 'href="http' not in page
    row = int(bank.usable_rows[1])
    code, out, _ = run(f"bank query --bank {tmp_path}/bank --name {bank.names[row]} --k 3 --json")
    found = json.loads(out)
    assert code == 0
    assert found[0] == {"row": row, "name": str(bank.names[row]), "oks": 1.0, "mirrored": False}
    assert [hit["oks"] for hit in found] == sorted((hit["oks"] for hit in found), reverse=True)
    lines = run(f"bank query --bank {tmp_path}/bank --name {bank.names[row]} --k 3")[1].splitlines()
    assert lines[0] == f"1.0000  {bank.names[row]}  (row {row})"
    assert len(lines) == 3


def test_generate_and_go_on(place, run, tmp_path):
    line = GENERATE.replace("--out new", f"--out {tmp_path}/aug --batch-size 8 --json")
    code, out, _ = run(line)
    counts = json.loads(out)
    assert code == 0
    assert counts["real"] == 16
    assert counts["rendered"] == counts["synthetic"] > 5
    train = read_split(tmp_path / "aug", "train")
    assert int(train.synthetic.sum()) == counts["synthetic"]
    assert json.loads(run(line)[1])["rendered"] == 0
    code, _, err = run(line + " --seed 9")
    assert code == 2
    assert err.startswith(f"error: {tmp_path}/aug")


def test_evaluate(place, run):
    code, out, err = run(f"{EVALUATE} --json")
    figures = json.loads(out)
    assert (code, err) == (0, "")
    assert figures["pairs"] == 3
    assert set(figures) == {"pairs", "rendering", "ssim", "mask_ssim", "person_ssim", "l1", "psnr", "baselines"}
    assert all(set(row) | {"baselines", "rendering"} == set(figures) for row in figures["baselines"].values())
    assert set(figures["baselines"]) == {"copy_source", "identity_mean"}
    # The baselines again, one pair at a time.
    split = read_split(place / "world", "gallery")
    images = dict(zip(split.names.tolist(), read_images(split) / 255, strict=True))
    copied, mean = [], []
    for source, target in csv.reader((place / "pairs.csv").read_text().splitlines()[1:]):
        others = [images[name] for name in images if name[:4] == target[:4] and name != target]
        copied.append(np.abs(images[source] - images[target]).mean())
        mean.append(np.abs(np.mean(others, axis=0) - images[target]).mean())
    assert figures["baselines"]["copy_source"]["l1"] == pytest.approx(np.mean(copied))
    assert figures["baselines"]["identity_mean"]["l1"] == pytest.approx(
        np.mean(mean), abs=2e-3
    )  # it is stored as bytes


def test_evaluate_as_text_and_limited(place, run):
    code, out, _ = run(f"{EVALUATE} --limit 2 --batch-size 1")
    lines = out.splitlines()
    assert (code, len(lines)) == (0, 4)
    assert re.fullmatch(r"2 pairs, rendered in (float32|bfloat16) by torch on cpu", lines[0])
    for line, name in zip(lines[1:], ("generated", "copy_source", "identity_mean"), strict=True):
        numbers = r"ssim [-\d.]+, mask_ssim [-\d.]+, person_ssim [-\d.]+, l1 [\d.]+, psnr [\d.]+"
        assert re.fullmatch(rf" *{name}: {numbers}", line)


class OnePose(torch.nn.Module):
    """A pose estimator that always finds the same pose, in brighter images a little higher."""

    def __init__(self, pose: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("pose", pose.clone())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.pose - images.mean((1, 2, 3))[:, None, None] * torch.tensor([0.0, 1.0, 0.0])


def export_estimator(path: Path, pose: torch.Tensor) -> None:
    example = (torch.rand(2, 3, 128, 64),)
    batch = ({0: torch.export.Dim("batch")},)
    torch.export.save(torch.export.export(OnePose(pose), example, dynamic_shapes=batch), path)


@pytest.mark.slow  # torch.export takes seconds to import
def test_evaluate_with_a_pose_estimator(place, run, tmp_path):
    split = read_split(place / "world", "gallery")
    names = [row[1] for row in csv.reader((place / "pairs.csv").read_text().splitlines()[1:])]
    rows = [split.names.tolist().index(name) for name in names]
    table = read_npz(place / "world" / "annotations.npz")
    true = table.keypoints(table.lookup(split.names[rows]))
    pose = torch.cat([true.xy[0], torch.ones(18, 1)], -1)
    export_estimator(tmp_path / "net.pt2", pose)
    code, out, err = run(f"{EVALUATE} --pose-estimator {tmp_path}/net.pt2 --json --batch-size 2")
    figures = json.loads(out)
    assert (code, err) == (0, "")
    found = OnePose(pose)(torch.from_numpy(read_images(split.select(rows))).movedim(-1, 1) / 255)
    expected = pckh(xingaug.Keypoints(found[..., :2], found[..., 2]), true)
    assert 0 < expected < 1
    assert figures["pckh_of_true"] == pytest.approx(expected)
    for row in (figures, *figures["baselines"].values()):
        assert 0 < row["pckh"] < 1
    assert "pckh_of_true" not in figures["baselines"]["copy_source"]
    code, out, _ = run(f"{EVALUATE} --pose-estimator {tmp_path}/net.pt2")
    lines = out.splitlines()
    assert all(re.search(r", pckh 0\.\d{4}$", line) for line in lines[1:4])
    assert re.fullmatch(rf" *true: pck 0\.\d{{4}}, pckh {expected:.4f}", lines[4])
    assert lines[5].lstrip().startswith("pck: joints within 0.2 of a quarter of the image's height, ")
    export_estimator(tmp_path / "net.pt2", pose[:17])
    code, out, err = run(f"{EVALUATE} --pose-estimator {tmp_path}/net.pt2")
    said = "returns (3, 17, 3) for images (3, 3, 128, 64), needed (3, 18, 3): x, y, confidence of each joint"
    assert (code, out, err) == (2, "", f"error: {tmp_path}/net.pt2: {said}\n")


def test_train_and_find_it_done(place, run, tmp_path):
    sizes = " ".join(f"generator.{key}={json.dumps(value).replace(' ', '')}" for key, value in TINY.items())
    line = (
        f"train train.yaml steps=1 batch_size=2 discriminators.start=1.0 validation.identities=0 {sizes} "
        "data.identities=2 data.tracklets=1 "
        f"data.poses=2 --out {tmp_path}/run"
    )
    assert run(line)[:2] == (0, f"{tmp_path}/run/generator.safetensors\n")
    load_generator(tmp_path / "run" / "generator.safetensors")
    assert run(line)[0] == 0
    code, _, err = run(line.replace("batch_size=2", "batch_size=3"))
    assert code == 2
    assert "was made with batch_size = 2, now it is 3" in err


def test_a_dry_run_tells_the_plan_and_writes_nothing(place, run):
    before = everything(place)
    code, out, _ = run("train train.yaml data.identities=20 data.tracklets=1 data.poses=2 --out new --dry-run")
    told = yaml.safe_load(out)
    assert code == 0
    assert told["config"]["perceptual"] == "none"
    assert told["plan"]["images"] + told["plan"]["held_out_images"] == 40
    assert told["plan"]["generator_parameters"] > 1e6
    assert everything(place) == before


def test_bench_train(run, monkeypatch):
    line = "bench train --generator xinggan_pp_small --batch-size 2 --rounds 1"
    small = XingGANPlusPlusConfig.of(**{**TINY, "decoder_widths": (4, 4)})
    monkeypatch.setitem(SIZES, "xinggan", XingGANConfig(blocks=1, width=4))
    monkeypatch.setitem(SIZES, "xinggan_pp_small", small)
    kinds = {"patch": partial(PatchDiscriminator, width=4), "residual": partial(ResidualDiscriminator, width=4)}
    monkeypatch.setattr("xingaug.training.trainer.KINDS", kinds)
    code, out, err = run(f"{line} --json")
    figures = json.loads(out)
    assert (code, err) == (0, "")
    assert [row["network"] for row in figures["variants"]] == ["xinggan, as released", "xinggan_pp_small"]
    assert figures["variants"][0]["ratio_to_xinggan"] == 1
    for row in figures["variants"]:
        assert row["images_per_second"] == pytest.approx(2000 / row["ms_per_step"], rel=0.05)
        assert row["gflop_per_second"] == pytest.approx(row["gflop_per_step"] / row["ms_per_step"] * 1000, rel=0.05)
    monkeypatch.setattr("xingaug.bench.bench_train", lambda *_: figures)
    code, out, _ = run(line)
    assert code == 0
    assert re.search(r"^network +dtype +images_per_second +ms_per_step", out, re.MULTILINE)


def test_bench_bank(run, monkeypatch):
    code, out, err = run("bench bank --sizes 200 400 --rounds 1 --json")
    figures = json.loads(out)
    assert (code, err) == (0, "")
    assert [row["poses"] for row in figures["banks"]] == [row["poses"] for row in figures["samplers"]] == [200, 400]
    for row in figures["banks"]:
        assert row["bank_recall_at_10"] == 1.0  # fewer poses than candidates or hardly more
        assert row["sklearn_recall_at_10"] < 1
        assert row["ratio_to_scan"] == pytest.approx(
            row["bank_queries_per_second"] / row["scan_queries_per_second"], rel=0.05
        )
    assert {f"{name}_ms" for name in SAMPLERS} < set(figures["samplers"][0])
    monkeypatch.setattr("xingaug.bench.bench_bank", lambda *_: figures)
    code, out, _ = run("bench bank --sizes 200 --rounds 1")
    assert code == 0
    assert re.search(r"^poses +uniform_ms +near_prepared_seconds +near_ms", out, re.MULTILINE)


def test_bank_merge(place, run, tmp_path):
    run(f"bank build --data world --annotations world/annotations.npz --out {tmp_path}/bank --index IVF2,Flat --json")
    code, out, _ = run(f"bank merge {tmp_path}/bank --out {tmp_path}/merged --json")
    merged = PoseBank.load(tmp_path / "merged")
    assert (code, json.loads(out)["poses"]) == (0, 16)
    assert merged.settings.factory == "IVF2,Flat"
    alone = PoseBank.load(tmp_path / "bank")
    assert merged.content_hash == alone.content_hash
    assert replace(alone, settings=IndexSettings()).content_hash == PoseBank.load(place / "bank").content_hash
    code, again, _ = run(f"bank merge {tmp_path}/bank --out {tmp_path}/merged --json")
    assert (code, again) == (0, out)  # its own result stays
    code, _, err = run(f"bank merge bank --out {tmp_path}/merged")
    assert code == 2
    assert "merged: exists and is not empty" in err


def test_bench_augment(run, monkeypatch):
    monkeypatch.setattr("xingaug.bench.augment.subprocess", NoProcesses)
    line = "bench augment --generator tiny.safetensors --rounds 2"
    code, out, _ = run(f"{line} --batch-size 4 --models osnet_x0_25 --reuse 1 2 --json")
    figures = json.loads(out)
    assert code == 0
    assert all(value > 0 for value in figures["images_per_second"].values())
    assert figures["ratio_transform_to_generator"] > 0
    once, twice = figures["steps"]
    assert [row["reuse"] for row in (once, twice)] == [1, 2]
    for row in (once, twice):
        assert (row["model"], row["size"]) == ("osnet_x0_25", "128x64")
        assert row["ratio"] > 0
        assert 0 <= row["rendered_rows"] <= 4
    assert once["computed_ratio"] - 1 == pytest.approx(2 * (twice["computed_ratio"] - 1), abs=2e-3)
    code, out, _ = run(f"{line} --batch-size 1 --models")
    assert code == 0
    assert "steps" not in out


def test_bench_offline(run, monkeypatch):
    monkeypatch.setattr("xingaug.bench.offline.IDENTITIES", 4)
    monkeypatch.setattr("xingaug.bench.offline.IMAGES", 4)
    code, out, _ = run("bench offline --generator tiny.safetensors --rounds 1 --batch-size 4 --json")
    figures = json.loads(out)
    assert code == 0
    assert (figures["images"], figures["batch_size"]) == (16, 4)
    rates = figures["images_per_second"]
    alone = max(rates["generator, all cores a batch"], rates["generator, a core a batch"])
    assert figures["ratio_folder"] == pytest.approx(rates["to folder"] / alone, rel=0.02)
    assert figures["ratio_shards"] == pytest.approx(rates["to shards"] / alone, rel=0.02)


def test_bench_evaluation(run, monkeypatch):
    figures = bench_evaluation_of_models(1, queries=40, gallery=200, identities=20, dimensions=8)
    assert figures["mAP_difference"] < 1e-6
    assert figures["ratio"] > 0
    asked = []
    monkeypatch.setattr("xingaug.bench.evaluation.measured_by_reid_integration", lambda *w: asked.append(w) or figures)
    code, out, _ = run("bench evaluation --rounds 2 --json")
    assert (code, json.loads(out), asked) == (0, figures, [("evaluation", "--rounds", "2")])


def test_models_of_the_command_are_those_that_are_measured():
    assert set(bench_command._MODELS) == set(SIZES_OF_MODELS)


def test_bench_generator(run, monkeypatch):
    monkeypatch.setitem(SIZES, "xinggan", XingGANConfig(size=(32, 16), blocks=1, width=4))
    line = "bench generator --generator tiny.safetensors --batch-size 2 --rounds 1"
    code, out, err = run(f"{line} --json")
    figures = json.loads(out)
    assert (code, err) == (0, "")
    dtypes = ["float32", *(["bfloat16"] if has_bfloat16("cpu") else [])]
    fast = [("optimized", dtype, layout) for dtype in dtypes for layout in ("contiguous", "channels_last")]
    rows = figures["variants"]
    assert [(row["form"], row["dtype"], row["layout"]) for row in rows] == 2 * [
        ("plain", "float32", "contiguous"),
        *fast,
    ]
    assert {row["network"] for row in rows} == {"xinggan", "tiny.safetensors"} == set(figures["networks"])
    assert rows[0]["ratio_to_xinggan"] == 1
    for row in rows:
        assert row["images_per_second"] > 0
        assert row["peak_memory_mb"] is None or row["peak_memory_mb"] >= 0
        cost = figures["networks"][row["network"]]["gflop_per_image"]
        assert row["gflop_per_second"] == pytest.approx(cost * row["images_per_second"], abs=0.1)
        share = row["gflop_per_second"] / figures["peak_gflop_per_second"][row["dtype"]]
        assert row["share_of_peak"] == pytest.approx(share, abs=0.01)
    assert [row["network"] for row in figures["training_step"]] == ["xinggan", "tiny.safetensors"]
    code, out, _ = run(line)
    assert code == 0
    assert re.search(r"^network +form +dtype +layout +images_per_second", out, re.MULTILINE)
    assert re.search(r"^training_step\nnetwork +batch_size", out, re.MULTILINE)
