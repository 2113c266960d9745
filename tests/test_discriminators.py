"""The discriminators: called alike, and PATN's residual one against its method."""

import pytest
import torch
import torch.nn.functional as F
from networks import rng
from test_xinggan import slow_norm
from torch import Tensor

from xingaug.generators.discriminators import PatchDiscriminator, ResidualDiscriminator
from xingaug.training.losses import ADVERSARIAL, feature_matching


@pytest.mark.parametrize("condition_channels", [3, 18])
@pytest.mark.parametrize("kind", [PatchDiscriminator, ResidualDiscriminator])
def test_discriminators_are_called_alike(
    kind: type[PatchDiscriminator] | type[ResidualDiscriminator], condition_channels: int
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = kind(condition_channels, width=4).train()
        image, condition = torch.rand(2, 3, 16, 8, generator=rng()), torch.rand(2, condition_channels, 16, 8)
        scores, features = network(image, condition)
        _, others = network(image.flip(0), condition)
    assert scores.shape[0] == 2
    assert scores.ndim == 4
    assert len(features) >= 3
    loss = ADVERSARIAL["hinge"].generator(scores) + feature_matching(others, features)
    loss.backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_the_residual_discriminator_is_patns() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = ResidualDiscriminator(18)
        assert sum(p.numel() for p in network.parameters()) == 3_977_408
        network = ResidualDiscriminator(18, width=4).eval()
    for name, value in network.state_dict().items():
        if name.endswith("running_var"):
            value.copy_(0.5 + torch.rand(value.shape, generator=rng(4)))
        elif name.endswith(("running_mean", "1.bias", "2.bias")):
            value.copy_(torch.randn(value.shape, generator=rng(5)))
    state = network.state_dict()

    def conv3(name: str, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), state[f"{name}.weight"])

    image, condition = torch.rand(1, 3, 16, 8, generator=rng(1)), torch.rand(1, 18, 16, 8, generator=rng(2))
    with torch.no_grad():
        x = F.pad(torch.cat([image, condition], 1), (3, 3, 3, 3), mode="reflect")
        x = slow_norm(state, "down.0.1", F.conv2d(x, state["down.0.0.weight"])).relu()
        for i in (1, 2):
            x = F.conv2d(x, state[f"down.{i}.0.weight"], stride=2, padding=1)
            x = slow_norm(state, f"down.{i}.1", x).relu()
        for t in range(3):
            inner = slow_norm(state, f"blocks.{t}.1", conv3(f"blocks.{t}.0", x)).relu()
            x = x + slow_norm(state, f"blocks.{t}.5", conv3(f"blocks.{t}.4", inner))
        scores, features = network(image, condition)
    torch.testing.assert_close(scores, x, rtol=0, atol=1e-5)
    assert scores.shape == (1, 16, 4, 2)
    assert [f.shape[1:] for f in features] == [(4, 16, 8), (8, 8, 4), (16, 4, 2)]
    with pytest.raises(ValueError, match="blocks: 0, needed at least 1"):
        ResidualDiscriminator(3, blocks=0)
