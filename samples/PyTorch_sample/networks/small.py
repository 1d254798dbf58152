"""Two small networks for digits that train in seconds on a CPU: a CNN and a fully connected one."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.ao.quantization import DeQuantStub, QuantStub, fuse_modules, fuse_modules_qat


class SmallCnn(nn.Module):
    """Four convolutions with batch norm and a linear layer; input (N, 3, H, W), H and W at least 8; 60 k parameters."""

    def __init__(self, num_classes: int = 10, quantizable: bool = False) -> None:
        super().__init__()
        channels, layers = 3, []
        for width, stride in ((16, 1), (32, 2), (64, 2), (64, 1)):
            layers += [
                nn.Conv2d(channels, width, 3, stride, 1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            ]
            channels = width
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(channels, num_classes)
        self.quant = QuantStub() if quantizable else nn.Identity()
        self.dequant = DeQuantStub() if quantizable else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.features(self.quant(x)))
        return self.dequant(self.fc(torch.flatten(x, 1)))

    def fuse_model(self, is_qat: bool) -> None:
        """Fuse each conv, batch norm and ReLU in place."""
        fuse = fuse_modules_qat if is_qat else fuse_modules
        fuse(self.features, [[str(i), str(i + 1), str(i + 2)] for i in range(0, len(self.features), 3)], inplace=True)


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
