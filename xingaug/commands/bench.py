"""`xingaug bench`."""

import argparse
import json
from pathlib import Path
from typing import Any

from xingaug.commands.parser import add_command, print_figures, print_table
from xingaug.errors import BadInput, WorkFailed

_MODELS = ("resnet50", "osnet_x1_0", "osnet_x0_25")  # those of reid_integration.bench


def add(commands: Any) -> None:
    """Adds the command to the parser's."""
    text = "Measure speed; the variants of a part alternate within one run."
    parser = add_command(commands, "bench", _bench, text, "xingaug bench generator --json")
    parser.add_argument(
        "part",
        choices=("generator", "train", "augment", "bank", "offline", "evaluation", "gpu"),
        help="what to measure; gpu: all measurements for a CUDA device, printed as JSON",
    )
    parser.add_argument("--generator", nargs="+", metavar="NAME",
                        help="sizes (xinggan, xinggan_pp, xinggan_pp_small), and but for the part train bundled "
                        "names or .safetensors files (default: all sizes in the parts generator and train, else "
                        "pedestrians-small)")  # fmt: skip
    parser.add_argument("--bank", type=Path, help="part bank: a saved bank to take the poses from")
    parser.add_argument("--sizes", type=int, nargs="+", default=[13_000, 100_000], metavar="N",
                        help="part bank: numbers of poses")  # fmt: skip
    parser.add_argument(
        "--batch-size", type=int, help="images per batch (default: 8; parts augment, gpu: 64; part offline: by memory)"
    )
    parser.add_argument("--models", nargs="*", choices=_MODELS, default=_MODELS,
                        help="part augment: re-ID networks whose training step is measured")  # fmt: skip
    parser.add_argument("--reuse", type=int, nargs="+", default=[1, 4, 8], metavar="N",
                        help="part augment: how often a rendered image is served")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds, of which the median is reported")
    parser.add_argument("--device", default="cpu", help="such as cuda")
    parser.add_argument("--compile", action="store_true", help="also measure generators through torch.compile")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def _bench(args: argparse.Namespace) -> None:
    from xingaug.bench import (
        bench_augment,
        bench_bank,
        bench_evaluation,
        bench_generator,
        bench_gpu,
        bench_offline,
        bench_train,
    )

    if args.batch_size is None and args.part != "offline":
        args.batch_size = 64 if args.part in ("augment", "gpu") else 8
    names = args.generator or ["pedestrians-small"]
    if args.part in ("augment", "offline", "gpu") and len(names) > 1:
        raise BadInput(f"--generator: {len(names)} names, the part {args.part} measures one")
    tables: list[str] = []
    if args.part == "generator":
        figures = bench_generator(args.generator, args.batch_size, args.rounds, args.device, args.compile)
        tables = ["variants", "training_step"]
    elif args.part == "train":
        figures, tables = bench_train(args.generator, args.batch_size, args.rounds, args.device), ["variants"]
    elif args.part == "bank":
        figures, tables = bench_bank(args.bank, args.sizes, args.rounds), ["banks", "samplers"]
    elif args.part == "gpu":
        figures = bench_gpu(names[0], args.batch_size, args.rounds, "cuda" if args.device == "cpu" else args.device)
        print(json.dumps(figures))
        if figures["failed"]:
            raise WorkFailed(f'bench gpu: not measured: {", ".join(figures["failed"])}; see "failed" above')
        return
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
    print_figures({key: value for key, value in figures.items() if key not in tables}, False)
    for name in tables:
        print(f"\n{name}")
        print_table(figures[name])
