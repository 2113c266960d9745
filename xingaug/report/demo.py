"""The page of `xingaug demo`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xingaug.keypoints import Keypoints
from xingaug.poses.bank import PoseBank
from xingaug.report.bank import bank_wall
from xingaug.report.figures import cmc_svg, png_uri, skeleton
from xingaug.report.page import image_rows, paragraph, table, write_page
from xingaug.training.quality import Quality

SHOWN_PAIRS = 12
ARM_NAMES = {"real": "real only", "xinggan_pose": "augment: xinggan_pose"}


@dataclass(frozen=True)
class Pairs:
    """Image pairs of one person each, rendered and measured.

    Attributes:
        sources: (N, H, W, 3) uint8, the source images.
        target: (N,) the target keypoints.
        generated_images: (N, H, W, 3) uint8.
        true: (N, H, W, 3) uint8, the target images.
        generated: quality of `generated_images` against `true`.
        copied: quality of the unchanged sources against `true`.
        are_held_out: whether the persons are from the test images rather than the training images.
    """

    sources: np.ndarray
    target: Keypoints
    generated_images: np.ndarray
    true: np.ndarray
    generated: Quality
    copied: Quality
    are_held_out: bool


def write_demo_page(
    path: Path,
    is_world: bool,
    generator: str,
    iterations: int,
    counts: dict[str, int],
    bank: PoseBank,
    pairs: Pairs,
    walks: list[tuple[np.ndarray, np.ndarray]],
    offline: dict[str, Any],
    comparison: dict[str, Any],
    seconds: dict[str, float],
) -> Path:
    """Writes the page; `xingaug.demo` makes its parts."""
    sections = [
        ("Source, target pose, generated, true", _pairs_section(pairs, is_world, generator)),
        ("One person, poses from the bank", _walks_section(walks)),
        ("Re-identification", _reid_section(comparison, is_world, iterations, counts)),
        ("What these figures show, and what they cannot", _limits_section(is_world, generator)),
        ("Pose bank", paragraph(f"{len(bank)} poses of the training images; some of them:") + bank_wall(bank, 36)),
        ("Augmented dataset on disk", _offline_section(offline)),
        ("Time of each step", _times_section(seconds)),
    ]
    data = "a drawn pedestrian world" if is_world else "a part of your dataset"
    lead = paragraph(
        f"The whole pipeline on {data}: {counts['train']} training images, {counts['query']} queries, "
        f"{counts['gallery']} gallery images; generator {Path(generator).stem}.",
        "soft",
    )
    return write_page(path, "xingaug demo", lead, sections)


def _pairs_section(pairs: Pairs, is_world: bool, generator: str) -> str:
    size = pairs.sources.shape[1:3]
    xy, visibility = pairs.target.xy.numpy(), pairs.target.visibility.numpy()
    rows = []
    for i in range(min(SHOWN_PAIRS, len(pairs.sources))):
        pose = skeleton(xy[i], visibility[i], (size[0], size[1]))
        images = (pairs.sources[i], pose, pairs.generated_images[i], pairs.true[i])
        rows.append([png_uri(image) for image in images])
    if is_world:
        text = (
            "Persons the generator has never seen. The true image is the same person, camera and background rendered "
            "in the target pose."
        )
    else:
        text = "The true image is another photo of the same person, so its background and light may differ. " + (
            "The persons are from the test images, which neither the pose bank nor the re-ID training uses."
            if pairs.are_held_out
            else "The persons are from the training images, as the annotations have no two test images of one person: "
            "a generator that was trained on them has seen them."
        )
    head = ["", "pairs", "SSIM", "person SSIM", "L1", "PSNR (dB)"]
    body = [_quality_row("generated", pairs.generated), _quality_row("copying the source", pairs.copied)]
    note = paragraph(
        "SSIM by PATN's protocol (Gaussian window, sigma 1.5; data range of the first image); person SSIM inside both "
        "person masks, if there are masks. The pairs shown are the first measured ones, not a selection.",
        "soft",
    )
    shown = image_rows(rows, ("source", "target pose", "generated", "true image"))
    return paragraph(text) + table(head, body) + note + shown


def _quality_row(name: str, quality: Quality) -> list[str]:
    person = "–" if quality.person_ssim is None else f"{quality.person_ssim:.3f}"
    return [name, str(quality.pairs), f"{quality.ssim:.3f}", person, f"{quality.l1:.4f}", f"{quality.psnr:.2f}"]


def _walks_section(walks: list[tuple[np.ndarray, np.ndarray]]) -> str:
    rows = [[png_uri(image), *(png_uri(g) for g in generated)] for image, generated in walks]
    labels = ["source", *[""] * (len(rows[0]) - 1)]
    text = "The first image of each row is real, from the training set; the others are generated."
    return paragraph(text) + image_rows(rows, labels, wide=True)


def _reid_section(comparison: dict[str, Any], is_world: bool, iterations: int, counts: dict[str, int]) -> str:
    figures = {cell["arm"]: next(iter(cell["results"].values())) for cell in comparison["cells"]}
    times = {cell["arm"]: cell["train_seconds"] for cell in comparison["cells"]}
    keys = ("mAP", "rank1", "rank5", "rank10", "mINP")
    rows = [
        [ARM_NAMES.get(arm, arm), *(f"{100 * row[key]:.1f}" for key in keys), f"{times[arm]:.0f}"]
        for arm, row in figures.items()
    ]
    start = "weights that know 400 other drawn persons" if is_world else "random weights"
    text = (
        f"OSNet x0.25 at 128x64, trained from {start} for {iterations} iterations in both arms, one seed. "
        f"Queries and gallery are real images of other persons ({counts['query']} and {counts['gallery']})."
    )
    head = ("", "mAP", "Rank-1", "Rank-5", "Rank-10", "mINP", "training (s)")
    curves = cmc_svg({ARM_NAMES.get(arm, arm): np.asarray(row["cmc"]) for arm, row in figures.items()})
    return paragraph(text) + table(head, rows) + curves


def _limits_section(is_world: bool, generator: str) -> str:
    parts = [
        "This demo trains for about a minute and with one seed: it shows that the pipeline works from end to end, not "
        f"that accuracy improves. A difference of {'a point or two' if is_world else 'a few points'} either way is "
        "noise here. To measure a gain, use reid_integration.compare with several seeds and your own schedule.",
    ]
    if is_world:
        parts.append(
            "The persons are procedurally drawn, and their training poses are scarce on purpose (two neighbouring "
            "directions per identity). Figures on drawn persons say nothing about photos."
        )
    elif generator == "pedestrians-small":
        parts.append(
            "The generator pedestrians-small has seen drawn pedestrians only. On photos it shows what the pipeline "
            "does, not what a generator trained on photos can do: try --generator market1501-augment (research only), "
            "or train one with `xingaug train` on your tree."
        )
    return "".join(paragraph(part, "note") for part in parts)


def _offline_section(offline: dict[str, Any]) -> str:
    return table(
        ("real images", "synthetic images", "without keypoints", "unusable keypoints"),
        [[str(offline[key]) for key in ("real", "synthetic", "without_annotation", "unusable_keypoints")]],
    ) + paragraph("In the folder augmented/, in Market-1501 layout; manifest.jsonl has a line per synthetic image.")


def _times_section(seconds: dict[str, float]) -> str:
    rows = [[name, f"{value:.1f}"] for name, value in seconds.items()]
    return table(("step", "seconds"), [*rows, ["all", f"{sum(seconds.values()):.1f}"]])
