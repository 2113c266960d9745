"""Pictures for a page: images and skeletons as PNG, curves as SVG, each as text to put into HTML."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from xingaug.keypoints import LIMBS

_HUES = (
    "#e6194b", "#f58231", "#ffe119", "#3cb44b", "#2fb8a8", "#42d4f4", "#4363d8", "#7a5cff", "#911eb4",
    "#bfef45", "#469990", "#9a6324", "#f032e6", "#dcbeff", "#fabed4", "#aaffc3", "#ffd8b1",
)  # fmt: skip


def png_uri(image: np.ndarray, scale: int = 1) -> str:
    """A `data:` address of an image.

    Args:
        image: (H, W, 3) uint8.
        scale: whole factor by which pixels are repeated.
    """
    picture = Image.fromarray(image)
    if scale != 1:
        picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def skeleton(xy: np.ndarray, visibility: np.ndarray, size: tuple[int, int], scale: int = 2) -> np.ndarray:
    """Draws a person as coloured limbs on a dark ground.

    Args:
        xy: (18, 2) pixels in a frame of `size`.
        visibility: (18,), 0 for missing joints, which are left out with their limbs.
        size: (height, width) of the frame.
        scale: factor of the drawing's size.

    Returns:
        (height * scale, width * scale, 3) uint8.
    """
    picture = Image.new("RGB", (size[1] * scale, size[0] * scale), "#1b1f27")
    draw = ImageDraw.Draw(picture)
    points = [tuple(float(v) for v in (p + 0.5) * scale) for p in xy]
    for (a, b), hue in zip(LIMBS, _HUES, strict=True):
        if visibility[a] > 0 and visibility[b] > 0:
            draw.line([points[a], points[b]], fill=hue, width=max(2, scale + 1))
    for (x, y), seen in zip(points, visibility, strict=True):
        if seen > 0:
            r = 0.6 * scale
            draw.ellipse((x - r, y - r, x + r, y + r), fill="#ffffff")
    return np.asarray(picture)


def cmc_svg(curves: Mapping[str, np.ndarray], ranks: int = 20) -> str:
    """CMC curves as an SVG element.

    Args:
        curves: for each name (R,) values in [0, 1], the share of queries with a match among the first r + 1.
        ranks: how far the curve is drawn.
    """
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    for name, values in curves.items():
        shown = np.asarray(values)[:ranks]
        axes.plot(np.arange(1, len(shown) + 1), 100 * shown, marker="o", markersize=3, label=name)
    axes.set_xticks([1, *range(5, ranks + 1, 5)])
    axes.set_xlabel("rank k")
    axes.set_ylabel("queries with a match\namong the first k (%)")
    axes.set_ylim(0, 102)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    return _svg(figure)


def bars_svg(counts: np.ndarray, across: str, up: str) -> str:
    """Bars at 1, 2, ... as an SVG element.

    Args:
        counts: (n,) heights.
        across: what the bars are counted by.
        up: what they count.
    """
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 2.4), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    axes.bar(np.arange(1, len(counts) + 1), counts, color="#2f5fd0")
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.grid(axis="y", alpha=0.3)
    return _svg(figure)


def map_png(points: np.ndarray, colours: np.ndarray, places: np.ndarray, thumbnails: Sequence[np.ndarray]) -> str:
    """A scatter of points with pictures in it, as a `data:` address.

    Args:
        points: (n, 2).
        colours: (n,) positive, drawn on a logarithmic scale from dark to yellow.
        places: (m, 2) where the pictures go.
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
    for place, thumbnail in zip(places, thumbnails, strict=True):
        axes.add_artist(AnnotationBbox(OffsetImage(thumbnail, zoom=0.42), tuple(place), frameon=False))
    axes.set_xlim(low[0], low[0] + span[0])
    axes.set_ylim(low[1], low[1] + span[1])
    axes.set_aspect("equal", adjustable="box")
    axes.set_axis_off()
    canvas.draw()
    return png_uri(np.asarray(canvas.buffer_rgba())[..., :3])


def _svg(figure: Any) -> str:
    buffer = io.StringIO()
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "xingaug"}):  # or every drawing would name its parts anew
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
