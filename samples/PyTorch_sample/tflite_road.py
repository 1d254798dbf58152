"""From PyTorch QAT to TFLite, the whole road in one script: INT8, FP16 and FP32 files, run in LiteRT, in one table.

    python3 train.py --model small_cnn -lr 0.001 --max_epochs 8
    python3 tflite_road.py

Eager QAT as PyTorch's tutorials have it: QuantStub and DeQuantStub, fused modules, the qconfig "qnnpack". Then ONNX,
and three TFLite files with the ranges that training learned. The table also has what PyTorch's own `convert` makes of
the QAT model, its INT8 modules in the engine QNNPACK; `--export converted` takes the ONNX file from these. Reads
pretrained_MODEL.pth of train.py; writes QAT_MODEL_qnnpack.onnx and the folder QAT_MODEL_qnnpack_tflite.
"""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import click
import networks
import numpy as np
import torch
from datasets import batches, open_data
from recipes import settle_ranges
from torch import Tensor, nn
from torch.ao.quantization import convert, get_default_qat_qconfig, prepare_qat
from training import Schedule, fit, seed_everything

sys.path.append(str(Path(__file__).resolve().parents[1]))
# What the samples of both frameworks share.
from common import compiling, lite
from common.options import CONTEXT, GRAY_NETWORKS, batch_size_option, output_option

warnings.filterwarnings("ignore", category=DeprecationWarning)  # of torch.ao.quantization as a whole

ENGINE = "qnnpack"
SETTLING_BATCHES = 16


@click.command(context_settings=CONTEXT)
@click.option("-lr", "--learning_rate", type=click.FloatRange(min=0, min_open=True), default=0.0001, show_default=True)
@click.option("--max_epochs", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--model", type=click.Choice(networks.NAMES), default="small_cnn", show_default=True)
@click.option("--export", "exported", type=click.Choice(["qat", "converted"]), default="qat", show_default=True)
@batch_size_option()
@click.option("--seed", type=int, default=0, show_default=True)
@output_option()
def main(
    learning_rate: float, max_epochs: int, model: str, exported: str, batch_size: int, seed: int, output_dir: Path
) -> None:
    """PyTorch QAT to TFLite: train with QAT, export, write three files, and run them."""
    from drpai_qat import export

    seed_everything(seed)
    torch.backends.quantized.engine = ENGINE
    pretrained = output_dir / f"pretrained_{model}.pth"
    if not pretrained.is_file():
        raise click.UsageError(f"{pretrained} is missing: run train.py --model {model} first")
    checkpoint = torch.load(pretrained, map_location="cpu", weights_only=True)
    sets = open_data(checkpoint["data"], gray=model in GRAY_NETWORKS)
    network = networks.build(model, checkpoint["classes"], quantizable=True)
    network.load_state_dict(checkpoint["state_dict"])
    plain = copy.deepcopy(network).eval()

    qat = prepare(network)
    schedule = Schedule(learning_rate, 0.5, max_epochs, batch_size, patience=max_epochs, target=1.0)
    name = output_dir / f"QAT_{model}_{ENGINE}"
    fit(qat, sets, schedule, Path(f"{name}.resume.pth"), resume=False)
    images = (images for images, _ in batches(sets.train, batch_size, shuffle=True))
    settle_ranges(qat, [batch for batch, _ in zip(images, range(SETTLING_BATCHES), strict=False)])
    converted = convert(copy.deepcopy(qat).eval())

    source = Path(f"{name}.onnx")
    example = next(iter(batches(sets.test, compiling.SAMPLES)))[0]
    print(export.pytorch(converted if exported == "converted" else qat, example[:1], str(source)))
    folder = Path(f"{name}_tflite")
    status = compiling.compile_network(source, folder, "pytorch", example.numpy(), lite.OPTIONS)

    labels = np.concatenate([labels.numpy() for _, labels in batches(sets.test, 64)])
    rows = [
        lite.Row("float", answers(plain, sets.test)),
        lite.Row("QAT", answers(qat, sets.test)),
        lite.Row("PyTorch convert", answers(converted, sets.test)),
    ]
    for form, file in lite.files_of(folder).items():
        run = lite.interpreted(file)
        rows.append(lite.Row(form, answers(on_arrays(run), sets.test), file.stat().st_size))
    lite.show(f"{model} on {checkpoint['data']}, {len(labels)} images", labels, rows, "QAT")
    sys.exit(status)


def prepare(network: nn.Module) -> nn.Module:
    """Fuse, and put fake-quants where the qconfig wants them."""
    network.train()
    network.fuse_model(is_qat=True)
    network.qconfig = get_default_qat_qconfig(ENGINE)
    return prepare_qat(network)


def on_arrays(run: lite.Predict) -> Callable[[Tensor], Tensor]:
    """A function of arrays as one of tensors."""
    return lambda images: torch.from_numpy(run(images.numpy()))


@torch.no_grad()
def answers(predict: Callable[[Tensor], Tensor], dataset: object) -> lite.Ints:
    """The class that a network gives each image."""
    return np.concatenate([predict(images).argmax(1).numpy() for images, _ in batches(dataset, 64)])


if __name__ == "__main__":
    main()
