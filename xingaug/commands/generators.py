"""`xingaug train`, `convert`, `export` and `evaluate`: generators."""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from xingaug.commands.parser import add_command, is_first_process, print_figures
from xingaug.errors import BadInput, printable


def add(commands: Any) -> None:
    """Adds the commands to the parser's."""
    _add_train(commands)
    _add_convert(commands)
    _add_export(commands)
    _add_evaluate(commands)


def _add_train(commands: Any) -> None:
    text = "Train a generator; continues if run again on the same directory."
    parser = add_command(
        commands, "train", _train, text, "xingaug train configs/train_pedestrians.yaml steps=200 --out runs/short"
    )
    parser.add_argument("config", type=Path,
                        help="YAML file; an identity_network in it, a .pt2 of torch.export, can run code when it is "
                        "loaded, so use only one that you trust")  # fmt: skip
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as lr=2e-4")
    parser.add_argument("--out", type=Path, help="run directory (default: runs/ and the file's name)")
    parser.add_argument("--dry-run", action="store_true", help="check everything, print the plan, write nothing")
    parser.add_argument("--overfit-one-batch", action="store_true", help="train on the first step's pairs only")


def _train(args: argparse.Namespace) -> None:
    from xingaug.config import load_config
    from xingaug.training.config import TrainConfig
    from xingaug.training.loop import plan, train

    out = args.out or Path("runs") / args.config.stem
    config = load_config(TrainConfig, args.config, args.overrides)
    one_batch = args.overfit_one_batch
    said = plan(config, out, one_batch) if args.dry_run else f"{train(config, out, overfit_one_batch=one_batch)}\n"
    if is_first_process():
        print(said, end="")


def _add_convert(commands: Any) -> None:
    text = "Convert a released XingGAN checkpoint (netG, .pth) to a generator file that every command reads."
    parser = add_command(commands, "convert", _convert, text, "xingaug convert latest_net_netG.pth xinggan.safetensors")
    parser.add_argument("checkpoint", type=Path, help="state dict of the released netG")
    parser.add_argument("out", type=Path, help="file to write, .safetensors; a .json is written beside it")
    parser.add_argument("--size", type=int, nargs=2, default=(128, 64), metavar=("HEIGHT", "WIDTH"),
                        help="size of its images in pixels; 256 176 for DeepFashion")  # fmt: skip
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
    print_figures({"written": str(args.out), "blocks": len(network.blocks), "parameters": parameters}, args.json)


def _add_export(commands: Any) -> None:
    text = "Write a generator as an ONNX file, which runs without torch, and compare its images with torch's."
    parser = add_command(
        commands, "export", _export, text, "xingaug export --generator pedestrians-small --onnx pedestrians-small.onnx"
    )
    parser.add_argument("--generator", default="pedestrians-small", help="bundled name or .safetensors file")
    parser.add_argument("--onnx", type=Path, required=True, metavar="FILE", help="file to write, .onnx")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def _export(args: argparse.Namespace) -> None:
    from xingaug.generators.export import export_onnx

    print_figures(export_onnx(args.generator, args.onnx), args.json)


def _add_evaluate(commands: Any) -> None:
    text = "Measure generated images against true ones, with two baselines: the source and the identity's mean image."
    parser = add_command(
        commands, "evaluate", _evaluate, text,
        "xingaug evaluate --generator pedestrians-small --data ROOT --annotations A.npz --pairs pairs.csv --json",
    )  # fmt: skip
    parser.add_argument("--generator", required=True, help="bundled name or .safetensors file")
    parser.add_argument("--data", type=Path, required=True, help="folder of a known dataset, or a YAML file")
    parser.add_argument("--annotations", type=Path, required=True, help="keypoints, .npz or .csv")
    parser.add_argument("--pairs", type=Path, required=True, help="CSV with the header from,to")
    parser.add_argument("--split", choices=("train", "query", "gallery"), default="gallery", help="split of the images")
    parser.add_argument("--reference", choices=("image", "camera"), default="image",
                        help="render the pair's first image, or of the person's others by its camera, without the "
                        "second, the one whose pose is nearest to the target's")  # fmt: skip
    parser.add_argument("--limit", type=int, help="measure the first pairs only")
    parser.add_argument("--reid", type=Path, metavar="FILE.onnx",
                        help="adds reid_rank1 and reid_map of the images as queries, with the source's identity and "
                        "camera, among the real test images: a feature network, ONNX or a program of torch.export "
                        "(which can run code, so use only one that you trust), from images (B, 3, H, W), RGB in "
                        "[0, 1], to (B, D). It normalises them itself; they are resized to its input size, if "
                        "fixed")  # fmt: skip
    parser.add_argument("--reid-cache", type=Path, metavar="DIR",
                        help="folder that caches the gallery's features")  # fmt: skip
    parser.add_argument("--pose-estimator", type=Path, metavar="FILE.onnx",
                        help="adds pck (share of joints within 0.2 of a quarter of the height, those found in the true "
                        "images) and pckh (at 0.5 of the head): MoveNet or a top-down network as ONNX, or a network, "
                        "ONNX or a program of torch.export, from images (B, 3, H, W) in [0, 1] to (B, 18, 3), x and y "
                        "in their pixels and a confidence in [0, 1]; a .pt2 can run code, so use only one that you "
                        "trust")  # fmt: skip
    parser.add_argument("--sharpness", action="store_true",
                        help="adds the mean gradient relative to that of the true images")  # fmt: skip
    parser.add_argument("--frechet-weights", type=Path, metavar="FILE",
                        help="adds frechet (of means of VGG-16's relu4_3) and vgg_distance (of four layers' features): "
                        "torchvision's VGG-16, .safetensors or .pth")  # fmt: skip
    parser.add_argument("--perceptual", nargs="+", choices=("lpips", "fid", "is"), default=(), metavar="NAME",
                        help="adds lpips, fid or is; needs xingaug[metrics] and the networks' weights, cached in "
                        "TORCH_HOME or downloaded into it")  # fmt: skip
    parser.add_argument("--inception", type=Path, metavar="FILE.pth", help="weights for fid and is, by torch-fidelity")
    parser.add_argument("--batch-size", type=int, default=32, help="images per batch")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto",
                        help="the generator's dtype; auto: bfloat16 if the device supports it")  # fmt: skip
    parser.add_argument("--runtime", choices=("auto", "torch", "openvino"), default="auto",
                        help="inference backend; auto: OpenVINO on a CPU if it is installed and there are enough "
                        "pairs")  # fmt: skip
    parser.add_argument("--device", default="cpu", help="such as cuda")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def _evaluate(args: argparse.Namespace) -> None:
    from xingaug.training.evaluate import EvaluateConfig, evaluate

    names = [field.name for field in dataclasses.fields(EvaluateConfig)]
    figures = evaluate(EvaluateConfig(**{name: getattr(args, name) for name in names}))
    if args.json:
        print(json.dumps(figures))
        return
    print(f"{figures.pop('pairs')} pairs, rendered in {figures.pop('rendering')}")
    of_true, texts = figures.pop("true", {}), figures.pop("measures", {}) | figures.pop("perceptual", {})
    figures.pop("pckh_of_true", None)
    for name, row in {"generated": figures, **figures.pop("baselines"), "true": of_true}.items():
        shown = ", ".join(f"{key} {row[key]:.4f}" for key in figures if key in row)
        if shown:
            print(f"{name:>14}: {shown}")
    for name, text in texts.items():
        print(printable(f"{name:>14}: {text}"))
