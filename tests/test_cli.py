"""The command line as a user types it: help, bad input, exit codes."""

import argparse
import os
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from command_lines import EVALUATE, GENERATE, everything

import xingaug
from xingaug.cli import build_parser
from xingaug.data.annotations import read_npz
from xingaug.errors import BadInput, WorkFailed, guarded

ROOT = Path(__file__).resolve().parent.parent


# Help


def parsers(parser: argparse.ArgumentParser, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                yield from parsers(inner, (*path, name))


COMMANDS = list(parsers(build_parser()))


def test_the_walk_finds_all_commands():
    assert {" ".join(path) for path in COMMANDS} == {
        "", "demo", "world", "import", "check", "annotate", "compare-annotations", "train", "convert", "evaluate",
        "bank", "bank build", "bank show", "bank merge", "bank query", "generate", "bench", "export", "augment", "show",
        "train-estimator",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["train", "compare", "bench"])
def test_modules_of_reid_integration_are_commands_too(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    monkeypatch.delitem(sys.modules, f"reid_integration.{name}", raising=False)  # runpy would warn that it is there
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(f"reid_integration.{name}", run_name="__main__")
    assert ended.value.code == 0
    assert f"usage: python -m reid_integration.{name}" in capsys.readouterr().out


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: " ".join(path) or "xingaug")
def test_help_shows_an_example_that_can_be_typed(path, run):
    code, out, err = run(" ".join([*path, "--help"]))
    assert (code, err) == (0, "")
    example = out.splitlines()[-1].removeprefix("example: ")
    assert example.startswith(" ".join(["xingaug", *path]))
    build_parser().parse_args(shlex.split(example)[1:])  # exits where it does not parse
    assert "default: None" not in out
    assert "default: False" not in out


def test_help_gives_the_defaults(run):
    assert "number of persons; the first half is for training (default: 200)" in " ".join(
        run("world --help")[1].split()
    )


def test_version(run):
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert run("--version") == (0, f"xingaug {told}\n", "")
    assert xingaug.__version__ == told


# Bad input: exit code 2, one line, nothing written


BAD = [
    ("", "the following arguments are required: COMMAND; see xingaug --help"),
    ("wolrd new", "argument COMMAND: invalid choice: 'wolrd'"),
    ("world", "the following arguments are required: out; see xingaug world --help"),
    ("world full", "full: exists and is not empty; name a new directory"),
    ("world pairs.csv", "pairs.csv: exists and is no directory"),
    ("world pairs.csv/new", "pairs.csv/new: lies below a file"),
    ("world new --identities 1", "identities: 1 cannot be planned, must lie between 2 and 9999"),
    ("world new --images-per-identity 1", "images_per_identity: 1 cannot be planned"),
    ("world new --seed -1", "seed: -1 cannot be used"),
    ("world new --identities ten", "argument --identities: invalid int value: 'ten'"),
    ("world new --train-poses few", "argument --train-poses: invalid choice: 'few'"),
    ("import world", "the following arguments are required: --out; see xingaug import --help"),
    ("import none --out new", "none: no such folder; needed the dataset's root"),
    ("import full --out new", "full: holds no bounding_box_train; needed the dataset's root"),
    ("import world --out full", "full: exists and is not empty; name a new directory"),
    ("import world --out world/new", "--out: world/new and the dataset world contain one another"),
    ("import world --out new --link soft", "argument --link: invalid choice: 'soft'"),
    ("import world --out new --annotations none.npz", "none.npz: no such annotation file"),
    ("import world --out new --annotations lsp_other.npz", "lsp_other.npz: holds "),
    ("import none.yaml --out new", "none.yaml: no such configuration"),
    ("import train.yaml --out new", "train.yaml: unknown key 'steps'"),
    ("import pairs.csv --out new", "pairs.csv: is a file; needed the folder of a dataset, or a .yaml"),
    ("check", "the following arguments are required: root; see xingaug check --help"),
    ("check none", "none: no such folder; needed a folder of images, a dataset, or a .yaml that describes one"),
    ("check full", "full: holds no image; needed crops of persons, each named by its identity"),
    ("check train.yaml", "train.yaml: unknown key 'steps'"),
    ("check pairs.csv", "pairs.csv: is a file; needed the folder of a dataset, or a .yaml"),
    ("annotate none --from npz one.npz", "none: no such folder; needed the dataset's root or a folder of images"),
    (
        "annotate pairs.csv --from npz one.npz",
        "pairs.csv: is a file; needed the folder of a dataset, or a .yaml",
    ),
    (
        "annotate full --from npz one.npz",
        "full: holds no dataset and no image (.jpg, .jpeg, .png, .bmp, .webp, .tif, .tiff); ",
    ),
    ("annotate full --from npz one.npz --splits train", "--splits: full is a plain folder, which has none; leave"),
    (
        "annotate world --from coco pairs.csv",
        "--from: unknown format 'coco'; known: patn-csv, openpose-json, coco-json, alphapose-json, lsp-mat, npz",
    ),
    ("annotate world --from npz none.npz --out new.npz", "none.npz: no such annotation file"),
    ("annotate world --from npz patn.csv --out new.npz", "patn.csv: not an annotation .npz"),
    ("annotate world --from patn-csv none.csv --out new.npz", "none.csv: no such annotation file"),
    ("annotate world --from patn-csv header.csv --out new.npz", "header.csv:1: header 'name,x,y'; needed"),
    ("annotate world --from npz one.npz --out new.csv", "--out: new.csv, expected a name that ends in .npz"),
    ("annotate world --from npz world/annotations.npz --out folder.npz", "folder.npz: is a directory; name a file"),
    ("annotate world --from npz lsp_short.npz --out new.npz", "lsp_short.npz: xy: float64 of shape (1, 13, 2), needed"),
    ("annotate world --from npz lsp_joint.npz --out new.npz", "lsp_joint.npz: unknown joint 'tail'; known: head_top"),
    ("annotate world --from npz lsp_nan.npz --out new.npz", "lsp_nan.npz: a.jpg: right_hip at (nan, 5.0), needed"),
    ("annotate world --from npz lsp_other.npz --out new.npz", "lsp_other.npz: annotates none of the 16 images of"),
    ("annotate world --from openpose-json none --out new.npz", "none: no such folder; needed a folder of <image stem>"),
    ("annotate world --from openpose-json pairs.csv --out new.npz", "pairs.csv: is a file; needed a folder of"),
    ("annotate world --from openpose-json full --out new.npz", "full: holds no *_keypoints.json; needed one for each"),
    ("annotate world --from openpose-json op_text --out new.npz", "a_keypoints.json: not JSON (Expecting value"),
    (
        "annotate world --from openpose-json op_short --out new.npz",
        "people[0]: pose_keypoints_2d: 51 entries, needed 54",
    ),
    ("annotate world --from openpose-json op_empty --out new.npz", "op_empty: shows no person in 1 annotated images"),
    ("annotate world --from coco-json none.json --out new.npz", "none.json: no such annotation file"),
    (
        "annotate world --from coco-json full --out new.npz",
        "full: is a directory; needed a regular file as annotation file",
    ),
    ("annotate world --from coco-json pairs.csv --out new.npz", "pairs.csv: not JSON (Expecting value"),
    ("annotate world --from coco-json coco_key.json --out new.npz", "coco_key.json: has no key 'images'; needed"),
    ("annotate world --from coco-json coco_image.json --out new.npz", "annotations[0]: image_id 7 is the id of none"),
    ("annotate world --from coco-json coco_nan.json --out new.npz", "annotations[0]: keypoints[3]: 'nan', needed a"),
    ("annotate world --from npz", "argument --from: expected 2 arguments"),
    ("annotate world", "one of the arguments --from --estimator is required"),
    ("annotate world --from npz one.npz --estimator program", "--estimator: not allowed with argument --from"),
    ("annotate world --estimator openpose", "--estimator: unknown 'openpose'; known: "),
    (
        "annotate world --estimator program",
        "estimator 'program': comes without weights; name a network, images (B, 3, H, W)",
    ),
    ("annotate world --estimator rtmpose --weights none.onnx", "none.onnx: no such file"),
    ("annotate world --estimator program --weights none.pt2 --out new.csv", "--out: new.csv, expected a name that"),
    ("annotate world --estimator program --batch-size 0", "--batch-size: 0, needed at least 1"),
    ("annotate world --estimator program --workers 0", "--workers: 0, needed at least 1"),
    ("annotate world --estimator program --min-confidence 1", "--min-confidence: 1, needed at least 0 and below 1"),
    ("annotate world --estimator program --min-confidence nan", "--min-confidence: nan, needed at least 0 and below"),
    ("annotate world --estimator program --rejected full", "--rejected: full: is a directory; name a file"),
    ("annotate world --estimator program --preview full", "--preview: full: is a directory; name a file"),
    ("annotate world --estimator program --splits val", "argument --splits: invalid choice: 'val'"),
    ("annotate world --estimator program --device nonsense", "--device: 'nonsense' cannot be used"),
    ("annotate world --from npz one.npz --preview-count 0", "--preview-count: 0, needed at least 1"),
    ("annotate world --from npz one.npz --mirror", "--mirror: needs --estimator, not --from"),
    ("annotate world --from npz one.npz --min-confidence 0", "--min-confidence: needs --estimator, not --from"),
    ("annotate world --from alphapose-json coco_key.json", "coco_key.json: an object, as AlphaPose's --format cmu and"),
    ("annotate world --from alphapose-json alpha_joints.json", "[0]: keypoints: 48 entries, needed 51 or 78 numbers"),
    ("annotate world --from lsp-mat none.mat", "none.mat: no such MATLAB file"),
    ("annotate world --from lsp-mat pairs.csv", "pairs.csv: not a MATLAB file of version 5 to 7 (no header)"),
    ("compare-annotations one.npz", "the following arguments are required: b"),
    ("compare-annotations one.npz none.npz", "none.npz: no such annotation file"),
    ("compare-annotations one.npz header.csv", "header.csv:1: header 'name,x,y'; needed"),
    ("compare-annotations one.npz one.npz --preview new.html", "--preview, --data: give both or neither"),
    ("compare-annotations one.npz one.npz --preview new.html --data world", "none of the 16 images is in both"),
    (
        "compare-annotations one.npz one.npz --preview new.html --data world --preview-count 0",
        "--preview-count: 0, needed at least 1",
    ),
    ("compare-annotations train_a.npz one.npz", "no image in common: 1 and 1 annotations, such as"),
    ("train none.yaml --out new", "none.yaml: no such configuration"),
    ("train-estimator train_key.yaml --out new", "train_key.yaml: unknown key 'stesp'; did you mean 'steps'?"),
    ("train-estimator train_open.yaml data=[] --out new", "data: empty, needed at least one dataset"),
    ("train-estimator nowhere.yaml --out new", "nowhere.yaml: no such"),
    ("train train_key.yaml --out new", "train_key.yaml: unknown key 'stesp'; did you mean 'steps'?"),
    ("train train.yaml losses.l2=1 --out new", "train.yaml: unknown key 'losses.l2'; did you mean 'l1'?"),
    ("train train.yaml lr=fast --out new", "train.yaml: lr: 'fast' (a string), expected a number"),
    ("train train.yaml data.idntities=3 --out new", "unknown key 'data.idntities'; did you mean 'identities'?"),
    ("train train.yaml steps --out new", "override 'steps': needed key=value"),
    ("train train.yaml steps=0 --out new", "train.yaml: steps: 0, needed at least 1"),
    (
        "train train.yaml generator.width=6 --out new",
        "train.yaml: generator: width: 6, needed a positive",
    ),
    ("train train.yaml perceptual=vgg --out new", "train.yaml: perceptual: 'vgg' (a string), expected"),
    ("train train_open.yaml --out new", "train_open.yaml: key 'perceptual' is missing; expected one of none"),
    ("train train.yaml perceptual.weights=none.pth --out new", "perceptual.weights: none.pth: no such file"),
    ("train train.yaml identity_network=none.pt2 --out new", "none.pt2: no such file; needed a feature network"),
    ("train train.yaml data.identities=2 batch_size=3 accumulate=2 --out new", "batch_size: 3, needed a multiple of"),
    ("train train.yaml start=none --dry-run", "generator 'none': no such file"),
    ("train train.yaml --out full --dry-run", "full: not empty and without config.yaml, but holds"),
    ("train", "the following arguments are required: config, key=value"),
    ("convert none.pth new.safetensors", "none.pth: no such file; needed a released XingGAN checkpoint"),
    ("convert pairs.csv new.safetensors", "pairs.csv: cannot be read as tensors saved by torch"),
    ("convert pairs.csv new.safetensors --size 127 64", "--size: (127, 64), needed"),
    ("convert pairs.csv", "the following arguments are required: out"),
    (f"{EVALUATE} --generator none", "generator 'none': no such file (*.safetensors) and no bundled name"),
    (f"{EVALUATE} --generator none.safetensors", "generator 'none.safetensors': no such file"),
    (f"{EVALUATE} --generator tiny_alone.safetensors", "tiny_alone.json: missing; a generator is a .safetensors file"),
    (f"{EVALUATE} --data none", "none: no such folder"),
    (f"{EVALUATE} --annotations none.npz", "none.npz: no such annotation file"),
    (f"{EVALUATE} --annotations pairs.txt", "pairs.txt"),
    (f"{EVALUATE} --annotations one.npz", "one.npz: no keypoints for '"),
    (f"{EVALUATE} --pairs none.csv", "none.csv: no such list of pairs"),
    (f"{EVALUATE} --pairs pairs_header.csv", "pairs_header.csv: line 1: expected the header from,to"),
    (f"{EVALUATE} --pairs pairs_fields.csv", "pairs_fields.csv: line 3: 1 fields, expected two image names"),
    (f"{EVALUATE} --pairs pairs_names.csv", "pairs_names.csv: 1 names are no image of the split, first 'none.jpg'"),
    (f"{EVALUATE} --pairs pairs_persons.csv", "show two persons, expected two images of one"),
    (f"{EVALUATE} --pairs pairs_itself.csv", "is paired with itself, expected two images"),
    (f"{EVALUATE} --pairs pairs_none.csv", "pairs_none.csv: no pair after the header"),
    (f"{EVALUATE} --split train", "no image of the split"),
    (f"{EVALUATE} --split other", "argument --split: invalid choice: 'other'"),
    (f"{EVALUATE} --limit 0", "limit: 0, needed at least 1"),
    (f"{EVALUATE} --batch-size 0", "batch_size: 0, needed at least 1"),
    (f"{EVALUATE} --device nonsense", "--device: 'nonsense' cannot be used"),
    (f"{EVALUATE} --pose-estimator none.pt2", "none.pt2: no such file; needed a pose estimator saved by torch.export"),
    (f"{EVALUATE} --pose-estimator pairs.csv", "pairs.csv: no program of torch.export; needed a pose estimator"),
    (f"{EVALUATE} --perceptual", "argument --perceptual: expected at least one argument"),
    (f"{EVALUATE} --perceptual lpips psnr", "argument --perceptual: invalid choice: 'psnr'"),
    (f"{EVALUATE} --perceptual fid --limit 1", "pairs.csv: 1 pair to measure, fid needs at least 2"),
    (f"{EVALUATE} --perceptual lpips --inception pairs.csv", "inception: pairs.csv, is only read for fid or is"),
    (f"{EVALUATE} --perceptual fid --inception none.pth", "none.pth: no such file; needed Inception's weights"),
    (f"{EVALUATE} --perceptual is --inception pairs.csv", "pairs.csv: cannot be read as tensors saved by torch"),
    ("bank", "the following arguments are required: ACTION; see xingaug bank --help"),
    ("bank build --data none --annotations one.npz --out new", "none: no such folder"),
    ("bank build --data world --annotations none.npz --out new", "none.npz: no such annotation file"),
    ("bank build --data world --annotations one.npz --out new", "one.npz: annotates none of the 16 training images"),
    ("bank build --data world --annotations world/annotations.npz --out full", "full: exists and is not empty"),
    ("bank show --bank none --out new.html", "none: no pose bank here (bank.json is missing)"),
    ("bank show --bank bank --out new.txt", "new.txt: expected a name that ends in .html"),
    ("bank show --bank bank --out new.html --count 0", "count: 0, needed at least 1"),
    ("bank show --bank bank --out new.html --name x.jpg", "name: the bank has no usable pose of 'x.jpg'"),
    (
        "bank build --data world --annotations world/annotations.npz --out new --probes -1",
        "--probes: -1, needed 0 (automatic) or more",
    ),
    ("bank merge none --out new", "none: no pose bank here"),
    ("bank merge bank bank --out new", "images are in more than one of them, such as '"),
    ("bank query --bank none --name x", "none: no pose bank here"),
    ("bank query --bank bank --name x.jpg", "--name: the bank bank has no pose of 'x.jpg'"),
    ("bank query --bank bank --name FIRST --k 0", "--k: 0, needed at least 1"),
    ("bank query --bank bank --name FIRST --k 999", "k: 999 poses requested, the bank has"),
    ("bank query --bank bank_with_bare_pose --name FIRST", "' has too few joints to search with"),
    (f"{GENERATE} --generator none", "generator 'none': no such file"),
    (f"{GENERATE} --data none", "none: no such folder"),
    (f"{GENERATE} --annotations none.npz", "none.npz: no such annotation file"),
    (f"{GENERATE} --bank none", "none: no pose bank here"),
    (f"{GENERATE} --per-image 0", "per_image: 0, needed 1 to"),
    (f"{GENERATE} --batch-size 0", "batch_size: 0, needed at least 1"),
    (f"{GENERATE} --sampler best", "sampler: unknown 'best'; known: uniform, near, far"),
    (f"{GENERATE} --sampler uniform=0,near=1", "sampler: weight '0' of 'uniform', needed a number above 0"),
    (f"{GENERATE} --fit body", "argument --fit: invalid choice: 'body'"),
    (f"{GENERATE} --real some", "argument --real: invalid choice: 'some'"),
    ("generate --data world --bank bank", "--annotations, --out: missing; see xingaug generate --help"),
    ("generate --verify none", "none: holds no config.json of generate; needed a directory that generate wrote"),
    (f"{GENERATE} --per-identity 0", "per_identity: 0, needed at least 1"),
    (f"{GENERATE} --per-identity 4 --per-image 2", "per_image: 2, per_identity: 4; needed one of them, not both"),
    (f"{GENERATE} --per-identity 1", "per_identity: 1, every identity has as many training images"),
    (f"{GENERATE} --budget 0", "budget: 0, needed at least 1"),
    (f"{GENERATE} --tries 0", "tries: 0, needed 1 to"),
    (f"{GENERATE} --gate min_contrast", "override 'min_contrast': needed key=value"),
    (f"{GENERATE} --gate contrast=0.1", "--gate: unknown key 'contrast'; did you mean 'min_contrast'?"),
    (f"{GENERATE} --gate min_contrast=2", "--gate: needed min_identity in [-1, 1], min_contrast and max_saturated"),
    (f"{GENERATE} --gate features=none.pt2", "none.pt2: no such file; needed a re-ID network saved by torch.export"),
    (f"{GENERATE} --format zip", "argument --format: invalid choice: 'zip'"),
    (f"{GENERATE} --format webdataset --real link", "real: 'link', shards hold the images themselves"),
    (f"{GENERATE} --shard-size 0", "shard_size: 0, needed at least 1"),
    (f"{GENERATE} --dtype float8", "argument --dtype/--precision: invalid choice: 'float8'"),
    (f"{GENERATE} --engine spark", "argument --engine: invalid choice: 'spark'"),
    (f"{GENERATE} --engine torchrun", "engine: 'torchrun', but torchrun has not started this"),
    (f"{GENERATE} --workers 2", "workers: 2, of the engine ray only; torchrun has --nproc-per-node"),
    (f"{GENERATE} --engine ray --workers 0", "workers: 0, needed at least 1"),
    (f"{GENERATE} --out world/new", "out: world/new and the dataset world contain one another"),
    (f"{GENERATE} --out full", "full: "),
    (f"{GENERATE} --device nonsense", "--device: 'nonsense' cannot be used"),
    ("demo --out new --data world", "--data and --annotations belong together"),
    ("demo --out new --annotations one.npz", "--data and --annotations belong together"),
    ("demo --out full --generator tiny.safetensors", "full: not empty and without demo.json, but holds"),
    ("demo --out new --identities 1", "--identities: 1, needed 2 to 4999"),
    ("demo --out new --iterations 0", "--iterations: needed at least 1"),
    ("demo --out new --generator none", "generator 'none': no such file"),
    ("demo --out new --generator tiny.safetensors --data none --annotations one.npz", "none: no such folder"),
    ("demo --out new --generator tiny.safetensors --data world --annotations none.npz", "none.npz: no such annotation"),
    ("augment world", "the following arguments are required: --out; see xingaug augment --help"),
    (
        "augment none --out new",
        "none: no such folder; needed a folder of images, a dataset, or a .yaml that describes one",
    ),
    ("augment full --out new", "full: holds no image; needed crops of persons"),
    ("augment pairs.csv --out new", "pairs.csv: is a file; needed the folder of a dataset, or a .yaml"),
    ("augment world --out full", "full: not empty and without config.json, but holds mine.txt"),
    ("augment world --out world/new", "out: world/new and the dataset world contain one another"),
    (
        "augment world --out new --pattern {pid:d}_*",
        "--pattern: world is a dataset whose layout is known; leave it out",
    ),
    ("augment world --out new --generator none", "generator 'none': no such file"),
    ("augment world --out new --per-image 0", "per_image: 0, needed 1 to"),
    ("augment world --out new --estimator openpose", "--estimator: unknown 'openpose'; known: posenet"),
    ("augment world --out new --weights tiny.safetensors", "--weights: of which estimator? needed --estimator too"),
    ("augment world --out new --download", "--download: of which estimator? needed --estimator too"),
    (
        "augment world --out new --estimator vitpose --download",
        "no published weights of 'vitpose' are known with their hash",
    ),
    ("augment world --out new --estimator movenet --weights https://a/b.onnx", "an address needs --download"),
    ("augment world --out new --estimator openpose --download", "--estimator: unknown 'openpose'; known: posenet"),
    ("augment none --out new --estimator movenet --download", "none: no such folder; needed a folder of images"),
    ("augment world --out new --estimator movenet --download --per-image 0", "per_image: 0, needed 1 to"),
    ("augment world --out new --estimator movenet --sha256 ab", "--sha256: hash of a file to --download"),
    ("augment world --out new --gate --no-gate", "--gate, --no-gate: give one of them"),
    ("augment world --out new --gate contrast=1", "--gate: unknown key 'contrast'; did you mean 'min_contrast'?"),
    ("augment world --out new --layout own", "argument --layout: invalid choice: 'own'"),
    (
        "augment world --out new --annotations one.npz --estimator movenet",
        "--annotations, --estimator: give one of them",
    ),
    ("show", "the following arguments are required: DIR"),
    ("show none", "none: no such folder; needed the dataset's root"),
    ("show world --page full", "--page: full: is a directory; name a file"),
    ("show world --page new.txt", "--page: new.txt, expected a name that ends in .html"),
    ("show world --annotations none.npz --page new.html", "none.npz: no such annotation file"),
    ("annotate world --estimator vitpose --download", "--download: no published weights of 'vitpose' are known"),
    ("annotate world --estimator rtmpose --weights https://a.invalid/b", "an address needs --download"),
    ("annotate world --estimator rtmpose --weights https://a.invalid/b --download", "needed --sha256, the file's"),
    ("annotate world --estimator rtmpose --weights a.onnx --download", "--download: 'a.onnx' is no address and none"),
    ("annotate world --estimator rtmpose --sha256 ab", "--sha256: hash of a file to --download from an address"),
    ("bench", "the following arguments are required: part"),
    ("bench speed", "argument part: invalid choice: 'speed'"),
    ("bench generator --generator none", "generator 'none': no such file"),
    ("bench generator --generator tiny.safetensors --batch-size 0", "batch_size: 0, needed at least 1"),
    ("bench generator --generator tiny.safetensors --rounds 0", "rounds: 0, needed at least 1"),
    ("bench train --generator none", "generator: 'none', expected one of xinggan"),
    ("bench train --batch-size 0", "batch_size: 0, needed at least 1"),
    ("bench train --rounds 0", "rounds: 0, needed at least 1"),
    ("bench augment --generator tiny.safetensors --batch-size -1", "batch_size: -1, needed at least 1"),
    ("bench augment --generator tiny.safetensors --rounds 0", "rounds: 0, needed at least 1"),
    ("bench augment --generator tiny.safetensors xinggan", "--generator: 2 names, the part augment measures one"),
    ("bench augment --generator xinggan", "generator 'xinggan': no such file"),
    ("bench augment --generator tiny.safetensors --reuse 0", "reuse: 0, needed at least 1"),
    ("bench augment --models resnet18", "argument --models: invalid choice: 'resnet18'"),
    ("bench offline --generator none", "generator 'none': no such file"),
    ("bench offline --generator tiny.safetensors xinggan", "--generator: 2 names, the part offline measures one"),
    ("bench offline --generator tiny.safetensors --rounds 0", "rounds: 0, needed at least 1"),
    ("bench offline --generator tiny.safetensors --batch-size 0", "batch_size: 0, needed at least 1"),
    ("bench evaluation --rounds 0", "rounds: 0, needed at least 1"),
    ("bench bank --bank none", "none: no pose bank here"),
    ("bench bank --bank bank", "usable poses, needed at least 128"),
    ("bench bank --sizes 100", "sizes: 100, needed at least 128"),
    ("bench bank --rounds 0", "rounds: 0, needed at least 1"),
    ("bench generator --device nonsense", "--device: 'nonsense' cannot be used"),
    ("export", "the following arguments are required: --onnx"),
    ("export --generator none --onnx new.onnx", "generator 'none': no such file"),
    ("export --generator tiny.safetensors --onnx new.pth", "new.pth: an exported generator is saved as .onnx"),
    ("export --generator tiny.safetensors --onnx one.npz/new.onnx", "lies below a file"),
]


@pytest.mark.parametrize(("line", "said"), BAD, ids=[line or "nothing" for line, _ in BAD])
def test_bad_input_is_one_line_and_writes_nothing(line, said, place, run):
    before = everything(place)
    first = read_npz(place / "world" / "annotations.npz").names[0]
    code, out, err = run(line.replace("FIRST", first))
    assert re.fullmatch(r"error: [^\n]+\n", err), err
    assert said in err
    assert (code, out) == (2, "")
    assert everything(place) == before


def test_every_command_is_tried_with_bad_input():
    tried = {" ".join(line.split()[: 2 if line.startswith("bank ") else 1]) for line, _ in BAD}
    assert {" ".join(path) for path in COMMANDS} <= tried


def test_a_missing_gpu_is_told(place, run):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    code, _, err = run(f"{EVALUATE} --device cuda")
    assert code == 2
    assert re.fullmatch(r"error: --device: 'cuda' cannot be used \([^\n]+\); such as cpu or cuda\n", err)


# Exit codes


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (BadInput("a.yaml: line 3\n  is wrong"), 2, "error: a.yaml: line 3 is wrong\n"),
        (WorkFailed("step 7: loss is not finite"), 1, "error: step 7: loss is not finite\n"),
        (OSError(28, "No space left on device", "x"), 1, "error: x: No space left on device\n"),
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
    ],
)
def test_errors_become_exit_codes(error, code, said, capsys):
    def command() -> NoReturn:
        raise error

    assert guarded(command) == code
    assert capsys.readouterr() == ("", said)


def test_results_become_exit_codes_and_our_own_defects_stay_visible():
    assert guarded(lambda: None) == 0
    assert guarded(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        guarded(lambda: 1 // 0)


def test_the_module_is_the_command(place):
    command = [sys.executable, "-m", "xingaug.cli", "world", "full"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: full: exists and is not empty; name a new directory, or remove this one first\n"


def test_without_standard_output_it_ends_well():
    source = "import sys; sys.stdout = None; from xingaug.errors import guarded; sys.exit(guarded(lambda: None))"
    done = subprocess.run([sys.executable, "-c", source], cwd=ROOT, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_closed_pipe_ends_quietly():
    source = "import sys; from xingaug.errors import guarded; sys.exit(guarded(lambda: print('figures')))"
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-c", source], cwd=ROOT, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")
