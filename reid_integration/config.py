"""torchreid's key tree as typed classes, plus `augment:`.

Keys and defaults are those of torchreid's `scripts/default_config.py` (1.4.0), which the package 0.2.5 does not ship.
Our additions: `augment`, `use_gpu: null` and the keys commented "Ours". A torchreid setting that this package would
not honour is refused with a reason; `video` is accepted, because complete torchreid files have it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from xingaug.augment.gate import GateConfig
from xingaug.config import from_mapping, override, read_yaml
from xingaug.errors import BadInput
from xingaug.poses.references import Reference, require_fit

TRANSFORMS = ("random_flip", "random_crop", "random_patch", "color_jitter", "random_erase")
"""torchreid's transforms; it silently ignores any other name."""


MAX_COUNT = 1_000_000_000
"""Upper limit for numbers of epochs, iterations and the like."""

MAX_PIXELS = 2**28
"""Most pixels of a batch: 3 GB in float32."""

MAX_SEED = 2**32 - 1
"""Largest seed that NumPy accepts."""


def listed(names: list[str] | str) -> list[str]:
    """Names as a list; torchreid also accepts a single string."""
    return [names] if isinstance(names, str) else list(names)


def listed_numbers(numbers: list[int] | int) -> list[int]:
    """One number or several, as a list."""
    return [numbers] if isinstance(numbers, int) else list(numbers)


def require_numbers(config: Any, **ranges: tuple[float, float]) -> None:
    """Raises ValueError, naming key, value and range, unless each number lies in its range, both ends included."""
    for name, (low, high) in ranges.items():
        value = getattr(config, name)
        if not low <= value <= high:
            raise ValueError(f"{name}: {value}, needed a number from {low} to {high}")


@dataclass(frozen=True)
class ModelConfig:
    """`model`."""

    name: str = "resnet50"
    pretrained: bool = True  # ImageNet weights from torch's cache; nothing is downloaded
    load_weights: str = ""  # to start from: bundled (osnet_x0_25-pedestrians), or a .safetensors or .pth file
    resume: str = ""
    # Ours: batch norm between the features and the classifier (BNNeck; Luo et al., 2019). The triplet loss uses the
    # features before it, retrieval those after it.
    neck: bool = False
    # Ours: stride of the last stage, 1 for a finer last feature map; only resnet* and mobilenetv2*.
    last_stride: Literal[1, 2] = 2


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
        """Checks what torchreid would silently ignore."""
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
        if not self.sources or not self.targets:
            raise ValueError("sources, targets: needed at least one each")
        require_numbers(self, height=(16, 2048), width=(16, 2048), workers=(0, 256))
        numbers = [*self.norm_mean, *self.norm_std]
        if len(self.norm_mean) != 3 or len(self.norm_std) != 3 or not all(map(math.isfinite, numbers)):
            raise ValueError("norm_mean, norm_std: needed three numbers each")
        if min(self.norm_std) <= 0:
            raise ValueError(f"norm_std: {self.norm_std}, needed numbers above 0")


@dataclass(frozen=True)
class Market1501Config:
    """`market1501`."""

    use_500k_distractors: bool = False


@dataclass(frozen=True)
class Cuhk03Config:
    """`cuhk03`; ignored for other datasets."""

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
    # Ours: share of the rows that are images marked as synthetic in their names, regardless of their number, drawn
    # with replacement, or with RandomIdentitySampler within the rows of each identity; null draws every image once an
    # epoch, as torchreid does.
    synthetic_share: float | None = None

    def __post_init__(self) -> None:
        """Checks ranges."""
        if self.synthetic_share is not None:
            if not 0 <= self.synthetic_share <= 1:
                raise ValueError(f"synthetic_share: {self.synthetic_share}, needed a share in [0, 1], or null")
            if self.train_sampler not in ("RandomSampler", "RandomIdentitySampler"):
                raise ValueError(
                    f"synthetic_share: works with RandomSampler and RandomIdentitySampler, not {self.train_sampler}"
                )
        require_numbers(self, num_instances=(1, 4096), num_cams=(1, 4096), num_datasets=(1, 4096))


@dataclass(frozen=True)
class VideoConfig:
    """`video`; accepted, but has no effect on image models."""

    seq_len: int = 15
    sample_method: str = "evenly"
    pooling_method: str = "avg"


@dataclass(frozen=True)
class ReidTrainConfig:
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
    # Ours: train for exactly this many iterations, over as many epochs as needed. The learning-rate schedule of
    # max_epoch epochs is stretched over them, so that arms with more or fewer images follow the same schedule. The
    # epochs of fixbase_epoch, and of augment's start_epoch, stop_epoch and warmup_epochs, stay passes over the images.
    max_iterations: int | None = None
    # Ours: autocast type of the model; weights stay float32, float16 has a gradient scaler and needs a GPU.
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    # Ours: least minutes between checkpoints, written after an epoch; a stopped run resumes from the last one.
    checkpoint_minutes: float = 5.0
    # Ours: iterations over which the learning rate rises from a tenth of the schedule's value to all of it.
    warmup_iterations: int = 0
    # Ours: decay of the moving average of the weights, which is tested and saved, such as 0.998; 0 uses the last
    # weights.
    ema: float = 0.0

    def __post_init__(self) -> None:
        """Checks ranges."""
        require_numbers(
            self, seed=(0, MAX_SEED), print_freq=(1, MAX_COUNT), weight_decay=(0, 1e3), gamma=(0, 1e3),
            base_lr_mult=(0, 1e6), max_epoch=(1, MAX_COUNT), start_epoch=(0, self.max_epoch - 1),
            fixbase_epoch=(0, MAX_COUNT), batch_size=(2, 65536), checkpoint_minutes=(0, 1e9),
            warmup_iterations=(0, MAX_COUNT),
        )  # fmt: skip
        if not 0 < self.lr <= 1e30:
            raise ValueError(f"lr: {self.lr}, needed a number above 0")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema: {self.ema}, needed from 0 to below 1")
        self._require_steps()
        if self.max_iterations is not None:
            require_numbers(self, max_iterations=(1, MAX_COUNT))
            if self.start_epoch:
                raise ValueError("max_iterations: needed null, or start_epoch 0")

    def _require_steps(self) -> None:
        """The scheduler's steps."""
        steps = listed_numbers(self.stepsize)
        if self.lr_scheduler == "single_step" and not steps:
            raise ValueError("stepsize: empty, needed a number of epochs")
        if self.lr_scheduler == "multi_step" and not isinstance(self.stepsize, list):
            raise ValueError(f"stepsize: {self.stepsize}, needed a list of epochs with lr_scheduler multi_step")
        if not all(1 <= step <= MAX_COUNT for step in steps) or sorted(set(steps)) != steps:
            raise ValueError(f"stepsize: {self.stepsize}, needed ascending numbers of epochs, from 1 on")


@dataclass(frozen=True)
class SgdConfig:
    """`sgd`."""

    momentum: float = 0.9  # of rmsprop too
    dampening: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        """Checks ranges."""
        require_numbers(self, momentum=(0, 1), dampening=(0, 1))
        if self.nesterov and (self.momentum == 0 or self.dampening != 0):
            raise ValueError("nesterov: needed momentum above 0 and dampening 0")


@dataclass(frozen=True)
class RmspropConfig:
    """`rmsprop`."""

    alpha: float = 0.99

    def __post_init__(self) -> None:
        """Checks ranges."""
        require_numbers(self, alpha=(0, 1))


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
        require_numbers(self, margin=(0, 1e6), weight_t=(0, 1e6), weight_x=(0, 1e6))
        if self.weight_t + self.weight_x == 0:
            raise ValueError("weight_t, weight_x: both 0, needed one above it")


@dataclass(frozen=True)
class LossConfig:
    """`loss`."""

    name: Literal["softmax", "triplet"] = "softmax"
    softmax: SoftmaxConfig = field(default_factory=SoftmaxConfig)
    triplet: TripletConfig = field(default_factory=TripletConfig)


@dataclass(frozen=True)
class TestConfig:
    """`test`."""

    __test__ = False  # keeps pytest from collecting the class by its name

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
    # Ours: an image's feature is the mean of its own and those of its renderings in this many poses, the most central
    # ones of the bank; generator, bank and annotations are those of `augment`.
    poses: int = 0

    def __post_init__(self) -> None:
        """Checks ranges."""
        require_numbers(
            self, batch_size=(1, 65536), visrank_topk=(1, 1000), poses=(0, 64), start_eval=(0, MAX_COUNT),
            eval_freq=(-1, MAX_COUNT),
        )  # fmt: skip
        if not self.ranks or not all(1 <= rank <= MAX_COUNT for rank in self.ranks):
            raise ValueError(f"ranks: {self.ranks}, needed numbers from 1")


@dataclass(frozen=True)
class AugmentConfig:
    """`augment`: how training images are re-rendered in other poses."""

    name: Literal["xinggan_pose"] = "xinggan_pose"
    # Name of a bundled generator, or a .safetensors file: for photos market1501-augment (research only) or your own, as
    # the default has seen drawn persons only.
    generator: str = "pedestrians-small"
    bank: str | None = None  # saved PoseBank; null: the poses of the training images
    annotations: str | None = None  # .npz or .csv; null: annotations.npz in each source's folder
    p: float = 0.5  # share of the training images that is re-rendered
    mode: Literal["replace", "append"] = "replace"
    sampler: str = "uniform"  # how a pose is drawn from the bank; a mixture: "uniform=3,near=1"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # of rendering; auto: bfloat16 where the device has it
    runtime: Literal["auto", "torch", "openvino"] = "auto"  # auto: OpenVINO on a CPU where it is installed
    fit: Literal["frame", "source"] = "frame"  # keep a pose's position and size, or take the source's
    # Share of the rendered persons that are pasted onto another training image's ground; null: 1 if the generator
    # separates person and ground, as market1501-augment does, else 0.
    ground: float | None = None
    # Render an image itself, or the person's real image by the same camera whose pose is nearest to the target's.
    reference: Reference = "image"
    reuse: int = 1  # epochs that select an image before it gets a new pose; until then its rendered image is reused
    start_epoch: int = 0  # first epoch (counted from 0) with rendered images
    stop_epoch: int | None = None  # first epoch without rendered images again; null: never
    seed: int | None = None  # of the draws; null: train.seed
    rerender: bool = False  # true: also render images that are synthetic already by their names
    gate: GateConfig | bool | None = None  # true: reject empty and burnt-out images; null or false: accept all
    # Labels of synthetic rows, including those of an offline-augmented folder (`reid_integration.policies`).
    labels: Literal["same_id", "lsr", "lsro", "soft"] = "same_id"
    smoothing: float = 0.3  # of lsr
    teacher: str | None = None  # of soft: weights of the same model on the same identities, from an earlier run
    weight: float = 1.0  # of a synthetic row in the classifier's loss, where a real one has 1
    warmup_epochs: int = 0  # epochs from start_epoch on, over which that weight rises from 0
    triplet: Literal["include", "exclude", "anchor_real_only"] = "include"  # synthetic rows in the triplet loss

    def __post_init__(self) -> None:
        """Checks ranges."""
        if isinstance(self.gate, bool):
            object.__setattr__(self, "gate", GateConfig() if self.gate else None)
        require_numbers(
            self, smoothing=(0, 1), weight=(0, 1e6), warmup_epochs=(0, MAX_COUNT), p=(0, 1), reuse=(1, MAX_COUNT),
            start_epoch=(0, MAX_COUNT),
        )  # fmt: skip
        if self.ground is not None:
            require_numbers(self, ground=(0, 1))
        require_fit(self.reference, self.fit)
        if self.seed is not None:
            require_numbers(self, seed=(0, MAX_SEED))
        if (self.labels == "soft") != (self.teacher is not None):
            raise ValueError(
                f"labels: '{self.labels}', teacher: {self.teacher}; soft labels need a teacher, others none"
            )
        if self.stop_epoch is not None and not self.start_epoch <= self.stop_epoch <= MAX_COUNT:
            raise ValueError(f"stop_epoch: {self.stop_epoch}, needed null, or a number not below start_epoch")


@dataclass(frozen=True)
class ReidConfig:
    """The whole tree."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    market1501: Market1501Config = field(default_factory=Market1501Config)
    cuhk03: Cuhk03Config = field(default_factory=Cuhk03Config)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    video: VideoConfig = field(default_factory=VideoConfig)
    train: ReidTrainConfig = field(default_factory=ReidTrainConfig)
    sgd: SgdConfig = field(default_factory=SgdConfig)
    rmsprop: RmspropConfig = field(default_factory=RmspropConfig)
    adam: AdamConfig = field(default_factory=AdamConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    test: TestConfig = field(default_factory=TestConfig)
    augment: AugmentConfig | Literal["xinggan_pose"] | None = None
    use_gpu: bool | None = None  # null: if CUDA is available

    def __post_init__(self) -> None:
        """Expands `augment: xinggan_pose` and refuses what would be ignored."""
        if isinstance(self.augment, str):
            object.__setattr__(self, "augment", AugmentConfig())
        self._require_policies_that_act()
        self._require_negatives()
        refused = {
            "model.resume": (self.model.resume, "a stopped run resumes by itself; use model.load_weights"),
            "data.load_train_targets": (self.data.load_train_targets, "no image engine here trains on targets"),
            "market1501.use_500k_distractors": (self.market1501.use_500k_distractors, "the 500k set is not read"),
            "cuhk03.use_metric_cuhk03": (self.cuhk03.use_metric_cuhk03, "evaluation is by the Market-1501 protocol"),
            "cuhk03.labeled_images": (self.cuhk03.labeled_images, "use a YAML file with layout: cuhk03, kind: labeled"),
            "cuhk03.classic_split": (self.cuhk03.classic_split, "the new protocol's split is read"),
            "data.split_id": (self.data.split_id, "the one split of each dataset is read"),
        }  # fmt: skip
        for key, (value, reason) in refused.items():
            if value:
                raise ValueError(f"{key}: {value!r} cannot be honoured ({reason}); leave it out")
        for section in ("train", "test"):
            rows = getattr(self, section).batch_size
            if rows * self.data.height * self.data.width > MAX_PIXELS:
                raise ValueError(
                    f"{section}.batch_size: {rows} images of {self.data.height}x{self.data.width} fill the memory; "
                    f"needed at most {MAX_PIXELS:.2g} pixels in a batch"
                )

    def _require_negatives(self) -> None:
        """Raises ValueError if every batch would hold one identity, among whose images there are no triplets."""
        sampler, rows = self.sampler, self.train.batch_size
        needs_two = self.loss.name == "triplet" and self.loss.triplet.weight_t > 0
        by_identity = sampler.train_sampler == "RandomIdentitySampler"
        if needs_two and by_identity and sampler.num_instances % rows == 0:
            raise ValueError(
                f"train.batch_size: {rows}, holds one identity of sampler.num_instances: {sampler.num_instances}; "
                f"the triplet loss needs two, such as {2 * sampler.num_instances} images"
            )

    def _require_policies_that_act(self) -> None:
        """Raises ValueError for a policy that has no effect on the loss, and for test poses without a generator."""
        chosen, loss = self.augmentation, self.loss
        if self.test.poses and chosen is None:
            raise ValueError(
                f"test.poses: {self.test.poses}, needed `augment` too, whose generator and bank render them"
            )
        if chosen is None:
            return
        if self.train.max_iterations is None and chosen.start_epoch >= self.train.max_epoch and not self.test.poses:
            raise ValueError(
                f"augment.start_epoch: {chosen.start_epoch}, is after all epochs of train.max_epoch: "
                f"{self.train.max_epoch}; nothing would be rendered"
            )
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
        """Whether synthetic rows have other labels, weights or triplets than real ones."""
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
