"""Models and their weights: MobileNetV2 of ImageNet in torchreid's, the neck, the finer last map, sizes."""

from pathlib import Path

import pytest
import torch
from reid_world import settings
from torch import nn
from torch.nn import functional as F
from torchvision.models import mobilenet_v2

from reid_integration.by_path import MEAN, STD
from reid_integration.config import ReidConfig, reid_config
from reid_integration.models import Neck, build_model, logits_of
from reid_integration.weights import BUNDLED, load_weights, save_weights
from xingaug.data.market1501 import read_images, read_split
from xingaug.data.pedestrians import write_world
from xingaug.errors import BadInput

CPU = torch.device("cpu")


def config(tmp_path: Path, **changes: object) -> ReidConfig:
    return reid_config(settings(tmp_path / "world", tmp_path / "run", **changes))


@pytest.fixture(scope="module")
def imagenet() -> nn.Module:
    """In the place of trained weights: random ones whose batch norms do something."""
    torch.manual_seed(0)
    network = mobilenet_v2(weights=None)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, std=0.3)
            nn.init.normal_(layer.running_mean, std=0.1)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
    return network.eval()


def test_torchreids_mobilenet_does_what_the_imagenet_one_does(imagenet: nn.Module, tmp_path: Path) -> None:
    state = dict(reversed(list(imagenet.state_dict().items())))  # a file may have any order
    torch.save(state, tmp_path / "mobilenet.pth")
    chosen = config(tmp_path, model__name="mobilenetv2_x1_0", model__load_weights=str(tmp_path / "mobilenet.pth"))
    model = build_model(chosen, 5, CPU).eval()
    images = torch.randn(2, 3, 64, 32)
    with torch.no_grad():
        wanted = imagenet.features(images).mean((2, 3))
        torch.testing.assert_close(model(images), wanted, rtol=1e-4, atol=1e-4)


def test_its_added_layer_hands_on_in_training_too(imagenet: nn.Module, tmp_path: Path) -> None:
    torch.save(imagenet.state_dict(), tmp_path / "mobilenet.pth")
    chosen = config(tmp_path, model__name="mobilenetv2_x1_0", model__load_weights=str(tmp_path / "mobilenet.pth"))
    model = build_model(chosen, 5, CPU).train()
    passed: list[torch.Tensor] = []
    model.conv2[0].conv1.register_forward_hook(lambda _, inputs, output: passed.extend((inputs[0], output)))
    with torch.no_grad():
        model(torch.randn(8, 3, 64, 32))
    came, went = passed
    assert torch.corrcoef(torch.stack([came.flatten(), went.flatten()]))[0, 1] > 0.98


def test_the_bundled_weights_know_drawn_persons(tmp_path: Path) -> None:
    write_world(tmp_path / "world", 24, 4, seed=5, workers=1, progress=False)
    split = read_split(tmp_path / "world", "gallery")
    images = torch.from_numpy(read_images(split, size=(128, 64))).permute(0, 3, 1, 2).float() / 255
    images = (images - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]

    def found(**only: object) -> float:
        """Share of the images whose nearest other image shows the same person."""
        model = build_model(config(tmp_path, data__height=128, data__width=64, **only), 7, CPU).eval()
        with torch.no_grad():
            features = F.normalize(model(images))
        nearest = (features @ features.T).fill_diagonal_(-1).argmax(1).numpy()
        return float((split.pids[nearest] == split.pids).mean())

    assert found(model__load_weights="osnet_x0_25-pedestrians") > found() + 0.2
    assert all(card.with_suffix(".md").is_file() for card in BUNDLED.glob("*.safetensors"))


def test_another_mobilenet_is_refused(imagenet: nn.Module, tmp_path: Path) -> None:
    state = {name: value for name, value in imagenet.state_dict().items() if not name.startswith("features.7.")}
    torch.save(state, tmp_path / "short.pth")
    with pytest.raises(BadInput, match=r"model\.load_weights: .* layers under 'features.', needed the 104"):
        build_model(
            config(tmp_path, model__name="mobilenetv2_x1_0", model__load_weights=str(tmp_path / "short.pth")), 5, CPU
        )


def test_the_neck_normalises_what_is_retrieved_and_classified(tmp_path: Path) -> None:
    model = build_model(config(tmp_path, model__neck=True, loss__name="triplet"), 5, CPU)
    images = torch.randn(4, 3, 32, 16)
    logits, before = model.train()(images)
    assert isinstance(model.classifier, Neck)
    assert logits.shape == (4, 5)
    assert before.mean(0).abs().max() > 0.01  # the triplet loss sees them as they are
    assert model.classifier.norm(before).mean(0).abs().max() < 1e-5
    assert not model.classifier.norm.bias.requires_grad
    model.eval()
    with torch.no_grad():
        model.classifier.norm.running_mean.fill_(1)
        features = model(images)
        model.classifier.norm.running_mean.zero_()
        model.classifier.norm.running_var.fill_(1)
        raw = model(images)
        torch.testing.assert_close(logits_of(model, raw), model.classifier.linear(raw))
    assert not torch.equal(features, raw)


def test_a_necks_weights_are_needed_to_test_it(tmp_path: Path) -> None:
    plain, necked = (build_model(config(tmp_path, model__neck=neck), 5, CPU) for neck in (False, True))
    save_weights(plain, tmp_path / "plain.safetensors", {})
    save_weights(necked, tmp_path / "necked.safetensors", {})
    only = {"model__neck": True, "test__evaluate": True}
    build_model(config(tmp_path, **only, model__load_weights=str(tmp_path / "necked.safetensors")), 7, CPU)
    with pytest.raises(BadInput, match=r"missing or have another shape, such as classifier\.norm\.weight"):
        build_model(config(tmp_path, **only, model__load_weights=str(tmp_path / "plain.safetensors")), 7, CPU)
    start = config(tmp_path, model__neck=True, model__load_weights=str(tmp_path / "plain.safetensors"))
    assert isinstance(build_model(start, 7, CPU).classifier, Neck)
    with pytest.raises(BadInput, match="not the weights of this model"):
        load_weights(necked, tmp_path / "plain.safetensors", spare=None)

    with pytest.raises(
        BadInput, match=r"model.neck: false, but .*necked.safetensors was trained with one; needed true"
    ):
        build_model(
            config(tmp_path, test__evaluate=True, model__load_weights=str(tmp_path / "necked.safetensors")), 7, CPU
        )


def test_weights_of_a_larger_network_are_refused(tmp_path: Path) -> None:
    larger = build_model(config(tmp_path, model__name="resnet34"), 5, CPU)
    save_weights(larger, tmp_path / "larger.safetensors", {})
    smaller = build_model(config(tmp_path, model__name="resnet18"), 5, CPU)
    with pytest.raises(
        BadInput, match=r"not the weights of this model \(it has no place for \d+ of 218 arrays, such as "
    ):
        load_weights(smaller, tmp_path / "larger.safetensors")


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2_x1_0"])
def test_a_last_stride_of_one_doubles_the_last_map(tmp_path: Path, name: str) -> None:
    coarse, fine = (
        build_model(config(tmp_path, model__name=name, model__last_stride=stride), 5, CPU).eval() for stride in (2, 1)
    )
    images = torch.randn(1, 3, 64, 32)
    with torch.no_grad():
        sizes = [model.featuremaps(images).shape[2:] for model in (coarse, fine)]
    assert sizes == [(2, 1), (4, 2)]


def test_a_stride_that_is_one_already_stays(tmp_path: Path) -> None:
    asked = {"model__name": "resnet50_fc512", "model__last_stride": 1}
    model = build_model(config(tmp_path, **asked), 5, CPU).eval()
    with torch.no_grad():
        assert model.featuremaps(torch.randn(1, 3, 64, 32)).shape[2:] == (4, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model__last_stride": 1}, "model.last_stride: 1 works on resnet and mobilenetv2 models, not on osnet_x0_25"),
        ({"model__name": "pcb_p6", "model__neck": True}, "model.neck: pcb_p6 has no single linear classifier"),
        ({"model__name": "mobilenetv2_x1_0", "model__pretrained": True}, "has no ImageNet weights of mobilenetv2_x1_0"),
        ({"model__name": "hacnn"}, "data.height, data.width: hacnn takes no images of 32x16"),
    ],
)
def test_what_a_model_cannot_do_is_said_before_training(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(BadInput) as caught:
        build_model(config(tmp_path, **changes), 5, CPU)
    assert message in str(caught.value)
