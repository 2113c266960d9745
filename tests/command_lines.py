"""Words of commands that tests type in the folder `place`, and what they leave there."""

from pathlib import Path

TINY = {
    "width": 8, "blocks": 1, "candidates": 1, "decoder_widths": [8, 8], "texture_attention": 1, "query_channels": 4,
    "enhanced_width": 8,
}  # fmt: skip

SOURCE = "--generator tiny.safetensors --data world --annotations world/annotations.npz"
EVALUATE = f"evaluate {SOURCE} --pairs pairs.csv"
GENERATE = f"generate {SOURCE} --bank bank --out new"


def everything(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.rglob("*")}
