"""One self-contained HTML page: no script, no external address."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from xingaug.files import atomic_write

_STYLE = """
:root { color-scheme: light; --ink: #1d2430; --soft: #5b6675; --line: #dde2ea; --accent: #2f5fd0; }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); margin: 0; background: #f5f6f9; }
main { max-width: 1080px; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.8rem; margin: 0 0 .3rem; } h2 { font-size: 1.2rem; margin: 0 0 .6rem; }
section { background: #fff; border: 1px solid var(--line); border-radius: 10px; }
section { padding: 1.2rem 1.4rem; margin-top: 1.2rem; }
p { margin: .4rem 0 .8rem; max-width: 75ch; } .soft { color: var(--soft); font-size: .92rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .3rem 0; }
th, td { padding: .32rem .9rem .32rem 0; border-bottom: 1px solid var(--line); text-align: right; }
th:first-child, td:first-child { text-align: left; } th { color: var(--soft); font-weight: 600; font-size: .88rem; }
.note { border-left: 4px solid var(--accent); padding: .2rem 0 .2rem .9rem; }
.strip { display: grid; gap: .7rem 1.6rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 430px), 1fr)); }
.strip.wide { grid-template-columns: 1fr; max-width: 860px; } figure { margin: 0; }
.strip img { width: 100%; image-rendering: auto; border-radius: 4px; display: block; }
.cells { display: grid; gap: 6px; } .cells span { color: var(--soft); font-size: .78rem; text-align: center; }
.wall { display: grid; gap: 4px; grid-template-columns: repeat(auto-fill, minmax(58px, 1fr)); }
.wall img { width: 100%; border-radius: 3px; display: block; }
.wall div { text-align: center; } .wall span { color: var(--soft); font-size: .72rem; white-space: nowrap; }
.sheet { display: grid; gap: 12px 10px; grid-template-columns: repeat(auto-fill, minmax(132px, 1fr)); }
.sheet img { width: 100%; aspect-ratio: 1 / 2; object-fit: contain; background: #1b1f27; border-radius: 4px; }
.sheet span { color: var(--soft); font-size: .64rem; line-height: 1.4; display: block; overflow-wrap: anywhere; }
pre { background: #f5f6f9; border-radius: 6px; padding: .6rem .9rem; font-size: .82rem; overflow-x: auto; }
svg { max-width: 100%; height: auto; }
"""


def write_page(path: Path, title: str, lead: str, sections: Sequence[tuple[str, str]]) -> Path:
    """Writes the page.

    Args:
        path: the file, ending in .html.
        title: the page's title, plain text.
        lead: HTML below the title.
        sections: headings (plain text) and their HTML.

    Returns:
        `path`.
    """
    body = "".join(f"<section><h2>{escape(head)}</h2>{content}</section>" for head, content in sections)
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>"
        f"<body><main><h1>{escape(title)}</h1>{lead}{body}</main></body></html>\n"
    )
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of plain texts."""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def paragraph(text: str, css_class: str = "") -> str:
    """A paragraph of plain text."""
    return f'<p class="{css_class}">{escape(text)}</p>' if css_class else f"<p>{escape(text)}</p>"


def preformatted(text: str) -> str:
    """Plain text with its line breaks and spaces kept."""
    return f"<pre>{escape(text)}</pre>"


def image_rows(rows: Sequence[Sequence[str]], labels: Sequence[str], wide: bool = False) -> str:
    """Rows of images side by side, each row with labels above.

    Args:
        rows: for each row the images' `data:` URIs, as many as there are labels.
        labels: label of each column.
        wide: whether each row takes the whole page width; otherwise rows are placed side by side if there is room.
    """
    columns = f"grid-template-columns: repeat({len(labels)}, 1fr)"
    heads = "".join(f"<span>{escape(label)}</span>" for label in labels)
    figures = []
    for uris in rows:
        cells = "".join(f'<img src="{uri}" alt="{escape(label)}">' for uri, label in zip(uris, labels, strict=True))
        figures.append(f'<figure class="cells" style="{columns}">{heads}{cells}</figure>')
    return f'<div class="strip{" wide" if wide else ""}">{"".join(figures)}</div>'


def image_wall(uris: Sequence[str], alt: str, labels: Sequence[str] | None = None) -> str:
    """Many small images, with or without a label below each."""
    below = [""] * len(uris) if labels is None else [f"<span>{escape(label)}</span>" for label in labels]
    images = (f'<div><img src="{uri}" alt="{escape(alt)}">{b}</div>' for uri, b in zip(uris, below, strict=True))
    return '<div class="wall">' + "".join(images) + "</div>"


def image_sheet(uris: Sequence[str], captions: Sequence[Sequence[str]]) -> str:
    """Images large enough to judge, each with lines of plain text below."""
    cells = []
    for uri, lines in zip(uris, captions, strict=True):
        below = "".join(f"<span>{escape(line)}</span>" for line in lines)
        cells.append(f'<figure><img src="{uri}" alt="{escape(lines[0])}" loading="lazy">{below}</figure>')
    return f'<div class="sheet">{"".join(cells)}</div>'
