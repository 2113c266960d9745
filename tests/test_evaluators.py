"""What judges images: feature networks and a gallery, pose estimators, sharpness, distances on VGG-16."""

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from command_lines import EVALUATE
from judging import colours_network
from onnx import TensorProto, helper
from pose_networks import Graph
from safetensors.torch import save_file

from reid_integration.evaluation import evaluate as by_distances
from xingaug.data.market1501 import read_images, read_split
from xingaug.data.pairs import read_pairs
from xingaug.errors import BadInput
from xingaug.keypoints import Keypoints
from xingaug.poses.estimators import load_estimator, load_estimator_file
from xingaug.training.features import FeatureNetwork
from xingaug.training.poses_found import PoseEvaluator
from xingaug.training.quality import gradient, pck, sharpness
from xingaug.training.retrieval import Gallery, retrieve
from xingaug.training.vgg import VGGFeatures
from xingaug.training.vgg_metrics import LAYERS, VGGEvaluator, frechet

# Feature networks


def images_of(count: int, size: tuple[int, int] = (40, 20), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *size, 3), dtype=np.uint8)


@pytest.mark.parametrize("batch", [None, 4])
def test_features_are_the_networks_of_unit_length(tmp_path: Path, batch: int | None) -> None:
    network = FeatureNetwork(colours_network(tmp_path / "net.onnx", batch), (40, 20))
    images = images_of(7)
    means = images.mean((1, 2)) / 255 - 0.3
    expected = np.concatenate([means, means**2], 1)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(network(images, batch_size=3).numpy(), expected, atol=1e-4)
    assert network.size == (40, 20)


def test_images_come_at_the_size_that_the_network_fixes(tmp_path: Path) -> None:
    network = FeatureNetwork(colours_network(tmp_path / "net.onnx", size=(80, 30)), (40, 20))
    assert network.size == (80, 30)
    assert network(images_of(2)).shape == (2, 6)


class Means(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3))


@pytest.mark.slow  # torch.export takes seconds to import
def test_a_program_of_torch_export_says_its_size_too(tmp_path: Path) -> None:
    batch = ({0: torch.export.Dim("batch")},)
    torch.export.save(
        torch.export.export(Means(), (torch.rand(2, 3, 24, 12),), dynamic_shapes=batch), tmp_path / "n.pt2"
    )
    network = FeatureNetwork(tmp_path / "n.pt2", (40, 20))
    assert network.size == (24, 12)
    assert network(images_of(3)).norm(dim=1).tolist() == pytest.approx([1, 1, 1])


def test_networks_that_give_no_features(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no.onnx: no such file; needed a feature network"):
        FeatureNetwork(tmp_path / "no.onnx", (40, 20))
    g = Graph()
    g("Relu", "input", output="made")
    maps = FeatureNetwork(g.save(tmp_path / "maps.onnx", ["made"], None, None), (40, 20))
    with pytest.raises(BadInput, match=r"maps.onnx: returns \(2, 3, 40, 20\) for images .+, needed features \(2, D\)"):
        maps(images_of(2))
    g = Graph()
    g("Div", g("ReduceMean", "input", np.array([2, 3]), keepdims=0), np.float32(0), output="made")
    endless = FeatureNetwork(g.save(tmp_path / "inf.onnx", ["made"], None, None), (40, 20))
    with pytest.raises(BadInput, match=r"inf.onnx: returns NaN or infinite features"):
        endless(images_of(2))


# Retrieval


def space(seed: int, queries: int = 12, count: int = 60) -> tuple[torch.Tensor, np.ndarray, np.ndarray, Gallery]:
    rng = np.random.default_rng(seed)
    features = torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(count, 5))), dim=1).float()
    gallery = Gallery(features, rng.integers(0, 6, count), rng.integers(1, 4, count))  # 0 is a distractor
    query = torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(queries, 5))), dim=1).float()
    return query, rng.integers(1, 6, queries), rng.integers(1, 4, queries), gallery


@pytest.mark.parametrize("seed", range(5))
def test_retrieval_is_market_1501s(seed: int) -> None:
    query, pids, camids, gallery = space(seed)
    nobody = np.full((len(query), 2), -1)
    found = retrieve(query, pids, camids, nobody, gallery)
    distances = 1 - (query @ gallery.features.T).numpy()
    expected = by_distances(distances, pids, gallery.pids, camids, gallery.camids)
    assert (found.rank1, found.mean_ap) == pytest.approx((expected.rank1, expected.mAP))
    assert found.queries == expected.queries


def test_source_and_target_are_passed_over() -> None:
    query, pids, camids, gallery = space(1)
    rng = np.random.default_rng(2)
    rows = rng.integers(0, len(gallery.pids), (len(query), 2))
    ranks, precisions = [], []
    for i in range(len(query)):
        kept = [
            row for row in range(len(gallery.pids))
            if row not in rows[i] and not (gallery.pids[row] == pids[i] and gallery.camids[row] == camids[i])
        ]  # fmt: skip
        order = sorted(kept, key=lambda row: -float(gallery.features[row] @ query[i]))
        right = [place for place, row in enumerate(order, 1) if gallery.pids[row] == pids[i]]
        ranks.append(right[0] == 1)
        precisions.append(np.mean([(n + 1) / place for n, place in enumerate(right)]))
    found = retrieve(query, pids, camids, rows, gallery)
    assert (found.rank1, found.mean_ap) == pytest.approx((np.mean(ranks), np.mean(precisions)))


def test_queries_without_a_match_do_not_count() -> None:
    query, pids, camids, gallery = space(3)
    pids[0] = 99
    nobody = np.full((len(query), 2), -1)
    rest = retrieve(query[1:], pids[1:], camids[1:], nobody[1:], gallery)
    assert retrieve(query, pids, camids, nobody, gallery) == rest
    with pytest.raises(ValueError, match="no query has a true match"):
        retrieve(query[:1], pids[:1], camids[:1], nobody[:1], gallery)


def test_evaluate_with_a_feature_network(place: Path, run, tmp_path: Path) -> None:
    net = colours_network(tmp_path / "net.onnx")
    command = f"{EVALUATE} --reid {net} --reid-cache {tmp_path}/cache --sharpness"
    code, out, err = run(f"{command} --json")
    figures = json.loads(out)
    assert (code, err) == (0, "")
    assert figures["true"]["sharpness"] == 1
    # Once more from the parts.
    split = read_split(place / "world", "gallery")
    network = FeatureNetwork(net, (128, 64))
    gallery = Gallery(network(read_images(split)), split.pids, split.camids)
    index = {name: row for row, name in enumerate(split.names.tolist())}
    rows = np.array([[index[name] for name in pair] for pair in read_pairs(place / "pairs.csv")])
    for side, row in ((0, figures["baselines"]["copy_source"]), (1, figures["true"])):
        shown = rows[:, side]
        expected = retrieve(gallery.features[shown], split.pids[shown], split.camids[shown], rows, gallery)
        assert (row["reid_rank1"], row["reid_map"]) == pytest.approx((expected.rank1, expected.mean_ap))
    assert {"reid_rank1", "reid_map", "sharpness"} <= set(figures)
    assert figures["measures"]["reid"].startswith("net.onnx, cosine, images of 128x64")
    # The gallery's features are taken from the cache, and a damaged one is told.
    (kept,) = (tmp_path / "cache").iterdir()
    before = kept.stat().st_mtime_ns
    code, out, _ = run(command)
    assert (code, kept.stat().st_mtime_ns) == (0, before)
    assert [line.split(":")[0].strip() for line in out.splitlines()[1:5]] == [
        "generated", "copy_source", "identity_mean", "true"
    ]  # fmt: skip
    kept.write_bytes(kept.read_bytes()[:100])
    code, out, err = run(command)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {kept}: not an file of features")
    code, _, err = run(f"{EVALUATE} --reid-cache {tmp_path}/cache")
    assert (code, err.count("\n")) == (2, 1)


# Poses


def standing(count: int = 2) -> Keypoints:
    xy = torch.stack([torch.linspace(5, 60, 18), torch.linspace(5, 120, 18)], -1).expand(count, -1, -1).clone()
    return Keypoints(xy, torch.ones(count, 18))


def test_pck_by_hand() -> None:
    true = standing()
    assert pck(true, true, 128) == 1
    xy = true.xy.clone()
    xy[0, 4] += torch.tensor([3.8, 5.1])  # 6.36 px, within 0.2 x 128 / 4 = 6.4
    xy[0, 7] += torch.tensor([0.0, 6.5])
    xy[1, 1] += 50  # the neck does not count
    assert pck(Keypoints(xy, true.visibility), true, 128) == pytest.approx(33 / 34)
    assert pck(Keypoints(xy, true.visibility * 0), true, 128) == pytest.approx(33 / 34)  # wherever it is not sure
    seen = true.visibility.clone()
    seen[0, 7] = 0
    assert pck(Keypoints(xy, true.visibility), Keypoints(true.xy, seen), 128) == 1
    assert pck(Keypoints(xy, true.visibility), true, 128, threshold=0.1) == pytest.approx(32 / 34)
    with pytest.raises(ValueError, match="no joint but necks"):
        pck(true, Keypoints(true.xy, true.visibility * 0), 128)


def movenet(path: Path, output: tuple[int, ...] = (1, 1, 17, 3), sure: float = 0.0) -> Path:
    """Finds each joint k at the share (k / 32, 0.5) of the frame, `sure` and as sure as the frame's middle is red."""
    places = np.zeros((17, 3), np.float32)
    places[:, 0], places[:, 1], places[:, 2] = np.arange(17) / 32, 0.5, sure
    g = Graph()
    floats = g("Cast", "input", to=TensorProto.FLOAT)
    red = g(
        "Gather",
        g("Gather", g("Gather", floats, np.array([96]), axis=1), np.array([96]), axis=2),
        np.array([0]),
        axis=3,
    )
    column = np.array([0, 0, 1], np.float32).reshape(1, 1, 1, 3) / 255
    found = g("Add", g("Mul", red, column), places[None, None])
    g("Reshape", found, np.array(output), output="made")
    images = helper.make_tensor_value_info("input", TensorProto.INT32, [1, 192, 192, 3])
    made = [helper.make_tensor_value_info("made", TensorProto.FLOAT, None)]
    graph = helper.make_graph(g.nodes, "movenet", [images], made, g.constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    return path


def test_movenet(tmp_path: Path) -> None:
    estimator = load_estimator("movenet", movenet(tmp_path / "m.onnx"))
    assert estimator.name.startswith("movenet m.onnx ")
    images = torch.zeros(2, 3, 128, 64)
    images[0, 0] = 0.8
    found = estimator(images)
    assert found.visibility[0].tolist() == pytest.approx([0.8] * 18, abs=0.01)
    assert found.visibility[1].tolist() == [0] * 18  # nobody in the dark
    # The frame shows the crop one and a half times as large, in its middle.
    nose, right_ankle = found.xy[0, 0], found.xy[0, 10]
    assert nose.tolist() == pytest.approx([31.5, -0.5])
    assert right_ankle.tolist() == pytest.approx([31.5, 16 / 32 * 128 - 0.5])
    wide = estimator([torch.full((3, 60, 120), 0.9)])
    assert wide.xy[0, 0].tolist() == pytest.approx([59.5, -30.5])
    assert load_estimator_file(tmp_path / "m.onnx").name == estimator.name


def test_other_networks_are_no_movenet(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"m.onnx: gives \(1, 17, 3\), needed MoveNet's single pose \(1, 1, 17, 3\)"):
        load_estimator("movenet", movenet(tmp_path / "m.onnx", (1, 17, 3)))
    with pytest.raises(BadInput, match=r"needed one input of images \(1, H, W, 3\)"):
        load_estimator("movenet", colours_network(tmp_path / "net.onnx"))


def test_a_pose_judge_counts_what_can_be_found(tmp_path: Path) -> None:
    evaluator = PoseEvaluator(movenet(tmp_path / "m.onnx"))
    red, black = np.zeros((2, 128, 64, 3), np.uint8), np.zeros((2, 128, 64, 3), np.uint8)
    red[..., 0] = 200
    poses = load_estimator_file(tmp_path / "m.onnx")(torch.from_numpy(red).movedim(-1, 1) / 255)
    moved = Keypoints(poses.xy + torch.tensor([0.0, 20.0]), poses.visibility)
    evaluator.measure_true(red, poses)
    assert evaluator.scores(black)["pck"] == 1
    evaluator.measure_true(red, moved)
    assert evaluator.scores(red)["pck"] == 0
    with pytest.raises(BadInput, match=r"m.onnx: finds no joint of 2 true images"):
        evaluator.measure_true(black, poses)


MOVENET = Path(__file__).resolve().parents[2] / "shared" / "weights" / "movenet-lightning.onnx"


@pytest.mark.skipif(not MOVENET.is_file(), reason="no weights of MoveNet beside the project")
def test_the_real_movenet_finds_a_drawn_person(place: Path) -> None:
    split = read_split(place / "world", "gallery")
    images = torch.from_numpy(read_images(split.select(np.arange(4)))).movedim(-1, 1) / 255
    assert load_estimator_file(MOVENET)(images).visibility.mean() > 0.3


# Sharpness


def test_sharpness_by_hand() -> None:
    ramp = np.zeros((1, 4, 5, 3), np.uint8)
    ramp[...] = (np.arange(5) * 3 + np.arange(4)[:, None] * 4)[None, ..., None]
    assert gradient(ramp) == pytest.approx(5)
    assert sharpness(ramp // 2 * 2, gradient(ramp)) != 1
    assert sharpness(ramp, gradient(ramp)) == 1
    assert sharpness(np.full_like(ramp, 9), gradient(ramp)) == 0
    assert sharpness(ramp, gradient(np.full_like(ramp, 9))) == 0
    green = ramp.copy()
    green[..., [0, 2]] = 0
    assert gradient(green) == pytest.approx(5 * 0.587)


# VGG-16


@pytest.mark.parametrize(("counts", "dimensions"), [((50, 40), 5), ((6, 4), 24), ((30, 5), 12)])
def test_frechet_distance_is_its_formula(counts: tuple[int, int], dimensions: int) -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=(counts[0], dimensions))
    b = rng.normal(size=(counts[1], dimensions)) * 1.5 + 0.3
    covariances = [np.cov(side, rowvar=False) for side in (a, b)]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1] + 1e-14 * np.eye(dimensions))
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(covariances[0] + covariances[1] - 2 * root.real)
    assert frechet(torch.from_numpy(a), torch.from_numpy(b)) == pytest.approx(expected, rel=1e-4)
    assert frechet(torch.from_numpy(a), torch.from_numpy(a)) == pytest.approx(0, abs=1e-9)
    assert frechet(torch.from_numpy(a + 2), torch.from_numpy(a)) == pytest.approx(4 * dimensions)


@pytest.fixture(scope="module")
def vgg16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a VGG-16 that has learned nothing, in half precision."""
    from torchvision.models import vgg16 as build

    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = build(weights=None).features.state_dict()
    path = tmp_path_factory.mktemp("vgg") / "vgg16.safetensors"
    save_file({f"features.{name}": value.half() for name, value in state.items()}, path)
    return path


def test_distances_on_vgg16(vgg16: Path) -> None:
    true, other = images_of(3, (32, 16)), images_of(3, (32, 16), seed=1)
    evaluator = VGGEvaluator(vgg16, true, 2, "cpu", "--frechet-weights")
    scores = evaluator.scores({"same": true, "other": other})
    assert scores["same"]["vgg_distance"] == 0
    assert scores["same"]["frechet"] == pytest.approx(0, abs=1e-6)
    network = VGGFeatures("vgg16", str(vgg16), LAYERS, "x")
    sides = [network(torch.from_numpy(side).movedim(-1, 1) / 255) for side in (other, true)]
    expected = []
    for a, b in zip(*sides, strict=True):
        a, b = (x / x.norm(dim=1, keepdim=True).clamp(min=1e-5) for x in (a, b))
        expected.append(((a - b) ** 2).sum(1).mean())
    assert scores["other"]["vgg_distance"] == pytest.approx(float(torch.stack(expected).mean()), rel=1e-3)
    assert scores["other"]["frechet"] == pytest.approx(frechet(*(x[-1].mean((2, 3)) for x in sides)), rel=1e-3)


def test_evaluate_with_vgg16(place: Path, run, tmp_path: Path, vgg16: Path) -> None:
    code, out, err = run(f"{EVALUATE} --frechet-weights {vgg16} --json")
    figures = json.loads(out)
    assert (code, err) == (0, "")
    assert figures["true"] == {"frechet": 0, "vgg_distance": 0}
    assert all(row["frechet"] > 0 < row["vgg_distance"] for row in (figures, *figures["baselines"].values()))
    assert set(figures["measures"]) == {"frechet", "vgg_distance"}
    code, out, err = run(f"{EVALUATE} --frechet-weights {vgg16} --limit 1")
    assert (code, out) == (2, "")
    assert err == "error: --frechet-weights: 1 images of 128x64, needed at least 2 of at least 8x8 pixels\n"
    code, _, err = run(f"{EVALUATE} --frechet-weights {tmp_path}/no.safetensors")
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith(f"error: --frechet-weights: {tmp_path}/no.safetensors: no such file")
