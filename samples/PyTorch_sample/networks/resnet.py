"""ResNet-18 and ResNet-50 with torchvision's parameter names.

torchvision's checkpoints load into these classes and the other way round. Module structure matters as much as names:
eager QAT puts one observer on every leaf module, so a block that shares one ReLU between two places, as torchvision's
does, decides what the ONNX export looks like.

`quantizable=True` builds what module fusion needs: one ReLU for each place, the residual sum as a `FloatFunctional` (so
that it is observed), and quantize/dequantize stubs at the ends. Parameters and their names stay the same.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.ao.nn.quantized import FloatFunctional
from torch.ao.quantization import DeQuantStub, QuantStub, fuse_modules, fuse_modules_qat


def _conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)


def _conv1x1(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)


class BasicBlock(nn.Module):
    """conv3x3, conv3x3, sum: the block of ResNet-18 and ResNet-34."""

    expansion = 1
    fused_groups: tuple[tuple[str, ...], ...] = (("conv1", "bn1", "relu"), ("conv2", "bn2"))

    def __init__(
        self, in_channels: int, width: int, stride: int, downsample: nn.Module | None, quantizable: bool
    ) -> None:
        super().__init__()
        self.conv1 = _conv3x3(in_channels, width, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = _conv3x3(width, width)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = downsample
        self.skip_add = FloatFunctional() if quantizable else None

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return _residual(out, identity, self.skip_add, self.relu)


class Bottleneck(nn.Module):
    """conv1x1, conv3x3 (with the stride), conv1x1, sum: the block of ResNet-50 and deeper."""

    expansion = 4
    fused_groups: tuple[tuple[str, ...], ...] = (("conv1", "bn1", "relu1"), ("conv2", "bn2", "relu2"), ("conv3", "bn3"))

    def __init__(
        self, in_channels: int, width: int, stride: int, downsample: nn.Module | None, quantizable: bool
    ) -> None:
        super().__init__()
        self.conv1 = _conv1x1(in_channels, width)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv3x3(width, width, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = _conv1x1(width, width * self.expansion)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.relu1 = nn.ReLU() if quantizable else None
        self.relu2 = nn.ReLU() if quantizable else None
        self.downsample = downsample
        self.skip_add = FloatFunctional() if quantizable else None

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        relu1 = self.relu if self.relu1 is None else self.relu1
        relu2 = self.relu if self.relu2 is None else self.relu2
        out = relu1(self.bn1(self.conv1(x)))
        out = relu2(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return _residual(out, identity, self.skip_add, self.relu)


def _residual(out: Tensor, identity: Tensor, skip_add: FloatFunctional | None, relu: nn.Module) -> Tensor:
    if skip_add is not None:
        return skip_add.add_relu(out, identity)
    out += identity
    return relu(out)


class ResNet(nn.Module):
    """ResNet for images of shape (N, 3, H, W), H and W at least 32.

    Args:
        block: `BasicBlock` or `Bottleneck`.
        layers: number of blocks in each of the four stages.
        num_classes: length of the output's last axis.
        quantizable: build for module fusion; see the module's docstring.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        layers: tuple[int, int, int, int],
        num_classes: int = 1000,
        quantizable: bool = False,
    ) -> None:
        super().__init__()
        self.quantizable = quantizable
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        channels = 64
        for stage, blocks in enumerate(layers):
            width, stride = 64 << stage, 1 if stage == 0 else 2
            self.add_module(f"layer{stage + 1}", _stage(block, channels, width, blocks, stride, quantizable))
            channels = width * block.expansion
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(channels, num_classes)
        self.quant = QuantStub() if quantizable else nn.Identity()
        self.dequant = DeQuantStub() if quantizable else nn.Identity()
        _initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(self.quant(x)))))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
        return self.dequant(self.fc(torch.flatten(self.avgpool(x), 1)))

    def fuse_model(self, is_qat: bool) -> None:
        """Fuse conv, batch norm and ReLU in place; `is_qat` for training mode, as in torchvision."""
        fuse = fuse_modules_qat if is_qat else fuse_modules
        fuse(self, ["conv1", "bn1", "relu"], inplace=True)
        for module in self.modules():
            if isinstance(module, BasicBlock | Bottleneck):
                fuse(module, [list(group) for group in module.fused_groups], inplace=True)
                if module.downsample is not None:
                    fuse(module.downsample, ["0", "1"], inplace=True)


def _stage(
    block: type[BasicBlock] | type[Bottleneck], channels: int, width: int, blocks: int, stride: int, quantizable: bool
) -> nn.Sequential:
    out_channels = width * block.expansion
    downsample = None
    if stride != 1 or channels != out_channels:
        downsample = nn.Sequential(_conv1x1(channels, out_channels, stride), nn.BatchNorm2d(out_channels))
    first = block(channels, width, stride, downsample, quantizable)
    rest = [block(out_channels, width, 1, None, quantizable) for _ in range(blocks - 1)]
    return nn.Sequential(first, *rest)


def _initialize(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def resnet18(num_classes: int = 1000, quantizable: bool = False) -> ResNet:
    """ResNet-18: 11.7 M parameters, 1.8 GMAC at 224x224."""
    return ResNet(BasicBlock, (2, 2, 2, 2), num_classes, quantizable)


def resnet50(num_classes: int = 1000, quantizable: bool = False) -> ResNet:
    """ResNet-50 (v1.5, the stride in the 3x3 convolution): 25.6 M parameters, 4.1 GMAC at 224x224."""
    return ResNet(Bottleneck, (3, 4, 6, 3), num_classes, quantizable)
