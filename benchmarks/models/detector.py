"""A YOLO-like detector: SiLU, CSP blocks with split and concat, SPPF, an upsampling neck, three heads.

The parts and proportions of the small current detectors; 2.7 GMAC at 320x320. Its heads give, for each cell of a grid,
box distances and class scores as raw numbers: (N, 4 * 16 + classes, H / stride, W / stride) for strides 8, 16 and 32.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.ao.nn.quantized import FloatFunctional
from torch.ao.quantization import DeQuantStub, QuantStub, fuse_modules, fuse_modules_qat

IMAGE_SIZE = 320
BOX_CHANNELS = 4 * 16  # four distances, each a distribution over 16 bins


class ObservedSiLU(nn.Module):
    """x * sigmoid(x) in parts that eager QAT observes; `nn.SiLU` gets no range there."""

    def __init__(self) -> None:
        super().__init__()
        self.sigmoid = nn.Sigmoid()
        self.product = FloatFunctional()

    def forward(self, x: Tensor) -> Tensor:
        return self.product.mul(x, self.sigmoid(x))


class ConvUnit(nn.Module):
    """Convolution, batch norm, SiLU; padding keeps the size at stride 1."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, quantizable: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, eps=1e-3, momentum=0.03)
        self.act = ObservedSiLU() if quantizable else nn.SiLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))


class Concat(nn.Module):
    """Concatenation over channels, observed where `quantizable`."""

    def __init__(self, quantizable: bool) -> None:
        super().__init__()
        self.functional = FloatFunctional() if quantizable else None

    def forward(self, parts: list[Tensor]) -> Tensor:
        return torch.cat(parts, 1) if self.functional is None else self.functional.cat(parts, 1)


class Residual(nn.Module):
    """Two 3x3 convolutions and, where `shortcut`, a sum with the input."""

    def __init__(self, channels: int, shortcut: bool, quantizable: bool) -> None:
        super().__init__()
        self.first = ConvUnit(channels, channels, 3, 1, quantizable)
        self.second = ConvUnit(channels, channels, 3, 1, quantizable)
        self.shortcut = shortcut
        self.skip_add = FloatFunctional() if quantizable and shortcut else None

    def forward(self, x: Tensor) -> Tensor:
        out = self.second(self.first(x))
        if not self.shortcut:
            return out
        return x + out if self.skip_add is None else self.skip_add.add(x, out)


class CspBlock(nn.Module):
    """Half of the channels pass by, the other half go through residual blocks; all are concatenated."""

    def __init__(self, in_channels: int, out_channels: int, depth: int, shortcut: bool, quantizable: bool) -> None:
        super().__init__()
        half = out_channels // 2
        self.entry = ConvUnit(in_channels, out_channels, 1, 1, quantizable)
        self.blocks = nn.ModuleList(Residual(half, shortcut, quantizable) for _ in range(depth))
        self.concat = Concat(quantizable)
        self.exit = ConvUnit((2 + depth) * half, out_channels, 1, 1, quantizable)

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.entry(x).chunk(2, 1))
        for block in self.blocks:
            parts.append(block(parts[-1]))
        return self.exit(self.concat(parts))


class Sppf(nn.Module):
    """Three 5x5 max-pools in a row, concatenated with their input."""

    def __init__(self, channels: int, quantizable: bool) -> None:
        super().__init__()
        self.entry = ConvUnit(channels, channels // 2, 1, 1, quantizable)
        self.pool = nn.MaxPool2d(5, stride=1, padding=2)
        self.concat = Concat(quantizable)
        self.exit = ConvUnit(channels * 2, channels, 1, 1, quantizable)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.entry(x)]
        for _ in range(3):
            parts.append(self.pool(parts[-1]))
        return self.exit(self.concat(parts))


class Detector(nn.Module):
    """The detector; input (N, 3, H, W), H and W multiples of 32.

    Args:
        classes: number of class scores of a cell.
        width: channels at stride 2; the deeper levels have 2, 4, 8 and 16 times as many.
        quantizable: with stubs and observed sums, concatenations and SiLU.
    """

    def __init__(self, classes: int = 9, width: int = 20, quantizable: bool = False) -> None:
        super().__init__()
        c, q = width, quantizable
        self.stem = nn.Sequential(
            ConvUnit(3, c, 3, 2, q), ConvUnit(c, 2 * c, 3, 2, q), CspBlock(2 * c, 2 * c, 1, True, q)
        )
        self.level3 = nn.Sequential(ConvUnit(2 * c, 4 * c, 3, 2, q), CspBlock(4 * c, 4 * c, 2, True, q))
        self.level4 = nn.Sequential(ConvUnit(4 * c, 8 * c, 3, 2, q), CspBlock(8 * c, 8 * c, 2, True, q))
        self.level5 = nn.Sequential(
            ConvUnit(8 * c, 16 * c, 3, 2, q), CspBlock(16 * c, 16 * c, 1, True, q), Sppf(16 * c, q)
        )
        self.upsample = nn.Upsample(scale_factor=2.0, mode="nearest")
        self.up4 = CspBlock(24 * c, 8 * c, 1, False, q)
        self.up3 = CspBlock(12 * c, 4 * c, 1, False, q)
        self.down4 = ConvUnit(4 * c, 4 * c, 3, 2, q)
        self.out4 = CspBlock(12 * c, 8 * c, 1, False, q)
        self.down5 = ConvUnit(8 * c, 8 * c, 3, 2, q)
        self.out5 = CspBlock(24 * c, 16 * c, 1, False, q)
        self.concats = nn.ModuleList(Concat(q) for _ in range(4))
        self.heads = nn.ModuleList(_head(channels, classes, q) for channels in (4 * c, 8 * c, 16 * c))
        self.quant = QuantStub() if q else nn.Identity()
        self.dequants = nn.ModuleList(DeQuantStub() if q else nn.Identity() for _ in range(3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        p3 = self.level3(self.stem(self.quant(x)))
        p4 = self.level4(p3)
        p5 = self.level5(p4)
        n4 = self.up4(self.concats[0]([self.upsample(p5), p4]))
        n3 = self.up3(self.concats[1]([self.upsample(n4), p3]))
        n4 = self.out4(self.concats[2]([self.down4(n3), n4]))
        n5 = self.out5(self.concats[3]([self.down5(n4), p5]))
        levels = zip(self.heads, self.dequants, (n3, n4, n5), strict=True)
        out3, out4, out5 = (dequant(head(level)) for head, dequant, level in levels)
        return out3, out4, out5

    def fuse_model(self, is_qat: bool) -> None:
        """Fuse conv and batch norm in place; SiLU has no fused form."""
        fuse = fuse_modules_qat if is_qat else fuse_modules
        for module in self.modules():
            if isinstance(module, ConvUnit):
                fuse(module, ["conv", "bn"], inplace=True)


def _head(channels: int, classes: int, quantizable: bool) -> nn.Sequential:
    return nn.Sequential(
        ConvUnit(channels, 64, 3, 1, quantizable),
        ConvUnit(64, 64, 3, 1, quantizable),
        nn.Conv2d(64, BOX_CHANNELS + classes, 1),
    )
