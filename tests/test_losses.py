"""The loss terms, by hand and against slow versions."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from skimage.metrics import structural_similarity
from torch import Tensor, nn
from training_runs import ALONE, config, first_batch, small_data

from xingaug.config import from_mapping
from xingaug.errors import BadInput
from xingaug.training import losses
from xingaug.training.config import PerceptualConfig, TrainConfig
from xingaug.training.perceptual import PerceptualLoss, style_distance
from xingaug.training.pool import ImagePool
from xingaug.training.trainer import Trainer

EVERYWHERE = torch.ones(2, 1, 16, 12)


def test_weighted_l1_and_structure_by_hand() -> None:
    generated, target = torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8)
    generated[..., 0] = 1
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 0] = 1
    assert losses.weighted_l1(generated, target, None, 3.0).item() == pytest.approx(1 / 8)
    assert losses.weighted_l1(generated, target, mask, 3.0).item() == pytest.approx(3 * 8 / (56 + 3 * 8))
    assert losses.structural_loss(target, target, mask, 3.0).item() == pytest.approx(0, abs=1e-6)
    assert losses.structural_loss(generated, target, None, 3.0).item() > 0.05


def test_structure_is_ssim_of_7x7_windows() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.random((2, 3, 24, 17))
    wanted = structural_similarity(
        x, y, win_size=7, channel_axis=0, data_range=1.0, use_sample_covariance=False, full=True
    )[1][:, 3:-3, 3:-3]
    generated, target = (torch.from_numpy(v[None] * 2 - 1) for v in (x, y))
    assert losses.structural_loss(generated, target, None, 1.0).item() == pytest.approx(1 - wanted.mean(), abs=1e-9)


@pytest.mark.parametrize("name", ["weighted_l1", "structural_loss"])
def test_the_loss_of_a_batch_is_the_mean_of_its_images(name: str) -> None:
    rng = torch.Generator().manual_seed(0)
    generated, target = (torch.rand(4, 3, 16, 12, generator=rng) * 2 - 1 for _ in range(2))
    mask = (torch.rand(4, 1, 16, 12, generator=rng) > torch.tensor([0.1, 0.5, 0.9, 1.0])[:, None, None, None]).float()
    loss = getattr(losses, name)
    single = [loss(generated[i : i + 1], target[i : i + 1], mask[i : i + 1], 3.0) for i in range(4)]
    torch.testing.assert_close(loss(generated, target, mask, 3.0), torch.stack(single).mean())


def test_adversarial_losses_by_hand() -> None:
    real, fake = torch.tensor([-2.0, 0.0, 2.0]), torch.tensor([-2.0, 0.0, 2.0])
    hinge, bce, squares = (losses.ADVERSARIAL[name] for name in ("hinge", "bce", "least_squares"))
    assert hinge.generator(fake).item() == 0
    assert hinge.discriminator(real, fake).item() == pytest.approx(4 / 3 + 4 / 3)
    sigmoid = [1 / (1 + math.exp(-x)) for x in (-2, 0, 2)]
    assert bce.generator(fake).item() == pytest.approx(-sum(map(math.log, sigmoid)) / 3)
    wanted = -(sum(math.log(s) for s in sigmoid) + sum(math.log(1 - s) for s in sigmoid)) / 6
    assert bce.discriminator(real, fake).item() == pytest.approx(wanted)
    assert squares.generator(fake).item() == pytest.approx((9 + 1 + 1) / 3)
    assert squares.discriminator(real, fake).item() == pytest.approx(((9 + 1 + 1) / 3 + (4 + 0 + 4) / 3) / 2)
    assert losses.feature_matching([torch.ones(2)], [torch.zeros(2)]).item() == 1


@pytest.mark.parametrize("name", sorted(losses.ADVERSARIAL))
def test_a_better_image_lowers_the_generators_loss_and_a_better_discriminator_its_own(name: str) -> None:
    play = losses.ADVERSARIAL[name]
    low, high = torch.full((4,), -1.0), torch.full((4,), 1.0)
    assert play.generator(high) < play.generator(low)
    assert play.discriminator(high, low) < play.discriminator(low, high)


def test_r1_of_a_linear_discriminator_is_its_squared_weight() -> None:
    weight = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(0), requires_grad=True)
    images = torch.rand(5, 3, 4, 2, requires_grad=True)
    penalty = losses.r1_penalty((images * weight).sum((1, 2, 3))[:, None], images)
    torch.testing.assert_close(penalty, weight.square().sum())
    penalty.backward()
    torch.testing.assert_close(weight.grad, 2 * weight.detach())


def test_identity_loss_is_the_angle_between_features() -> None:
    class Means(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.mean((2, 3))

    target = torch.tensor([1.0, -1.0, -1.0])[None, :, None, None].expand(2, 3, 4, 4)
    generated = torch.tensor([-1.0, 1.0, -1.0])[None, :, None, None].expand(2, 3, 4, 4)
    assert losses.identity_loss(Means(), target, target).item() == pytest.approx(0, abs=1e-6)
    assert losses.identity_loss(Means(), generated, target).item() == pytest.approx(1)


@pytest.fixture(scope="module")
def vgg(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Sequential]:
    """Weights of a VGG-19 that has learned nothing."""
    from torchvision.models import vgg19

    with torch.random.fork_rng(), torch.device("meta"):
        features = vgg19(weights=None).features
    features = features.to_empty(device="cpu").eval()
    rng = torch.Generator().manual_seed(0)
    for parameter in features.parameters():
        parameter.data.normal_(0, 0.05, generator=rng)
    path = tmp_path_factory.mktemp("vgg") / "vgg19.safetensors"
    save_file({f"features.{name}": value for name, value in features.state_dict().items()}, path)
    return path, features


def test_perceptual_loss_compares_the_features_of_vgg(vgg: tuple[Path, nn.Sequential], tmp_path: Path) -> None:
    path, features = vgg
    loss = PerceptualLoss(PerceptualConfig(weights=str(path), layers=(0, 3)))
    rng = torch.Generator().manual_seed(1)
    generated, target = (torch.rand(2, 3, 16, 12, generator=rng) * 2 - 1 for _ in range(2))
    mean, std = (torch.tensor(v)[:, None, None] for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    wanted = []
    for layer in (0, 3):
        part = features[: layer + 1]
        with torch.no_grad():
            a, b = (part(((x + 1) / 2 - mean) / std) for x in (generated, target))
            # A ReLU of torchvision works in place; it must not reach back into the layer before.
            wanted.append((a - b).abs().mean())
    torch.testing.assert_close(loss.distance(loss(generated, target)), torch.stack(wanted).mean(), rtol=1e-4, atol=1e-5)
    generated.requires_grad_(True)
    loss.distance(loss(generated, target)).backward()
    assert generated.grad is not None
    assert generated.grad.abs().sum() > 0
    assert not any(p.requires_grad for p in loss.parameters())
    # A .pth of the whole network, as torchvision itself stores it.
    state = {f"features.{k}": v for k, v in features.state_dict().items()}
    torch.save({**state, "classifier.0.weight": torch.zeros(1)}, tmp_path / "vgg.pth")
    again = PerceptualLoss(PerceptualConfig(weights=str(tmp_path / "vgg.pth"), layers=(0, 3)))
    torch.testing.assert_close(again.distance(again(generated, target)), loss.distance(loss(generated, target)))


@pytest.mark.parametrize(("distance", "normalised"), [("l1", False), ("squared", False), ("squared", True)])
def test_perceptual_loss_on_vgg16(distance: str, normalised: bool, tmp_path: Path) -> None:
    from torchvision.models import vgg16

    features = vgg16(weights=None).features.eval()
    state = {f"features.{name}": value.half() for name, value in features.state_dict().items()}
    save_file(state, tmp_path / "vgg16.safetensors")  # in half precision, as such files come
    features.load_state_dict({name.removeprefix("features."): value.float() for name, value in state.items()})
    config = PerceptualConfig("vgg16", str(tmp_path / "vgg16.safetensors"), (3, 8), distance, normalised)  # type: ignore[arg-type]
    loss = PerceptualLoss(config)
    generated, target = torch.rand(2, 3, 16, 12) * 2 - 1, torch.rand(2, 3, 16, 12) * 2 - 1
    mean, std = (torch.tensor(v)[:, None, None] for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    wanted = []
    for layer in (3, 8):
        with torch.no_grad():
            a, b = (features[: layer + 1](((x + 1) / 2 - mean) / std) for x in (generated, target))
        if normalised:
            a, b = (x / x.norm(dim=1, keepdim=True).clamp(min=1e-5) for x in (a, b))
        difference = (a - b).abs() if distance == "l1" else (a - b) ** 2
        wanted.append(difference.sum(1).mean() if normalised else difference.mean())
    torch.testing.assert_close(loss.distance(loss(generated, target)), torch.stack(wanted).mean(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("weights", "names"), [
    ({"style": 0, "perceptual": 1}, {"perceptual"}), ({"style": 1, "perceptual": 0}, {"style"}),
    ({"style": 1, "perceptual": 2}, {"perceptual", "style"}),
])  # fmt: skip
def test_of_features_only_what_has_a_weight_is_computed(
    weights: dict[str, float], names: set[str], vgg: tuple[Path, nn.Sequential], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, method in (("perceptual", "distance"), ("style", "style")):
        if name not in names:
            monkeypatch.setattr(PerceptualLoss, method, lambda *_: pytest.fail("computed"))
    chosen = config(
        perceptual={"weights": str(vgg[0]), "layers": [0, 3]}, losses={"l1": 0, "structural": 0, **weights},
        discriminators={"appearance": "none", "shape": "none"}, batch_size=2,
    )  # fmt: skip
    logged = Trainer(chosen, ALONE).train_step(first_batch(chosen, small_data()))
    assert set(logged) == {"total", "gradient", *names}
    assert logged["total"] == pytest.approx(sum(weights[name] * logged[name] for name in names), rel=1e-4)


def test_style_does_not_ask_where_a_texture_is(vgg: tuple[Path, nn.Sequential]) -> None:
    rng = torch.Generator().manual_seed(2)
    a = torch.rand(2, 5, 8, 6, generator=rng)
    shuffled = a.flatten(2)[:, :, torch.randperm(48, generator=rng)].view_as(a)
    everywhere = torch.ones(2, 1, 16, 12)
    assert style_distance(a, shuffled, everywhere) < 1e-5 < 1e-2 < style_distance(a, a.flip(1) * 2, everywhere)
    left = torch.zeros(2, 1, 16, 12)
    left[..., :6] = 1
    changed = a.clone()
    changed[..., 3:] = 7
    assert style_distance(changed, a, left) < 1e-5 < style_distance(changed, a, everywhere)
    gram = torch.einsum("bchw,bdhw->bcd", a, a) / 49
    other = torch.einsum("bchw,bdhw->bcd", changed, changed) / 49
    slow = ((other - gram).abs().mean((1, 2)) / gram.mean((1, 2))).mean()
    torch.testing.assert_close(style_distance(changed, a, everywhere), slow)


def test_a_network_by_its_name_takes_torchvisions_weights() -> None:
    assert from_mapping(TrainConfig, {"perceptual": "vgg16"}).perceptual == PerceptualConfig("vgg16")
    with pytest.raises(ValueError, match="needed at least one index from 0 to 30 of vgg16"):
        PerceptualConfig("vgg16", layers=(31,))


def test_missing_or_foreign_vgg_weights_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(path: Path | str) -> None:
        PerceptualLoss(PerceptualConfig(weights=str(path)))

    with pytest.raises(BadInput, match="no such file; needed a state dict of torchvision's vgg19"):
        ask(tmp_path / "none.pth")
    (tmp_path / "torn.pth").write_bytes(b"torn")
    with pytest.raises(
        BadInput, match="cannot be read as tensors saved by torch, needed a state dict of torchvision's vgg19"
    ):
        ask(tmp_path / "torn.pth")
    torch.save([1], tmp_path / "list.pth")
    with pytest.raises(BadInput, match="holds a list, needed a state dict"):
        ask(tmp_path / "list.pth")
    save_file({"features.0.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(BadInput, match=r"'0.weight' is of shape \(1,\), needed torchvision's vgg19"):
        ask(tmp_path / "other.safetensors")

    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no network")

    from torchvision.models import VGG19_Weights

    monkeypatch.setattr(VGG19_Weights, "get_state_dict", unreachable)
    with pytest.raises(BadInput, match=r"cannot fetch VGG-19's \(no network\); give the path .* perceptual: none"):
        ask("torchvision")


def test_image_pool_gives_back_earlier_images_and_keeps_pairs_together() -> None:
    pool, rng = ImagePool(8), torch.Generator().manual_seed(0)
    seen: list[float] = []
    for step in range(40):
        images = torch.full((4, 1), float(step)) + torch.arange(4)[:, None] / 10
        out, conditions = pool.exchange((images, images * 2), rng)
        torch.testing.assert_close(conditions, out * 2)
        if step < 2:
            torch.testing.assert_close(out, images)
        seen += (step - out.floor()).flatten().tolist()
    assert len(pool.entries) == 8
    earlier = sum(age > 0 for age in seen) / len(seen)
    assert 0.3 < earlier < 0.6
    batch = (torch.rand(3, 2),)
    assert ImagePool(0).exchange(batch, rng) is batch
