"""Pictures for a page: images and skeletons as PNG, curves as SVG, each as text for HTML."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from xingaug.keypoints import LIMBS

HUES = (
    "#e6194b", "#f58231", "#ffe119", "#3cb44b", "#2fb8a8", "#42d4f4", "#4363d8", "#7a5cff", "#911eb4",
    "#bfef45", "#469990", "#9a6324", "#f032e6", "#dcbeff", "#fabed4", "#aaffc3", "#ffd8b1",
)  # fmt: skip


def png_uri(image: np.ndarray, scale: int = 1) -> str:
    """An image as a `data:` URI.

    Args:
        image: (H, W, 3) uint8.
        scale: integer factor by which pixels are repeated.
    """
    picture = Image.fromarray(image)
    if scale != 1:
        picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def jpeg_uri(image: np.ndarray, quality: int = 80) -> str:
    """An image (H, W, 3) uint8 as a JPEG `data:` URI, several times smaller than PNG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=quality, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def overlay(
    image: np.ndarray, persons: Sequence[tuple[np.ndarray, np.ndarray]], box: tuple[int, int] = (256, 192)
) -> np.ndarray:
    """Resizes an image to the largest size that fits into a box and draws skeletons over it.

    A single person's limbs are coloured as in `skeleton`; several persons have one colour each, from `PERSON_COLOURS`.

    Args:
        image: (H, W, 3) uint8.
        persons: for each person (18, 2) pixels of the image, and (18,) confidence: 0 for missing joints, which are left
            out with their limbs; joints below 0.5 are drawn red, others white.
        box: (height, width).

    Returns:
        (h, w, 3) uint8.
    """
    scale = min(box[0] / image.shape[0], box[1] / image.shape[1])
    size = max(round(image.shape[1] * scale), 1), max(round(image.shape[0] * scale), 1)
    picture = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    for index, (xy, confidence) in enumerate(persons):
        hues = HUES if len(persons) == 1 else (PERSON_COLOURS[index],) * len(LIMBS)
        _draw_person(draw, (xy + 0.5) * (size[0] / image.shape[1], size[1] / image.shape[0]), confidence, 3, 2.6, hues)
    return np.asarray(picture)


PERSON_COLOURS = ("#42d4f4", "#ff9a3c")
"""Limb colours if two skeletons are drawn over each other."""


def skeleton(xy: np.ndarray, visibility: np.ndarray, size: tuple[int, int], scale: int = 2) -> np.ndarray:
    """Draws a person as coloured limbs on a dark background.

    Args:
        xy: (18, 2) pixels in a frame of `size`.
        visibility: (18,), 0 for missing joints, which are left out with their limbs.
        size: (height, width) of the frame.
        scale: pixels of the drawing per pixel of the frame.

    Returns:
        (height * scale, width * scale, 3) uint8.
    """
    picture = Image.new("RGB", (size[1] * scale, size[0] * scale), "#1b1f27")
    draw = ImageDraw.Draw(picture)
    _draw_person(draw, (xy + 0.5) * scale, (visibility > 0).astype(float), max(2, scale + 1), 0.6 * scale, HUES)
    return np.asarray(picture)


def _draw_person(
    draw: ImageDraw.ImageDraw, xy: np.ndarray, confidence: np.ndarray, width: int, radius: float, hues: Sequence[str]
) -> None:
    """Draws limbs and joints at (18, 2) positions, measured from the corner of the drawing."""
    points = [(float(x), float(y)) for x, y in xy]
    for (a, b), hue in zip(LIMBS, hues, strict=True):
        if confidence[a] > 0 and confidence[b] > 0:
            draw.line([points[a], points[b]], fill=hue, width=width)
    for (x, y), sure in zip(points, confidence, strict=True):
        if sure > 0:
            box = (x - radius, y - radius, x + radius, y + radius)
            draw.ellipse(box, fill="#ffffff" if sure >= 0.5 else "#ff3b30")


def cmc_svg(curves: Mapping[str, np.ndarray], ranks: int = 20) -> str:
    """CMC curves as an SVG element.

    Args:
        curves: for each name (R,) values in [0, 1], the share of queries with a match among the first r + 1.
        ranks: number of ranks to draw.
    """
    axes = _axes(3.4)
    for name, values in curves.items():
        shown = np.asarray(values)[:ranks]
        axes.plot(np.arange(1, len(shown) + 1), 100 * shown, marker="o", markersize=3, label=name)
    axes.set_xticks([1, *range(5, ranks + 1, 5)])
    axes.set_xlabel("rank k")
    axes.set_ylabel("queries with a match\namong the first k (%)")
    axes.set_ylim(0, 102)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    return _svg(axes.figure)


def bars_svg(counts: np.ndarray, across: str, up: str) -> str:
    """Bars at 1, 2, ... as an SVG element.

    Args:
        counts: (n,) heights.
        across: label of the x axis.
        up: label of the y axis.
    """
    axes = _axes(2.4)
    axes.bar(np.arange(1, len(counts) + 1), counts, color="#2f5fd0")
    axes.locator_params(integer=True)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.grid(axis="y", alpha=0.3)
    return _svg(axes.figure)


def shares_svg(shares: Mapping[str, float]) -> str:
    """Shares in [0, 1] as labelled horizontal bars, the first on top, as an SVG element."""
    axes = _axes(0.6 + 0.22 * len(shares))
    bars = axes.barh(list(shares), [100 * share for share in shares.values()], color="#2f5fd0", height=0.7)
    axes.bar_label(bars, [f"{100 * share:.1f}" for share in shares.values()], padding=3, fontsize=8)
    axes.set_xlim(0, 108)
    axes.invert_yaxis()
    axes.set_xlabel("images (%)")
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right"]].set_visible(False)
    return _svg(axes.figure)


def map_png(points: np.ndarray, colours: np.ndarray, positions: np.ndarray, thumbnails: Sequence[np.ndarray]) -> str:
    """A scatter plot of points with pictures in it, as a `data:` URI.

    Args:
        points: (n, 2).
        colours: (n,) positive, drawn on a logarithmic scale from dark to yellow.
        positions: (m, 2) of the pictures.
        thumbnails: m images, (H, W, 3) uint8.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    low, high = np.quantile(points, (0.001, 0.999), axis=0)
    span = np.maximum(high - low, 1e-3)
    figure = Figure(figsize=(10, 10 * float(np.clip(span[1] / span[0], 0.4, 1.2))), dpi=110, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.scatter(points[:, 0], points[:, 1], c=colours, norm=LogNorm(), s=6, cmap="viridis", linewidths=0, alpha=0.8)
    for position, thumbnail in zip(positions, thumbnails, strict=True):
        axes.add_artist(AnnotationBbox(OffsetImage(thumbnail, zoom=0.42), tuple(position), frameon=False))
    axes.set_xlim(low[0], low[0] + span[0])
    axes.set_ylim(low[1], low[1] + span[1])
    axes.set_aspect("equal", adjustable="box")
    axes.set_axis_off()
    canvas.draw()
    return png_uri(np.asarray(canvas.buffer_rgba())[..., :3])


def _axes(height: float) -> Any:
    """Axes of a new figure, 6.4 inches wide."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure.add_subplot()


def _svg(figure: Any) -> str:
    buffer = io.StringIO()
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "xingaug"}):  # else element ids would be random
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
