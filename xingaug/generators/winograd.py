"""3x3 convolutions with a quarter of the multiplications (Winograd's F(4x4, 3x3), after Lavin and Gray, CVPR 2016)."""

from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# A tile of 6x6 inputs gives 4x4 outputs. A matrix for each side of the identity Y = A^T [(G g G^T) * (B^T d B)] A,
# for the points 0, 1, -1, 2, -2 and infinity.
_INPUT = [
    [4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0],
    [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1],
]  # fmt: skip
_KERNEL = [
    [1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6],
    [1 / 24, 1 / 12, 1 / 6], [1 / 24, -1 / 12, 1 / 6], [0, 0, 1],
]  # fmt: skip
_OUTPUT = [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]

_PADS = {"zeros": "constant", "reflect": "reflect"}


def lacks_avx512(device: torch.device) -> bool:
    """Whether a device is a processor with no more than AVX2."""
    return device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2"


class WinogradConv(nn.Module):
    """A 3x3 convolution of stride 1 and padding 1, for inference; equal to the one it is made from to rounding.

    It takes Winograd's way where that pays: in float32 on a processor with no more than AVX2, where multiplications are
    what a convolution waits for (measured). Anywhere else, such as after a move to a GPU, it is the plain convolution.
    """

    kernel: Tensor
    to_tiles: Tensor
    from_tiles: Tensor

    def __init__(self, conv: nn.Conv2d) -> None:
        """Args: `conv`, for which `fits` is true."""
        super().__init__()
        self.conv = conv
        kernel, inputs, outputs = (torch.tensor(m, dtype=torch.float64) for m in (_KERNEL, _INPUT, _OUTPUT))
        weight = conv.weight.detach().double()
        transformed = torch.einsum("xi,yj,kcij->xyck", kernel, kernel, weight).flatten(0, 1)  # (36, C, K)
        self.register_buffer("kernel", transformed.to(conv.weight.dtype).contiguous(), persistent=False)
        self.register_buffer("to_tiles", torch.kron(inputs, inputs).to(conv.weight.dtype), persistent=False)
        self.register_buffer("from_tiles", torch.kron(outputs, outputs).to(conv.weight.dtype), persistent=False)

    @staticmethod
    def fits(layer: nn.Module) -> TypeGuard[nn.Conv2d]:
        """Whether a layer is such a convolution, and wide enough for the tiles to pay (measured: from 96 channels)."""
        return (
            isinstance(layer, nn.Conv2d)
            and (layer.kernel_size, layer.stride, layer.padding) == ((3, 3), (1, 1), (1, 1))
            and (layer.dilation, layer.groups) == ((1, 1), 1)
            and layer.padding_mode in _PADS
            and min(layer.in_channels, layer.out_channels) >= 96
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to (B, K, h, w)."""
        autocast = torch.is_autocast_enabled(x.device.type)
        if not lacks_avx512(x.device) or x.dtype not in (torch.float32, torch.float64) or autocast:
            return self.conv(x)
        return self.by_tiles(x)

    def by_tiles(self, x: Tensor) -> Tensor:
        """Winograd's way, channels last."""
        b, c, h, w = x.shape
        rows, columns = -(-h // 4), -(-w // 4)
        x = F.pad(x, (1, 1, 1, 1), mode=_PADS[self.conv.padding_mode])
        x = F.pad(x, (0, 4 * columns - w, 0, 4 * rows - h))
        tiles = x.permute(0, 2, 3, 1).unfold(1, 6, 4).unfold(2, 6, 4)  # (B, rows, columns, C, 6, 6)
        tiles = tiles.permute(4, 5, 0, 1, 2, 3).reshape(36, -1)
        products = (self.to_tiles @ tiles).view(36, -1, c) @ self.kernel  # (36, tiles, K)
        y = (self.from_tiles @ products.view(36, -1)).view(4, 4, b, rows, columns, -1)
        if self.conv.bias is not None:
            y = y + self.conv.bias
        y = y.permute(2, 3, 0, 4, 1, 5).reshape(b, 4 * rows, 4 * columns, -1)
        return y[:, :h, :w].permute(0, 3, 1, 2)
