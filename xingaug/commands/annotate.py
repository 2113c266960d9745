"""`xingaug annotate` and `compare-annotations`."""

import argparse
import json
from pathlib import Path
from typing import Any

from xingaug.commands.parser import add_command, print_figures, print_table
from xingaug.errors import BadInput, printable, say
from xingaug.files import require_writable


def add(commands: Any) -> None:
    """Adds the commands to the parser's."""
    _add_annotate(commands)
    _add_compare_annotations(commands)
    _add_train_estimator(commands)


def _add_annotate(commands: Any) -> None:
    text = (
        "Write one annotation .npz: from another program's file, or with a pose estimator over the images; report "
        "mismatches, unreadable images and images without a person. Continues if stopped."
    )
    parser = add_command(
        commands, "annotate", _annotate, text, "xingaug annotate ROOT --from patn-csv market-annotation-train.csv"
    )
    parser.add_argument("root", type=Path, help="a dataset's folder or YAML file, or any folder of images")
    origin = parser.add_mutually_exclusive_group(required=True)
    origin.add_argument("--from", dest="source", nargs=2, metavar=("FORMAT", "FILE"),
                     help="patn-csv, openpose-json (a folder), coco-json, alphapose-json, lsp-mat or npz, and the "
                     "file")  # fmt: skip
    origin.add_argument(
        "--estimator",
        metavar="NAME",
        help="posenet-market1501 or posenet-pedestrians (drawn persons), both with bundled weights, keypoint-rcnn, "
        "rtmpose, vitpose, movenet, posenet or program",
    )
    parser.add_argument("--splits", nargs="+", choices=("train", "query", "gallery"),
                        help="splits of a dataset (default: train)")  # fmt: skip
    parser.add_argument(
        "--out", type=Path, help="file to write (annotations.npz in ROOT, or beside a YAML file, if left out)"
    )
    parser.add_argument("--rejected", type=Path, metavar="FILE.csv",
                        help="also write the images without a usable pose, each with the reason")  # fmt: skip
    parser.add_argument("--preview", type=Path, metavar="PAGE.html",
                        help="also write a page: statistics, and skeletons over their images, worst first")  # fmt: skip
    parser.add_argument("--preview-count", type=int, default=60, metavar="N", help="skeletons on the page")
    parser.add_argument("--json", action="store_true", help="print the counts as JSON")

    how = parser.add_argument_group("with --estimator")
    add_weights(how)
    how.add_argument("--mirror", action="store_true", help="average with the mirrored image")
    how.add_argument("--min-confidence", type=float, metavar="C",
                     help="joints below it are missing (default: the estimator's)")  # fmt: skip
    how.add_argument("--batch-size", type=int, metavar="N", help="images per batch (default: 16)")
    how.add_argument("--workers", type=int, metavar="N", help="threads that decode ahead (default: one per core)")
    how.add_argument("--restart", action="store_true", help="discard the work of an interrupted run")
    how.add_argument("--device", default="cpu", help="such as cuda")


def add_weights(group: Any) -> None:
    """Adds the options that `xingaug.poses.estimators.public.weights_file` reads."""
    group.add_argument(
        "--weights",
        metavar="FILE",
        help="the estimator's weights, or with --download a published file's name or an https address; a .pt2 of "
        "torch.export (program) can run code when it is loaded, so use only one that you trust, and prefer ONNX",
    )
    group.add_argument(
        "--download",
        action="store_true",
        help="download published weights (of keypoint-rcnn, movenet or rtmpose), or those that --weights names",
    )
    group.add_argument("--sha256", metavar="HEX", help="hash of the file at the address of --weights")


def _add_train_estimator(commands: Any) -> None:
    text = "Train the package's pose estimator on annotated crops; continues if run again on the same directory."
    parser = add_command(
        commands, "train-estimator", _train_estimator, text,
        "xingaug train-estimator configs/estimator_market1501.yaml steps=200 --out runs/posenet",
    )  # fmt: skip
    parser.add_argument("config", type=Path, help="YAML file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as lr=1e-3")
    parser.add_argument("--out", type=Path, help="run directory (default: runs/ and the file's name)")


def _train_estimator(args: argparse.Namespace) -> None:
    from xingaug.config import load_config
    from xingaug.training.estimator import EstimatorConfig, train_estimator

    config = load_config(EstimatorConfig, args.config, args.overrides)
    print(train_estimator(config, args.out or Path("runs") / args.config.stem))


_OF_ESTIMATORS = ("weights", "download", "sha256", "mirror", "min_confidence", "batch_size", "workers", "restart")


def _annotate(args: argparse.Namespace) -> None:
    from xingaug.data.listing import list_images
    from xingaug.poses.annotate import NOBODY, count_rejected, rejected, write_rejected
    from xingaug.report.annotations import write_annotations_page

    args.is_named = args.out is not None
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
    print_figures({**counts, **count_rejected(reasons), **figures}, args.json)


def _require_annotate_options(args: argparse.Namespace) -> None:
    """Raises `BadInput` early for options that would fail only after hours of work."""
    for option, suffix in (("out", ".npz"), ("rejected", ".csv"), ("preview", ".html")):
        path = getattr(args, option)
        if path is None:
            continue
        if path.suffix != suffix and not path.is_dir():
            raise BadInput(f"--{option}: {path}, expected a name that ends in {suffix}")
        require_writable(path, f"--{option}")
    given = {name: getattr(args, name) for name in _OF_ESTIMATORS}
    strange = [name for name, value in given.items() if args.source and value is not None and value is not False]
    if strange:
        raise BadInput(f"--{strange[0].replace('_', '-')}: needs --estimator, not --from")
    for name in ("preview_count", "batch_size", "workers"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise BadInput(f"--{name.replace('_', '-')}: {getattr(args, name)}, needed at least 1")
    if args.min_confidence is not None and not 0 <= args.min_confidence < 1:
        raise BadInput(f"--min-confidence: {args.min_confidence:g}, needed at least 0 and below 1")


def _require_same_origin(args: argparse.Namespace, source: str) -> None:
    """Raises `BadInput` if the default file has keypoints of another origin, which may be somebody's work."""
    from xingaug.data.annotations import read_npz

    if args.is_named or not args.out.exists():
        return
    hint = "name a file, or this one to replace it (--out)"
    try:
        before = read_npz(args.out).source
    except BadInput as error:
        raise BadInput(f"{error}; {hint}") from None
    if before != source:
        raise BadInput(f"{args.out}: has keypoints of another origin ('{before}', now it is '{source}'); {hint}")


def _annotate_from(args: argparse.Namespace, names: list[str], paths: list[Path]) -> tuple[Any, dict[str, str], Any]:
    """Annotations from another program's file."""
    from dataclasses import replace

    from xingaug.data.annotations import match, require_somebody, write_npz
    from xingaug.data.foreign import READERS
    from xingaug.data.listing import named_as, sizes_by_name

    kind, file = args.source[0], Path(args.source[1])
    if kind not in READERS:
        raise BadInput(f"--from: unknown format '{kind}'; known: {', '.join(READERS)}")
    annotations, report = READERS[kind](file, sizes_by_name(names, paths))
    given = annotations.names[:1].tolist()
    annotations = replace(named_as(annotations, names, paths), file=str(file))
    if not (annotations.lookup(names) >= 0).any():
        example = f"; such as {given[0]}, an image is {paths[0].parent.name}/{paths[0].name}" if given else ""
        raise BadInput(f"{file}: annotates none of the {len(names)} images of {args.root}{example}")
    require_somebody(annotations, file)
    reports = [report, match(annotations, names, paths)]
    _require_same_origin(args, annotations.source)
    write_npz(args.out, annotations.names, annotations.xy, annotations.visibility, annotations.source)
    for report in reports:
        for line in report.lines():
            say(line)
    return annotations, {}, {}


def _annotate_by_estimator(
    args: argparse.Namespace, names: list[str], paths: list[Path]
) -> tuple[Any, dict[str, str], Any]:
    """Annotations from an estimator."""
    from xingaug.poses.annotate import annotate, source_of
    from xingaug.poses.estimators import ESTIMATORS, load_estimator
    from xingaug.poses.estimators.public import weights_file

    if args.estimator not in ESTIMATORS:
        raise BadInput(f"--estimator: unknown '{args.estimator}'; known: {', '.join(ESTIMATORS)}")
    least = {} if args.min_confidence is None else {"min_confidence": args.min_confidence}
    weights = weights_file(args.estimator, args.weights, args.download, args.sha256)
    estimator = load_estimator(args.estimator, weights, args.device, args.mirror, **least)
    settings = {**least, "mirror": args.mirror, "device": args.device}
    _require_same_origin(args, source_of(estimator, settings))
    done = annotate(names, paths, estimator, args.out, settings, args.batch_size or 16, args.workers, args.restart)
    figures = {
        "joints_outside": done.joints_outside,
        "resumed": done.resumed,
        "images_per_second": round(done.images_per_second, 2),
    }
    return done.annotations, done.unreadable, figures


def _add_compare_annotations(commands: Any) -> None:
    text = "Compare two annotations of the same images: distances, PCK, joints that only one has, swapped sides."
    parser = add_command(
        commands, "compare-annotations", _compare_annotations, text, "xingaug compare-annotations A.npz B.npz"
    )
    parser.add_argument("a", type=Path, help="the reference, .npz or .csv")
    parser.add_argument("b", type=Path, help="the annotations to compare with it")
    parser.add_argument("--data", type=Path, help="their images, for --preview: a dataset or a folder")
    parser.add_argument("--preview", type=Path, metavar="PAGE.html", help="also write a page of the differences")
    parser.add_argument("--preview-count", type=int, default=60, metavar="N", help="images on the page")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def _compare_annotations(args: argparse.Namespace) -> None:
    from dataclasses import asdict

    from xingaug.data.annotations import read_annotations
    from xingaug.poses.agreement import compare

    if (args.preview is None) != (args.data is None):
        raise BadInput("--preview, --data: give both or neither")
    if args.preview_count < 1:
        raise BadInput(f"--preview-count: {args.preview_count}, needed at least 1")
    if args.preview is not None:
        require_writable(args.preview, "--preview")
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
    print_figures(agreement.figures(), False)
    print()
    print_table([{"joint": name, **_rounded(joint)} for name, joint in joints.items()])
    for limb, names in agreement.swapped.items():
        for name in names:
            print(printable(f"swapped {limb}: {name}"))


def _rounded(figures: dict[str, Any]) -> dict[str, Any]:
    return {key: round(value, 3) if isinstance(value, float) else value for key, value in figures.items()}
