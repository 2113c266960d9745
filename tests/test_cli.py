"""The commands as a user types them: help, bad input, and what they do on a tiny world."""

import argparse
import csv
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import torch
import yaml

import xingaug
from xingaug.cli import build_parser, main
from xingaug.data.annotations import read_npz, write_npz, write_patn_csv
from xingaug.data.market1501 import read_images, read_split
from xingaug.data.pedestrians import write_world
from xingaug.errors import BadInput, WorkFailed, guarded
from xingaug.generators import SIZES, XingGANPlusPlus, load_generator, save_generator
from xingaug.generators.discriminators import PatchDiscriminator, ResidualDiscriminator
from xingaug.generators.fast import has_bfloat16
from xingaug.generators.xinggan import XingGANConfig
from xingaug.generators.xinggan_pp import XingGANPlusPlusConfig
from xingaug.poses import PoseBank
from xingaug.poses.collect import bank_from_tree
from xingaug.training.quality import pckh

ROOT = Path(__file__).resolve().parent.parent
TINY = {
    "width": 8, "blocks": 1, "candidates": 1, "decoder_widths": [8, 8], "texture_attention": 1, "query_channels": 4,
    "enhanced_width": 8,
}  # fmt: skip


@pytest.fixture(autouse=True)
def denormals_as_before() -> Iterator[None]:
    yield
    torch.set_flush_denormal(False)  # a command sets it for its process, which here is that of all tests


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a world, its bank, a generator that has learned nothing, pairs, and things that are wrong."""
    place = tmp_path_factory.mktemp("place")
    write_world(place / "world", 8, 4, 0, workers=1, progress=False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_generator(XingGANPlusPlus(**TINY), place / "tiny.safetensors")
    bank_from_tree(place / "world", place / "world" / "annotations.npz").save(place / "bank")
    annotations = read_npz(place / "world" / "annotations.npz")
    write_patn_csv(place / "patn.csv", annotations)
    visibility = annotations.visibility.copy()
    visibility[0] = 0
    bare = read_npz(place / "world" / "annotations.npz").keypoints(range(len(annotations)))
    poses = xingaug.Keypoints(bare.xy, torch.from_numpy(visibility))
    PoseBank.build(poses, names=annotations.names).save(place / "bank_with_bare_pose")

    gallery = read_split(place / "world", "gallery")
    first, other = np.flatnonzero(gallery.pids == gallery.pids[0]), np.flatnonzero(gallery.pids != gallery.pids[0])
    a, b, c = (str(gallery.names[i]) for i in (first[0], first[1], other[0]))
    d = str(gallery.names[np.flatnonzero(gallery.pids == gallery.pids[other[0]])[1]])
    (place / "pairs.csv").write_text(f"from,to\n{a},{b}\n{b},{a}\n{c},{d}\n")
    (place / "pairs_header.csv").write_text(f"source,target\n{a},{b}\n")
    (place / "pairs_fields.csv").write_text(f"from,to\n{a},{b}\n{a}\n")
    (place / "pairs_names.csv").write_text(f"from,to\n{a},none.jpg\n")
    (place / "pairs_persons.csv").write_text(f"from,to\n{a},{c}\n")
    (place / "pairs_none.csv").write_text("from,to\n")
    rows = annotations.lookup([b])
    write_npz(place / "one.npz", annotations.names[rows], annotations.xy[rows], annotations.visibility[rows])
    (place / "header.csv").write_text("name,x,y\n")
    (place / "train.yaml").write_text("steps: 2\nperceptual: none\n")
    (place / "train_open.yaml").write_text("steps: 2\n")
    (place / "train_key.yaml").write_text("stesp: 2\n")
    (place / "full").mkdir()
    (place / "full" / "mine.txt").write_text("mine")
    (place / "folder.npz").mkdir()
    (place / "tiny_alone.safetensors").write_bytes((place / "tiny.safetensors").read_bytes())
    return place


@pytest.fixture
def run(place, monkeypatch, capsys):
    """Runs a command in the place; returns its exit code, stdout and stderr."""
    monkeypatch.chdir(place)

    def command(line: str) -> tuple[int, str, str]:
        try:
            code = main(shlex.split(line))
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        said = capsys.readouterr()
        return code, said.out, said.err

    return command


def everything(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.rglob("*")}


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
        "", "demo", "world", "annotate", "train", "convert", "evaluate", "bank", "bank build", "bank show",
        "bank query", "generate", "bench", "export",
    }  # fmt: skip


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
    assert "in all; the first half is for training (default: 200)" in " ".join(run("world --help")[1].split())


def test_version(run):
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert run("--version") == (0, f"xingaug {told}\n", "")
    assert xingaug.__version__ == told


# Bad input: exit code 2, one line, nothing written

SOURCE = "--generator tiny.safetensors --data world --annotations world/annotations.npz"
EVALUATE = f"evaluate {SOURCE} --pairs pairs.csv"
GENERATE = f"generate {SOURCE} --bank bank --out new"

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
    ("annotate none --from npz one.npz", "none: no such folder; needed the dataset's root"),
    ("annotate full --from npz one.npz", "full: holds no bounding_box_train"),
    ("annotate world --from coco pairs.csv", "--from: unknown format 'coco'; known: patn-csv, npz"),
    ("annotate world --from npz none.npz --out new.npz", "none.npz: no such annotation file"),
    ("annotate world --from npz patn.csv --out new.npz", "patn.csv: not an annotation .npz"),
    ("annotate world --from patn-csv none.csv --out new.npz", "none.csv: no such annotation file"),
    ("annotate world --from patn-csv header.csv --out new.npz", "header.csv:1: header 'name,x,y'; needed"),
    ("annotate world --from npz one.npz --out new.csv", "--out: new.csv, expected a name that ends in .npz"),
    ("annotate world --from npz world/annotations.npz --out folder.npz", "folder.npz: is a directory; name a file"),
    ("annotate world --from npz", "argument --from: expected 2 arguments"),
    ("annotate world", "the following arguments are required: --from"),
    ("train none.yaml --out new", "none.yaml: cannot read the configuration (No such file or directory)"),
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
    ("train train.yaml --out full --dry-run", "full: exists and is no run's directory"),
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
    (f"{EVALUATE} --pairs none.csv", "none.csv: cannot read the pairs"),
    (f"{EVALUATE} --pairs pairs_header.csv", "pairs_header.csv: line 1: expected the header from,to"),
    (f"{EVALUATE} --pairs pairs_fields.csv", "pairs_fields.csv: line 3: 1 fields, expected two image names"),
    (f"{EVALUATE} --pairs pairs_names.csv", "pairs_names.csv: 1 names are no image of the split, first 'none.jpg'"),
    (f"{EVALUATE} --pairs pairs_persons.csv", "show two persons, expected two images of one"),
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
    (f"{EVALUATE} --perceptual lpips --inception pairs.csv", "inception: pairs.csv, is read for fid or is alone"),
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
    ("bank query --bank none --name x", "none: no pose bank here"),
    ("bank query --bank bank --name x.jpg", "--name: the bank bank has no pose of 'x.jpg'"),
    ("bank query --bank bank --name FIRST --k 0", "--k: 0, needed at least 1"),
    ("bank query --bank bank --name FIRST --k 999", "k: 999 poses asked for, the bank has"),
    ("bank query --bank bank_with_bare_pose --name FIRST", "' has too few joints to search with"),
    (f"{GENERATE} --generator none", "generator 'none': no such file"),
    (f"{GENERATE} --data none", "none: no such folder"),
    (f"{GENERATE} --annotations none.npz", "none.npz: no such annotation file"),
    (f"{GENERATE} --bank none", "none: no pose bank here"),
    (f"{GENERATE} --per-image 0", "per_image: 0, needed 1 to"),
    (f"{GENERATE} --batch-size 0", "batch_size: 0, needed at least 1"),
    (f"{GENERATE} --sampler best", "sampler: unknown 'best'; known: uniform, near, far"),
    (f"{GENERATE} --real some", "argument --real: invalid choice: 'some'"),
    (f"{GENERATE} --out world/new", "out: world/new and the dataset world lie in one another"),
    (f"{GENERATE} --out full", "full: "),
    (f"{GENERATE} --device nonsense", "--device: 'nonsense' cannot be used"),
    ("demo --out new --data world", "--data and --annotations belong together"),
    ("demo --out new --annotations one.npz", "--data and --annotations belong together"),
    ("demo --out full --generator tiny.safetensors", "full: exists and is no demo's directory"),
    ("demo --out new --identities 1", "--identities: 1, needed 2 to 4999"),
    ("demo --out new --iterations 0", "--iterations: needed at least 1"),
    ("demo --out new --generator none", "generator 'none': no such file"),
    ("demo --out new --generator tiny.safetensors --data none --annotations one.npz", "none: no such folder"),
    ("demo --out new --generator tiny.safetensors --data world --annotations none.npz", "none.npz: no such annotation"),
    ("bench", "the following arguments are required: part"),
    ("bench speed", "argument part: invalid choice: 'speed'"),
    ("bench generator --generator none", "generator 'none': no such file"),
    ("bench generator --generator tiny.safetensors --batch-size 0", "batch_size: 0, needed at least 1"),
    ("bench generator --generator tiny.safetensors --rounds 0", "rounds: 0, needed at least 1"),
    ("bench train --generator none", "size: 'none', expected one of xinggan"),
    ("bench train --batch-size 0", "batch_size: 0, needed at least 1"),
    ("bench train --rounds 0", "rounds: 0, needed at least 1"),
    ("bench augment --generator tiny.safetensors --batch-size -1", "batch_size: -1, needed at least 1"),
    ("bench augment --generator tiny.safetensors --rounds 0", "rounds: 0, needed at least 1"),
    ("bench augment --generator tiny.safetensors xinggan", "--generator: 2 names, the part augment measures one"),
    ("bench augment --generator xinggan", "generator 'xinggan': no such file"),
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
        (OSError(28, "No space left on device", "x"), 1, "error: [Errno 28] No space left on device: 'x'\n"),
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


def test_a_closed_pipe_ends_quietly():
    source = "import sys; from xingaug.errors import guarded; sys.exit(guarded(lambda: print('figures')))"
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-c", source], cwd=ROOT, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")


# What the commands do


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
    assert page.count("<img") == 3
    assert "http" not in page
    row = int(bank.usable_rows[1])
    code, out, _ = run(f"bank query --bank {tmp_path}/bank --name {bank.names[row]} --k 3 --json")
    found = json.loads(out)
    assert code == 0
    assert found[0] == {"row": row, "name": str(bank.names[row]), "oks": 1.0}
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
    assert set(figures) == {"pairs", "ssim", "mask_ssim", "person_ssim", "l1", "psnr", "baselines"}
    assert all(set(row) | {"baselines"} == set(figures) for row in figures["baselines"].values())
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
    assert (code, lines[0], len(lines)) == (0, "2 pairs", 4)
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
    assert lines[4:] == [f"          true: pckh {expected:.4f}"]
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
    assert "holds a run with 'batch_size: 2', asked for 'batch_size: 3'" in err


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
    small = XingGANPlusPlusConfig(**{**TINY, "decoder_widths": (4, 4)})
    monkeypatch.setitem(SIZES, "xinggan", XingGANConfig(blocks=1, width=4))
    monkeypatch.setitem(SIZES, "xinggan_pp_small", small)
    kinds = {"patch": partial(PatchDiscriminator, width=4), "residual": partial(ResidualDiscriminator, width=4)}
    monkeypatch.setattr("xingaug.training.trainer.KINDS", kinds)
    line = "bench train --generator xinggan_pp_small --batch-size 2 --rounds 1"
    code, out, err = run(f"{line} --json")
    figures = json.loads(out)
    assert (code, err) == (0, "")
    assert [row["network"] for row in figures["variants"]] == ["xinggan, as released", "xinggan_pp_small"]
    assert figures["variants"][0]["ratio_to_xinggan"] == 1
    for row in figures["variants"]:
        assert row["images_per_second"] == pytest.approx(2000 / row["ms_per_step"], rel=0.05)
        assert row["gflop_per_second"] == pytest.approx(row["gflop_per_step"] / row["ms_per_step"] * 1000, rel=0.05)
    code, out, _ = run(line)
    assert code == 0
    assert re.search(r"^network +dtype +images_per_second +ms_per_step", out, re.MULTILINE)


def test_bench_augment(run):
    code, out, err = run("bench augment --generator tiny.safetensors --batch-size 1 --rounds 1 --json")
    figures = json.loads(out)
    assert (code, err) == (0, "")
    assert all(value > 0 for value in figures["images_per_second"].values())
    assert figures["ratio_transform_to_generator"] > 0


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
