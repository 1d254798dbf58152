"""MobileNetV2 with torchvision's parameter names; see resnet.py on why the structure matters and on `quantizable`."""

from __future__ import annotations

from torch import Tensor, nn
from torch.ao.nn.quantized import FloatFunctional
from torch.ao.quantization import DeQuantStub, QuantStub, fuse_modules, fuse_modules_qat

# expansion, output channels, repeats, stride of the first repeat
_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


class ConvBNReLU(nn.Sequential):
    """Convolution, batch norm, ReLU6, with padding that keeps the size at stride 1."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU6(inplace=True),
        )


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise, 1x1 projection without activation; a sum where the shapes allow it."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int, quantizable: bool) -> None:
        super().__init__()
        hidden = in_channels * expansion
        layers: list[nn.Module] = [] if expansion == 1 else [ConvBNReLU(in_channels, hidden, kernel=1)]
        layers += [
            ConvBNReLU(hidden, hidden, stride=stride, groups=hidden),
            nn.Conv2d(hidden, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        ]
        self.conv = nn.Sequential(*layers)
        self.use_res_connect = stride == 1 and in_channels == out_channels
        self.skip_add = FloatFunctional() if quantizable else None

    def forward(self, x: Tensor) -> Tensor:
        if not self.use_res_connect:
            return self.conv(x)
        return x + self.conv(x) if self.skip_add is None else self.skip_add.add(x, self.conv(x))


class MobileNetV2(nn.Module):
    """MobileNetV2 of width 1.0 for images of shape (N, 3, H, W); 3.5 M parameters, 0.3 GMAC at 224x224."""

    def __init__(self, num_classes: int = 1000, quantizable: bool = False) -> None:
        super().__init__()
        features: list[nn.Module] = [ConvBNReLU(3, 32, stride=2)]
        channels = 32
        for expansion, out_channels, repeats, stride in _STAGES:
            for index in range(repeats):
                first = stride if index == 0 else 1
                features.append(InvertedResidual(channels, out_channels, first, expansion, quantizable))
                channels = out_channels
        features.append(ConvBNReLU(channels, 1280, kernel=1))
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, num_classes))
        self.quant = QuantStub() if quantizable else nn.Identity()
        self.dequant = DeQuantStub() if quantizable else nn.Identity()
        _initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(self.quant(x))
        x = nn.functional.adaptive_avg_pool2d(x, (1, 1)).flatten(1)
        return self.dequant(self.classifier(x))

    def fuse_model(self, is_qat: bool) -> None:
        """Fuse conv and batch norm in place; ReLU6 has no fused form and stays a module of its own."""
        fuse = fuse_modules_qat if is_qat else fuse_modules
        for module in self.modules():
            if isinstance(module, ConvBNReLU):
                fuse(module, ["0", "1"], inplace=True)
            elif isinstance(module, InvertedResidual):
                last = len(module.conv) - 2
                fuse(module.conv, [str(last), str(last + 1)], inplace=True)


def _initialize(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0.0, 0.01)
            nn.init.zeros_(module.bias)


def mobilenet_v2(num_classes: int = 1000, quantizable: bool = False) -> MobileNetV2:
    """MobileNetV2 of width 1.0."""
    return MobileNetV2(num_classes, quantizable)
