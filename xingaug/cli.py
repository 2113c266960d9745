"""The command line: a thin parser in front of plain functions. torch is imported only by the command that runs."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NoReturn

from xingaug import __version__
from xingaug.errors import BadInput, guarded


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs `xingaug ARGUMENTS`; exit code 0 done, 1 failed while working, 2 bad input."""
    args = build_parser().parse_words(arguments)

    def command() -> int | None:
        if args.needs_torch:
            import torch

            # Numbers below 1e-38 mean nothing here and slow a CPU down by an order of magnitude.
            torch.set_flush_denormal(True)
        if hasattr(args, "device"):
            _require_device(args.device)
        result: int | None = args.run(args)
        return result

    return guarded(command)


class Parser(argparse.ArgumentParser):
    """A parser that complains as every other part does: one line that starts with `error:`."""

    def parse_words(self, arguments: Sequence[str] | None) -> argparse.Namespace:
        """Parses, and also takes `key=value` words that come after an option, where argparse gives up on them."""
        args, rest = self.parse_known_args(arguments)
        if rest and (not hasattr(args, "overrides") or any(word.startswith("-") or "=" not in word for word in rest)):
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        elif rest:
            args.overrides += rest
        return args

    def error(self, message: str) -> NoReturn:
        """Ends the program with exit code 2."""
        self.exit(2, f"error: {message}; see {self.prog} --help\n")


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Help that gives a default only where there is one, and leaves an example on one line, to be copied."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if text.startswith("example:") else super()._fill_text(text, width, indent)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False) else super()._get_help_string(action)


def build_parser() -> Parser:
    """The parser with all commands."""
    text = "Pose augmentation for person re-identification."
    example = "example: xingaug demo --out demo-out"
    parser = Parser(prog="xingaug", description=text, epilog=example, formatter_class=_Help)
    parser.add_argument("--version", action="version", version=f"xingaug {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (
        _add_demo, _add_world, _add_import, _add_check, _add_annotate, _add_compare_annotations, _add_train,
        _add_convert, _add_export, _add_evaluate, _add_bank, _add_generate, _add_bench,
    ):  # fmt: skip
        add(commands)
    return parser


def _command(commands: Any, name: str, run: Any, help_text: str, example: str, torch: bool = True) -> Any:
    parser = commands.add_parser(
        name,
        help=help_text,
        description=help_text,
        epilog=f"example: {example}",
        formatter_class=_Help,
    )
    parser.set_defaults(run=run, needs_torch=torch)
    return parser


def _require_device(name: str) -> None:
    import torch

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise BadInput(f"--device: '{name}' cannot be used ({reason}); such as cpu or cuda") from None


def _print_figures(figures: dict[str, Any], as_json: bool) -> None:
    """One JSON line, or a line a figure."""
    if as_json:
        print(json.dumps(figures))
        return
    for key, value in figures.items():
        print(f"{key}: {value:.4g}" if isinstance(value, float) else f"{key}: {value}")


def _add_demo(commands: Any) -> None:
    text = "The whole pipeline on a small scale: data, bank, generation, re-ID with and without, and a page."
    parser = _command(commands, "demo", _demo, text, "xingaug demo --out demo-out")
    parser.add_argument("--out", type=Path, default=Path("demo-out"), help="directory to write, new or empty")
    parser.add_argument("--data", type=Path, help="a Market-1501 tree in place of the pedestrian world")
    parser.add_argument("--annotations", type=Path, help="keypoints of the tree's training images, .csv or .npz")
    parser.add_argument("--identities", type=int, help="identities in each of training and test; 100 for the world")
    parser.add_argument("--generator", default="pedestrians-small", help="bundled name or .safetensors file")
    parser.add_argument("--iterations", type=int, default=150, help="re-ID training iterations of each arm")
    parser.add_argument("--seed", type=int, default=0, help="of the world, the draws and the training")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def _demo(args: argparse.Namespace) -> None:
    from xingaug.demo import DemoConfig, run_demo

    fields = ("out", "data", "annotations", "identities", "generator", "iterations", "seed")
    figures = run_demo(DemoConfig(**{name: getattr(args, name) for name in fields}))
    if args.json:
        print(json.dumps(figures))


def _add_world(commands: Any) -> None:
    text = "Write a pedestrian world: a Market-1501 layout with exact keypoints and person masks."
    parser = _command(
        commands, "world", _world, text, "xingaug world runs/world --identities 200 --images-per-identity 8", False
    )
    parser.add_argument("out", type=Path, help="directory to write, new or empty")
    parser.add_argument("--identities", type=int, default=200, help="in all; the first half is for training")
    parser.add_argument("--images-per-identity", type=int, default=8, help="images of each")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same bytes")
    parser.add_argument("--train-poses", choices=("any", "starved"), default="any", help="poses of training persons")
    parser.add_argument("--json", action="store_true", help="print the counts as JSON")


def _world(args: argparse.Namespace) -> None:
    from dataclasses import asdict

    from xingaug.data.pedestrians import write_world

    summary = write_world(args.out, args.identities, args.images_per_identity, args.seed, args.train_poses)
    _print_figures({**asdict(summary), "root": str(summary.root)}, args.json)


def _add_import(commands: Any) -> None:
    text = "Write any readable dataset as a Market-1501 tree, with a table of the names."
    parser = _command(
        commands, "import", _import, text, "xingaug import msmt17.yaml --out runs/msmt17 --link hard", torch=False
    )
    parser.add_argument("root", type=Path, help="folder of a known dataset, or a YAML file that describes one")
    parser.add_argument("--out", type=Path, required=True, help="directory to write, new or empty")
    parser.add_argument("--link", choices=("copy", "hard", "symbolic"), default="copy", help="how JPEG files get there")
    parser.add_argument(
        "--annotations", type=Path, metavar="FILE", help="keypoints of its images, .npz or .csv, to go along"
    )
    parser.add_argument("--json", action="store_true", help="print the counts as JSON")


def _import(args: argparse.Namespace) -> None:
    from xingaug.data.market_tree import write_market_tree

    done = write_market_tree(args.root, args.out, args.link, args.annotations)
    for note in done.notes:
        print(note, file=sys.stderr)
    figures = {f"{split}_images": count for split, count in done.images.items()}
    counts = {name: getattr(done, name) for name in ("identities", "reencoded", "annotations")}
    _print_figures({**figures, **counts, "root": str(done.root)}, args.json)


def _add_check(commands: Any) -> None:
    text = "Count a dataset's images and find people and files that it trains on and also tests with (exit code 1)."
    parser = _command(commands, "check", _check, text, "xingaug check ROOT --json", torch=False)
    parser.add_argument("root", type=Path, help="folder of a known dataset, or a YAML file that describes one")
    parser.add_argument("--json", action="store_true", help="print counts and leaks as JSON")


def _check(args: argparse.Namespace) -> int:
    from xingaug.data.leaks import check_dataset

    counts, report, notes = check_dataset(args.root)
    for note in notes:
        print(note, file=sys.stderr)
    if args.json:
        print(json.dumps({"splits": counts, **report.to_json()}))
    else:
        for split, row in counts.items():
            print(f"{split}: " + ", ".join(f"{count} {what}" for what, count in row.items()))
        print("\n".join(report.lines()) or "no leaks")
    return 1 if report else 0


def _add_annotate(commands: Any) -> None:
    text = (
        "Write one annotation .npz: from another program's file, or by a pose estimator over the images; "
        "report what does not fit, and what is unreadable or shows nobody. Continues if stopped."
    )
    parser = _command(
        commands, "annotate", _annotate, text, "xingaug annotate ROOT --from patn-csv market-annotation-train.csv"
    )
    parser.add_argument("root", type=Path, help="a dataset's folder or YAML file, or any folder of images")
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument("--from", dest="source", nargs=2, metavar=("FORMAT", "FILE"),
                     help="patn-csv, openpose-json (a folder), coco-json, alphapose-json, lsp-mat or npz, and the "
                     "file")  # fmt: skip
    way.add_argument("--estimator", metavar="NAME", help="keypoint-rcnn, rtmpose, vitpose or program")
    parser.add_argument("--splits", nargs="+", choices=("train", "query", "gallery"),
                        help="of a dataset (default: train)")  # fmt: skip
    parser.add_argument(
        "--out", type=Path, help="file to write (annotations.npz in ROOT, or beside a YAML file, if left out)"
    )
    parser.add_argument("--rejected", type=Path, metavar="FILE.csv",
                        help="also write the images that no pose comes from, each with the reason")  # fmt: skip
    parser.add_argument("--preview", type=Path, metavar="PAGE.html",
                        help="also write a page: figures, and skeletons over their images, worst first")  # fmt: skip
    parser.add_argument("--preview-count", type=int, default=60, metavar="N", help="skeletons of the page")
    parser.add_argument("--json", action="store_true", help="print the counts as JSON")

    how = parser.add_argument_group("with --estimator")
    how.add_argument("--weights", type=Path, metavar="FILE", help="of the estimator")
    how.add_argument("--mirror", action="store_true", help="average with the mirrored image")
    how.add_argument("--min-confidence", type=float, metavar="C",
                     help="joints below it are missing (default: the estimator's)")  # fmt: skip
    how.add_argument("--batch-size", type=int, metavar="N", help="images at a time (default: 16)")
    how.add_argument("--workers", type=int, metavar="N", help="threads that decode ahead (default: one for each core)")
    how.add_argument("--restart", action="store_true", help="drop the work of an interrupted run")
    how.add_argument("--device", default="cpu", help="such as cuda")


_OF_ESTIMATORS = ("weights", "mirror", "min_confidence", "batch_size", "workers", "restart")


def _annotate(args: argparse.Namespace) -> None:
    from xingaug.data.listing import list_images
    from xingaug.poses.annotate import NOBODY, count_rejected, rejected, write_rejected
    from xingaug.report.annotations import write_annotations_page

    args.out = args.out or (args.root.parent if args.root.is_file() else args.root) / "annotations.npz"
    _require_annotate_options(args)
    names, paths = list_images(args.root, args.splits)
    work = _annotate_from if args.source else _annotate_by_estimator
    annotations, unreadable, figures = work(args, names, paths)
    reasons = rejected(annotations, names, unreadable, "no annotation" if args.source else NOBODY)
    if args.rejected is not None:
        write_rejected(args.rejected, reasons)
    if args.preview is not None:
        files = dict(zip(names, paths, strict=True))
        write_annotations_page(args.preview, annotations, files, reasons, args.preview_count)
    counts = {"written": str(args.out), "annotations": len(annotations), "images": len(names)}
    _print_figures({**counts, **count_rejected(reasons), **figures}, args.json)


def _require_annotate_options(args: argparse.Namespace) -> None:
    """Raises BadInput for what would fail after hours of work."""
    if args.out.suffix != ".npz":
        raise BadInput(f"--out: {args.out}, expected a name that ends in .npz")
    for option, path in (("out", args.out), ("rejected", args.rejected), ("preview", args.preview)):
        if path is not None and path.is_dir():
            raise BadInput(f"--{option}: {path}: is a directory; name a file")
    given = {name: getattr(args, name) for name in _OF_ESTIMATORS}
    strange = [name for name, value in given.items() if args.source and value is not None and value is not False]
    if strange:
        raise BadInput(f"--{strange[0].replace('_', '-')}: needs --estimator, not --from")
    for name in ("preview_count", "batch_size", "workers"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise BadInput(f"--{name.replace('_', '-')}: {getattr(args, name)}, needed at least 1")
    if args.min_confidence is not None and not 0 <= args.min_confidence < 1:
        raise BadInput(f"--min-confidence: {args.min_confidence:g}, needed at least 0 and below 1")


def _annotate_from(args: argparse.Namespace, names: list[str], paths: list[Path]) -> tuple[Any, dict[str, str], Any]:
    """The annotations of another program's file."""
    from xingaug.data.annotations import match, write_npz
    from xingaug.data.foreign import READERS
    from xingaug.data.listing import named_as

    kind, file = args.source[0], Path(args.source[1])
    if kind not in READERS:
        raise BadInput(f"--from: unknown format '{kind}'; known: {', '.join(READERS)}")
    annotations, report = READERS[kind](file)
    annotations = named_as(annotations, names)
    if not (annotations.lookup(names) >= 0).any():
        raise BadInput(f"{file}: annotates none of the {len(names)} images of {args.root}")
    reports = [report, match(annotations, names, paths)]
    write_npz(args.out, annotations.names, annotations.xy, annotations.visibility, annotations.source)
    for report in reports:
        for line in report.lines():
            print(line, file=sys.stderr)
    return annotations, {}, {}


def _annotate_by_estimator(
    args: argparse.Namespace, names: list[str], paths: list[Path]
) -> tuple[Any, dict[str, str], Any]:
    """What an estimator finds in the images."""
    from xingaug.poses.annotate import annotate
    from xingaug.poses.estimators import ESTIMATORS, load_estimator

    if args.estimator not in ESTIMATORS:
        raise BadInput(f"--estimator: unknown '{args.estimator}'; known: {', '.join(ESTIMATORS)}")
    least = {} if args.min_confidence is None else {"min_confidence": args.min_confidence}
    estimator = load_estimator(args.estimator, args.weights, args.device, args.mirror, **least)
    settings = {**least, "mirror": args.mirror, "device": args.device}
    done = annotate(names, paths, estimator, args.out, settings, args.batch_size or 16, args.workers, args.restart)
    figures = {
        "joints_outside": done.joints_outside,
        "resumed": done.resumed,
        "images_per_second": round(done.images_per_second, 2),
    }
    return done.annotations, done.unreadable, figures


def _add_compare_annotations(commands: Any) -> None:
    text = "Compare two annotations of the same images: distances, PCK, joints only one shows, exchanged sides."
    parser = _command(
        commands, "compare-annotations", _compare_annotations, text, "xingaug compare-annotations A.npz B.npz"
    )
    parser.add_argument("a", type=Path, help="the reference, .npz or .csv")
    parser.add_argument("b", type=Path, help="what is compared with it")
    parser.add_argument("--data", type=Path, help="their images, for --preview: a dataset or a folder")
    parser.add_argument("--preview", type=Path, metavar="PAGE.html", help="also write a page of the differences")
    parser.add_argument("--preview-count", type=int, default=60, metavar="N", help="images of the page")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def _compare_annotations(args: argparse.Namespace) -> None:
    from dataclasses import asdict

    from xingaug.data.annotations import read_annotations
    from xingaug.poses.agreement import compare

    if (args.preview is None) != (args.data is None):
        raise BadInput("--preview, --data: give both or neither")
    if args.preview_count < 1:
        raise BadInput(f"--preview-count: {args.preview_count}, needed at least 1")
    a, b = read_annotations(args.a), read_annotations(args.b)
    agreement = compare(a, b)
    if args.preview is not None:
        from xingaug.data.listing import list_images
        from xingaug.report.annotations import write_agreement_page

        files = dict(zip(*list_images(args.data), strict=True))
        write_agreement_page(args.preview, agreement, a, b, files, args.preview_count)
    joints = {name: asdict(joint) for name, joint in agreement.joints.items()}
    if args.json:
        print(json.dumps({**agreement.figures(), "joints": joints, "swapped": agreement.swapped}))
        return
    _print_figures(agreement.figures(), False)
    print()
    _print_table([{"joint": name, **_rounded(joint)} for name, joint in joints.items()])
    for limb, names in agreement.swapped.items():
        for name in names:
            print(f"exchanged {limb}: {name}")


def _rounded(figures: dict[str, Any]) -> dict[str, Any]:
    return {key: round(value, 3) if isinstance(value, float) else value for key, value in figures.items()}


def _add_train(commands: Any) -> None:
    text = "Train a generator; run again on the same directory, it continues where it was stopped."
    parser = _command(
        commands, "train", _train, text, "xingaug train configs/train_pedestrians.yaml steps=200 --out runs/short"
    )
    parser.add_argument("config", type=Path, help="YAML file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as lr=2e-4")
    parser.add_argument("--out", type=Path, help="run directory (default: runs/ and the file's name)")
    parser.add_argument("--dry-run", action="store_true", help="check everything, print the plan, write nothing")
    parser.add_argument("--overfit-one-batch", action="store_true", help="train on the first step's pairs alone")


def _train(args: argparse.Namespace) -> None:
    from xingaug.config import load_config
    from xingaug.training.config import TrainConfig
    from xingaug.training.loop import plan, train

    out = args.out or Path("runs") / args.config.stem
    config = load_config(TrainConfig, args.config, args.overrides)
    if args.dry_run:
        print(plan(config, out), end="")
    else:
        print(train(config, out, overfit_one_batch=args.overfit_one_batch))


def _add_convert(commands: Any) -> None:
    text = "Turn a released XingGAN checkpoint (netG, .pth) into a generator that every command reads."
    parser = _command(commands, "convert", _convert, text, "xingaug convert latest_net_netG.pth xinggan.safetensors")
    parser.add_argument("checkpoint", type=Path, help="state dict of the released netG")
    parser.add_argument("out", type=Path, help="file to write, .safetensors; a .json is written beside it")
    parser.add_argument("--size", type=int, nargs=2, default=(128, 64), metavar=("HEIGHT", "WIDTH"),
                        help="pixels of its images; 256 176 for DeepFashion")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def _convert(args: argparse.Namespace) -> None:
    from xingaug.generators.official import convert
    from xingaug.generators.xinggan import XingGANConfig

    try:
        size = XingGANConfig(size=tuple(args.size)).size
    except ValueError as error:
        raise BadInput(f"--{error}") from None
    network = convert(args.checkpoint, args.out, size)
    parameters = sum(p.numel() for p in network.parameters())
    _print_figures({"written": str(args.out), "blocks": len(network.blocks), "parameters": parameters}, args.json)


def _add_export(commands: Any) -> None:
    text = "Write a generator as an ONNX file, which runs without torch, and compare its images with torch's."
    parser = _command(
        commands, "export", _export, text, "xingaug export --generator pedestrians-small --onnx pedestrians-small.onnx"
    )
    parser.add_argument("--generator", default="pedestrians-small", help="bundled name or .safetensors file")
    parser.add_argument("--onnx", type=Path, required=True, metavar="FILE", help="file to write, .onnx")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def _export(args: argparse.Namespace) -> None:
    from xingaug.generators.export import export_onnx

    _print_figures(export_onnx(args.generator, args.onnx), args.json)


def _add_evaluate(commands: Any) -> None:
    text = "Measure generated images against true ones, beside copying the source and the identity's mean image."
    parser = _command(
        commands, "evaluate", _evaluate, text,
        "xingaug evaluate --generator pedestrians-small --data ROOT --annotations A.npz --pairs pairs.csv --json",
    )  # fmt: skip
    parser.add_argument("--generator", required=True, help="bundled name or .safetensors file")
    parser.add_argument("--data", type=Path, required=True, help="folder of a known dataset, or a YAML file")
    parser.add_argument("--annotations", type=Path, required=True, help="keypoints, .npz or .csv")
    parser.add_argument("--pairs", type=Path, required=True, help="CSV with the header from,to")
    parser.add_argument("--split", choices=("train", "query", "gallery"), default="gallery", help="where images lie")
    parser.add_argument("--limit", type=int, help="measure the first pairs only")
    parser.add_argument("--pose-estimator", type=Path, metavar="FILE.pt2",
                        help="adds pckh (share of joints, at 0.5 of the head): a torch.export program from images "
                        "(B, 3, H, W) in [0, 1] to (B, 18, 3), x and y in their pixels and a confidence in [0, 1]; "
                        "it can run code, so name only a file that you trust")  # fmt: skip
    parser.add_argument("--perceptual", nargs="+", choices=("lpips", "fid", "is"), default=(), metavar="NAME",
                        help="adds any of lpips, fid, is; needs xingaug[metrics] and the networks' weights, from the "
                        "cache in TORCH_HOME or downloaded into it")  # fmt: skip
    parser.add_argument("--inception", type=Path, metavar="FILE.pth", help="weights for fid and is, by torch-fidelity")
    parser.add_argument("--batch-size", type=int, default=32, help="images at a time")
    parser.add_argument("--device", default="cpu", help="such as cuda")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def _evaluate(args: argparse.Namespace) -> None:
    from xingaug.training.evaluate import EvaluateConfig, evaluate

    fields = (
        "generator", "data", "annotations", "pairs", "split", "limit", "batch_size", "device", "pose_estimator",
        "perceptual", "inception",
    )  # fmt: skip
    figures = evaluate(EvaluateConfig(**{name: getattr(args, name) for name in fields}))
    if args.json:
        print(json.dumps(figures))
        return
    print(f"{figures.pop('pairs')} pairs")
    of_true, networks = figures.pop("pckh_of_true", None), figures.pop("perceptual", {})
    for name, row in {"generated": figures, **figures.pop("baselines")}.items():
        print(f"{name:>14}: " + ", ".join(f"{key} {row[key]:.4f}" for key in figures))
    if of_true is not None:
        print(f"{'true':>14}: pckh {of_true:.4f}")
    for name, text in networks.items():
        print(f"{name:>14}: {text}")


def _add_bank(commands: Any) -> None:
    text = "Build, look at and query a pose bank."
    example = "example: xingaug bank build --data ROOT --annotations A.npz --out bank"
    bank = commands.add_parser("bank", help=text, description=text, epilog=example, formatter_class=_Help)
    actions = bank.add_subparsers(dest="action", required=True, metavar="ACTION")
    build = _command(
        actions, "build", _bank_build, "Collect the poses of a training split.",
        "xingaug bank build --data ROOT --annotations A.npz --out bank",
    )  # fmt: skip
    build.add_argument("--data", type=Path, required=True, help="folder of a known dataset, or a YAML file")
    build.add_argument("--annotations", type=Path, required=True, help="keypoints, .npz or .csv")
    build.add_argument("--out", type=Path, required=True, help="directory to write, new or empty")
    build.add_argument("--index", default="auto", metavar="FACTORY", help="FAISS factory string, such as IVF256,PQ24np")
    build.add_argument("--candidates", type=int, default=0, help="poses judged by OKS for each query; 0: automatic")
    build.add_argument("--probes", type=int, default=0, help="inverted lists searched; 0: automatic")
    build.add_argument("--json", action="store_true", help="print the counts as JSON")
    merge = _command(
        actions, "merge", _bank_merge, "One bank of the poses of several.", "xingaug bank merge first second --out both"
    )
    merge.add_argument("banks", type=Path, nargs="+", metavar="BANK", help="directories of banks")
    merge.add_argument("--out", type=Path, required=True, help="directory to write, new or empty")
    merge.add_argument("--json", action="store_true", help="print the counts as JSON")
    show = _command(
        actions, "show", _bank_show, "Write a page: map, groups, coverage, and what samplers draw.",
        "xingaug bank show --bank bank --out bank.html",
    )  # fmt: skip
    show.add_argument("--bank", type=Path, required=True, help="directory of the bank")
    show.add_argument("--out", type=Path, required=True, help="HTML file to write")
    show.add_argument("--name", help="image that samplers draw for (the first of the bank if left out)")
    show.add_argument("--count", type=int, default=120, help="skeletons at the end, spread over the bank")
    query = _command(
        actions, "query", _bank_query, "Find the poses nearest to one image's.",
        "xingaug bank query --bank bank --name 0002_c1s1_000451_03.jpg --k 5",
    )  # fmt: skip
    query.add_argument("--bank", type=Path, required=True, help="directory of the bank")
    query.add_argument("--name", required=True, help="image whose pose is in the bank")
    query.add_argument("--k", type=int, default=5, help="number of poses")
    query.add_argument("--mirror", action="store_true", help="also poses that resemble it when left and right change")
    query.add_argument("--json", action="store_true", help="print them as JSON")


def _bank_build(args: argparse.Namespace) -> None:
    from xingaug.poses.collect import bank_from_tree
    from xingaug.poses.index import IndexSettings

    try:
        settings = IndexSettings(args.index, args.candidates, args.probes)
    except ValueError as error:
        raise BadInput(f"--{error}") from None
    _save_bank(bank_from_tree(args.data, args.annotations, settings=settings), args)


def _bank_merge(args: argparse.Namespace) -> None:
    from xingaug.poses.bank import PoseBank

    _save_bank(PoseBank.merge([PoseBank.load(path) for path in args.banks]), args)


def _save_bank(bank: Any, args: argparse.Namespace) -> None:
    bank.save(args.out)
    _print_figures({"poses": len(bank), "usable": int(bank.usable.sum()), "written": str(args.out)}, args.json)


def _bank_show(args: argparse.Namespace) -> None:
    from xingaug.poses.bank import PoseBank
    from xingaug.report.bank import write_bank_page

    print(write_bank_page(PoseBank.load(args.bank), args.out, args.count, args.name))


def _bank_query(args: argparse.Namespace) -> None:
    from xingaug.poses.bank import PoseBank

    if args.k < 1:
        raise BadInput(f"--k: {args.k}, needed at least 1")
    bank = PoseBank.load(args.bank)
    rows = [i for i, name in enumerate(bank.names.tolist()) if name == args.name]
    if not rows:
        raise BadInput(f"--name: the bank {args.bank} has no pose of '{args.name}'")
    rows = [i for i in rows if bank.usable[i]]
    if not rows:
        raise BadInput(f"--name: the pose of '{args.name}' has too few joints to search with; name another image")
    hits = bank.search(bank.keypoints([rows[0]]), args.k, args.mirror)
    found = [
        {"row": int(row), "name": str(bank.names[row]), "oks": round(float(oks), 4), "mirrored": bool(mirrored)}
        for row, oks, mirrored in zip(hits.indices[0], hits.oks[0], hits.mirrored[0], strict=True)
    ]
    if args.json:
        print(json.dumps(found))
    else:
        for hit in found:
            mark = ", mirrored" if hit["mirrored"] else ""
            print(f"{hit['oks']:.4f}  {hit['name']}  (row {hit['row']}{mark})")


def _add_generate(commands: Any) -> None:
    text = "Write an augmented dataset: the real images, and each again in poses from a bank. Continues if stopped."
    parser = _command(
        commands, "generate", _generate, text,
        "xingaug generate --data ROOT --annotations A.npz --bank bank --per-image 2 --out augmented",
    )  # fmt: skip
    parser.add_argument("--data", type=Path, help="a Market-1501 tree")
    parser.add_argument("--annotations", type=Path, help="keypoints of its training images")
    parser.add_argument("--generator", default="pedestrians-small", help="bundled name or .safetensors file")
    parser.add_argument("--bank", type=Path, help="directory of the bank")
    parser.add_argument("--out", type=Path, help="directory to write, new or of the same run")
    parser.add_argument("--verify", type=Path, metavar="DIR", help="instead: check a dataset that was written, whole")
    parser.add_argument("--dry-run", action="store_true", help="print counts, bytes and time; write nothing")

    what = parser.add_argument_group("which images")
    what.add_argument("--per-image", type=int, metavar="N", help="synthetic images for each real one (default: 1)")
    what.add_argument("--per-identity", type=int, metavar="N", help="fill each identity up to N training images")
    what.add_argument("--budget", type=int, metavar="N", help="synthetic images in all, at most")
    what.add_argument(
        "--sampler",
        default="uniform",
        help="how poses are drawn: uniform, near, far, diverse, "
        "inverse-density, gap, camera, or a mixture such as uniform=3,near=1",
    )
    what.add_argument("--fit", choices=("frame", "source"), default="frame",
                      help="a pose stands where it was seen, or where and as large as the source")  # fmt: skip
    what.add_argument("--seed", type=int, default=0, help="of the draws")
    what.add_argument("--allow-test", action="store_true", help="take poses of query and gallery images too")
    what.add_argument("--gate", nargs="*", metavar="KEY=VALUE",
                      help="leave bad images out: min_contrast=0.05, max_saturated=0.3, and with features=NETWORK.pt2 "
                      "min_identity=0.5, the least cosine of its features of real and synthetic image")  # fmt: skip
    what.add_argument("--tries", type=int, default=3, help="poses tried, at most, for an image that is left out")

    how = parser.add_argument_group("how they are written")
    how.add_argument("--format", choices=("folder", "webdataset"), default="folder",
                     help="Market-1501's layout, or tar shards of the training images")  # fmt: skip
    how.add_argument("--shard-size", type=int, default=1024, help="images rendered for a shard")
    how.add_argument("--real", choices=("copy", "link", "omit"), default="copy", help="what becomes of real images")

    where = parser.add_argument_group("where they are rendered")
    where.add_argument("--device", default="cpu", help="such as cuda")
    where.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="of the generator")
    where.add_argument("--batch-size", type=int, metavar="N", help="images at a time (default: by memory)")
    where.add_argument("--engine", choices=("local", "torchrun", "ray"), default="local",
                       help="this process, those that torchrun started, or actors of Ray Data")  # fmt: skip
    where.add_argument("--workers", type=int, metavar="N", help="actors of ray (default: one for each GPU or core)")
    parser.add_argument("--json", action="store_true", help="print the counts as JSON")


def _generate(args: argparse.Namespace) -> int | None:
    from dataclasses import asdict, fields

    from xingaug.augment.gate import GateConfig
    from xingaug.config import from_mapping, override
    from xingaug.offline.config import GenerateConfig
    from xingaug.offline.generate import estimate, generate

    if args.verify is not None:
        return _verify(args)
    lacking = [f"--{name}" for name in ("data", "annotations", "bank", "out") if getattr(args, name) is None]
    if lacking:
        raise BadInput(f"{', '.join(lacking)}: missing; see xingaug generate --help")
    if args.gate is not None:
        args.gate = from_mapping(GateConfig, override({}, args.gate), "--gate")
    config = GenerateConfig(**{field.name: getattr(args, field.name) for field in fields(GenerateConfig)})
    with redirect_stdout(sys.stderr):  # Ray says on stdout what becomes of its workers
        figures = asdict(estimate(config) if args.dry_run else generate(config))
    if config.engine != "torchrun" or os.environ.get("RANK", "0") == "0":
        _print_figures(figures, args.json)
    return None


def _verify(args: argparse.Namespace) -> int:
    """Prints what is wrong with a dataset; exit code 1 if anything is."""
    from dataclasses import asdict

    from xingaug.offline.verify import verify

    verdict = verify(args.verify)
    if args.json:
        print(json.dumps(asdict(verdict)))
    else:
        print("\n".join([*verdict.problems, f"real: {verdict.real}", f"synthetic: {verdict.synthetic}"]))
        print("whole" if not verdict.problems else f"{len(verdict.problems)} problems")
    return 1 if verdict.problems else 0


_MODELS = ("resnet50", "osnet_x1_0", "osnet_x0_25")  # those of reid_integration.bench


def _add_bench(commands: Any) -> None:
    text = "Measure speed, the variants of one part alternating within one run."
    parser = _command(commands, "bench", _bench, text, "xingaug bench generator --json")
    parser.add_argument(
        "part", choices=("generator", "train", "augment", "bank", "offline", "evaluation"), help="what to measure"
    )
    parser.add_argument("--generator", nargs="+", metavar="NAME",
                        help="sizes (xinggan, xinggan_pp, xinggan_pp_small), bundled names or .safetensors files; left "
                        "out, the parts generator and train measure all sizes, others pedestrians-small")  # fmt: skip
    parser.add_argument("--bank", type=Path, help="part bank: a saved bank to take the poses from")
    parser.add_argument("--sizes", type=int, nargs="+", default=[13_000, 100_000], metavar="N",
                        help="part bank: numbers of poses")  # fmt: skip
    parser.add_argument(
        "--batch-size", type=int, help="images at a time (default: 8; part augment: 64; part offline: by memory)"
    )
    parser.add_argument("--models", nargs="*", choices=_MODELS, default=_MODELS,
                        help="part augment: re-ID networks whose training step is measured")  # fmt: skip
    parser.add_argument("--reuse", type=int, nargs="+", default=[1, 4, 8], metavar="N",
                        help="part augment: how often a rendered image is served")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds; the median counts")
    parser.add_argument("--device", default="cpu", help="such as cuda")
    parser.add_argument("--compile", action="store_true", help="also measure generators through torch.compile")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def _bench(args: argparse.Namespace) -> None:
    from xingaug.bench import (
        bench_augment,
        bench_bank,
        bench_evaluation,
        bench_generator,
        bench_offline,
        bench_train,
    )

    if args.batch_size is None and args.part != "offline":
        args.batch_size = 64 if args.part == "augment" else 8
    names = args.generator or ["pedestrians-small"]
    if args.part in ("augment", "offline") and len(names) > 1:
        raise BadInput(f"--generator: {len(names)} names, the part {args.part} measures one")
    tables: list[str] = []
    if args.part == "generator":
        figures = bench_generator(args.generator, args.batch_size, args.rounds, args.device, args.compile)
        tables = ["variants", "training_step"]
    elif args.part == "train":
        figures, tables = bench_train(args.generator, args.batch_size, args.rounds, args.device), ["variants"]
    elif args.part == "bank":
        figures, tables = bench_bank(args.bank, args.sizes, args.rounds), ["banks", "samplers"]
    elif args.part == "evaluation":
        figures = bench_evaluation(args.rounds)
    elif args.part == "offline":
        figures = bench_offline(names[0], args.batch_size, args.rounds, args.device)
    else:
        figures = bench_augment(names[0], args.batch_size, args.rounds, args.device, args.models, args.reuse)
        tables = ["steps"] if args.models else []
    if args.json:
        print(json.dumps(figures))
        return
    _print_figures({key: value for key, value in figures.items() if key not in tables}, False)
    for name in tables:
        print(f"\n{name}")
        _print_table(figures[name])


def _print_table(rows: list[dict[str, Any]]) -> None:
    """Rows under their keys, in columns."""
    cells = [list(rows[0]), *(["" if value is None else str(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


if __name__ == "__main__":
    sys.exit(main())
