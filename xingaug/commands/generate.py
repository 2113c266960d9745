"""`xingaug generate`."""

import argparse
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from xingaug.commands.parser import add_command, is_first_process, print_figures
from xingaug.errors import BadInput


def add(commands: Any) -> None:
    """Adds the command to the parser's."""
    text = "Write an augmented dataset: real images, and each re-rendered in poses from a bank. Continues if stopped."
    parser = add_command(
        commands, "generate", _generate, text,
        "xingaug generate --data ROOT --annotations A.npz --bank bank --per-image 2 --out augmented",
    )  # fmt: skip
    parser.add_argument("--data", type=Path, help="a Market-1501 tree")
    parser.add_argument("--annotations", type=Path, help="keypoints of its training images")
    parser.add_argument("--generator", default="pedestrians-small",
                        help="bundled name or .safetensors file: for photos market1501-augment (research only) or your "
                        "own, as the default has seen drawn persons only")  # fmt: skip
    parser.add_argument("--bank", type=Path, help="directory of the bank")
    parser.add_argument("--out", type=Path, help="directory to write, new or of the same run")
    parser.add_argument("--verify", type=Path, metavar="DIR", help="instead: check all files of a finished dataset")
    parser.add_argument("--dry-run", action="store_true", help="print counts, bytes and time; write nothing")

    add_which_images(parser)
    parser.add_argument("--allow-test", action="store_true", help="also use poses of query and gallery images")
    how = parser.add_argument_group("output format")
    how.add_argument("--format", choices=("folder", "webdataset"), default="folder",
                     help="Market-1501's layout, or tar shards of the training images")  # fmt: skip
    how.add_argument("--shard-size", type=int, default=1024, help="images rendered per shard")
    add_real(how)

    where = parser.add_argument_group("rendering")
    add_where(where)
    where.add_argument("--engine", choices=("local", "torchrun", "ray"), default="local",
                       help="this process, torchrun's processes, or Ray Data actors")  # fmt: skip
    where.add_argument("--workers", type=int, metavar="N", help="actors of ray (default: one per GPU or core)")
    parser.add_argument("--json", action="store_true", help="print the counts as JSON")


def add_real(group: Any) -> None:
    """Adds the option for the real images."""
    group.add_argument("--real", choices=("copy", "link", "omit"), default="copy",
                       help="copy, hard-link or leave out the real images")  # fmt: skip


def add_where(group: Any) -> None:
    """Adds the options for rendering: device, dtype, runtime and batch size."""
    group.add_argument("--device", default="cpu", help="such as cuda")
    group.add_argument("--dtype", "--precision", choices=("auto", "float32", "bfloat16"), default="auto",
                       help="the generator's dtype; auto: that of an earlier run into the directory, else bfloat16 if "
                       "the device supports it")  # fmt: skip
    group.add_argument("--runtime", choices=("auto", "torch", "openvino"), default="auto",
                       help="inference backend; auto: that of an earlier run into the directory, else OpenVINO on a "
                       "CPU if it is installed and there are enough images")  # fmt: skip
    group.add_argument("--batch-size", type=int, metavar="N", help="images per batch (default: by memory)")


def add_which_images(parser: argparse.ArgumentParser) -> None:
    """Adds the options that choose the synthetic images."""
    what = parser.add_argument_group("synthetic images")
    what.add_argument("--per-image", type=int, metavar="N", help="synthetic images per real one (default: 1)")
    what.add_argument("--per-identity", type=int, metavar="N", help="fill each identity up to N training images")
    what.add_argument("--budget", type=int, metavar="N", help="most synthetic images in all")
    what.add_argument(
        "--sampler",
        default="uniform",
        help="how poses are drawn: uniform, near, far, diverse, "
        "inverse-density, gap, camera, or a mixture such as uniform=3,near=1",
    )
    what.add_argument("--fit", choices=("frame", "source"), default="frame",
                      help="keep a pose as in its own image, or give it the source's position and scale")  # fmt: skip
    what.add_argument("--reference", choices=("image", "camera"), default="image",
                      help="render each image itself, or the person's image by the same camera whose pose is nearest "
                      "to the target's")  # fmt: skip
    what.add_argument("--ground", type=float, metavar="SHARE",
                      help="share of synthetic images with another image's background (default: 1 with a generator "
                      "that predicts a person mask, such as market1501-augment, else 0)")  # fmt: skip
    what.add_argument("--seed", type=int, default=0, help="seed of the draws")
    what.add_argument("--follow-links", action="store_true",
                      help="also use images that symbolic links point to outside the dataset's folder")  # fmt: skip
    what.add_argument("--gate", nargs="*", metavar="KEY=VALUE",
                      help="reject bad images: min_contrast=0.05, max_saturated=0.3, and with features=NETWORK.onnx "
                      "min_identity=0.5, the least cosine of its features of real and synthetic image; a NETWORK.pt2 "
                      "of torch.export also works, but can run code, so use only one that you trust")  # fmt: skip
    what.add_argument("--tries", type=int, default=3, help="most poses tried for an image that the gate rejects")


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
    with redirect_stdout(sys.stderr):  # Ray prints messages about its workers to stdout
        figures = asdict(estimate(config) if args.dry_run else generate(config))
    if config.engine != "torchrun" or is_first_process():
        print_figures(figures, args.json)
    return None


def _verify(args: argparse.Namespace) -> int:
    """Prints the problems of a dataset; exit code 1 if there are any."""
    from dataclasses import asdict

    from xingaug.offline.verify import verify

    verdict = verify(args.verify)
    if args.json:
        print(json.dumps(asdict(verdict)))
    else:
        counts = [f"real, with query and gallery: {verdict.real}", f"synthetic: {verdict.synthetic}"]
        print("\n".join([*verdict.problems, *counts]))
        print("whole" if not verdict.problems else f"{len(verdict.problems)} problems")
    return 1 if verdict.problems else 0
