"""The page and the plots of a comparison."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reid_integration.arms import Cut
from reid_integration.comparison import HELD_OUT
from xingaug.files import atomic_write
from xingaug.report.page import paragraph, table, write_page

NAMES = {"mAP": "mAP", "rank1": "Rank-1", "rank5": "Rank-5", "rank10": "Rank-10", "mINP": "mINP"}


def write_compare_page(out: Path, data: Mapping[str, Any]) -> Path:
    """Writes report.html, mAP.svg and rank1.svg.

    Args:
        out: folder of the comparison.
        data: `ComparisonResult.to_mapping`.
    """
    plots = {key: plot_svg(data, key) for key in ("mAP", "rank1")}
    for key, svg in plots.items():
        with atomic_write(out / f"{key}.svg") as path:
            path.write_text(svg, encoding="utf-8")
    tested = paragraph(HELD_OUT) if data["validation"] else ""
    mixed = "".join(paragraph(sentence) for sentence in data["mixed"])
    lead = paragraph(answer(data)) + tested + mixed + plots["mAP"] + paragraph(cost(data))
    seeds = len(data["seeds"])
    missing = f" {data['missing']} cells are not finished yet." if data["missing"] else ""
    about = paragraph(
        f"Every cell trained for {data['iterations']} iterations, up to {seeds} seed{'s' * (seeds != 1)}; evaluated on "
        f"the real images of {'the held-out identities' if tested else 'the first target'}.{missing}",
        "soft",
    )
    head = ["arm", "training images", "seeds", *NAMES.values()]
    rows = [
        [row["arm"], _label(row), str(row["seeds"]), *(_with_spread(row[key]) for key in NAMES)]
        for row in data["summary"]
    ]
    gains = [
        [f"{row['arm']} - {row['against']}", _label(row), str(row["seeds"]), *(_gain(row[key]) for key in NAMES)]
        for row in data["differences"]
    ]
    sections = [("Mean and deviation", about + table(head, rows) + plots["rank1"])]
    if gains:
        text = "Percentage points, seed by seed; in brackets the 95 % interval of the mean (Student's t)."
        sections.append(("Differences", paragraph(text, "soft") + table(["", *head[1:]], gains)))
    costs = [
        [cell["arm"], _label(cell), str(cell["seed"]), str(cell["images"]), f"{cell['synthetic_share']:.0%}",
         f"{cell['train_seconds']:.0f} s", f"{cell['evaluation_seconds']:.0f} s", cell["machine"]]
        for cell in data["cells"]
    ]  # fmt: skip
    columns = ["arm", "of", "seed", "training images", "synthetic rows", "training", "evaluation", "machine"]
    sections.append(("Cells", table(columns, costs)))
    return write_page(out / "report.html", "Re-ID with and without synthesised poses", lead, sections)


def answer(data: Mapping[str, Any]) -> str:
    """The result in one sentence: the headline arm against the first control, on the first cut."""
    arm, control = data["headline"], data["controls"][0]
    if arm == control:
        return f"{arm} is the only arm, so there is nothing to compare it with."
    found = [row for row in data["differences"] if row["arm"] == arm and row["against"] == control]
    if not found:
        return f"{arm} and {control} have no finished cells in common yet, so there is no answer."
    row = found[0]
    gain, means = row["mAP"], {name: 100 * mean for name, mean in row["mean_mAP"].items()}  # of the seeds of both
    compared = (
        f"with {_label(row)}, {arm} reaches an mAP of {means[arm]:.1f} % and {control} one of {means[control]:.1f} %"
    )
    if gain["low"] is None:
        return f"{compared[0].upper()}{compared[1:]}, of a single seed each, too few to rule out chance."
    within = f"{_gain(gain)} points over {row['seeds']} seeds"
    if gain["low"] > 0:
        return f"Synthesised poses help: {compared}: {within}."
    if gain["high"] < 0:
        return f"Synthesised poses harm: {compared}: {within}."
    return f"No significant difference: {compared}: {within}."


def cost(data: Mapping[str, Any]) -> str:
    """The training time in one sentence."""
    arm, control = data["headline"], data["controls"][0]
    seconds = {row["arm"]: row["train_seconds"] for row in reversed(data["summary"])}
    total = sum(cell["train_seconds"] + cell["evaluation_seconds"] for cell in data["cells"]) / 3600
    machines = ", ".join(sorted({cell["machine"] for cell in data["cells"]}))
    ratio = ""
    if seconds.get(control) and arm in seconds:
        ratio = f"a training of {arm} takes {seconds[arm] / seconds[control]:.2f} times as long as one of {control}; "
    text = f"{ratio}{len(data['cells'])} cells took {total:.1f} hours on {machines}."
    return f"What it cost: {text}"


def plot_svg(data: Mapping[str, Any], key: str) -> str:
    """Plots a figure by arm, or by cut and arm if there are several cuts, with 95 % intervals if there are seeds.

    Args:
        data: `ComparisonResult.to_mapping`.
        key: name of the figure.

    Returns:
        An SVG element.
    """
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.4), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    cuts = [_shares(cut) for cut in _cuts(data)]
    for number, arm in enumerate(data["arms"]):
        rows = [row for row in data["summary"] if row["arm"] == arm]
        means = [100 * row[key]["mean"] for row in rows]
        errors = [0 if row[key]["low"] is None else 100 * (row[key]["high"] - row[key]["mean"]) for row in rows]
        if len(cuts) > 1:  # side by side, because intervals would overlap
            aside = 0.6 * (number + 0.5) / len(data["arms"]) - 0.3
            x = [cuts.index(_shares(row)) + aside for row in rows]
            axes.errorbar(x, means, errors, marker="o", capsize=3, linestyle="none", label=arm)
        else:
            axes.errorbar([number] * len(rows), means, errors, marker="o", capsize=4, linestyle="none")
    if len(cuts) > 1:
        axes.set_xticks(range(len(cuts)), [Cut(*place).label for place in cuts])
        axes.legend(frameon=False)
    else:
        crowded = len(data["arms"]) > 8
        axes.set_xticks(range(len(data["arms"])), data["arms"], rotation=30 if crowded else 0)
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, 0), min(high, 100))  # Student's interval of two seeds may be wider than any share
    axes.set_ylabel(f"{NAMES[key]}, %")
    axes.spines[["top", "right"]].set_visible(False)
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def _cuts(data: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [{"share": cut["images"], "identity_share": cut["identities"]} for cut in data["cuts"]]


def _shares(row: Mapping[str, Any]) -> tuple[float, float]:
    return row["share"], row["identity_share"]


def _label(row: Mapping[str, Any]) -> str:
    return Cut(*_shares(row)).label


def _with_spread(values: Mapping[str, float | None]) -> str:
    mean = f"{100 * (values['mean'] or 0):.1f}"
    return mean if values["std"] is None else f"{mean} ± {100 * values['std']:.1f}"


def _gain(values: Mapping[str, float | None]) -> str:
    mean = f"{100 * (values['mean'] or 0):+.1f}"
    if values["low"] is None or values["high"] is None:
        return mean
    return f"{mean} ({100 * values['low']:+.1f} to {100 * values['high']:+.1f})"
