"""What to generate: `GenerateConfig`."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from xingaug.augment.gate import GateConfig
from xingaug.errors import BadInput
from xingaug.generators.core import RUNTIMES, Runtime
from xingaug.generators.fast import DTYPES, Dtype
from xingaug.offline.manifest import MAX_COPIES
from xingaug.poses.placing import FITS, Fit
from xingaug.poses.samplers import parse_sampler

Engine = Literal["local", "torchrun", "ray"]
ENGINES: tuple[Engine, ...] = ("local", "torchrun", "ray")

Format = Literal["folder", "webdataset"]
FORMATS: tuple[Format, ...] = ("folder", "webdataset")


@dataclass(frozen=True)
class GenerateConfig:
    """What to generate.

    Attributes:
        data: root of a dataset in Market-1501 layout.
        annotations: keypoints of its training images, .npz or .csv.
        generator: name or path, as `load_generator` takes it.
        bank: directory of a pose bank.
        out: directory to write; absent, empty, or an earlier run of the same configuration.
        per_image: synthetic images for each real one, 1 to 1000; None is 1, or what `per_identity` or `budget` ask for.
        per_identity: real and synthetic training images that each identity is filled up to, its real ones taking turns.
        budget: synthetic images in all, at most. Every image has its first copy before any has its second.
        sampler: a name in `xingaug.poses.samplers.SAMPLERS`, or a mixture such as "uniform=3,near=1".
        fit: "frame" puts a pose where it was seen, "source" where and as large as the source stands.
        ground: share of the synthetic images whose person is put on another image's ground (`xingaug.augment.grounds`);
            None is all where the generator tells persons from the ground, else none.
        seed: of every draw.
        gate: which rendered images are good enough to be kept; None keeps all.
        tries: poses that are tried, at most, for an image that the gate does not let through.
        format: "folder" is Market-1501's layout, "webdataset" tar shards of the training images.
        shard_size: images rendered for one shard.
        real: the real training images are copied, hard-linked or left out. In a folder query and gallery are always
            there, hard-linked with "link", else copied; shards hold training images only, and "link" is not for them.
        batch_size: images rendered at a time; None is what an earlier run into `out` took, else what memory allows.
            Sums are rounded differently at another size, so it belongs to what makes two runs alike.
        dtype: of weights and computation; "auto" is what an earlier run into `out` took, else bfloat16 where the device
            has it, else float32. Like the batch size it belongs to what makes two runs alike.
        runtime: what computes. "auto" is what an earlier run into `out` took, else OpenVINO on a CPU where it is
            installed and there are images enough, else torch; it belongs to what makes two runs alike, too.
        device: where the generator runs.
        engine: "local" is this process; "torchrun" shares the work with the processes that torchrun started; "ray"
            gives it to actors of Ray Data. All of them give the same bytes.
        workers: actors of the engine ray; None is one for each GPU, or for each core.
        allow_test: take poses of query and gallery images too, if the bank holds them.
        follow_links: take over images too that symbolic links lead to, out of the dataset's folder.

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
            ("fit", FITS), ("format", FORMATS), ("real", ("copy", "link", "omit")), ("dtype", DTYPES),
            ("runtime", RUNTIMES),
            ("engine", ENGINES),
        ):  # fmt: skip
            if getattr(self, name) not in known:
                raise BadInput(f"{name}: '{getattr(self, name)}', needed one of {', '.join(known)}")
        if self.format == "webdataset" and self.real == "link":
            raise BadInput("real: 'link', shards hold the images themselves; needed copy or omit")
        if self.workers is not None and self.engine != "ray":
            raise BadInput(f"workers: {self.workers}, of the engine ray only; torchrun has --nproc-per-node")
        out, data = self.out.resolve(), self.data.resolve()
        if out.is_relative_to(data) or data.is_relative_to(out):
            raise BadInput(f"out: {self.out} and the dataset {self.data} lie in one another; name a directory outside")

    def with_whole_paths(self) -> "GenerateConfig":
        """The same for processes that may work in other directories."""
        paths = {name: getattr(self, name).resolve() for name in ("data", "annotations", "bank", "out")}
        if Path(self.generator).exists():
            paths["generator"] = str(Path(self.generator).resolve())
        if self.gate is not None and self.gate.features is not None:
            paths["gate"] = replace(self.gate, features=str(Path(self.gate.features).resolve()))
        return replace(self, **paths)
