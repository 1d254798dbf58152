"""Two small networks for digits that train in seconds on a CPU: a CNN and a fully connected one."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.ao.quantization import DeQuantStub, QuantStub, fuse_modules, fuse_modules_qat


class SmallCnn(nn.Module):
    """Three convolutions and a linear layer, 34 k parameters; input (N, 3, H, W), sides multiples of 16."""

    def __init__(self, num_classes: int = 10, quantizable: bool = False) -> None:
        super().__init__()
        self.block1 = _block(3, 16)
        self.block2 = _block(16, 32)
        self.block3 = _block(32, 64)
        self.maxpool = nn.MaxPool2d(2)
        self.avgpool = nn.AdaptiveAvgPool2d((4, 4))
        self.fc = nn.Linear(64 * 4 * 4, num_classes)
        self.quant = QuantStub() if quantizable else nn.Identity()
        self.dequant = DeQuantStub() if quantizable else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.block1(self.quant(x)))
        x = self.block3(self.maxpool(self.block2(x)))
        return self.dequant(self.fc(torch.flatten(self.avgpool(x), 1)))

    def fuse_model(self, is_qat: bool) -> None:
        """Fuse each conv, batch norm and ReLU in place."""
        fuse = fuse_modules_qat if is_qat else fuse_modules
        for block in (self.block1, self.block2, self.block3):
            fuse(block, ["0", "1", "2"], inplace=True)


def _block(in_channels: int, out_channels: int) -> nn.Sequential:
    convolution = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels), nn.ReLU())


class MnistMlp(nn.Module):
    """Fully connected 784-128-64-10 network for one digit of 28x28; takes (N, 1, 28, 28) or (N, 784)."""

    def __init__(self, num_classes: int = 10, quantizable: bool = False) -> None:
        super().__init__()
        self.fc1 = nn.Linear(784, 128)
        self.relu1 = nn.ReLU()
        self.fc2 = nn.Linear(128, 64)
        self.relu2 = nn.ReLU()
        self.fc3 = nn.Linear(64, num_classes)
        self.quant = QuantStub() if quantizable else nn.Identity()
        self.dequant = DeQuantStub() if quantizable else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.fc1(torch.flatten(self.quant(x), 1)))
        return self.dequant(self.fc3(self.relu2(self.fc2(x))))

    def fuse_model(self, is_qat: bool) -> None:
        """Fuse each linear layer with its ReLU in place."""
        fuse = fuse_modules_qat if is_qat else fuse_modules
        fuse(self, [["fc1", "relu1"], ["fc2", "relu2"]], inplace=True)


def small_cnn(num_classes: int = 10, quantizable: bool = False) -> SmallCnn:
    """The small CNN."""
    return SmallCnn(num_classes, quantizable)


def mnist_mlp(num_classes: int = 10, quantizable: bool = False) -> MnistMlp:
    """The fully connected network."""
    return MnistMlp(num_classes, quantizable)
