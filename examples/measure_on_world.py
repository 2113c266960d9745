"""Measures generators on persons, scenes and poses of the pedestrian world that are in no training set.

python examples/measure_on_world.py --generator pedestrians-small --sheet runs/sheet.png --failures runs/failures.png

A generated image is compared with the true one: the same person, camera and background in the target pose.

* SSIM and person SSIM (inside the union of the person's masks in source and true image): `xingaug.training.quality`.
* PCK: a keypoint network, trained on true images of other persons, estimates the joints. A joint of the target pose
  is correct within 0.05 of the image height (6.4 px); joints hidden in the true image do not count.
* rank-1: a re-ID network, trained on other persons, matches each image against all test persons. The gallery has
  four true images of each, in other poses, cameras and backgrounds than those of the query.

The true images (an upper bound) and copies of the source are measured in the same way.
The two networks are trained once, which takes some minutes on two cores, and kept in --cache with the test images.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

import xingaug
from xingaug.data import pedestrians as ped
from xingaug.errors import BadInput, WorkFailed, guarded
from xingaug.files import atomic_write
from xingaug.generators.many import render_images
from xingaug.images import bytes_to_unit, unit_to_signed, write_image
from xingaug.keypoints import FLIP_ORDER, JOINTS, MIN_VISIBLE, Keypoints, render_heatmaps
from xingaug.report.figures import skeleton
from xingaug.training.quality import measure as measure_quality

VERSION = 1  # part of the file names of networks and test images; raised when the same settings give others
TEST_SEED, JUDGE_SEED = 900_000, 800_000  # far above the seeds of the training configurations
GALLERY_IMAGES = 4  # per test person, each from another camera
TRAINING_IMAGES = 16  # per training person
PERSONS_PER_SCENE = 50  # training persons that share the scenes of six cameras
BATCH = 16
RADIUS_PX = 0.05 * ped.SIZE[0]
MAPS = (ped.SIZE[0] // 4, ped.SIZE[1] // 4)  # (height, width) of the keypoint network's maps, cells

TRUE, COPY = "true images", "copied source"

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Settings:
    """Settings that determine the test images and networks."""

    identities: int = 100
    poses: int = 10
    seed: int = 77
    training_identities: int = 300
    network_steps: int = 2000


@dataclass(frozen=True)
class TestSet:
    """True images: one source per person, several targets, and the gallery; all in order of persons."""

    source: ped.RenderedBatch
    target: ped.RenderedBatch
    gallery: ped.RenderedBatch
    persons: Rows  # (N,) person of each target, also the row of its source

    @property
    def masks(self) -> np.ndarray:
        """(N, 128, 64), above 0 where the person is in the source or in the target."""
        return np.maximum(self.source.masks[self.persons], self.target.masks)


@dataclass(frozen=True)
class Figures:
    """Measures of one set of images; `pck` and `rank1` are shares of joints and of images."""

    ssim: float
    person_ssim: float
    pck: float
    rank1: float


def draw_test_set(settings: Settings) -> ped.RenderedBatch:
    """Draws for each person a source and targets, with one camera and one background, then the gallery."""
    seed, each = TEST_SEED + settings.seed, 1 + settings.poses + GALLERY_IMAGES
    cameras = [ped.make_camera(c, seed) for c in range(ped.CAMERAS)]
    order = [np.random.default_rng([seed, i]).permutation(ped.CAMERAS) for i in range(settings.identities)]

    def request(i: int, attempt: int) -> ped.Request:
        person, number = divmod(i, each)
        camera = cameras[order[person][max(0, number - settings.poses)]]
        pose = ped.draw_pose((seed, person, number, attempt), ped.PoseDistribution.any(), camera.pitch_deg)
        return ped.draw_identity(seed, person), pose, camera, ped.draw_background(seed, person, camera, 0)

    drawn = ped.render_many([request(i, 0) for i in range(settings.identities * each)], progress=True)
    for attempt in range(1, 100):
        hidden = np.flatnonzero((drawn.visibility > 0).sum(1) < MIN_VISIBLE)
        if not len(hidden):
            return drawn
        again = ped.render_many([request(int(i), attempt) for i in hidden])
        for name, values in vars(again).items():
            getattr(drawn, name)[hidden] = values
    raise WorkFailed(f"test set: a person is hidden in every pose; give another --seed than {settings.seed}")


def load_test_set(settings: Settings, cache: Path) -> TestSet:
    """The test images, from the cache if available."""
    path = cache / f"test_{settings.identities}x{settings.poses}_seed{settings.seed}_v{VERSION}.npz"
    if not path.exists():
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **vars(draw_test_set(settings)))
    with np.load(path, allow_pickle=False) as stored:
        drawn = dict(stored)
    rows = np.arange(len(drawn["images"])).reshape(settings.identities, -1)
    columns = (slice(0, 1), slice(1, 1 + settings.poses), slice(1 + settings.poses, None))
    source, target, gallery = (
        ped.RenderedBatch(**{k: v[rows[:, chosen].ravel()] for k, v in drawn.items()}) for chosen in columns
    )
    return TestSet(source, target, gallery, np.repeat(np.arange(settings.identities), settings.poses))


def draw_training_set(settings: Settings) -> ped.RenderedBatch:
    """Draws other persons in any pose under any camera; no two images of a person share a background."""
    seed = JUDGE_SEED + settings.seed
    rng = np.random.default_rng(seed)
    requests = []
    for i in range(settings.training_identities * TRAINING_IMAGES):
        person = i // TRAINING_IMAGES
        camera = ped.make_camera(int(rng.integers(ped.CAMERAS)), seed + person // PERSONS_PER_SCENE)
        pose = ped.draw_pose((seed, i), ped.PoseDistribution.any(), camera.pitch_deg)
        requests.append((ped.draw_identity(seed, person), pose, camera, ped.draw_background(seed, i, camera, 0)))
    return ped.render_many(requests, progress=True)


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class JointFinder(nn.Module):
    """Keypoint network: encodes to a sixteenth of the image's resolution, and decodes to a quarter."""

    def __init__(self) -> None:
        """Draws the weights."""
        super().__init__()
        self.quarter = nn.Sequential(_block(3, 24, 2), _block(24, 48, 2), _block(48, 48))
        self.eighth = nn.Sequential(_block(48, 96, 2), _block(96, 96))
        self.sixteenth = _block(96, 160, 2)
        self.deeper = nn.ModuleList(nn.Sequential(_block(160, 160), _block(160, 160)) for _ in range(2))
        self.up_sixteenth = _block(160, 96)
        self.up_eighth = nn.Sequential(_block(96, 96), _block(96, 48))
        self.up_quarter = nn.Sequential(_block(48, 48), nn.Conv2d(48, len(JOINTS), 1))

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, 128, 64) in [-1, 1] -> (B, 18, 32, 16) logits of the position of each joint."""
        quarter = self.quarter(images)  # (B, 48, 32, 16)
        eighth = self.eighth(quarter)  # (B, 96, 16, 8)
        deep = self.sixteenth(eighth)  # (B, 160, 8, 4)
        for stage in self.deeper:
            deep = deep + stage(deep)
        eighth = self.up_eighth(eighth + F.interpolate(self.up_sixteenth(deep), scale_factor=2.0))  # (B, 48, 16, 8)
        logits: Tensor = self.up_quarter(quarter + F.interpolate(eighth, scale_factor=2.0))
        return logits

    def loss(self, images: Tensor, keypoints: Keypoints, persons: Tensor) -> Tensor:
        """Cross-entropy between each visible joint's map and a Gaussian with a sigma of one cell."""
        wanted = render_heatmaps(keypoints.resize(ped.SIZE, MAPS), MAPS, sigma=1.0).flatten(2)
        wanted = wanted / wanted.sum(2, keepdim=True).clamp(min=1e-6)
        return -(wanted * self(images).flatten(2).log_softmax(2)).sum() / keypoints.present.sum().clamp(min=1)

    def joints(self, images: np.ndarray) -> np.ndarray:
        """(N, H, W, 3) uint8 -> (N, 18, 2) pixels: the mean position within two cells of each map's peak."""
        mirrored = _applied(self, images[:, :, ::-1].copy())[:, FLIP_ORDER].flip(3)
        share = ((_applied(self, images) + mirrored) / 2).flatten(2).softmax(2)  # (N, 18, 32 * 16)
        cells = torch.stack(torch.meshgrid(torch.arange(MAPS[1]), torch.arange(MAPS[0]), indexing="xy"), -1)
        cells = cells.reshape(-1, 2).float()  # (32 * 16, 2) x, y
        near = (cells - cells[share.argmax(2)][:, :, None]).abs().amax(3) <= 2
        share = share * near
        xy = (share / share.sum(2, keepdim=True)) @ cells
        return Keypoints(xy, torch.ones(xy.shape[:2])).resize(MAPS, ped.SIZE).xy.numpy()


class PersonClassifier(nn.Module):
    """Re-ID network: eight stripes of a convolutional map, reduced to one vector."""

    def __init__(self, persons: int) -> None:
        """Draws the weights; `persons`: number of training persons."""
        super().__init__()
        self.trunk = nn.Sequential(
            _block(3, 32, 2), _block(32, 64, 2), _block(64, 64), _block(64, 128, 2), _block(128, 128), _block(128, 128)
        )
        self.reduce = nn.Sequential(nn.Linear(128 * 8, 256, bias=False), nn.BatchNorm1d(256))
        self.prototypes = nn.Parameter(torch.randn(persons, 256))

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, 128, 64) in [-1, 1] -> (B, 256) features of length 1, compared by their cosine."""
        maps = self.trunk(images)  # (B, 128, 16, 8)
        return F.normalize(self.reduce(F.adaptive_avg_pool2d(maps, (8, 1)).flatten(1)))

    def loss(self, images: Tensor, keypoints: Keypoints, persons: Tensor) -> Tensor:
        """Cross-entropy of the cosines with one prototype per person, with CosFace's margin."""
        cosines = self(images) @ F.normalize(self.prototypes).T
        return F.cross_entropy(16 * (cosines - 0.2 * F.one_hot(persons, len(self.prototypes))), persons)

    def features(self, images: np.ndarray) -> Tensor:
        """(N, H, W, 3) uint8 -> (N, 256)."""
        return _applied(self, images)


def _keypoints(data: ped.RenderedBatch) -> Keypoints:
    return Keypoints(torch.from_numpy(data.xy), torch.from_numpy(data.visibility))


def _signed(images: np.ndarray) -> Tensor:
    return unit_to_signed(bytes_to_unit(torch.from_numpy(images))).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def _applied(network: nn.Module, images: np.ndarray) -> Tensor:
    return torch.cat([network(_signed(images[i : i + 64])) for i in range(0, len(images), 64)])


def train_network(network: JointFinder | PersonClassifier, data: ped.RenderedBatch, settings: Settings) -> None:
    """Trains with AdamW; the learning rate rises to 2e-3 over a tenth of the steps, then falls to 0."""
    rng = np.random.default_rng([JUDGE_SEED, settings.seed])
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=1e-4)
    steps = settings.network_steps
    for step in tqdm(range(steps), desc=type(network).__name__, disable=None):
        optimiser.param_groups[0]["lr"] = 2e-3 * min(10 * (step + 1) / steps, (steps - step) / (0.9 * steps))
        rows = rng.choice(len(data.images), min(BATCH, len(data.images)), replace=False)
        loss = network.loss(*_augmented(data, rows, rng), torch.from_numpy(rows // TRAINING_IMAGES))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def _augmented(data: ped.RenderedBatch, rows: Rows, rng: np.random.Generator) -> tuple[Tensor, Keypoints]:
    """A batch in [-1, 1] with random flip, shift by up to 4 pixels, and brightness of each image's channels."""
    images = _signed(data.images[rows])
    keypoints = _keypoints(data)[rows]
    if rng.random() < 0.5:
        images, keypoints = images.flip(3), keypoints.flip(ped.SIZE[1])
    top, left = rng.integers(-4, 5, 2).tolist()
    images = F.pad(images, (4, 4, 4, 4), mode="replicate")
    images = images[..., 4 + top : 4 + top + ped.SIZE[0], 4 + left : 4 + left + ped.SIZE[1]]
    gains = torch.from_numpy(rng.uniform(0.8, 1.2, (len(rows), 3, 1, 1)).astype(np.float32))
    return ((images + 1) * gains - 1).clamp(-1, 1), keypoints.crop(top, left, ped.SIZE)


def load_networks(settings: Settings, cache: Path) -> tuple[JointFinder, PersonClassifier]:
    """The networks, from the cache or newly trained."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        networks = JointFinder(), PersonClassifier(settings.training_identities)
    data = None
    for network in networks:
        name = f"{type(network).__name__}_{settings.training_identities}x{settings.network_steps}_seed{settings.seed}"
        path = cache / f"{name}_v{VERSION}.safetensors"
        if not path.exists():
            data = draw_training_set(settings) if data is None else data
            train_network(network.to(memory_format=torch.channels_last), data, settings)
            with atomic_write(path) as temporary:
                temporary.write_bytes(save({k: v.contiguous() for k, v in network.state_dict().items()}))
        network.load_state_dict(load_file(path))
        network.to(memory_format=torch.channels_last).eval()
    return networks


def measure(images: np.ndarray, test: TestSet, networks: tuple[JointFinder, PersonClassifier]) -> Figures:
    """Compares one image per target with the true ones.

    Args:
        images: (N, 128, 64, 3) uint8, in the order of `test.target`.
        test: the true images.
        networks: the keypoint and the re-ID network.
    """
    quality = measure_quality(images, test.target.images, test.masks)
    distance = np.linalg.norm(networks[0].joints(images) - test.target.xy, axis=2)
    pck = (distance <= RADIUS_PX)[test.target.visibility > 0].mean()
    nearest = (networks[1].features(images) @ networks[1].features(test.gallery.images).T).argmax(1).numpy()
    rank1 = (nearest // GALLERY_IMAGES == test.persons).mean()
    return Figures(quality.ssim, float(quality.person_ssim or 0), float(pck), float(rank1))


def _load(generator: str) -> nn.Module:
    network = xingaug.load_generator(generator)
    if tuple(network.size) != ped.SIZE:
        raise BadInput(f"--generator {generator}: renders images of {tuple(network.size)}, needed {ped.SIZE}")
    return network


def render_targets(network: nn.Module, test: TestSet) -> np.ndarray:
    """Renders every source in its target poses: (N, 128, 64, 3) uint8."""
    source, target = _keypoints(test.source)[test.persons], _keypoints(test.target)
    return render_images(network, test.source.images[test.persons], source, target, progress="rendering")


def write_sheet(path: Path, rows: Rows, generated: Sequence[np.ndarray], test: TestSet) -> None:
    """Draws 8 targets, two per line: source, target pose, one image of each generator, true image."""
    blocks = []
    for row in rows[:8]:
        pose = skeleton(test.target.xy[row], test.target.visibility[row], ped.SIZE, scale=1)
        source, true = test.source.images[test.persons[row]], test.target.images[row]
        block = np.concatenate([source, pose, *(images[row] for images in generated), true], 1)
        blocks.append(np.pad(block, ((4, 4), (6, 6), (0, 0)), constant_values=255))
    blocks += [np.full_like(blocks[0], 255)] * (len(blocks) % 2)
    lines = [np.concatenate(blocks[i : i + 2], 1) for i in range(0, len(blocks), 2)]
    write_image(path, np.concatenate(lines))


def worst_first(images: np.ndarray, test: TestSet) -> Rows:
    """Rows of the targets by ascending person SSIM; only the worst of each person."""
    masks = test.masks
    each = (slice(row, row + 1) for row in range(len(images)))
    person_ssim = [measure_quality(images[i], test.target.images[i], masks[i]).person_ssim for i in each]
    order = np.argsort(person_ssim, kind="stable")
    return order[np.sort(np.unique(test.persons[order], return_index=True)[1])]


def measure_generators(
    settings: Settings,
    generators: Sequence[str],
    cache: Path,
    sheet: Path | None = None,
    failures: Path | None = None,
) -> dict[str, Figures]:
    """Figures of the true images, of copies of the source, and of each generator by its name.

    Args:
        settings: settings of test images and networks.
        generators: bundled names or .safetensors files.
        cache: directory of networks and test images.
        sheet: PNG to write, with the first target of 8 persons.
        failures: PNG to write, with the 8 worst persons by the first generator's worst image of each.
    """
    loaded = {name: _load(name) for name in generators}  # first, to fail before minutes of work
    test = load_test_set(settings, cache)
    networks = load_networks(settings, cache)
    images = {TRUE: test.target.images, COPY: test.source.images[test.persons]}
    images |= {name: render_targets(network, test) for name, network in loaded.items()}
    generated = [images[name] for name in generators]
    if sheet is not None:
        write_sheet(sheet, np.unique(test.persons, return_index=True)[1], generated, test)
    if failures is not None:
        write_sheet(failures, worst_first(generated[0], test), generated, test)
    return {name: measure(these, test, networks) for name, these in images.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program; exit code 0 done, 1 failed while working, 2 bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generator", nargs="+", required=True, help="bundled names or .safetensors files")
    parser.add_argument(
        "--cache", type=Path, default=Path("runs/networks"), help="directory of networks and test images"
    )
    parser.add_argument("--sheet", type=Path, help="PNG to write, with 8 persons")
    parser.add_argument("--failures", type=Path, help="PNG to write, with the first generator's 8 worst persons")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    for name, value in asdict(Settings()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value, help=f"(default: {value})")
    args = parser.parse_args(arguments)

    def command() -> None:
        settings = Settings(**{name: getattr(args, name) for name in asdict(Settings())})
        for name, value in asdict(settings).items():
            if value < (name != "seed"):
                raise BadInput(f"--{name.replace('_', '-')}: {value}, needed at least {int(name != 'seed')}")
        found = measure_generators(settings, args.generator, args.cache, args.sheet, args.failures)
        table = {name: {**asdict(f), "pck_share": f.pck / max(found[TRUE].pck, 1e-9)} for name, f in found.items()}
        if args.json:
            print(json.dumps({"settings": asdict(settings), "figures": table}, indent=1))
            return
        width = max(map(len, table))
        print(" " * width, *(f"{column:>11}" for column in table[TRUE]))
        for name, row in table.items():
            print(f"{name:{width}}", *(f"{value:11.3f}" for value in row.values()))

    return guarded(command)


if __name__ == "__main__":
    torch.set_flush_denormal(True)  # denormal numbers (below 1e-38) are negligible and slow a CPU down
    sys.exit(main())
