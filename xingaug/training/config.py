"""The configuration of a training run; every value is checked before anything is read or written."""

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from xingaug.generators.sizes import SIZES, size_config
from xingaug.generators.xinggan import XingGANConfig
from xingaug.generators.xinggan_pp_config import XingGANPlusPlusConfig
from xingaug.keypoints import MIN_VISIBLE
from xingaug.programs import device_problem

PEDESTRIAN_SIZE = (128, 64)

MAX_SEED = 2**32 - 1
"""Largest seed: torch's generators take a step's seed, a billion times as large, as 64 bits."""

MOST_PEDESTRIANS = 150_000
"""Most rendered images of a run: 3.7 GB (our choice)."""


@dataclass(frozen=True)
class PedestrianData:
    """Training images rendered at the start of the run.

    Attributes:
        identities: number of persons.
        tracklets: cameras that see each person, with one background each.
        poses: images in each tracklet.
        seed: of the rendering; use another one for the worlds that you measure on.
    """

    identities: int = 1500
    tracklets: int = 2
    poses: int = 8
    seed: int = 1000

    def __post_init__(self) -> None:
        """Checks ranges."""
        if self.identities < 1 or not 1 <= self.tracklets <= 6 or self.poses < 2 or self.seed < 0:
            raise ValueError("identities: needed at least 1; tracklets: 1 to 6; poses: at least 2; seed: at least 0")
        if self.identities * self.tracklets * self.poses > MOST_PEDESTRIANS:
            raise ValueError(
                f"identities x tracklets x poses: needed at most {MOST_PEDESTRIANS} images, held in memory"
            )


@dataclass(frozen=True)
class TreeData:
    """Training images from a dataset on disk.

    Attributes:
        root: a Market-1501 tree, the folder of another known dataset, or a YAML file that describes one.
        annotations: keypoints of its images.
        within: which images of one identity make a pair: "camera", two of one camera (and background);
            "identity", any two; "cross-camera", two of different cameras.
        same_camera: share of the pairs that is from one camera, regardless of `within`.
        pairs: a CSV with the header `from,to` that lists the pairs to draw from; `within` is then ignored, and
            `same_camera` is 0.
        masks: a folder of PNG files named like the images, white on the person; None uses those beside the images.
        min_visible: joints that both images of a pair must show (our choice: 8).
        memory_mb: most memory for decoded images; above it they are read from disk in every step.
    """

    root: Path
    annotations: Path
    within: Literal["camera", "identity", "cross-camera"] = "camera"
    same_camera: float = 0.0
    pairs: Path | None = None
    masks: Path | None = None
    min_visible: int = MIN_VISIBLE
    memory_mb: int = 8000

    def __post_init__(self) -> None:
        """Checks ranges."""
        if not 1 <= self.min_visible <= 18 or self.memory_mb < 0 or not 0 <= self.same_camera <= 1:
            raise ValueError("min_visible: needed 1 to 18; memory_mb: at least 0; same_camera: in [0, 1]")
        if self.pairs is not None and self.same_camera:
            raise ValueError(f"same_camera: {self.same_camera}, but data.pairs lists the pairs; needed 0")


@dataclass(frozen=True)
class Photometric:
    """Colour changes, the same for both images of a pair (albumentations' ColorJitter).

    Attributes:
        brightness: greatest relative change.
        contrast: greatest relative change.
        saturation: greatest relative change.
        hue: greatest shift, as a share of the colour circle.
        p: share of the pairs that are changed.
    """

    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    hue: float = 0.02
    p: float = 0.8

    def __post_init__(self) -> None:
        """Checks ranges."""
        for name, most in {"brightness": 1, "contrast": 1, "saturation": 1, "hue": 0.5, "p": 1}.items():
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(f"{name}: {getattr(self, name)}, needed 0 to {most}")


@dataclass(frozen=True)
class PerceptualConfig:
    """The perceptual loss: a distance between VGG features (XingGAN, Tang et al., ECCV 2020).

    Attributes:
        network: VGG-19, as the released XingGAN has it, or VGG-16.
        weights: "torchvision" for its ImageNet weights, which torchvision fetches once, or the path of a state dict
            (.pth or .safetensors) of torchvision's network, with or without its classifier.
        layers: indices into `features` of torchvision's network after which features are compared; the released
            XingGAN uses 3 (relu1_2). VGG-16's relu2_2, relu3_3 and relu4_3 are 8, 15 and 22.
        distance: "l1", or "squared"; mean over all elements of a layer.
        normalised: scale the features at each position to unit length first, and sum over the channels (as in LPIPS).
    """

    network: Literal["vgg16", "vgg19"] = "vgg19"
    weights: str = "torchvision"
    layers: tuple[int, ...] = (3,)
    distance: Literal["l1", "squared"] = "l1"
    normalised: bool = False

    def __post_init__(self) -> None:
        """Checks ranges."""
        last = {"vgg16": 30, "vgg19": 36}[self.network]
        if not self.layers or not all(0 <= layer <= last for layer in self.layers):
            raise ValueError(f"layers: {self.layers}, needed at least one index from 0 to {last} of {self.network}")


@dataclass(frozen=True)
class LossWeights:
    """Weight of each loss term; a term of weight 0 is not computed.

    Attributes:
        l1: of the foreground-weighted L1.
        structural: of 1 - SSIM (our choice).
        perceptual: of the perceptual loss, if the run has one.
        identity: of 1 - cosine between features of the generated and the true image, if the run has a network.
        pose: of the distance between the target joints and those that `pose_estimator` finds.
        adversarial: of the mean of both adversarial terms.
        feature_matching: of both discriminators' feature matching (our choice).
        r1: of the discriminators' gradient penalty on true images (Mescheder et al. 2018), applied as r1 / 2.
        style: of the difference of Gram matrices of the perceptual loss's features inside the mask (Johnson et al.
            2016): texture regardless of position, which keeps a person sharp where source and target do not align.
        split: of both losses of a generator that keeps its source's ground (`training.splitting`).
        person: weight of a person's pixel in L1 and 1 - SSIM, where the background has 1: inside the union of both
            images' masks, or without masks inside the target's pose mask.
    """

    l1: float = 10.0
    structural: float = 2.0
    perceptual: float = 5.0
    identity: float = 1.0
    pose: float = 0.0
    adversarial: float = 0.2
    feature_matching: float = 4.0
    r1: float = 0.0
    style: float = 0.0
    split: float = 2.0
    person: float = 3.0

    def __post_init__(self) -> None:
        """Checks ranges."""
        for name, value in vars(self).items():
            if not 0 <= value < math.inf:
                raise ValueError(f"{name}: {value}, needed at least 0")


@dataclass(frozen=True)
class DiscriminatorConfig:
    """The discriminators and their losses.

    Attributes:
        appearance: the one that compares with the source image: "patch" (spectrally normalised, our choice),
            "residual" (PATN's, as in the papers) or "none".
        shape: the one that compares with the target pose: one of the same kinds.
        loss: "hinge" (our choice), "bce" (vanilla, as released) or "least_squares".
        pool: earlier generated images that the discriminators see again (released: 50); 0 for none.
        start: share of the steps after which they are switched on.
    """

    appearance: Literal["patch", "residual", "none"] = "patch"
    shape: Literal["patch", "residual", "none"] = "patch"
    loss: Literal["hinge", "bce", "least_squares"] = "hinge"
    pool: int = 0
    start: float = 0.3

    def __post_init__(self) -> None:
        """Checks ranges."""
        if not 0 <= self.pool <= 10_000 or not 0 <= self.start <= 1:
            raise ValueError("pool: needed 0 to 10,000; start: needed in [0, 1]")


MEASURES: dict[str, str | None] = {
    "ssim": None, "mask_ssim": None, "person_ssim": None, "psnr": None, "sharpness": None, "reid_rank1": "reid",
    "reid_map": "reid", "pck": "pose_estimator", "frechet": "vgg16", "vgg_distance": "vgg16",
}  # fmt: skip
"""Measures that can choose the best checkpoint, and the setting of `Validation` that each needs."""


@dataclass(frozen=True)
class Validation:
    """Held-out pairs that are measured during training, and the measures that choose the best checkpoint.

    Attributes:
        identities: held-out persons; 0 for no validation.
        pairs: number of their pairs.
        every: steps between measurements; the last step is measured too.
        best: one of `MEASURES`, or several whose product is used: [reid_map, pck] asks for the right person and pose.
            Sharpness is capped at 1, that of a photo; the product is divided by the distances `frechet` and
            `vgg_distance`. The default keeps SSIM from choosing the blurriest.
        reid: a feature network, .onnx or .pt2, as for `xingaug evaluate --reid`; gives `reid_rank1` and `reid_map`. The
            gallery is the other images of the held-out persons.
        pose_estimator: as for `xingaug evaluate --pose-estimator`; gives `pck`.
        vgg16: weights of VGG-16, as for `xingaug evaluate --frechet-weights`; gives `frechet` and `vgg_distance`.
    """

    identities: int = 16
    pairs: int = 64
    every: int = 500
    best: str | tuple[str, ...] = ("ssim", "sharpness")
    reid: Path | None = None
    pose_estimator: Path | None = None
    vgg16: Path | None = None

    def __post_init__(self) -> None:
        """Checks ranges, and that the measures in `best` have the files they need."""
        if self.identities < 0 or not 1 <= self.pairs <= 100_000 or self.every < 1:
            raise ValueError("identities: needed at least 0; pairs: 1 to 100,000; every: at least 1")
        if not self.measures:
            raise ValueError(f"best: nothing named, needed one of {', '.join(MEASURES)}")
        for name in self.measures:
            if name not in MEASURES:
                raise ValueError(f"best: '{name}', needed one of {', '.join(MEASURES)}")
            setting = MEASURES[name]
            if setting is not None and getattr(self, setting) is None:
                raise ValueError(f"best: '{name}' is measured by validation.{setting}, which names no file")

    @property
    def measures(self) -> tuple[str, ...]:
        """The names in `best`."""
        return (self.best,) if isinstance(self.best, str) else self.best


@dataclass(frozen=True)
class TrainConfig:
    """A training run.

    Attributes:
        perceptual: the perceptual loss, or "vgg16" or "vgg19" for that network with torchvision's weights; no default:
            to train without it, write "none".
        data: where pairs come from.
        generator: the network: a named size (`generators.sizes`), or the switches of a XingGAN++.
        size: (height, width) in pixels of a named generator's images; None is 128x64.
        start: a bundled name or .safetensors file whose weights the generator starts from; the same network, or
            the same but for `keep_ground`.
        target: what the generated image is compared with: "photo", the target image; or "composite", its person in the
            source's colours on the source's ground (`training.composites`), which needs a generator with
            `keep_ground` and data with masks. The validation compares with the photo in either case, so that its ssim,
            l1 and psnr count another ground and light as errors: let `pck`, `reid_map` or `frechet` choose the best.
        photometric: colour changes of a pair; None for none.
        discriminators: of the adversarial loss.
        losses: weights of the terms.
        identity_network: a `torch.export` program (.pt2), images (B, 3, H, W) in [0, 1] to features (B, D). It can run
            code when it is loaded, so name only a file that you trust; ONNX files give no gradient and are refused.
        pose_estimator: for `losses.pose`: the name of a bundled PoseNet, or a file of `xingaug train-estimator`.
        steps: number of updates of the generator.
        batch_size: pairs a step, of all processes together.
        accumulate: gradient accumulation: parts that a process splits its share of a step into, to save memory.
        pairs_per_epoch: length of an epoch, in which pairs are drawn (released: 4000).
        lr: Adam's learning rate.
        decay_start: share of the steps after which it falls linearly to 0 (released: 500 of 700 epochs).
        warmup: steps over which it rises at the start (our choice).
        betas: Adam's.
        clip: largest gradient norm of the generator.
        ema_decay: of the averaged weights that are saved, per step.
        seed: of weights and pairs.
        precision: of the computation: "auto" is bfloat16 where the device has it, else float32.
        compile: use `torch.compile` for the generator.
        device: such as cpu or cuda; under torchrun each process takes the GPU of its local rank.
        loss_limit: the run stops with an error if the total loss exceeds it.
        validation: measurements during training.
        checkpoint_minutes: time between checkpoints.
        sample_every: steps between sample sheets.
        tensorboard: also write TensorBoard event files, if tensorboard is installed.
    """

    perceptual: Literal["none", "vgg16", "vgg19"] | PerceptualConfig
    data: PedestrianData | TreeData = field(default_factory=PedestrianData)
    generator: str | XingGANPlusPlusConfig = "xinggan_pp_small"
    size: tuple[int, int] | None = None
    start: str | None = None
    target: Literal["photo", "composite"] = "photo"
    photometric: Photometric | None = None
    discriminators: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    losses: LossWeights = field(default_factory=LossWeights)
    identity_network: Path | None = None
    pose_estimator: str = "posenet-market1501"
    steps: int = 4000
    batch_size: int = 16
    accumulate: int = 1
    pairs_per_epoch: int = 4000
    lr: float = 4e-4
    decay_start: float = 0.5
    warmup: int = 100
    betas: tuple[float, float] = (0.5, 0.99)
    clip: float = 10.0
    ema_decay: float = 0.998
    seed: int = 0
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    compile: bool = False
    device: str = "cpu"
    loss_limit: float = 1e4
    validation: Validation = field(default_factory=Validation)
    checkpoint_minutes: float = 3.0
    sample_every: int = 250
    tensorboard: bool = True

    def __post_init__(self) -> None:
        """Checks ranges."""
        if self.perceptual in ("vgg16", "vgg19"):
            object.__setattr__(self, "perceptual", PerceptualConfig(network=self.perceptual))
        for name, most in {
            "steps": 10**9, "batch_size": 65_536, "accumulate": 65_536, "pairs_per_epoch": 10**9, "sample_every": 10**9,
        }.items():  # fmt: skip
            if not 1 <= getattr(self, name) <= most:
                raise ValueError(f"{name}: {getattr(self, name)}, needed at least 1, at most {most}")
        if not 0 <= self.seed <= MAX_SEED:
            raise ValueError(f"seed: {self.seed}, needed 0 to {MAX_SEED}")
        for name in ("warmup", "checkpoint_minutes"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}: {getattr(self, name)}, needed at least 0")
        if not 0 < self.lr <= 1:  # Adam's step is as large in every weight: more would overflow within a few
            raise ValueError(f"lr: {self.lr}, needed above 0, up to 1")
        for name in ("clip", "loss_limit"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}: {getattr(self, name)}, needed above 0")
        if not 0 <= self.ema_decay < 1 or not 0 <= self.decay_start <= 1 or not all(0 <= b < 1 for b in self.betas):
            raise ValueError("ema_decay, betas: needed in [0, 1); decay_start: needed in [0, 1]")
        if isinstance(self.generator, str) and self.generator not in SIZES:
            raise ValueError(f"generator: '{self.generator}', expected one of {', '.join(SIZES)}, or switches")
        if self.size is not None and not isinstance(self.generator, str):
            raise ValueError("size: belongs to a named generator; with switches give generator.size")
        if self.target == "composite" and not self.keeps_ground:
            raise ValueError("target: composite needs a generator with keep_ground: true")
        if self.losses.style and self.perceptual == "none":
            raise ValueError("losses.style: needs the features of a perceptual loss, perceptual: none has none")
        size = self.network.size
        if isinstance(self.data, PedestrianData) and size != PEDESTRIAN_SIZE:
            raise ValueError(f"generator.size: {size}, but pedestrians are drawn at {PEDESTRIAN_SIZE}")
        self._check_device()

    def _check_device(self) -> None:
        if device_problem(self.device):
            raise ValueError(f"device: '{self.device}' is not available here; expected cpu, or cuda with a GPU")

    @property
    def network(self) -> XingGANConfig | XingGANPlusPlusConfig:
        """The configuration of the generator."""
        if not isinstance(self.generator, str):
            return self.generator
        named = size_config(self.generator)
        return named if self.size is None else replace(named, size=self.size)

    @property
    def keeps_ground(self) -> bool:
        """Whether the generator splits its source into person and ground."""
        network = self.network
        return isinstance(network, XingGANPlusPlusConfig) and network.variant.keep_ground

    def learning_rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0: a short rise, then constant, then falling linearly to 0."""
        left = (self.steps - step) / max(self.steps * (1 - self.decay_start), 1e-9)
        rise = 1.0 if self.warmup == 0 else (step + 1) / self.warmup
        return self.lr * min(1.0, left, rise)
