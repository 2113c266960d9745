"""What all estimators share: checks, mirrored averaging, the least confidence; programs; the gate takes one."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from pose_networks import dots, dots_network, places
from posing import persons
from torch import Tensor, nn

from xingaug.augment.gate import QualityGate
from xingaug.data.layouts import to_joints18
from xingaug.errors import BadInput
from xingaug.keypoints import JOINTS, Keypoints
from xingaug.poses.estimators import BUNDLED, ESTIMATORS, Estimator, PoseEstimator, load_estimator


class Scripted:
    """A finder that says what a function makes of each image."""

    name = "scripted"
    device = torch.device("cpu")

    def __init__(self, find: Callable[[Tensor], Keypoints]) -> None:
        self.find = find

    def __call__(self, images: list[Tensor]) -> Keypoints:
        assert all(image.dtype == torch.float32 for image in images)
        return Keypoints.stack([self.find(image) for image in images])


def mean_of_both(a: Keypoints, b: Keypoints) -> Keypoints:
    """Joint by joint, in loops."""
    xy, visibility = torch.zeros_like(a.xy), torch.zeros_like(a.visibility)
    for j in range(len(JOINTS)):
        va, vb = float(a.visibility[j]), float(b.visibility[j])
        visibility[j] = (va + vb) / 2
        if va + vb:
            xy[j] = (a.xy[j] * va + b.xy[j] * vb) / (va + vb)
    return Keypoints(xy, visibility)


def test_mirrored_results_are_averaged_by_their_confidence() -> None:
    rng = torch.Generator().manual_seed(0)
    widths = (64, 48, 31)
    plain, other = ([Keypoints(torch.rand(18, 2, generator=rng) * 40, torch.rand(18, generator=rng)) for _ in widths]
                    for _ in range(2))  # fmt: skip
    plain[0].visibility[:3], other[0].visibility[2:5] = 0, 0  # found once, and joint 2 never
    images = [torch.linspace(0, 1, width).expand(3, 96, width) for width in widths]

    def find(image: Tensor) -> Keypoints:
        i = widths.index(image.shape[-1])
        return plain[i] if image[0, 0, 0] < image[0, 0, -1] else other[i].flip(widths[i])

    found = PoseEstimator(Scripted(find), mirror=True, min_confidence=0)(images)
    for i in range(3):
        expected = mean_of_both(plain[i], other[i])
        torch.testing.assert_close(found.visibility[i], expected.visibility)
        there = expected.present
        torch.testing.assert_close(found.xy[i][there], expected.xy[there], atol=1e-4, rtol=1e-5)
    assert found.visibility[0, 2] == 0
    unmirrored = PoseEstimator(Scripted(find), min_confidence=0)(images)
    assert torch.equal(unmirrored.xy, Keypoints.stack(plain).xy)


def test_the_least_confidence_is_asked_after_averaging() -> None:
    def find(image: Tensor) -> Keypoints:
        sure = 0.5 if image[0, 0, 0] < image[0, 0, -1] else 0.2
        return Keypoints(torch.zeros(18, 2), torch.full((18,), sure))

    image = torch.linspace(0, 1, 8).expand(1, 3, 16, 8)
    for least, seen in ((0.34, True), (0.36, False)):
        found = PoseEstimator(Scripted(find), mirror=True, min_confidence=least)(image)
        assert found.visibility[0].tolist() == pytest.approx([0.35 if seen else 0] * 18)


def test_mirroring_of_a_network_that_knows_colours_alone(tmp_path: Path) -> None:
    """A mirrored left shoulder is a left one to it, and so mirrored back a right one, at the left one's place."""
    both = np.full(17, 0.8)
    estimator = load_estimator("rtmpose", dots_network(tmp_path / "dots.onnx", "simcc", (both, both)), mirror=True)
    xy = np.full((17, 2), -1.0)
    xy[0], xy[5], xy[6] = (20, 10), (40, 30), (23, 30)  # the nose, which is its own partner, and the shoulders
    found = estimator(dots(xy)[None])
    places_found = {name: found.xy[0, JOINTS.index(name)].tolist() for name in ("nose", "left_shoulder", "neck")}
    for name, place in (("nose", [20, 10]), ("left_shoulder", [31.5, 30]), ("neck", [31.5, 30])):
        assert places_found[name] == pytest.approx(place, abs=1e-4)
        assert found.visibility[0, JOINTS.index(name)] == pytest.approx(0.8, abs=1e-3)
    assert int(found.present.sum()) == 4


def test_wrong_images_and_settings() -> None:
    estimator = PoseEstimator(Scripted(lambda _: persons(1)[0]))
    for images in (
        torch.rand(3, 8, 4),
        torch.rand(1, 1, 8, 4),
        torch.zeros(1, 3, 8, 4, dtype=torch.uint8),
        [torch.rand(1, 3, 8, 4)],
        torch.rand(1, 3, 0, 4),
    ):
        with pytest.raises(ValueError, match=r"^images: .+ for one of them, needed float \(3, H, W\)$"):
            estimator(images)
    assert estimator([]).shape == estimator(torch.rand(0, 3, 8, 4)).shape == (0,)
    assert estimator(torch.rand(2, 3, 8, 4).half()).shape == (2,)
    for least in (-0.1, 1.0):
        with pytest.raises(ValueError, match=rf"min_confidence: {least}, needed a number in \[0, 1\)"):
            PoseEstimator(Scripted(lambda _: persons(1)[0]), min_confidence=least)
    with pytest.raises(BadInput, match=r"^unknown estimator 'openpose'; known: .*keypoint-rcnn, rtmp"):
        load_estimator("openpose")
    with pytest.raises(BadInput, match="device 'gpu': no such device; known: cpu, cuda"):
        load_estimator("rtmpose", Path("a.onnx"), "gpu")
    if not torch.cuda.is_available():
        with pytest.raises(BadInput, match="device 'cuda': this torch finds no CUDA device; use cpu"):
            load_estimator("rtmpose", Path("a.onnx"), "cuda")
    assert (*BUNDLED, "keypoint-rcnn", "rtmpose", "vitpose", "movenet", "posenet", "program") == ESTIMATORS


def test_estimates_carry_no_gradient_and_leave_the_images(tmp_path: Path) -> None:
    path = dots_network(tmp_path / "dots.onnx", "simcc", (np.ones(17), np.ones(17)))
    images = dots(places(np.random.default_rng(1)))[None].requires_grad_()
    before = images.detach().clone()
    assert not load_estimator("rtmpose", path)(images).xy.requires_grad
    assert torch.equal(images, before)


def test_the_gate_takes_an_estimator(tmp_path: Path) -> None:
    """Rendered images whose dots lie where they were asked for pass; others do not."""
    path = dots_network(tmp_path / "dots.onnx", "simcc", (np.ones(17), np.ones(17)))
    estimator: Estimator = load_estimator("rtmpose", path)
    gate = QualityGate(estimator=estimator, min_contrast=0, max_saturated=1)
    rng = np.random.default_rng(2)
    xy = np.stack([places(rng) for _ in range(3)])
    images = torch.stack([dots(one) for one in xy])
    asked = to_joints18(xy, np.ones((3, 17)), "coco17")
    asked.xy[1] = asked.xy[1].flip(-1) + 20
    verdict = gate(images, images, asked)
    assert verdict.scores["pose"][[0, 2]].tolist() == [1, 1]
    assert verdict.kept.tolist() == [True, False, True]


class Fixed(nn.Module):
    """A pose that depends on an image's size and mean; one that is none where `spoilt`."""

    def __init__(self, spoilt: str = "") -> None:
        super().__init__()
        self.spoilt = spoilt

    def forward(self, images: Tensor) -> Tensor:
        share = torch.arange(18) / 18 + images.mean((1, 2, 3))[:, None] * 0.01
        x, y = share * (images.shape[3] - 1), share * (images.shape[2] - 1)
        sure = torch.arange(18) / 17 + (1 if self.spoilt == "confidence" else 0) * torch.ones_like(share)
        return torch.stack([x, y] if self.spoilt == "shape" else [x, y, sure], -1)


def program(path: Path, spoilt: str = "") -> Path:
    dims = {0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    exported = torch.export.export(Fixed(spoilt), (torch.rand(2, 3, 64, 32),), dynamic_shapes=(dims,))
    torch.export.save(exported, path)
    return path


@pytest.mark.slow  # torch.export alone takes seconds to import
def test_programs_see_the_images_as_they_are(tmp_path: Path) -> None:
    estimator = load_estimator("program", program(tmp_path / "net.pt2"))
    assert estimator.name.startswith("program net.pt2 ")
    images = [torch.rand(3, *size) for size in ((64, 32), (96, 40), (64, 32), (20, 20))]
    found = estimator(images)
    for i, image in enumerate(images):
        expected = Fixed()(image[None])[0]
        torch.testing.assert_close(found.xy[i], expected[:, :2])
        torch.testing.assert_close(found.visibility[i], expected[:, 2] * (expected[:, 2] >= 0.3))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoilt", "said"),
    [
        ("shape", r"returns \(1, 18, 2\) for images \(1, 3, 64, 32\), needed \(1, 18, 3\): x, y, confidence"),
        ("confidence", r"returns no poses, x and y in pixels and a confidence in \[0, 1\] \(visibility: "),
    ],
)
def test_programs_that_give_no_poses(spoilt: str, said: str, tmp_path: Path) -> None:
    estimator = load_estimator("program", program(tmp_path / "net.pt2", spoilt))
    with pytest.raises(BadInput, match=rf"net\.pt2: {said}"):
        estimator(torch.rand(1, 3, 64, 32))


def test_programs_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"^estimator 'program': comes without weights; name a network, images"):
        load_estimator("program")
    with pytest.raises(
        BadInput, match=r"none\.pt2: no such file; needed a pose estimator saved by torch\.export\.save$"
    ):
        load_estimator("program", tmp_path / "none.pt2")
