"""Top-down ONNX estimators: joints planted in an image come back exactly, and files that are no such network."""

import builtins
import re
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pose_networks import SIZE, constant_network, dots, dots_network, places
from torch import Tensor

from xingaug.data.layouts import LAYOUTS, to_joints18
from xingaug.errors import BadInput
from xingaug.keypoints import JOINTS, Keypoints
from xingaug.poses.estimators import load_estimator
from xingaug.poses.estimators.frames import frame
from xingaug.poses.estimators.heads import decode_heatmaps, decode_simcc
from xingaug.programs import onnx_session

ALONG_X = np.linspace(0.55, 0.95, 17)
ALONG_Y = np.linspace(0.98, 0.5, 17)
CROPS = ((128, 64), (64, 48), (32, 16), (256, 128), (128, 64))
"""Sizes whose enlargement into `SIZE` is a whole number, or 1: there the planted joints come back exactly."""

COCO_IN_18 = [JOINTS.index(joint) for joint in LAYOUTS["coco17"]]


def planted(sizes: tuple[tuple[int, int], ...], seed: int = 0) -> tuple[list[Tensor], np.ndarray]:
    """Images with dots at random places, and these places (B, 17, 2)."""
    rng = np.random.default_rng(seed)
    xy = np.stack([places(rng, size, 6 if size[0] > 32 else 2) for size in sizes])
    return [dots(one, size) for one, size in zip(xy, sizes, strict=True)], xy


def assert_found(found: Keypoints, xy: np.ndarray, confidence: np.ndarray, within: float = 1e-4) -> None:
    expected = to_joints18(xy, np.broadcast_to(confidence, xy.shape[:-1]), "coco17")
    assert found.shape == expected.shape
    torch.testing.assert_close(found.visibility, expected.visibility, atol=2e-3, rtol=0)
    there = expected.present
    torch.testing.assert_close(found.xy[there], expected.xy[there], atol=within, rtol=0)


@pytest.mark.parametrize(("batch", "half"), [(None, False), (1, False), (4, False), (None, True)])
def test_simcc_finds_the_planted_joints_exactly(batch: int | None, half: bool, tmp_path: Path) -> None:
    path = dots_network(tmp_path / "dots.onnx", "simcc", (ALONG_X, ALONG_Y), batch=batch, half=half)
    estimator = load_estimator("rtmpose", path)
    images, xy = planted(CROPS)
    assert_found(estimator(images), xy, np.minimum(ALONG_X, ALONG_Y))
    assert_found(estimator(torch.stack([images[0], images[4]])), xy[[0, 4]], np.minimum(ALONG_X, ALONG_Y))


@pytest.mark.parametrize("batch", [None, 1])
def test_heatmaps_find_the_planted_joints(batch: int | None, tmp_path: Path) -> None:
    path = dots_network(tmp_path / "dots.onnx", "heatmaps", (ALONG_X, ALONG_X), batch=batch)
    images, xy = planted(CROPS)
    found = load_estimator("vitpose", path)(images)
    highest = found.visibility[:, COCO_IN_18].numpy()
    assert_found(found, xy, highest, within=0.01)
    # The highest pixel of a Gaussian of sigma 2 lies up to half a pixel beside its top, along both axes.
    assert (highest <= ALONG_X + 1e-3).all()
    assert (highest >= ALONG_X * np.exp(-2 * 0.5**2 / 8) - 1e-3).all()


@pytest.mark.parametrize("size", [(128, 48), (100, 100), (90, 160), (512, 256), (131, 67)])
def test_crops_of_any_shape(size: tuple[int, int], tmp_path: Path) -> None:
    path = dots_network(tmp_path / "dots.onnx", "simcc", (ALONG_X, ALONG_X))
    images, xy = planted((size,))
    scale = min(SIZE[0] / size[0], SIZE[1] / size[1]) / 1.25
    found = load_estimator("rtmpose", path, min_confidence=0)(images)
    # Half a bin is a quarter of an input pixel; the rest is what a dot's centre of mass moves in resampling.
    assert_found(found, xy, found.visibility[:, COCO_IN_18].numpy(), within=0.5 / scale)
    assert found.present.all()


def test_wide_inputs_and_other_split_ratios(tmp_path: Path) -> None:
    path = dots_network(tmp_path / "dots.onnx", "simcc", (ALONG_X, ALONG_X), size=(160, 240), split=4.0)
    images, xy = planted(((64, 32), (32, 32)))  # both doubled or more by whole numbers
    assert_found(load_estimator("rtmpose", path)(images), xy, ALONG_X)


@pytest.mark.parametrize("names", [("simcc_x", "simcc_y"), ("SimCC_X", "A_simcc_y"), ("b_x", "B_y"), ("B_X", "B_Y")])
@pytest.mark.parametrize("size", [(256, 256), (320, 240)])
def test_names_of_outputs_tell_x_from_y(names: tuple[str, str], size: tuple[int, int], tmp_path: Path) -> None:
    """Where the input is a square their shapes do not."""
    path = dots_network(tmp_path / "dots.onnx", "simcc", (ALONG_X, ALONG_X), size=size, names=names)
    images, xy = planted(((64, 32),))
    found = load_estimator("rtmpose", path, min_confidence=0)(images)
    assert_found(found, xy, found.visibility[:, COCO_IN_18].numpy(), within=0.5)


@pytest.mark.parametrize("head", ["simcc", "heatmaps"])
def test_a_network_that_does_not_say_its_size_gets_256x192(head: str, tmp_path: Path) -> None:
    path = dots_network(tmp_path / "dots.onnx", head, (ALONG_X, ALONG_X), size=(256, 192), says_size=False)
    estimator = load_estimator("vitpose", path)
    images, xy = planted(((205, 102),))  # which is not resized
    assert_found(estimator(images), xy, estimator(images).visibility[:, COCO_IN_18].numpy(), within=0.01)


@pytest.mark.parametrize("count", [25, 26, 133])
def test_layouts_with_more_joints(count: int, tmp_path: Path) -> None:
    if count == 25:  # easy_ViTPose's: the neck before the shoulders, the middle of the hips before the knees
        joints = [*range(5), -1, *range(5, 13), -1, *range(13, 17), *[-1] * 6]
    else:
        joints = [*range(17), *[-1] * (count - 17)]
    path = dots_network(tmp_path / "dots.onnx", "simcc", (ALONG_X, ALONG_X), joints=joints)
    images, xy = planted(((128, 64),))
    assert_found(load_estimator("rtmpose", path)(images), xy, ALONG_X)


def test_joints_that_are_not_there_or_not_sure_are_missing(tmp_path: Path) -> None:
    sure = np.full(17, 0.9)
    sure[3:5] = 0.29, 0.31
    path = dots_network(tmp_path / "dots.onnx", "simcc", (sure, np.full(17, 1.7)))
    images, xy = planted(((128, 64), (128, 64)))
    images[1].zero_()  # nobody
    xy[0, 9] = -1
    images[0] = dots(xy[0])
    found = load_estimator("rtmpose", path)(images)
    expected = np.where(np.isin(np.arange(17), [3, 9]), 0, sure)
    assert_found(found[:1], xy[:1], expected)
    assert found.visibility[1].eq(0).all()
    all_of_them = load_estimator("rtmpose", path, min_confidence=0)(images)
    assert all_of_them.visibility[0, 17] == pytest.approx(0.29, abs=1e-3)


def test_confidences_above_one_are_clipped(tmp_path: Path) -> None:
    for head in ("simcc", "heatmaps"):
        path = dots_network(tmp_path / f"{head}.onnx", head, (np.full(17, 3.0), np.full(17, 2.0)))
        images, _ = planted(((128, 64),))
        assert load_estimator("vitpose", path)(images).visibility.eq(1).all()


def test_simcc_against_loops() -> None:
    rng = torch.Generator().manual_seed(0)
    along_x, along_y = torch.randn(2, 3, 96, generator=rng), torch.randn(2, 3, 128, generator=rng)
    xy, confidence = decode_simcc(along_x, along_y, (64, 48))
    for b in range(2):
        for j in range(3):
            i, k = along_x[b, j].tolist(), along_y[b, j].tolist()
            assert xy[b, j].tolist() == [i.index(max(i)) / 2, k.index(max(k)) / 2]
            assert confidence[b, j] == min(max(i), max(k))


def test_heatmaps_are_exact_on_gaussians_and_their_edges_are_the_inputs() -> None:
    rng = np.random.default_rng(0)
    true = np.concatenate([rng.uniform(1, 46, (200, 2)) * [1, 62 / 46], [[0, 0], [47, 63]]])
    for sigma in (1.0, 2.0, 3.0):
        x, y = np.arange(48) - true[:, :1], np.arange(64) - true[:, 1:]
        maps = np.exp(-(x[:, None, :] ** 2 + y[:, :, None] ** 2) / (2 * sigma**2))
        xy, _ = decode_heatmaps(torch.from_numpy(maps[None]).float(), (256, 192))
        expected = true * [191 / 47, 255 / 63]
        assert np.abs(xy[0].numpy() - expected).max() < 1e-3
    torch.testing.assert_close(xy[0, -2:], torch.tensor([[0.0, 0], [191, 255]]))


def test_heatmaps_without_a_slope_stay_at_their_highest_pixel() -> None:
    maps = torch.zeros(1, 3, 4, 4)
    maps[0, 0, 2, 1] = 1.0  # a single pixel
    maps[0, 1] = -1.0
    maps[0, 1, 1, 1] = -0.5  # nowhere above 0
    maps[0, 2, 1, 1:3] = 1.0  # two alike: the middle
    xy, highest = decode_heatmaps(maps, (4, 4))
    assert xy.tolist() == [[[1, 2], [1, 1], [1.5, 1]]]
    assert highest.tolist() == [[1, -0.5, 1]]


def test_frames_keep_the_aspect_and_know_the_way_back() -> None:
    crops = [torch.rand(3, *size) for size in ((128, 64), (40, 100), (128, 64), (500, 90))]
    frames = frame(crops, (256, 192), torch.tensor([0.1, 0.2, 0.3]))
    for i, crop in enumerate(crops):
        height, width = crop.shape[1:]
        corners = torch.tensor([[-0.5, -0.5], [width - 0.5, height - 0.5], [(width - 1) / 2, (height - 1) / 2]])
        placed = (corners + 0.5) * frames.scale[i] - 0.5 + frames.offset[i]
        torch.testing.assert_close(frames.back(placed.expand(4, 3, 2))[i], corners, atol=1e-3, rtol=0)
        assert (placed[2] - torch.tensor([95.5, 127.5])).abs().max() <= 0.5  # the middle, to half a pixel
        assert max((placed[1] - placed[0]) / torch.tensor([192, 256])) == pytest.approx(0.8, abs=0.5 / 192)
        assert frames.scale[i, 0] == pytest.approx(float(frames.scale[i, 1]), rel=0.5 / min(crop.shape[1:]))
        (left, top), (right, bottom) = (placed[:2] + 0.5).round().int().tolist()
        inside = torch.zeros(256, 192, dtype=torch.bool)
        inside[top:bottom, left:right] = True
        border = frames.images[i][:, ~inside]
        assert border.eq(torch.tensor([0.1, 0.2, 0.3])[:, None]).all()
        assert float(frames.images[i][:, inside].mean()) == pytest.approx(float(crop.mean()), abs=0.01)


def test_threads_follow_torch_and_the_name_says_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    path = dots_network(tmp_path / "dots.onnx", "simcc", (ALONG_X, ALONG_X))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    made = []
    real = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *a, **k: made.append(a) or real(*a, **k))
    estimator = load_estimator("rtmpose", path, mirror=True)
    assert made[0][1].intra_op_num_threads == 3
    assert re.fullmatch(r"rtmpose dots\.onnx [0-9a-f]{12}, mirrored", estimator.name)


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


@pytest.mark.parametrize(
    ("outputs", "shape", "said"),
    [
        ([ones(1, 17, 384), ones(1, 17, 500)], (1, 3, 256, 192), r"gives \(1, 17, 384\), \(1, 17, 500\) for images"),
        ([ones(1, 17, 512), ones(1, 17, 384)], (1, 3, 256, 192), r".+needed SimCC \(B, J, 192k\), \(B, J, 256k\)"),
        ([ones(1, 17, 3)], (1, 3, 256, 192), r"gives \(1, 17, 3\) for images 256x192, needed SimCC"),
        ([ones(1, 17, 64, 48), ones(1)], (1, 3, 256, 192), r"gives \(1, 17, 64, 48\), \(1,\)"),
        ([ones(1, 16, 64, 48)], (1, 3, 256, 192), r"finds 16 joints, needed 17, 25, 26, 133, COCO's among them"),
        ([ones(1, 17, 64, 48)], (1, 256, 192, 3), r"takes \[\[1, 256, 192, 3\]\], needed one input of images"),
        ([np.full((1, 17, 64, 48), np.nan)], (1, 3, 256, 192), None),
    ],
)
def test_networks_that_are_no_such_model(outputs: list, shape: tuple, said: str | None, tmp_path: Path) -> None:
    path = constant_network(tmp_path / "net.onnx", outputs, shape)
    if said is None:
        with pytest.raises(BadInput, match=r"net\.onnx: gives NaN or infinite values"):
            load_estimator("vitpose", path)(torch.rand(1, 3, 128, 64))
    else:
        with pytest.raises(BadInput, match=rf"net\.onnx: {said}") as raised:
            load_estimator("vitpose", path)
        assert "\n" not in str(raised.value)


def test_a_network_that_answers_for_one_image_of_two(tmp_path: Path) -> None:
    path = constant_network(tmp_path / "net.onnx", [ones(1, 17, 64, 48)], (None, 3, 256, 192))
    estimator = load_estimator("vitpose", path)
    with pytest.raises(BadInput, match=r"net\.onnx: gave \(1, 17, 64, 48\) for 2 images; needed a row for each$"):
        estimator(torch.rand(2, 3, 128, 64))


def test_files_that_are_no_network(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    with pytest.raises(BadInput, match=r"none\.onnx: no such file; the estimator 'rtmpose' needs its weights, \.onnx$"):
        load_estimator("rtmpose", tmp_path / "none.onnx")
    (tmp_path / "net.pth").write_bytes(b"x")
    with pytest.raises(BadInput, match=r"net\.pth: the estimator 'vitpose' reads \.onnx$"):
        load_estimator("vitpose", tmp_path / "net.pth")
    (tmp_path / "text.onnx").write_text("a network")
    with pytest.raises(BadInput, match=r"text\.onnx: not a network that onnxruntime can load \(.+\)$"):
        load_estimator("vitpose", tmp_path / "text.onnx")
    with pytest.raises(BadInput, match=r"^estimator 'rtmpose': comes without weights; name an ONNX file.*--download"):
        load_estimator("rtmpose")
    assert capfd.readouterr() == ("", "")


def test_a_network_of_another_size_than_it_says(tmp_path: Path) -> None:
    path = dots_network(tmp_path / "dots.onnx", "simcc", (ALONG_X, ALONG_X), says_size=False)  # made for 320x240
    with pytest.raises(BadInput, match=r"dots\.onnx: does not take images \(1, 3, 256, 192\) \(.+\); export it"):
        load_estimator("rtmpose", path)


def test_without_onnxruntime_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **keys: Any) -> Any:
        if name == "onnxruntime":
            raise ImportError("No module named 'onnxruntime'", name=name)
        return real(name, *args, **keys)

    (tmp_path / "net.onnx").write_bytes(b"x")
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(BadInput, match=r"onnxruntime is not installed; pip install 'xingaug\[pose\]'$"):
        load_estimator("rtmpose", tmp_path / "net.onnx")


class Session:
    """An onnxruntime session as far as its providers."""

    def __init__(self, path: str, options: object, providers: list) -> None:
        self.asked = providers

    def get_providers(self) -> list[str]:
        return ["CPUExecutionProvider"]


@pytest.mark.parametrize(
    ("available", "said"),
    [
        (["AzureExecutionProvider", "CPUExecutionProvider"], "this one has Azure, CPU"),
        (["CUDAExecutionProvider", "CPUExecutionProvider"], "this one has CPU"),  # its libraries do not load
    ],
)
def test_cuda_is_not_replaced_in_silence(available: list[str], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = types.SimpleNamespace(
        get_available_providers=lambda: available, SessionOptions=types.SimpleNamespace, InferenceSession=Session
    )
    monkeypatch.setitem(sys.modules, "onnxruntime", runtime)
    expected = f"estimator 'rtmpose': device 'cuda:1' needs onnxruntime with CUDA, {said}; install onnxruntime-gpu"
    with pytest.raises(BadInput, match=expected):
        onnx_session(Path("net.onnx"), torch.device("cuda:1"), "estimator 'rtmpose'")


def test_cuda_is_asked_for_where_onnxruntime_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(Session, "get_providers", lambda self: both)
    runtime = types.SimpleNamespace(
        get_available_providers=lambda: both, SessionOptions=types.SimpleNamespace, InferenceSession=Session
    )
    monkeypatch.setitem(sys.modules, "onnxruntime", runtime)
    session = onnx_session(Path("net.onnx"), torch.device("cuda:1"), "estimator 'rtmpose'")
    assert session.asked == [("CUDAExecutionProvider", {"device_id": 1}), "CPUExecutionProvider"]
    assert onnx_session(Path("net.onnx"), torch.device("cpu"), "estimator 'rtmpose'").asked == ["CPUExecutionProvider"]
