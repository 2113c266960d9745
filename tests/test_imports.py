"""Which module may import which, and what is imported when."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# From the ground up: a module imports from its own room and from those in lower lines.
LEVELS = (
    ("xingaug",),  # the package itself: its version, and names that it hands on when asked
    ("xingaug.errors",),
    ("xingaug.files", "xingaug.inputs", "xingaug.progress"),
    ("xingaug.download",),
    ("xingaug.keypoints", "xingaug.config", "xingaug.programs", "xingaug.tensors", "xingaug.stats"),
    ("xingaug.runs",),
    ("xingaug.images",),
    ("xingaug.data", "xingaug.generators"),
    ("xingaug.poses",),
    ("xingaug.training", "xingaug.augment"),
    ("xingaug.report",),
    ("xingaug.offline",),
    ("xingaug.bench", "xingaug.demo", "xingaug.augmenting"),
    ("xingaug.commands",),
    ("xingaug.cli",),
    ("xingaug.__main__",),
    ("reid_integration",),
    ("examples",),
)
LEVEL_OF = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
LATE_ONLY = (
    "torchreid", "albumentations", "faiss", "matplotlib", "ray", "scipy", "torchmetrics", "torch_fidelity",
    "skimage", "sklearn", "onnx", "onnxscript", "onnxruntime",
)  # fmt: skip


def modules() -> Iterator[tuple[str, Path]]:
    for package in ("xingaug", "reid_integration", "examples"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


MODULES = dict(modules())


def room_of(module: str) -> str:
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "xingaug" else parts[0]


def imports_of(module: str, source: str, is_package: bool) -> list[str]:
    """Modules that a source imports anywhere, also inside functions; not what only a type checker reads."""
    found: list[str] = []
    package = module if is_package else module.rpartition(".")[0]

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return
        if isinstance(node, ast.Import):
            found.extend(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            for alias in node.names:
                # `from xingaug import keypoints` is an import of a module, `from xingaug import __version__` is not.
                inner = f"{base}.{alias.name}"
                found.append(inner if inner in MODULES else base)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(source))
    return found


def violations(module: str, source: str, is_package: bool = False) -> list[str]:
    """Imports that go up or sideways."""
    mine = room_of(module)
    bad = []
    for imported in imports_of(module, source, is_package):
        room = room_of(imported)
        if imported.split(".")[0] in ("xingaug", "reid_integration", "examples") and room != mine:
            if room not in LEVEL_OF:
                bad.append(f"{module} imports {imported}, which stands in no level")
            elif LEVEL_OF[room] >= LEVEL_OF[mine]:
                bad.append(f"{module} imports {imported}, which stands beside or above it")
        elif mine.startswith("xingaug") and imported.split(".")[0] == "torchreid":
            bad.append(f"{module} imports torchreid")
    return bad


def test_every_room_has_its_level():
    assert {room_of(module) for module in MODULES} - set(LEVEL_OF) == set()
    assert len(MODULES) > 40


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_one_way(module):
    path = MODULES[module]
    assert violations(module, path.read_text(encoding="utf-8"), path.name == "__init__.py") == []


@pytest.mark.parametrize(
    ("module", "source", "said"),
    [
        ("xingaug.keypoints", "import xingaug.poses.bank", "xingaug.poses.bank, which stands beside or above it"),
        (
            "xingaug.poses.bank",
            "def f():\n    from xingaug.training.quality import measure",
            "xingaug.training.quality",
        ),
        ("xingaug.generators.store", "from xingaug.data import annotations", "xingaug.data.annotations"),
        ("xingaug.augment.batch", "from ..training import loop", "xingaug.training.loop"),
        ("xingaug.demo", "from reid_integration.compare import run", "reid_integration.compare"),
        ("xingaug.offline.plan", "import torchreid.data", "imports torchreid"),
        ("xingaug.report.page", "import xingaug.newroom", "stands in no level"),
        ("reid_integration.train", "import examples.x", "examples.x"),
        ("xingaug.poses.bank", "from xingaug.keypoints import JOINTS\nfrom .draws import x\nimport torch", None),
        ("reid_integration.train", "import torchreid\nfrom xingaug.offline.generate import generate", None),
    ],
)
def test_the_walk_finds_what_it_looks_for(module, source, said):
    found = violations(module, source)
    assert (found == []) if said is None else (len(found) == 1 and said in found[0])


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("xingaug")])
def test_heavy_packages_are_imported_where_they_are_used(module):
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {
        name.split(".")[0]
        for node in top
        for name in ([a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""])
    }
    if module == "xingaug.augment.for_albumentations":  # which is nothing without it
        names.discard("albumentations")
    assert names & set(LATE_ONLY) == set()
    if not module.startswith("xingaug.data.pedestrians"):  # which draws with OpenCV and does nothing else
        assert "cv2" not in names


def run_python(source: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return done


def test_import_and_help_are_light():
    done = run_python(
        "import json, sys, xingaug\n"
        "assert 'XingPose' in dir(xingaug)\n"
        "after_import = sorted(sys.modules)\n"
        "from xingaug.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "print(json.dumps([after_import, sorted(sys.modules)]), file=sys.stderr)\n"
    )
    assert "world" in done.stdout
    for loaded in json.loads(done.stderr):
        assert "xingaug" in loaded
        assert set(loaded) & {"torch", "cv2", "numpy", "PIL"} == set()


def test_generator_training_bank_and_transform_need_torch_alone():
    blocked = (*LATE_ONLY, "cv2")
    run_python(
        "import importlib, sys\n"
        f"sys.modules.update(dict.fromkeys({blocked!r}))\n"
        "for name in ('generators.xinggan_pp', 'generators.store', 'training.loop', 'poses.bank', 'poses.samplers',\n"
        "             'poses.collect', 'augment.transform', 'augment.loader', 'augment.batch',\n"
        "             'augment.for_torchvision'):\n"
        "    importlib.import_module('xingaug.' + name)\n"
    )


def test_names_of_the_contract_are_handed_on():
    import xingaug
    from xingaug.keypoints import Keypoints

    assert xingaug.Keypoints is Keypoints
    for name in xingaug.__all__:
        assert getattr(xingaug, name) is not None
    assert xingaug.generators.XingGANPlusPlus.__name__ == "XingGANPlusPlus"
    assert set(xingaug.__all__) <= set(dir(xingaug))
    for module in (xingaug, xingaug.generators):
        with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
            module.nothing  # noqa: B018
