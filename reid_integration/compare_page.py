"""The page and the plots of a comparison."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xingaug.files import atomic_write
from xingaug.report.page import paragraph, table, write_page

NAMES = {"mAP": "mAP", "rank1": "Rank-1", "rank5": "Rank-5", "rank10": "Rank-10", "mINP": "mINP"}


def write_compare_page(out: Path, data: Mapping[str, Any], iterations: int) -> Path:
    """Writes report.html, mAP.svg and rank1.svg.

    Args:
        out: folder of the comparison.
        data: `ComparisonResult.to_mapping`.
        iterations: of every cell.
    """
    plots = {key: plot_svg(data, key) for key in ("mAP", "rank1")}
    for key, svg in plots.items():
        with atomic_write(out / f"{key}.svg") as path:
            path.write_text(svg, encoding="utf-8")
    seeds = len(data["seeds"])
    lead = paragraph(
        f"Every cell trained for {iterations} iterations, {seeds} seed{'s' * (seeds != 1)}; evaluated on the real "
        "images of the first target.",
        "soft",
    )
    head = ["arm", "images", *NAMES.values()]
    rows = [[row["arm"], f"{row['share']:.0%}", *(_with_spread(row[key]) for key in NAMES)] for row in data["summary"]]
    gains = [
        [f"{row['arm']} - {row['against']}", f"{row['share']:.0%}", *(_gain(row[key]) for key in NAMES)]
        for row in data["differences"]
    ]
    sections = [("Mean and deviation", table(head, rows) + plots["mAP"] + plots["rank1"])]
    if gains:
        text = "Percentage points, seed by seed; in brackets the 95 % interval of the mean (Student's t)."
        sections.append(("Differences", paragraph(text, "soft") + table(["", *head[1:]], gains)))
    costs = [
        [cell["arm"], f"{cell['share']:.0%}", str(cell["seed"]), str(cell["images"]), f"{cell['synthetic_share']:.0%}",
         f"{cell['train_seconds']:.0f} s"] for cell in data["cells"]
    ]  # fmt: skip
    sections.append(("Cells", table(["arm", "images", "seed", "training images", "synthetic rows", "training"], costs)))
    return write_page(out / "report.html", "Re-ID with and without synthesised poses", lead, sections)


def plot_svg(data: Mapping[str, Any], key: str) -> str:
    """A figure by arm, or over the shares with a line for each arm, with 95 % intervals where there are seeds.

    Args:
        data: `ComparisonResult.to_mapping`.
        key: which figure.

    Returns:
        An SVG element.
    """
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.4), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    for number, arm in enumerate(data["arms"]):
        rows = [row for row in data["summary"] if row["arm"] == arm]
        means = [100 * row[key]["mean"] for row in rows]
        errors = [0 if row[key]["low"] is None else 100 * (row[key]["high"] - row[key]["mean"]) for row in rows]
        if len(rows) > 1:
            axes.errorbar([100 * row["share"] for row in rows], means, errors, marker="o", capsize=3, label=arm)
        else:
            axes.errorbar([number], means, errors, marker="o", capsize=4, linestyle="none")
    if len(data["shares"]) > 1:
        axes.set_xlabel("images of each identity, %")
        axes.legend(frameon=False)
    else:
        axes.set_xticks(range(len(data["arms"])), data["arms"])
    axes.set_ylabel(f"{NAMES[key]}, %")
    axes.spines[["top", "right"]].set_visible(False)
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def _with_spread(values: Mapping[str, float | None]) -> str:
    mean = f"{100 * (values['mean'] or 0):.1f}"
    return mean if values["std"] is None else f"{mean} ± {100 * values['std']:.1f}"


def _gain(values: Mapping[str, float | None]) -> str:
    mean = f"{100 * (values['mean'] or 0):+.1f}"
    if values["low"] is None or values["high"] is None:
        return mean
    return f"{mean} ({100 * values['low']:+.1f} to {100 * values['high']:+.1f})"
