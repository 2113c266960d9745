"""Words of commands that tests type, how these are run without a process of their own, and what they leave."""

import contextlib
import importlib
import io
import runpy
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

TINY = {
    "width": 8, "blocks": 1, "candidates": 1, "decoder_widths": [8, 8], "texture_attention": 1, "query_channels": 4,
    "enhanced_width": 8,
}  # fmt: skip

SOURCE = "--generator tiny.safetensors --data world --annotations world/annotations.npz"
EVALUATE = f"evaluate {SOURCE} --pairs pairs.csv"
GENERATE = f"generate {SOURCE} --bank bank --out new"


def everything(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.rglob("*")}


def run_here(words: list[str]) -> str:
    """Runs what begins with `xingaug`, `python -m MODULE` or `python FILE`; returns what it printed.

    A dozen processes that import torch would take most of a test's time.
    """
    text, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(error), pytest.MonkeyPatch.context() as patch:
        if words[0] == "python" and words[1] != "-m":
            patch.setattr("sys.argv", words[1:])
            runpy.run_path(words[1], run_name="__main__")
            code = 0
        else:
            module, given = ("xingaug.cli", words[1:]) if words[0] == "xingaug" else (words[2], words[3:])
            code = importlib.import_module(module).main(given)
    assert code == 0, f"{' '.join(words)}\n{error.getvalue()}"
    return text.getvalue()


class NoProcesses:
    """In the place of the module `subprocess`: runs what the interpreter is started with by `run_here`."""

    PIPE = subprocess.PIPE

    @staticmethod
    def run(words: Sequence[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(words, 0, run_here(["python", *words[1:]]))
