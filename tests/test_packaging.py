"""What the wheel holds, and what the pins promise."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from safetensors import safe_open

from xingaug.generators.store import WEIGHTS

ROOT = Path(__file__).resolve().parent.parent


def test_wheel_holds_weights_configs_and_types(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("xingaug", "reid_integration", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    build = f"import setuptools.build_meta as b; b.build_wheel({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("xingaug-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for wanted in ("xingaug/weights/pedestrians-small.safetensors", "xingaug/weights/pedestrians-small.json",
                   "xingaug/weights/market1501-small.safetensors", "xingaug/weights/market1501-small.md",
                   "xingaug/weights/market1501-patn.safetensors", "xingaug/weights/market1501-patn.md",
                   "xingaug/weights/market1501-augment.safetensors", "xingaug/weights/market1501-augment.md",
                   "xingaug/py.typed", "reid_integration/train.py", "xingaug/data/pedestrians/world.py"):  # fmt: skip
        assert wanted in names
    for config in (ROOT / "configs").glob("*.yaml"):
        assert any(name.endswith(f"share/xingaug/configs/{config.name}") for name in names), config.name
    assert any(name.endswith("LICENSE") for name in names)
    assert not any(name.startswith("tests") for name in names)


def strings_in(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from strings_in(inner)


def test_weights_name_no_folder_of_the_machine_that_made_them() -> None:
    told = {path: json.loads(path.read_text()) for path in WEIGHTS.rglob("*.json")}
    for path in WEIGHTS.rglob("*.safetensors"):
        with safe_open(path, "np") as file:
            told[path] = {name: json.loads(text) for name, text in (file.metadata() or {}).items()}
    assert len(told) > len(list(WEIGHTS.rglob("*.safetensors"))) > 0
    for path, description in told.items():
        absolute = [text for text in strings_in(description) if re.match(r"[/\\~]|[A-Za-z]:[/\\]", text)]
        assert not absolute, path.name


def test_pins_name_no_address_and_satisfy_the_project() -> None:
    from packaging.requirements import Requirement

    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert not any("://" in line or "@" in line or line.startswith("-") for line in lines)
    pins = {requirement.name.lower(): requirement for requirement in map(Requirement, lines)}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(r for extra in project["optional-dependencies"].values() for r in extra)]
    for text in wanted:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        (pin,) = (specifier.version for specifier in pins[requirement.name.lower()].specifier)
        assert requirement.specifier.contains(pin), text
    assert str(Requirement(next(d for d in project["dependencies"] if d.startswith("torch>"))).specifier) == ">=2.6"
