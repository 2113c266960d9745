"""torchreid's key tree with `augment`, and the compat module."""

import sys
import warnings
from pathlib import Path

import gdown
import pytest
import torch

from reid_integration import compat
from reid_integration.compare import cell_configs, load_compare_config
from reid_integration.config import AugmentConfig, ReidConfig, load_reid_config, reid_config
from xingaug.config import to_mapping
from xingaug.errors import BadInput, WorkFailed

CONFIGS = Path(__file__).parent.parent / "configs"

# torchreid 1.4.0, scripts/default_config.py
DEFAULTS = {
    "model": {"name": "resnet50", "pretrained": True, "load_weights": "", "resume": ""},
    "data": {
        "type": "image", "root": "reid-data", "sources": ["market1501"], "targets": ["market1501"], "workers": 4,
        "split_id": 0, "height": 256, "width": 128, "combineall": False, "transforms": ["random_flip"], "k_tfm": 1,
        "norm_mean": [0.485, 0.456, 0.406], "norm_std": [0.229, 0.224, 0.225], "save_dir": "log",
        "load_train_targets": False,
    },
    "market1501": {"use_500k_distractors": False},
    "cuhk03": {"labeled_images": False, "classic_split": False, "use_metric_cuhk03": False},
    "sampler": {
        "train_sampler": "RandomSampler", "train_sampler_t": "RandomSampler", "num_instances": 4, "num_cams": 1,
        "num_datasets": 1,
    },
    "video": {"seq_len": 15, "sample_method": "evenly", "pooling_method": "avg"},
    "train": {
        "optim": "adam", "lr": 0.0003, "weight_decay": 5e-4, "max_epoch": 60, "start_epoch": 0, "batch_size": 32,
        "fixbase_epoch": 0, "open_layers": ["classifier"], "staged_lr": False, "new_layers": ["classifier"],
        "base_lr_mult": 0.1, "lr_scheduler": "single_step", "stepsize": [20], "gamma": 0.1, "print_freq": 20, "seed": 1,
    },
    "sgd": {"momentum": 0.9, "dampening": 0.0, "nesterov": False},
    "rmsprop": {"alpha": 0.99},
    "adam": {"beta1": 0.9, "beta2": 0.999},
    "loss": {
        "name": "softmax", "softmax": {"label_smooth": True},
        "triplet": {"margin": 0.3, "weight_t": 1.0, "weight_x": 0.0},
    },
    "test": {
        "batch_size": 100, "dist_metric": "euclidean", "normalize_feature": False, "ranks": [1, 5, 10, 20],
        "evaluate": False, "eval_freq": -1, "start_eval": 0, "rerank": False, "visrank": False, "visrank_topk": 10,
    },
}  # fmt: skip


def test_tree_and_defaults_are_torchreids():
    ours = to_mapping(ReidConfig())
    assert (ours.pop("augment"), ours.pop("use_gpu"), ours["train"].pop("max_iterations")) == (None, None, None)
    assert ours["sampler"].pop("synthetic_share") is None
    assert (ours["train"].pop("precision"), ours["train"].pop("checkpoint_minutes")) == ("float32", 5.0)
    assert (ours["train"].pop("warmup_iterations"), ours["train"].pop("ema"), ours["test"].pop("poses")) == (0, 0, 0)
    assert (ours["model"].pop("neck"), ours["model"].pop("last_stride")) == (False, 2)
    assert ours == DEFAULTS
    assert reid_config(DEFAULTS) == ReidConfig()


def test_resolved_configuration_reads_back():
    config = reid_config({"augment": {"name": "xinggan_pose", "p": 0.3}, "data": {"sources": "world"}})
    assert reid_config(to_mapping(config)) == config


def test_augment_forms():
    assert reid_config({}).augmentation is None
    assert reid_config({"augment": None}).augmentation is None
    assert reid_config({"augment": "xinggan_pose"}).augmentation == AugmentConfig()
    chosen = reid_config({"augment": {"p": 0.25, "mode": "append"}, "train": {"seed": 7}})
    assert chosen.augmentation == AugmentConfig(p=0.25, mode="append")
    assert chosen.draw_seed == 7
    assert reid_config({"augment": {"seed": 3}, "train": {"seed": 7}}).draw_seed == 3


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"data": {"transfroms": []}}, "unknown key 'data.transfroms'; did you mean 'transforms'?"),
        ({"augmnet": "xinggan_pose"}, "unknown key 'augmnet'; did you mean 'augment'?"),
        ({"augment": {"smapler": "near"}}, "unknown key 'augment.smapler'; did you mean 'sampler'?"),
        ({"augment": "xingan_pose"}, "augment: 'xingan_pose', expected xinggan_pose"),
        ({"augment": {"name": "xinggan"}}, "augment.name: 'xinggan', expected one of xinggan_pose"),
        ({"augment": {"p": 1.5}}, "augment: p: 1.5, needed a number from 0 to 1"),
        (
            {"augment": {"start_epoch": 3, "stop_epoch": 2}},
            "stop_epoch: 2, needed null, or a number not below start_epoch",
        ),
        ({"augment": {"gate": {"min_identity": 0.6}}}, "min_identity: 0.6, is a cosine of `features`"),
        ({"augment": {"start_epoch": 60}}, "augment.start_epoch: 60, is after all epochs of train.max_epoch: 60"),
        (
            {
                "loss": {"name": "triplet"},
                "train": {"batch_size": 4},
                "sampler": {"train_sampler": "RandomIdentitySampler"},
            },
            "train.batch_size: 4, holds one identity of sampler.num_instances: 4; the triplet loss needs two",
        ),
        ({"data": {"transforms": ["random_flip", "xinggan_pose"]}}, "write `augment: xinggan_pose` at the top level"),
        ({"data": {"transforms": ["random_flpi"]}}, "unknown 'random_flpi'; known: random_flip, random_crop"),
        ({"data": {"type": "video"}}, "only image models are supported"),
        ({"data": {"k_tfm": 2}}, "k_tfm: 2"),
        ({"train": {"lr": "fast"}}, "train.lr: 'fast' (a string), expected a number"),
        ({"train": {"batch_size": 1}}, "batch_size: 1"),
        ({"train": {"optim": "lion"}}, "train.optim: 'lion', expected one of adam"),
        ({"train": {"max_iterations": 0}}, "max_iterations: 0, needed a number from 1"),
        ({"train": {"stepsize": 0}}, "stepsize: 0, needed ascending numbers of epochs"),
        ({"train": {"stepsize": [20, 10], "lr_scheduler": "multi_step"}}, "stepsize: [20, 10], needed ascending"),
        (
            {"train": {"seed": 2**64}},
            "18446744073709551616 (a whole number), expected a whole number, of 64 bits",
        ),
        ({"train": {"lr": float("nan")}}, "train.lr: nan (a number), expected a finite number"),
        ({"train": {"weight_decay": float("inf")}}, "train.weight_decay: inf (a number), expected a finite number"),
        ({"train": {"ema": 1}}, "ema: 1.0, needed from 0 to below 1"),
        (
            {"train": {"max_epoch": 10**30}},
            "(a whole number), expected a whole number, of 64 bits",
        ),
        ({"data": {"height": 1}}, "height: 1, needed a number from 16 to 2048"),
        ({"data": {"width": 10**9}}, "width: 1000000000, needed a number from 16 to 2048"),
        ({"data": {"norm_std": [1, 0, 1]}}, "norm_std: [1.0, 0.0, 1.0], needed numbers above 0"),
        ({"data": {"norm_mean": [float("nan"), 0, 0]}}, "data.norm_mean[0]: nan (a number), expected a finite number"),
        ({"data": {"height": 2048, "width": 2048}, "train": {"batch_size": 6000}}, "fill the memory; needed at most"),
        ({"sgd": {"nesterov": True, "momentum": 0}}, "nesterov: needed momentum above 0"),
        (
            {"loss": {"triplet": {"margin": float("nan")}}},
            "triplet.margin: nan (a number), expected a finite number",
        ),
        ({"test": {"ranks": [0]}}, "ranks: [0], needed numbers from 1"),
        ({"test": {"poses": 4}}, "test.poses: 4, needed `augment` too"),
        ({"augment": {"weight": float("inf")}}, "augment.weight: inf (a number), expected a finite number"),
        ({"model": {"resume": "x.pth"}}, "model.resume: 'x.pth' cannot be honoured"),
        ({"cuhk03": {"labeled_images": True}}, "cuhk03.labeled_images: True cannot be honoured (use a YAML file with"),
        ({"cuhk03": {"classic_split": True}}, "cuhk03.classic_split: True cannot be honoured"),
        ({"data": {"split_id": 3}}, "data.split_id: 3 cannot be honoured"),
        ({"test": {"visrank_topk": 0}}, "visrank_topk: 0, needed a number from 1"),
    ],
)
def test_bad_settings_are_one_clear_line(mapping, message):
    with pytest.raises(BadInput) as caught:
        reid_config(mapping, "my.yaml")
    assert message in str(caught.value)
    assert str(caught.value).startswith("my.yaml: ")
    assert "\n" not in str(caught.value)


def test_overrides(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("model: {name: osnet_x0_25}\n")
    config = load_reid_config(path, ["train.lr=3e-4", "augment=xinggan_pose", "data.sources=[a, b]"])
    assert (config.model.name, config.train.lr, config.data.sources) == ("osnet_x0_25", 3e-4, ["a", "b"])
    assert config.augmentation == AugmentConfig()
    assert load_reid_config(path, ["augment.p=0"]).augmentation == AugmentConfig(p=0)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("reid_*.yaml")), ids=lambda p: p.stem)
def test_shipped_configurations_load(path):
    assert load_reid_config(path).data.sources


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("compare_*.yaml")), ids=lambda p: p.stem)
def test_shipped_comparisons_load(path):
    config = load_compare_config(path)
    cells = cell_configs(config)
    assert len(cells) == len(config.arms) * len(config.cuts) * len(config.seeds)
    assert {cell.train.max_iterations for cell in cells.values()} == {config.iterations}
    first = (config.cuts[0], config.seeds[0])
    assert "real" in config.arms
    assert any("augment" in changes for changes in config.arms.values())
    for arm, changes in config.arms.items():
        assert (cells[arm, *first].augmentation is not None) == ("augment" in changes)
    for arm in set(config.arms) & {"offline", "duplicates", "oracle"}:
        assert cells[arm, *first].sampler.synthetic_share == 0.5


def test_torchreid_is_found_where_it_is_installed():
    torchreid = compat.load_torchreid()
    assert callable(torchreid.data.ImageDataManager)
    assert callable(torchreid.engine.ImageSoftmaxEngine)


@pytest.fixture
def stand_in_package(tmp_path, monkeypatch):
    """Makes `import torchreid` find a package of our making."""
    for name in [name for name in sys.modules if name.split(".")[0] == "torchreid"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(compat, "load_torchreid", compat.load_torchreid.__wrapped__)

    def write(files):
        for name, text in files.items():
            path = tmp_path / "torchreid" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    yield write
    for name in [name for name in sys.modules if name.split(".")[0] == "torchreid"]:
        sys.modules.pop(name)


def test_upstream_layout_is_found(stand_in_package):
    stand_in_package({"__init__.py": "import warnings\nwarnings.warn('no cython')\nplace = 'root'\n"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert compat.load_torchreid().place == "root"


def test_packaged_layout_is_found(stand_in_package):
    stand_in_package({"__init__.py": "", "reid/__init__.py": "place = 'reid'\n"})
    assert compat.load_torchreid().place == "reid"


def test_a_missing_dependency_is_one_line(stand_in_package):
    stand_in_package({"__init__.py": "import a_module_that_is_not_there\n"})
    with pytest.raises(WorkFailed, match=r"torchreid cannot be imported .*a_module_that_is_not_there"):
        compat.load_torchreid()


def test_nothing_is_downloaded(monkeypatch):
    before = gdown.download, torch.hub.download_url_to_file
    with compat.without_downloads():
        for fetch in (gdown.download, torch.hub.download_url_to_file):
            with pytest.raises(BadInput, match=r"model.pretrained: cache/weights.pth is not there"):
                fetch("https://example.org/weights.pth", "cache/weights.pth")
    assert before == (gdown.download, torch.hub.download_url_to_file)


@pytest.mark.parametrize(
    "words",
    ["train.seed=-1", "train.print_freq=0", "train.lr=-1", "adam.beta1=2", "test.ranks=[]", "test.ranks=[0]",
     "test.batch_size=0", "sampler.num_instances=0", "augment={seed: -1}"],
)  # fmt: skip
def test_values_outside_their_range_are_refused(words, tmp_path):
    (tmp_path / "c.yaml").write_text("model: {pretrained: false}\n")
    with pytest.raises(BadInput, match="needed"):
        load_reid_config(tmp_path / "c.yaml", [words])
