"""torchreid's key tree as typed classes, plus `augment:`.

Keys and defaults are those of torchreid's `scripts/default_config.py` (1.4.0), which the package 0.2.5 does not ship.
Keys of ours: `augment`, `train.max_iterations`, `use_gpu: null`. A setting that torchreid accepts and this package
would not honour is refused with a reason; `video` is accepted, because complete torchreid files have it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from xingaug.augment.gate import GateConfig
from xingaug.config import from_mapping, override, read_yaml
from xingaug.errors import BadInput

TRANSFORMS = ("random_flip", "random_crop", "random_patch", "color_jitter", "random_erase")
"""Transforms that torchreid knows; it ignores every other name in silence."""


def listed(names: list[str] | str) -> list[str]:
    """Several names; torchreid takes a single one as a string too."""
    return [names] if isinstance(names, str) else list(names)


@dataclass(frozen=True)
class ModelConfig:
    """`model`."""

    name: str = "resnet50"
    pretrained: bool = True  # ImageNet weights from torch's cache; nothing is downloaded
    load_weights: str = ""  # .safetensors or .pth to start from
    resume: str = ""


@dataclass(frozen=True)
class DataConfig:
    """`data`; a source or target is a folder below `root` in a known layout, or a YAML file that describes one."""

    type: str = "image"
    root: str = "reid-data"
    sources: list[str] | str = field(default_factory=lambda: ["market1501"])
    targets: list[str] | str = field(default_factory=lambda: ["market1501"])
    workers: int = 4
    split_id: int = 0
    height: int = 256  # pixels
    width: int = 128  # pixels
    combineall: bool = False
    transforms: list[str] | str = field(default_factory=lambda: ["random_flip"])
    k_tfm: int = 1
    norm_mean: list[float] = field(default_factory=lambda: [0.485, 0.456, 0.406])
    norm_std: list[float] = field(default_factory=lambda: [0.229, 0.224, 0.225])
    save_dir: str = "log"
    load_train_targets: bool = False

    def __post_init__(self) -> None:
        """Checks what torchreid would pass over."""
        if self.type != "image":
            raise ValueError(f"type: '{self.type}'; only image models are supported, needed 'image'")
        for transform in listed(self.transforms):
            if transform == "xinggan_pose":
                raise ValueError(
                    "transforms: 'xinggan_pose' works on batches; write `augment: xinggan_pose` at the top level"
                )
            if transform not in TRANSFORMS:
                raise ValueError(f"transforms: unknown '{transform}'; known: {', '.join(TRANSFORMS)}")
        for name in ("sources", "targets"):
            folders = listed(getattr(self, name))
            if len(set(folders)) < len(folders):
                raise ValueError(f"{name}: {folders}, needed each once")
        if self.k_tfm != 1:
            raise ValueError(f"k_tfm: {self.k_tfm}; torchreid's engines take one view of each image, needed 1")
        if min(self.height, self.width) < 1 or self.workers < 0 or not self.sources or not self.targets:
            raise ValueError("needed height and width from 1, workers from 0, and at least one source and target")
        if len(self.norm_mean) != 3 or len(self.norm_std) != 3 or min(self.norm_std) <= 0:
            raise ValueError("norm_mean, norm_std: needed three numbers each, those of norm_std above 0")


@dataclass(frozen=True)
class Market1501Config:
    """`market1501`."""

    use_500k_distractors: bool = False


@dataclass(frozen=True)
class Cuhk03Config:
    """`cuhk03`; without meaning for other datasets."""

    labeled_images: bool = False
    classic_split: bool = False
    use_metric_cuhk03: bool = False


@dataclass(frozen=True)
class SamplerConfig:
    """`sampler`."""

    train_sampler: Literal[
        "RandomSampler", "SequentialSampler", "RandomIdentitySampler", "RandomDomainSampler", "RandomDatasetSampler"
    ] = "RandomSampler"
    train_sampler_t: str = "RandomSampler"
    num_instances: int = 4  # images of an identity in a batch, for RandomIdentitySampler
    num_cams: int = 1  # cameras in a batch, for RandomDomainSampler
    num_datasets: int = 1  # dataset ids in a batch, for RandomDatasetSampler
    # Ours: share of the rows that are images marked as synthetic in their names, drawn with replacement, whatever
    # their number beside the real ones; null draws every image once an epoch, as torchreid does.
    synthetic_share: float | None = None

    def __post_init__(self) -> None:
        """Checks ranges."""
        if self.synthetic_share is not None:
            if not 0 <= self.synthetic_share <= 1:
                raise ValueError(f"synthetic_share: {self.synthetic_share}, needed a share in [0, 1], or null")
            if self.train_sampler != "RandomSampler":
                raise ValueError(f"synthetic_share: works with RandomSampler, not with {self.train_sampler}")
        if min(self.num_instances, self.num_cams, self.num_datasets) < 1:
            raise ValueError("needed num_instances, num_cams and num_datasets from 1")


@dataclass(frozen=True)
class VideoConfig:
    """`video`; accepted and without effect on image models."""

    seq_len: int = 15
    sample_method: str = "evenly"
    pooling_method: str = "avg"


@dataclass(frozen=True)
class TrainConfig:
    """`train`."""

    optim: Literal["adam", "amsgrad", "sgd", "rmsprop", "radam"] = "adam"
    lr: float = 0.0003
    weight_decay: float = 5e-4
    max_epoch: int = 60
    start_epoch: int = 0
    batch_size: int = 32
    fixbase_epoch: int = 0  # epochs in which only open_layers are trained
    open_layers: list[str] | str = field(default_factory=lambda: ["classifier"])
    staged_lr: bool = False
    new_layers: list[str] | str = field(default_factory=lambda: ["classifier"])
    base_lr_mult: float = 0.1
    lr_scheduler: Literal["single_step", "multi_step", "cosine"] = "single_step"
    stepsize: list[int] | int = field(default_factory=lambda: [20])  # epochs
    gamma: float = 0.1
    print_freq: int = 20  # iterations between refreshed figures on the progress bar
    seed: int = 1
    # Ours: train for exactly so many iterations, with as many epochs as that takes. The learning-rate schedule, given
    # for max_epoch epochs, is spread over them, so that arms with more or fewer images follow the same one.
    max_iterations: int | None = None
    # Ours: what the model computes in; weights stay float32, float16 has a gradient scaler and needs a GPU.
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    # Ours: a checkpoint after the epochs, at most so often; a run that was stopped goes on from it.
    checkpoint_minutes: float = 5.0

    def __post_init__(self) -> None:
        """Checks ranges."""
        if self.seed < 0 or self.print_freq < 1 or not self.lr > 0 or self.weight_decay < 0:
            raise ValueError("needed seed from 0, print_freq from 1, lr above 0 and weight_decay from 0")
        if self.lr_scheduler == "single_step" and isinstance(self.stepsize, list) and not self.stepsize:
            raise ValueError("stepsize: empty, needed a number of epochs")
        if self.lr_scheduler == "multi_step" and not isinstance(self.stepsize, list):
            raise ValueError(f"stepsize: {self.stepsize}, needed a list of epochs with lr_scheduler multi_step")
        if self.max_epoch < 1 or not 0 <= self.start_epoch < self.max_epoch:
            raise ValueError("needed max_epoch from 1 and start_epoch from 0 to below max_epoch")
        if self.batch_size < 2:
            raise ValueError(f"batch_size: {self.batch_size}; batch normalisation needs at least 2")
        if self.max_iterations is not None and (self.max_iterations < 1 or self.start_epoch):
            raise ValueError("max_iterations: needed null, or from 1 with start_epoch 0")


@dataclass(frozen=True)
class SgdConfig:
    """`sgd`."""

    momentum: float = 0.9  # of rmsprop too
    dampening: float = 0.0
    nesterov: bool = False


@dataclass(frozen=True)
class RmspropConfig:
    """`rmsprop`."""

    alpha: float = 0.99


@dataclass(frozen=True)
class AdamConfig:
    """`adam`."""

    beta1: float = 0.9
    beta2: float = 0.999

    def __post_init__(self) -> None:
        """Checks ranges."""
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1):
            raise ValueError(f"beta1: {self.beta1}, beta2: {self.beta2}, needed in [0, 1)")


@dataclass(frozen=True)
class SoftmaxConfig:
    """`loss.softmax`."""

    label_smooth: bool = True


@dataclass(frozen=True)
class TripletConfig:
    """`loss.triplet`."""

    margin: float = 0.3
    weight_t: float = 1.0
    weight_x: float = 0.0

    def __post_init__(self) -> None:
        """Checks ranges."""
        if not (self.margin >= 0 and self.weight_t >= 0 and self.weight_x >= 0 and self.weight_t + self.weight_x > 0):
            raise ValueError("needed margin, weight_t and weight_x from 0, and one of the weights above 0")


@dataclass(frozen=True)
class LossConfig:
    """`loss`."""

    name: Literal["softmax", "triplet"] = "softmax"
    softmax: SoftmaxConfig = field(default_factory=SoftmaxConfig)
    triplet: TripletConfig = field(default_factory=TripletConfig)


@dataclass(frozen=True)
class TestConfig:
    """`test`."""

    __test__ = False  # no test case, whatever pytest makes of the name

    batch_size: int = 100
    dist_metric: Literal["euclidean", "cosine"] = "euclidean"
    normalize_feature: bool = False
    ranks: list[int] = field(default_factory=lambda: [1, 5, 10, 20])
    evaluate: bool = False  # evaluate only, do not train
    eval_freq: int = -1  # epochs between evaluations; -1: after training only
    start_eval: int = 0
    rerank: bool = False
    visrank: bool = False
    visrank_topk: int = 10

    def __post_init__(self) -> None:
        """Checks ranges."""
        if self.batch_size < 1 or not self.ranks or min(self.ranks) < 1 or self.visrank_topk < 1:
            raise ValueError("needed batch_size and visrank_topk from 1, and ranks, each from 1")


@dataclass(frozen=True)
class AugmentConfig:
    """`augment`: how training images are re-rendered in other poses."""

    name: Literal["xinggan_pose"] = "xinggan_pose"
    generator: str = "pedestrians-small"  # name of a bundled generator, or a .safetensors file
    bank: str | None = None  # saved PoseBank; null: the poses of the training images
    annotations: str | None = None  # .npz or .csv; null: annotations.npz in each source's folder
    p: float = 0.5  # share of the training images that is re-rendered
    mode: Literal["replace", "append"] = "replace"
    sampler: str = "uniform"  # how a pose is drawn from the bank; a mixture: "uniform=3,near=1"
    fit: Literal["frame", "source"] = "frame"  # a pose stands where it was seen, or where and as large as the source
    reuse: int = 1  # epochs that draw an image before it gets a new pose; till then its rendered image is served again
    start_epoch: int = 0  # first epoch (counted from 0) with rendered images
    stop_epoch: int | None = None  # first epoch without them again; null: never
    seed: int | None = None  # of the draws; null: train.seed
    gate: GateConfig | bool | None = None  # true: no empty and no burnt-out images; null or false: all
    # What synthetic rows are taught, those of an offline-augmented folder too (`reid_integration.policies`).
    labels: Literal["same_id", "lsr", "lsro", "soft"] = "same_id"
    smoothing: float = 0.3  # of lsr
    teacher: str | None = (
        None  # of soft: weights of the same model on the same identities, as an earlier run wrote them
    )
    weight: float = 1.0  # of a synthetic row in the classifier's loss; a real one has 1
    warmup_epochs: int = 0  # epochs from start_epoch on, over which that weight rises from 0
    triplet: Literal["include", "exclude", "anchor_real_only"] = "include"  # synthetic rows in the triplet loss

    def __post_init__(self) -> None:
        """Checks ranges."""
        if isinstance(self.gate, bool):
            object.__setattr__(self, "gate", GateConfig() if self.gate else None)
        if not 0 <= self.smoothing <= 1 or not self.weight >= 0 or self.warmup_epochs < 0:
            raise ValueError("needed smoothing in [0, 1], weight and warmup_epochs from 0")
        if (self.labels == "soft") != (self.teacher is not None):
            raise ValueError(
                f"labels: '{self.labels}', teacher: {self.teacher}; soft labels need a teacher, others none"
            )
        if not 0 <= self.p <= 1:
            raise ValueError(f"p: {self.p}, needed a share in [0, 1]")
        if self.reuse < 1:
            raise ValueError(f"reuse: {self.reuse}, needed at least 1")
        if self.seed is not None and self.seed < 0:
            raise ValueError(f"seed: {self.seed}, needed at least 0")
        if self.start_epoch < 0 or (self.stop_epoch is not None and self.stop_epoch < self.start_epoch):
            raise ValueError("needed start_epoch from 0 and stop_epoch null or not below start_epoch")


@dataclass(frozen=True)
class ReidConfig:
    """The whole tree."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    market1501: Market1501Config = field(default_factory=Market1501Config)
    cuhk03: Cuhk03Config = field(default_factory=Cuhk03Config)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    video: VideoConfig = field(default_factory=VideoConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    sgd: SgdConfig = field(default_factory=SgdConfig)
    rmsprop: RmspropConfig = field(default_factory=RmspropConfig)
    adam: AdamConfig = field(default_factory=AdamConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    test: TestConfig = field(default_factory=TestConfig)
    augment: AugmentConfig | Literal["xinggan_pose"] | None = None
    use_gpu: bool | None = None  # null: where CUDA is available

    def __post_init__(self) -> None:
        """Expands `augment: xinggan_pose` and refuses what would be ignored."""
        if isinstance(self.augment, str):
            object.__setattr__(self, "augment", AugmentConfig())
        self._require_policies_that_act()
        refused = {
            "model.resume": (self.model.resume, "a stopped run goes on by itself; use model.load_weights"),
            "data.load_train_targets": (self.data.load_train_targets, "no image engine here trains on targets"),
            "market1501.use_500k_distractors": (self.market1501.use_500k_distractors, "the 500k set is not read"),
            "cuhk03.use_metric_cuhk03": (self.cuhk03.use_metric_cuhk03, "evaluation is by the Market-1501 protocol"),
        }  # fmt: skip
        for key, (value, reason) in refused.items():
            if value:
                raise ValueError(f"{key}: {value!r} cannot be honoured ({reason}); leave it out")

    def _require_policies_that_act(self) -> None:
        """Raises ValueError for a policy that the loss has no place for."""
        chosen, loss = self.augmentation, self.loss
        if chosen is None:
            return
        classifies = loss.name == "softmax" or loss.triplet.weight_x > 0
        if not classifies and (chosen.labels != "same_id" or chosen.weight != 1 or chosen.warmup_epochs):
            raise ValueError(
                "augment: labels, weight and warmup_epochs act on the classifier's loss; "
                "needed loss.triplet.weight_x above 0"
            )
        if chosen.triplet != "include" and (loss.name != "triplet" or loss.triplet.weight_t == 0):
            raise ValueError(f"augment: triplet: '{chosen.triplet}' acts on the triplet loss; needed loss.name triplet")

    @property
    def augmentation(self) -> AugmentConfig | None:
        """`augment` in its expanded form."""
        return self.augment if isinstance(self.augment, AugmentConfig) else None

    @property
    def has_policy(self) -> bool:
        """Whether synthetic rows are taught otherwise than real ones."""
        chosen = self.augmentation
        return chosen is not None and (
            chosen.labels != "same_id" or chosen.weight != 1 or chosen.warmup_epochs > 0 or chosen.triplet != "include"
        )

    @property
    def draw_seed(self) -> int:
        """The seed of the pose draws."""
        chosen = self.augmentation
        return self.train.seed if chosen is None or chosen.seed is None else chosen.seed

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the model's input."""
        return self.data.height, self.data.width


def load_reid_config(path: str | Path, overrides: Sequence[str] = ()) -> ReidConfig:
    """Reads a torchreid-style YAML file and applies `key=value` overrides.

    Raises:
        BadInput: unreadable file, unknown or misspelt key, wrong type, or a setting that cannot be honoured.
    """
    return reid_config(override(read_yaml(path), overrides), str(path))


def reid_config(mapping: Mapping[str, Any], where: str = "configuration") -> ReidConfig:
    """The configuration from plain data; errors as in `load_reid_config`."""
    name = mapping.get("augment")
    if isinstance(name, str) and name != "xinggan_pose":
        raise BadInput(f"{where}: augment: '{name}', expected xinggan_pose, a mapping, or null")
    return from_mapping(ReidConfig, mapping, where)
