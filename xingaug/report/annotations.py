"""A page about annotations: statistics of the joints found, and the least confident skeletons over their images."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from xingaug.data.annotations import Annotations
from xingaug.errors import BadInput
from xingaug.images import read_image
from xingaug.keypoints import JOINTS, MIN_VISIBLE
from xingaug.poses.agreement import PCK_SHARE, Agreement
from xingaug.poses.annotate import count_rejected
from xingaug.report.figures import bars_svg, jpeg_uri, overlay, shares_svg
from xingaug.report.page import image_sheet, paragraph, table, write_page

_SHOWN_REJECTED = 14  # images without a usable pose, of each kind


def write_annotations_page(
    path: Path,
    annotations: Annotations,
    files: Mapping[str, Path],
    rejected: Sequence[tuple[str, str]],
    count: int = 60,
) -> Path:
    """Writes the page to `path`, which ends in .html; other arguments and errors as in `annotation_sections`."""
    sections = annotation_sections(annotations, files, rejected, count)
    lead = paragraph(f"{annotations.source or 'source not stated'}", "soft")
    return write_page(path, "Annotations", lead, sections)


def annotation_sections(
    annotations: Annotations, files: Mapping[str, Path], rejected: Sequence[tuple[str, str]], count: int = 60
) -> list[tuple[str, str]]:
    """The sections of a page about annotations: headings and HTML.

    Skeletons are shown worst first: by the mean confidence over all 18 joints, with 0 for a missing one (our choice).

    Args:
        annotations: annotations; those of images not in `files` are skipped.
        files: the images by name.
        rejected: names of the images without a usable pose, with reasons.
        count: usable skeletons shown; of the others a few are.

    Raises:
        BadInput: none of the images is annotated.
    """
    names = list(files)
    rows = annotations.lookup(names)
    rows = rows[rows >= 0]
    if not len(rows):
        file = annotations.file or "annotations"
        raise BadInput(f"{file}: none of {len(names)} images is annotated, needed at least one")
    visibility = annotations.visibility[rows]
    found = (visibility > 0).sum(1)
    worst = rows[np.argsort(visibility.mean(1), kind="stable")]
    found_worst = (annotations.visibility[worst] > 0).sum(1)
    usable, few = worst[found_worst >= MIN_VISIBLE], worst[(found_worst > 0) & (found_worst < MIN_VISIBLE)]
    sections = [
        ("Images", _counts(len(names), found, rejected)),
        ("Joints", _joints(visibility)),
        ("Usable poses, worst first", _sheet(annotations, usable, files, count)),
        ("Too few joints, worst first", _sheet(annotations, few, files, _SHOWN_REJECTED)),
    ]
    sections = [(head, content) for head, content in sections if content]
    empty = [name for name, reason in rejected if not reason.startswith(("unreadable", "too few joints"))]
    if empty:
        sections.append(("Without a person", _empty(empty, files)))
    return sections


def write_agreement_page(
    path: Path, agreement: Agreement, a: Annotations, b: Annotations, files: Mapping[str, Path], count: int = 60
) -> Path:
    """Writes a page of the largest differences between two annotations, both drawn over the image.

    Args:
        path: the file, ending in .html.
        agreement: the agreement of `a` and `b`.
        a: annotations drawn in blue.
        b: annotations drawn in orange.
        files: the images by name.
        count: images shown, in descending order of the mean distance of joints that both have.

    Raises:
        BadInput: none of the images is in both.
    """
    order = [row for row in np.argsort(-agreement.mean_px, kind="stable") if agreement.names[row] in files]
    if not order:
        raise BadInput(f"{path}: none of the {len(files)} images is in both annotations; name the images' own folder")
    uris, captions = [], []
    for row in order[:count]:
        name = agreement.names[row]
        image = _read(files[name])
        if image is not None:
            first, second = int(a.lookup([name])[0]), int(b.lookup([name])[0])
            persons = [(a.xy[first], a.visibility[first]), (b.xy[second], b.visibility[second])]
            uris.append(jpeg_uri(overlay(image, persons)))
            swapped = ", ".join(limb for limb, swaps in agreement.swapped.items() if name in swaps)
            distance = f"{agreement.mean_px[row]:.1f} px" + (f", swapped: {swapped}" if swapped else "")
            captions.append([name, distance])
    joints = [
        [name.replace("_", " "), *(_plain(value) for value in vars(joint).values())]
        for name, joint in {"all": agreement.all_joints, **agreement.joints}.items()
    ]
    head = ["joint", "in both", "only A", "only B", "median px", "90 % px", f"PCK {PCK_SHARE}"]
    lead = paragraph(f"A: {a.source or 'not stated'}. B: {b.source or 'not stated'}.", "soft")
    text = "A is blue, B is orange; below, the mean distance of the joints that both have."
    sections = [
        ("Images", table(["", "count"], _images_of(agreement))),
        ("Joints", table(head, joints)),
        ("Largest differences", paragraph(text) + image_sheet(uris, captions)),
    ]
    return write_page(path, "Two annotations of the same images", lead, sections)


def _plain(value: float | None) -> str:
    return "-" if value is None else str(value) if isinstance(value, int) else f"{value:.2f}"


def _images_of(agreement: Agreement) -> list[list[str]]:
    rows = [("in both", len(agreement.names)), ("only in A", agreement.only_a), ("only in B", agreement.only_b)]
    rows += [(f"left and right swapped: {limb}", len(names)) for limb, names in agreement.swapped.items()]
    return [[text, str(count)] for text, count in rows]


def _counts(images: int, found: np.ndarray, rejected: Sequence[tuple[str, str]]) -> str:
    rows = [["images", str(images), ""], ["usable poses", *_share(int((found >= MIN_VISIBLE).sum()), images)]]
    counts = count_rejected(rejected)
    rows += [[f"rejected: {reason.replace('_', ' ')}", *_share(count, images)] for reason, count in counts.items()]
    note = f"A pose is usable with at least {MIN_VISIBLE} of {len(JOINTS)} joints; pose banks skip the others."
    return table(["", "count", "share"], rows) + paragraph(note, "soft")


def _share(count: int, of: int) -> list[str]:
    return [str(count), f"{count / max(of, 1):.1%}"]


def _joints(visibility: np.ndarray) -> str:
    """Two charts: number of joints per image, and share of images with each joint."""
    found = visibility > 0
    mean = float(visibility[found].mean()) if found.any() else 0.0
    text = (
        f"Over {len(found)} annotated images; the median is {np.median(found.sum(1)):g} of {len(JOINTS)} joints. The "
        f"mean confidence of a found joint is {mean:.2f}."
    )
    bars = bars_svg(np.bincount(found.sum(1), minlength=len(JOINTS) + 1)[1:], "joints found in an image", "images")
    shares = {name.replace("_", " "): float(share) for name, share in zip(JOINTS, found.mean(0), strict=True)}
    return paragraph(text) + f'<div class="strip"><figure>{bars}</figure><figure>{shares_svg(shares)}</figure></div>'


def _sheet(annotations: Annotations, worst: np.ndarray, files: Mapping[str, Path], count: int) -> str:
    if not len(worst):
        return ""
    uris: list[str] = []
    captions = []
    for row in worst:
        if len(uris) == count:
            break
        name = str(annotations.names[row])
        image = _read(files[name])
        if image is None:
            continue
        visibility = annotations.visibility[row]
        uris.append(jpeg_uri(overlay(image, [(annotations.xy[row], visibility)])))
        captions.append([name, f"{int((visibility > 0).sum())} joints, {visibility.mean():.2f}"])
    text = (
        f"{len(uris)} of {len(worst)} images, those with the lowest mean confidence over all {len(JOINTS)} joints, "
        "with 0 for a missing joint. Below each: number of joints and that mean. Red joints are below 0.5."
    )
    return paragraph(text) + image_sheet(uris, captions)


def _empty(names: Sequence[str], files: Mapping[str, Path]) -> str:
    images = [(name, image) for name in names[:_SHOWN_REJECTED] if (image := _read(files[name])) is not None]
    text = f"{len(images)} of {len(names)} images."
    return paragraph(text) + image_sheet(
        [jpeg_uri(overlay(image, [])) for _, image in images], [[name] for name, _ in images]
    )


def _read(path: Path) -> np.ndarray | None:
    try:
        return read_image(path)
    except BadInput:  # the counts above include it
        return None
