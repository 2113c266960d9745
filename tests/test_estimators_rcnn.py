"""Keypoint R-CNN: who of several persons counts, where joints lie, and weights that are none."""

from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from xingaug.data.layouts import to_joints18
from xingaug.errors import BadInput
from xingaug.keypoints import Keypoints
from xingaug.poses.estimators import PoseEstimator, keypoint_rcnn, load_estimator
from xingaug.poses.estimators.keypoint_rcnn import SIZE, KeypointRCNN

LOGITS = torch.linspace(-0.5, 6, 17)


class StandIn(nn.Module):
    """Persons as torchvision's network gives them: one for each colour that it sees, anywhere in the image.

    A person's box is that of the pixels of its colour, in continuous coordinates; its joints lie along the diagonal
    from the first to the last pixel's centre.
    """

    def __init__(self, scores: tuple[float, ...] = (0.95, 0.99, 0.6), labels: tuple[int, ...] = (1, 1, 1)) -> None:
        super().__init__()
        self.scores, self.labels, self.seen = scores, labels, []  # of red, green, blue

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        assert not self.training
        assert all(image.shape == (3, *SIZE) for image in images)
        self.seen.append(len(images))
        with images[0].device:
            return [self.persons(image) for image in images]

    def persons(self, image: Tensor) -> dict[str, Tensor]:
        found = []
        for channel, (score, label) in enumerate(zip(self.scores, self.labels, strict=True)):
            others = image[[c for c in range(3) if c != channel]].amax(0)
            rows, columns = torch.where((image[channel] > 0.9) & (others < 0.1))
            if len(rows):
                first, last = torch.stack([columns.min(), rows.min()]), torch.stack([columns.max(), rows.max()])
                along = torch.lerp(first.float(), last.float(), torch.linspace(0, 1, 17)[:, None])
                joints = torch.cat([along, torch.ones(17, 1)], 1)
                found.append((torch.cat([first, last + 1]).float(), score, label, joints, LOGITS.to(image.device)))
        if not found:
            return {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0, dtype=torch.long),
                    "keypoints": torch.zeros(0, 17, 3), "keypoints_scores": torch.zeros(0, 17)}  # fmt: skip
        boxes, scores, labels, keypoints, logits = zip(*found, strict=True)
        return {"boxes": torch.stack(boxes), "scores": torch.tensor(scores), "labels": torch.tensor(labels),
                "keypoints": torch.stack(keypoints), "keypoints_scores": torch.stack(logits)}  # fmt: skip


RED, GREEN, BLUE = range(3)


def image_of(size: tuple[int, int], *persons: tuple[int, int, int, int, int]) -> Tensor:
    """Black, with rectangles (colour, left, top, right, bottom) drawn one over the other."""
    image = torch.zeros(3, *size)
    for colour, left, top, right, bottom in persons:
        image[:, top:bottom, left:right] = torch.eye(3)[colour][:, None, None]
    return image


def expected(box: tuple[int, int, int, int], score: float, scale: float) -> Keypoints:
    """The joints of the stand-in for a rectangle that is enlarged `scale` times."""
    left, top, right, bottom = (v * scale for v in box)
    along = torch.linspace(0, 1, 17)
    x, y = left + (right - left - 1) * along, top + (bottom - top - 1) * along
    return to_joints18((torch.stack([x, y], -1) + 0.5) / scale - 0.5, score * LOGITS.sigmoid(), "coco17")


def estimator(network: nn.Module, **keys: float) -> PoseEstimator:
    return PoseEstimator(KeypointRCNN(network, "stand-in", torch.device("cpu")), min_confidence=0, **keys)


def test_joints_come_back_to_the_crop_with_their_confidence() -> None:
    boxes = ((0, 0, 64, 128), (8, 16, 40, 112), (0, 0, 16, 32))
    images = [image_of((128, 64), (RED, *boxes[0])), image_of((128, 64), (RED, *boxes[1]))]
    images.append(image_of((32, 16), (RED, *boxes[2])))
    found = estimator(StandIn())(images)
    for i, (box, scale) in enumerate(zip(boxes, (4.0, 4.0, 16.0), strict=True)):
        wanted = expected(box, 0.95, scale)
        # Inside the crop an enlarged edge is soft: the stand-in sees it a tenth of a crop pixel or two further in.
        near = 1e-3 if i != 1 else 0.5
        torch.testing.assert_close(found[i : i + 1].xy[0], wanted.xy, atol=near, rtol=0)
        torch.testing.assert_close(found.visibility[i], wanted.visibility)


@pytest.mark.parametrize(
    ("persons", "score"),
    [
        # A person at the side with the higher score loses to the one in the middle.
        ([(RED, 14, 4, 50, 124), (GREEN, 54, 4, 64, 124)], 0.95),
        # Also one that reaches a little into the middle.
        ([(RED, 21, 4, 64, 124), (GREEN, 0, 4, 21, 124)], 0.95),
        # Both cover the middle: the score decides. (The smaller one's rectangle lies over the greater one's.)
        ([(BLUE, 0, 0, 64, 128), (GREEN, 12, 24, 52, 104)], 0.99),
        # A person with a much lower score in the middle loses to a good one that covers most of it.
        ([(GREEN, 0, 0, 42, 128), (BLUE, 42, 0, 64, 128)], 0.99),
    ],
)
def test_the_central_person_counts(persons: list, score: float) -> None:
    found = estimator(StandIn())(image_of((128, 64), *persons)[None])
    torch.testing.assert_close(found.visibility[0, 13], score * LOGITS[15].sigmoid())  # left ankle


def test_nobody_in_the_middle_is_nobody() -> None:
    images = [
        image_of((128, 64)),
        image_of((128, 64), (GREEN, 50, 0, 64, 128)),
        image_of((96, 48), (RED, 0, 0, 48, 96)),
    ]
    found = estimator(StandIn())(images)
    assert found.present.any(-1).tolist() == [False, False, True]
    assert estimator(StandIn(labels=(2, 1, 1)))(images).present.any(-1).tolist() == [False] * 3  # another class


def test_many_images_go_through_in_parts() -> None:
    network = StandIn()
    images = torch.stack([image_of((128, 64), (RED, i, 0, 64, 128)) for i in range(10)])
    found = estimator(network)(images)
    assert network.seen == [8, 2]
    for i in range(10):
        torch.testing.assert_close(found[i : i + 1].xy, estimator(StandIn())(images[i : i + 1]).xy)


def test_the_networks_input_is_not_resized_again() -> None:
    network = keypoint_rcnn._build_network()
    images, _ = network.transform([torch.rand(3, *SIZE), torch.rand(3, *SIZE)])
    assert images.image_sizes == [SIZE, SIZE]
    assert images.tensors.shape == (2, 3, *SIZE)
    border = torch.tensor(keypoint_rcnn.BORDER)[:, None, None].expand(3, *SIZE)
    assert network.transform([border])[0].tensors.abs().max() < 1e-6


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """Weights of the real network, drawn from its own generator."""
    network = keypoint_rcnn._build_network()
    return network.state_dict()


def test_weights_are_read_from_both_formats(state: dict[str, Tensor], tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    frozen = {name: value for name, value in state.items() if "num_batches_tracked" not in name}
    torch.save({"model": state}, tmp_path / "trained.pth")
    save_file(frozen, tmp_path / "frozen.safetensors")
    for name, epsilon in (("trained.pth", 1e-5), ("frozen.safetensors", 0.0)):
        loaded = load_estimator("keypoint-rcnn", tmp_path / name)
        assert loaded.name.startswith(f"keypoint-rcnn {name} ")
        network = loaded._finder._network
        for key, value in network.state_dict().items():
            if key in frozen:
                assert torch.equal(value, frozen[key]), key
        assert {m.eps for m in network.modules() if isinstance(m, nn.BatchNorm2d)} == {epsilon}
        assert not network.training
    assert torch.equal(before, torch.random.get_rng_state())


def test_weights_of_another_network_are_refused(state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({"conv.weight": torch.zeros(3)}, tmp_path / "other.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "other.pth").read_bytes()[:-100])
    (tmp_path / "text.pth").write_text("weights")
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "text.safetensors").write_text("weights, weights")
    (tmp_path / "net.onnx").write_text("net")
    for name, said in (
        ("other.pth", r"no weights of torchvision's keypointrcnn_resnet50_fpn \('backbone[\w.]+' is missing\)$"),
        ("list.pth", "holds a list, needed the weights of torchvision's keypointrcnn_resnet50_fpn$"),
        (
            "cut.pth",
            r"cannot be read as tensors saved by torch, needed .+ \(it is cut off or damaged\)$",
        ),
        ("text.pth", r"cannot be read as tensors saved by torch, needed .+ \(it is a text file\)$"),
        ("empty.pth", r"cannot be read as tensors saved by torch, needed .+ \(it is empty\)$"),
        (
            "text.safetensors",
            r"cannot be read as tensors saved by torch, needed .+ \(it is a text file\)$",
        ),
        ("net.onnx", r"the estimator 'keypoint-rcnn' reads \.pth or \.pt or \.safetensors$"),
        ("none.pth", r"no such file; the estimator 'keypoint-rcnn' needs its weights"),
    ):
        with pytest.raises(BadInput, match=rf"{name}: {said}") as raised:
            load_estimator("keypoint-rcnn", tmp_path / name)
        assert "\n" not in str(raised.value)


def test_without_network_one_line_says_where_weights_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: object, **keys: object) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(BadInput) as raised:
        load_estimator("keypoint-rcnn")
    said = str(raised.value)
    assert said.startswith("estimator 'keypoint-rcnn': no weights from torchvision, which takes them from ")
    assert f"keeps them as {tmp_path}/hub/checkpoints/keypointrcnn_resnet50_fpn_coco-" in said
    assert said.endswith("(TORCH_HOME moves it); put the file there or name its path")
    assert "\n" not in said


def test_weights_in_torchvisions_cache_are_taken(
    state: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.models.detection import KeypointRCNN_ResNet50_FPN_Weights

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = KeypointRCNN_ResNet50_FPN_Weights.COCO_V1.url.rpartition("/")[2]
    cached = tmp_path / "hub" / "checkpoints" / file
    cached.parent.mkdir(parents=True)
    torch.save({name: value for name, value in state.items() if "num_batches_tracked" not in name}, cached)
    assert load_estimator("keypoint-rcnn").name.startswith(f"keypoint-rcnn {file} ")
    cached.write_bytes(b"half a file")
    with pytest.raises(BadInput, match=r"no weights from torchvision, .+ and keeps them as .+-fc266e95\.pth"):
        load_estimator("keypoint-rcnn")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_the_same_is_found() -> None:
    images = [image_of((128, 64), (RED, 8, 0, 60, 128), (GREEN, 60, 0, 64, 128)), image_of((96, 48))]
    on_gpu = PoseEstimator(KeypointRCNN(StandIn(), "stand-in", torch.device("cuda")), mirror=True)(images)
    on_cpu = PoseEstimator(KeypointRCNN(StandIn(), "stand-in", torch.device("cpu")), mirror=True)(images)
    assert on_gpu.device.type == "cuda"
    torch.testing.assert_close(on_gpu.xy.cpu(), on_cpu.xy, atol=1e-3, rtol=0)
    torch.testing.assert_close(on_gpu.visibility.cpu(), on_cpu.visibility)


@pytest.mark.slow
def test_the_real_network_runs(state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(state, tmp_path / "random.pth")
    found = load_estimator("keypoint-rcnn", tmp_path / "random.pth", min_confidence=0)(torch.rand(1, 3, 128, 64))
    assert found.shape == (1,)
    assert found.xy.isfinite().all()
