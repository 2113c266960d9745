import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from xingaug.config import from_mapping, load_config, override, read_yaml, to_mapping, to_yaml
from xingaug.errors import BadInput

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
QUICK = settings(max_examples=50, deadline=None)


@dataclass(frozen=True)
class Optimiser:
    lr: float = 0.1
    name: Literal["adam", "sgd"] = "adam"
    betas: tuple[float, float] = (0.9, 0.99)


@dataclass(frozen=True)
class Drawn:
    identities: int = 10
    seed: int = 0


@dataclass(frozen=True)
class Tree:
    root: Path
    within: str = "camera"

    def __post_init__(self) -> None:
        if self.within not in ("camera", "identity"):
            raise ValueError(f"within: {self.within!r}, expected camera or identity")


@dataclass(frozen=True)
class Config:
    steps: int
    data: Drawn | Tree = field(default_factory=Drawn)
    train: Optimiser = field(default_factory=Optimiser)
    flag: bool = False
    note: str | None = None
    sizes: list[int] = field(default_factory=list)
    shares: dict[str, float] = field(default_factory=dict)
    stepsize: list[int] | int = 20
    anything: Any = None


def load(tmp_path: Path, text: str, *overrides: str, cls: type = Config) -> Any:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    return load_config(cls, path, overrides)


def message(tmp_path: Path, text: str, *overrides: str) -> str:
    with pytest.raises(BadInput) as caught:
        load(tmp_path, text, *overrides)
    said = str(caught.value)
    assert "\n" not in said
    return said.replace(str(tmp_path / "c.yaml"), "FILE")


# Reading


@pytest.mark.parametrize(
    ("text", "value"),
    [("3e-4", 3e-4), ("1E3", 1000.0), ("-2e+1", -20.0), (".5e1", 5.0), ("5", 5.0), ("0.25", 0.25), ("+1.5e2", 150.0)],
)
def test_numbers(tmp_path, text, value):
    for config in (
        load(tmp_path, f"{{steps: 1, train: {{lr: {text}}}}}"),
        load(tmp_path, "steps: 1", f"train.lr={text}"),
    ):
        assert config.train.lr == value
        assert type(config.train.lr) is float


@pytest.mark.parametrize("text", ["e4", "3e", "1e-4x", "v3e-4", "'3e-4'"])
def test_what_only_looks_like_a_number_stays_text(tmp_path, text):
    assert load(tmp_path, f"{{steps: 1, note: {text}}}").note == text.strip("'")


def test_defaults_and_nested_values(tmp_path):
    config = load(
        tmp_path,
        "steps: 3\ntrain: {name: sgd, betas: [0.5, 1]}\ndata: {root: a/b}\nsizes: [1, 2]\nshares: {x: 1}\nnote: null\n",
    )
    assert config == Config(3, Tree(Path("a/b")), Optimiser(0.1, "sgd", (0.5, 1.0)), sizes=[1, 2], shares={"x": 1.0})
    assert type(config.train.betas) is tuple
    assert type(config.shares["x"]) is float


def test_unions(tmp_path):
    assert load(tmp_path, "{steps: 1, stepsize: 5}").stepsize == 5
    assert load(tmp_path, "{steps: 1, stepsize: [5, 6]}").stepsize == [5, 6]
    assert load(tmp_path, "{steps: 1, note: abc}").note == "abc"
    assert load(tmp_path, "{steps: 1, data: {seed: 4}}").data == Drawn(seed=4)
    assert load(tmp_path, "{steps: 1, anything: {a: [1]}}").anything == {"a": [1]}


def test_merge_keys_and_anchors(tmp_path):
    text = "base: &b {x: 1}\nfirst: &f {<<: *b, x: 2}\nsecond: {deep: {<<: *f, y: 3}}\n"
    path = tmp_path / "c.yaml"
    path.write_text(text)
    assert read_yaml(path) == {"base": {"x": 1}, "first": {"x": 2}, "second": {"deep": {"x": 2, "y": 3}}}


def test_empty_file_is_an_empty_mapping(tmp_path):
    assert load(tmp_path, "# nothing\n", cls=Optimiser) == Optimiser()


# Errors


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{steps: 1, trian: 2}", "FILE: unknown key 'trian'; did you mean 'train'?"),
        ("{steps: 1, train: {lrr: 2}}", "FILE: unknown key 'train.lrr'; did you mean 'lr'?"),
        ("{steps: 1, train: {zzzz: 2}}", "FILE: unknown key 'train.zzzz'; known keys: lr, name, betas"),
        ("{steps: 1, 7: 2}", "FILE: unknown key '7'; known keys: steps, data,"),
        ("flag: true", "FILE: key 'steps' is missing; expected a whole number"),
        ("{steps: 1, data: {root: 3}}", "FILE: data.root: 3 (a whole number), expected a path"),
        ("{steps: true}", "FILE: steps: True (true/false), expected a whole number"),
        ("{steps: 1.0}", "FILE: steps: 1.0 (a number), expected a whole number"),
        ("{steps: ten}", "FILE: steps: 'ten' (a string), expected a whole number"),
        ("steps:", "FILE: steps: None (nothing), expected a whole number"),
        ("{steps: 1, flag: 1}", "FILE: flag: 1 (a whole number), expected true or false"),
        ("{steps: 1, train: {lr: true}}", "FILE: train.lr: True (true/false), expected a number"),
        ("{steps: 1, train: {lr: '1'}}", "FILE: train.lr: '1' (a string), expected a number"),
        ("{steps: 1, train: 5}", "FILE: train: 5 (a whole number), expected a mapping of keys"),
        ("{steps: 1, train: {name: adm}}", "FILE: train.name: 'adm', expected one of adam, sgd"),
        ("{steps: 1, train: {name: [adam]}}", "FILE: train.name: ['adam'], expected one of adam, sgd"),
        ("{steps: 1, train: {betas: [1]}}", "FILE: train.betas: [1] (a list), expected 2 values"),
        ("{steps: 1, train: {betas: [1, x]}}", "FILE: train.betas[1]: 'x' (a string), expected a number"),
        ("{steps: 1, sizes: 3}", "FILE: sizes: 3 (a whole number), expected a list of (a whole number)"),
        ("{steps: 1, sizes: [1, 2.5]}", "FILE: sizes[1]: 2.5 (a number), expected a whole number"),
        ("{steps: 1, shares: {x: y}}", "FILE: shares.x: 'y' (a string), expected a number"),
        ("{steps: 1, shares: {1: 1}}", "FILE: shares (key): 1 (a whole number), expected a string"),
        ("{steps: 1, shares: [1]}", "FILE: shares: [1] (a list), expected a mapping"),
        (
            "{steps: 1, stepsize: a}",
            "FILE: stepsize: 'a' (a string), expected a list of (a whole number) or a whole number",
        ),
        ("{steps: 1, note: 3}", "FILE: note: 3 (a whole number), expected a string"),
        ("{steps: 1, note: 2025-02-03}", "FILE: note: datetime.date(2025, 2, 3) (a value), expected a string"),
        # Of two classes the one that is meant speaks.
        ("{steps: 1, data: {identites: 3}}", "FILE: unknown key 'data.identites'; did you mean 'identities'?"),
        ("{steps: 1, data: {root: x, wihtin: y}}", "FILE: unknown key 'data.wihtin'; did you mean 'within'?"),
        ("{steps: 1, data: {within: camera}}", "FILE: key 'data.root' is missing; expected a path"),
        ("{steps: 1, data: {root: x, within: y}}", "FILE: data: within: 'y', expected camera or identity"),
        ("{steps: 1, data: near}", "FILE: data: 'near' (a string), expected a mapping or a mapping"),
        # YAML itself.
        ("- 1", "FILE: a list at the top level; a configuration is a mapping of key: value"),
        ("steps: 1\nflag: true\nsteps: 2", "FILE: line 3: key 'steps' is given twice"),
        ("steps: 1\ntrain:\n  lr: 1\n  name: sgd\n  lr: 2", "FILE: line 5: key 'lr' is given twice"),
        ("steps: 1\ntrain: {lr: 1", "FILE: line 2: not valid YAML (expected ',' or '}'"),
        ("steps: 1\n\tflag: true", "FILE: line 2: not valid YAML"),
        ("steps: 1\n? [a, b]\n: 1", "FILE: line 2: not valid YAML (found unhashable key)"),
        (
            "steps: !!python/object/apply:os.getcwd []",
            "FILE: line 1: not valid YAML (could not determine a constructor",
        ),
        ("steps: 2025-02-30", "FILE: not valid YAML (day"),
    ],
)
def test_errors_say_what_where_and_what_would_be_right(tmp_path, text, said):
    assert message(tmp_path, text).startswith(said)


def test_unreadable_files(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "c.yaml").write_bytes(b"steps: \xff\xfe")
    (tmp_path / "large.yaml").write_bytes(b"# " * 600_000)
    for path, said in (
        (tmp_path / "none.yaml", "no such configuration"),
        (tmp_path, "is a directory; needed a regular file"),
        (tmp_path / "pipe", "is a pipe; needed a regular file"),
        (Path("/dev/zero"), "is a device; needed a regular file"),
        (tmp_path / "c.yaml", "not UTF-8 text"),
        (tmp_path / "large.yaml", "has 1 MB; needed at most 1 MB"),
    ):
        with pytest.raises(BadInput, match=f"^{path}: {said}"):
            load_config(Config, path)


BOMB = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{inner}'] * 9)}]\n" for inner, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, "FILE: line 5: more than 20000 values"),
        (BOMB.replace("[1, 1, 1", "[{<<: {x: 1}}, 1, 1"), "FILE: line 5: more than 20000 values"),
        ("anything: &a [*a]", "FILE: line 1: more than 20000 values, or an alias that holds itself"),
        ("- 1\n" * 30_000, "FILE: line 20000: more than 20000 values"),
        ("anything: " + "[" * 1000 + "]" * 1000, "FILE: line 1: nested more than 32 levels deep"),
        ("{anything: " * 1000, "FILE: line 1: nested more than 32 levels deep"),
        ("steps: " + "1" * 900_000, "FILE: line 1: a value of 900000 characters, needed at most 10000"),
        ("steps: " + "1" * 9000, "FILE: not valid YAML (Exceeds the limit"),
        ("steps: 0x" + "f" * 9000, "FILE: steps: a number of 36000 bits (a whole number), expected a whole number, of"),
        ("? 0x" + "f" * 9000 + "\n: 1", "FILE: unknown key 'a number of 36000 bits'"),
        ("{steps: 1, shares: {x: 0x" + "f" * 9000 + "}}", "FILE: shares.x: a number of 36000 bits"),
        (
            "steps: 18446744073709551616",
            "FILE: steps: 18446744073709551616 (a whole number), expected a whole number, of",
        ),
        ("{steps: 1, train: {lr: .inf}}", "FILE: train.lr: inf (a number), expected a finite number"),
        ("{steps: 1, train: {lr: .nan}}", "FILE: train.lr: nan (a number), expected a finite number"),
        (
            "{steps: 1, data: {root: ~no-such-user/x}}",
            "FILE: data.root: ~no-such-user/x: there is no home directory of",
        ),
        ("steps: !!int ''", "FILE: not valid YAML"),
        ("steps: !!float ''", "FILE: not valid YAML"),
        ("steps: !!bool x", "FILE: not valid YAML"),
        ("steps: !!timestamp x", "FILE: not valid YAML"),
        ("{steps: 1, note: [" + "x, " * 5000 + "]}", "FILE: note: ['x', 'x', 'x', 'x', 'x', 'x', ...] (a list)"),
    ],
    ids=range(20),
)
def test_what_would_hang_or_fill_memory_is_refused_in_a_short_line(tmp_path, text, said):
    result = message(tmp_path, text)
    assert result.startswith(said)
    assert len(result) < 500


def test_home_directories(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load(tmp_path, "{steps: 1, data: {root: ~/x}, note: ~/y}").data.root == tmp_path / "x"
    assert load(tmp_path, "{steps: 1, note: ~/y}").note == str(tmp_path / "y")
    assert load(tmp_path, "{steps: 1, note: a~/y}").note == "a~/y"


MARKS = st.text(st.sampled_from("ab1.e:,-[]{}&*!?|>%@'\"#~<= \n\t\0\x1b\u2028"), max_size=60)


@settings(max_examples=200, deadline=None)
@given(text=MARKS | st.text(max_size=40))
def test_any_text_is_a_configuration_or_bad_input(text):
    with suppress(BadInput):
        from_mapping(Config, override({}, [f"key={text}"]))
    with suppress(BadInput):
        from_mapping(Config, override({"steps": 1}, [f"anything={text}"]))


# Overrides


def test_overrides_descend_and_are_yaml(tmp_path):
    config = load(
        tmp_path, "{steps: 1, train: {lr: 1, name: sgd}}",
        "steps=2", "train.lr=3e-4", "data.seed=7", "sizes=[1, 2]", "note=a=b", "shares={x: 1}",
    )  # fmt: skip
    assert config.steps == 2
    assert config.train == Optimiser(3e-4, "sgd")
    assert config.data == Drawn(seed=7)
    assert (config.sizes, config.note, config.shares) == ([1, 2], "a=b", {"x": 1.0})


def test_the_last_override_counts_and_the_given_mapping_stays():
    given_mapping = {"train": {"lr": 1}}
    assert override(given_mapping, ["train.lr=2", "train.lr=3"]) == {"train": {"lr": 3}}
    assert given_mapping == {"train": {"lr": 1}}


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ("steps", "override 'steps': needed key=value, such as train.lr=3e-4"),
        ("=3", "override '=3': needed key=value"),
        ("train.lrr=3", "FILE: unknown key 'train.lrr'; did you mean 'lr'?"),
        ("steps=", "FILE: steps: None (nothing), expected a whole number"),
        ("sizes=[1", "override 'sizes=[1': line 1: not valid YAML"),
        ("shares={a: 1, a: 2}", "override 'shares={a: 1, a: 2}': line 1: key 'a' is given twice"),
    ],
)
def test_bad_overrides(tmp_path, item, said):
    assert message(tmp_path, "steps: 1", item).startswith(said)


# There and back

numbers = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=8).filter(
    lambda text: not text.startswith("~")
)
whole = st.integers(-(2**63), 2**63 - 1)
configs = st.builds(
    Config,
    steps=whole,
    data=st.builds(Drawn, whole, whole) | st.builds(Tree, texts.map(Path), st.sampled_from(["camera", "identity"])),
    train=st.builds(Optimiser, numbers, st.sampled_from(["adam", "sgd"]), st.tuples(numbers, numbers)),
    flag=st.booleans(),
    note=st.none() | texts,
    sizes=st.lists(whole, max_size=3),
    shares=st.dictionaries(texts, numbers, max_size=3),
    stepsize=whole | st.lists(whole, max_size=2),
)


@QUICK
@given(config=configs)
def test_mapping_round_trip(config):
    assert from_mapping(Config, to_mapping(config)) == config


@settings(max_examples=50, deadline=None)
@given(config=configs)
def test_yaml_round_trip(tmp_path_factory, config):
    path = tmp_path_factory.getbasetemp() / "round_trip.yaml"
    path.write_text(to_yaml(config), encoding="utf-8")
    assert load_config(Config, path) == config


def test_yaml_is_plain_and_in_the_order_of_the_fields():
    text = to_yaml(Config(1, Tree(Path("a/b"))))
    assert list(yaml.safe_load(text)) == [
        "steps",
        "data",
        "train",
        "flag",
        "note",
        "sizes",
        "shares",
        "stepsize",
        "anything",
    ]
    assert yaml.safe_load(text)["data"]["root"] == "a/b"
    assert yaml.safe_load(text)["train"]["betas"] == [0.9, 0.99]


# What is shipped


def test_every_shipped_configuration_is_of_a_known_kind():
    assert {path.name.split("_")[0] for path in CONFIGS.iterdir()} <= {"train", "reid", "compare", "estimator"}
    assert all(path.suffix == ".yaml" for path in CONFIGS.iterdir())


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("train_*.yaml")), ids=lambda path: path.stem)
def test_shipped_training_configurations_load(path):
    from xingaug.generators.xinggan_pp_config import XingGANPlusPlusConfig
    from xingaug.training.config import TrainConfig

    config = load_config(TrainConfig, path)
    assert isinstance(config.network, XingGANPlusPlusConfig)
    assert from_mapping(TrainConfig, to_mapping(config)) == config


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("reid_*.yaml")), ids=lambda path: path.stem)
def test_shipped_reid_configurations_load(path):
    from reid_integration.config import ReidConfig, load_reid_config

    assert isinstance(load_reid_config(path), ReidConfig)
    assert load_reid_config(path, ["augment=xinggan_pose"]).augmentation is not None


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("compare_*.yaml")), ids=lambda path: path.stem)
def test_shipped_comparisons_load(path):
    from reid_integration.compare import load_compare_config
    from reid_integration.config import load_reid_config

    config = load_compare_config(path)
    assert len(config.arms) >= 2
    if config.base is not None:
        load_reid_config(config.base)
