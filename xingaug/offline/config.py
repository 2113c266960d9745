"""The configuration of offline generation: `GenerateConfig`."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from xingaug.augment.gate import GateConfig
from xingaug.errors import BadInput
from xingaug.files import require_apart
from xingaug.generators.core import RUNTIMES, Runtime
from xingaug.generators.fast import DTYPES, Dtype
from xingaug.offline.manifest import MAX_COPIES
from xingaug.poses.placing import FITS, Fit
from xingaug.poses.references import REFERENCES, Reference, require_fit
from xingaug.poses.samplers import parse_sampler

Engine = Literal["local", "torchrun", "ray"]
ENGINES: tuple[Engine, ...] = ("local", "torchrun", "ray")

Format = Literal["folder", "webdataset"]
FORMATS: tuple[Format, ...] = ("folder", "webdataset")


@dataclass(frozen=True)
class GenerateConfig:
    """Settings of offline generation.

    Attributes:
        data: root of a dataset in Market-1501 layout.
        annotations: keypoints of its training images, .npz or .csv.
        generator: name or path, as for `load_generator`.
        bank: directory of a pose bank.
        out: directory to write; absent, empty, or an earlier run of the same configuration.
        per_image: synthetic images per real one, 1 to 1000; None is 1, or as many as `per_identity` or `budget` need.
        per_identity: number of training images, real and synthetic, that each identity is filled up to, using its real
            images in turn as sources.
        budget: most synthetic images in all. Every image gets its first copy before any gets its second.
        sampler: a name in `xingaug.poses.samplers.SAMPLERS`, or a mixture such as "uniform=3,near=1".
        fit: "frame" keeps a pose as in its own image, "source" gives it the source's position and scale.
        reference: the image that a copy is rendered from: "image" is the one it is named after, "camera" the person's
            image by the same camera whose pose is nearest to the target's (`xingaug.poses.references`).
        ground: share of synthetic images whose person is put on another image's background
            (`xingaug.augment.grounds`); None is 1 if the generator predicts a person mask, else 0.
        seed: seed of all draws.
        gate: the quality gate, which rejects bad renderings; None keeps all.
        tries: most poses that are tried for an image that the gate rejects.
        format: "folder" is Market-1501's layout, "webdataset" tar shards of the training images.
        shard_size: images rendered for one shard.
        real: whether the real training images are copied, hard-linked or left out. A folder always has query and
            gallery, hard-linked with "link", else copied; shards hold training images only and do not allow "link".
        batch_size: images per batch; None is that of an earlier run into `out`, else what memory allows. Another size
            rounds sums differently, so runs with different sizes are not identical.
        dtype: of weights and computation; "auto" is that of an earlier run into `out`, else bfloat16 if the device
            supports it, else float32. Runs with different dtypes are not identical.
        runtime: the inference backend. "auto" is that of an earlier run into `out`, else OpenVINO on a CPU if it is
            installed and there are enough images, else torch. Runs with different runtimes are not identical.
        device: the device of the generator.
        engine: "local" is this process; "torchrun" shares the work among the processes that torchrun started; "ray"
            distributes it to Ray Data actors. All give the same bytes.
        workers: number of actors of the engine ray; None is one per GPU, or per core.
        allow_test: also use poses of query and gallery images, if the bank holds them.
        follow_links: also use images that symbolic links in the dataset's folder point to outside it.

    Raises:
        BadInput: a value outside its range, or values that exclude each other.
    """

    data: Path
    annotations: Path
    generator: str
    bank: Path
    out: Path
    per_image: int | None = None
    per_identity: int | None = None
    budget: int | None = None
    sampler: str = "uniform"
    fit: Fit = "frame"
    reference: Reference = "image"
    ground: float | None = None
    seed: int = 0
    gate: GateConfig | None = None
    tries: int = 3
    format: Format = "folder"
    shard_size: int = 1024
    real: Literal["copy", "link", "omit"] = "copy"
    batch_size: int | None = None
    dtype: Dtype = "auto"
    runtime: Runtime = "auto"
    device: str = "cpu"
    engine: Engine = "local"
    workers: int | None = None
    allow_test: bool = False
    follow_links: bool = False

    def __post_init__(self) -> None:
        """Checks what can be checked without opening a file."""
        for name, most in (
            ("per_image", MAX_COPIES), ("per_identity", 1_000_000), ("budget", 1_000_000_000), ("tries", MAX_COPIES),
            ("shard_size", 100_000), ("batch_size", 65_536), ("workers", 4096),
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and not 1 <= value <= most:
                few = most == MAX_COPIES
                raise BadInput(f"{name}: {value}, needed {f'1 to {most}' if few else f'at least 1, at most {most}'}")
        if self.ground is not None and not 0 <= self.ground <= 1:
            raise BadInput(f"ground: {self.ground}, needed a probability in [0, 1]")
        if not 0 <= self.seed < 2**63:
            raise BadInput(f"seed: {self.seed}, needed 0 or more, and below 2^63")
        if self.per_image is not None and self.per_identity is not None:
            raise BadInput(
                f"per_image: {self.per_image}, per_identity: {self.per_identity}; needed one of them, not both"
            )
        parse_sampler(self.sampler)
        for name, known in (
            ("fit", FITS), ("reference", REFERENCES), ("format", FORMATS),
            ("real", ("copy", "link", "omit")), ("dtype", DTYPES), ("runtime", RUNTIMES),
            ("engine", ENGINES),
        ):  # fmt: skip
            if getattr(self, name) not in known:
                raise BadInput(f"{name}: '{getattr(self, name)}', needed one of {', '.join(known)}")
        if self.format == "webdataset" and self.real == "link":
            raise BadInput("real: 'link', shards hold the images themselves; needed copy or omit")
        try:
            require_fit(self.reference, self.fit)
        except ValueError as error:
            raise BadInput(str(error)) from None
        if self.workers is not None and self.engine != "ray":
            raise BadInput(f"workers: {self.workers}, of the engine ray only; torchrun has --nproc-per-node")
        require_apart("out", self.out, self.data)

    def with_whole_paths(self) -> "GenerateConfig":
        """The same with absolute paths, for processes in other working directories."""
        paths = {name: getattr(self, name).resolve() for name in ("data", "annotations", "bank", "out")}
        if Path(self.generator).exists():
            paths["generator"] = str(Path(self.generator).resolve())
        if self.gate is not None and self.gate.features is not None:
            paths["gate"] = replace(self.gate, features=str(Path(self.gate.features).resolve()))
        return replace(self, **paths)
