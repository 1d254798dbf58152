"""Steps 2 and 3 of 3: fine-tune with quantization-aware training, export, compile into INT8, compare.

    python3 qat_retrain.py -lr 0.0001 --max_epochs 3

Reads pretrained_MODEL.pth of train.py; writes QAT_MODEL_fp32.pth, QAT_MODEL_fp32.onnx, the images that the compiler
checks the network on in QAT_MODEL_samples.npz, and the compiled network in the folder QAT_MODEL_int8; with another
recipe than the default one, QAT_MODEL_RECIPE_fp32.pth and so on. The epoch that did best on the validation set is kept.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import click
import networks
import torch
from datasets import DEFAULT, batches, open_data
from recipes import DEFAULT_RECIPE, QUANTIZABLE_RECIPES, RECIPES, prepare, settle_ranges, training_mode
from torch import Tensor
from training import Schedule, console, device_of, evaluate, fit, seed_everything

sys.path.append(str(Path(__file__).resolve().parents[1]))
# What the samples of both frameworks share.
from common import compiling
from common.options import (
    CONTEXT,
    GRAY_NETWORKS,
    batch_size_option,
    compile_options,
    output_option,
    run_options,
    training_options,
)

DECAY = 0.5  # of the learning rate, each epoch
SETTLING_BATCHES = 16


@click.command(context_settings=CONTEXT)
@training_options(0.0001, 3, networks.NAMES)
@click.option("--data", help=f"As in train.py. [default: what the pretrained network saw, at first {DEFAULT}]")
@click.option("--recipe", type=click.Choice(RECIPES), default=DEFAULT_RECIPE, show_default=True)
@batch_size_option()
@run_options("cuda", "Processes")
@compile_options()
@output_option()
def main(
    learning_rate: float,
    max_epochs: int,
    model: str,
    data: str | None,
    recipe: str,
    batch_size: int,
    seed: int,
    device: str,
    workers: int,
    resume: bool,
    compiles: bool,
    ptq: bool,
    output_dir: Path,
) -> None:
    """Fine-tune with QAT, export and compile; steps 2 and 3 of 3."""
    from drpai_qat import export

    seed_everything(seed)
    pretrained = output_dir / f"pretrained_{model}.pth"
    if not pretrained.is_file():
        raise click.UsageError(f"{pretrained} is missing: run train.py --model {model} first")
    checkpoint = torch.load(pretrained, map_location="cpu", weights_only=True)
    sets = open_data(data or checkpoint["data"], gray=model in GRAY_NETWORKS)
    network = networks.build(model, checkpoint["classes"], quantizable=recipe in QUANTIZABLE_RECIPES)
    network.load_state_dict(checkpoint["state_dict"])
    network.to(device_of(device)).eval()
    rows = {"float": evaluate(network, sets.test)}

    examples = next(iter(batches(sets.train, batch_size)))[0].to(device_of(device))
    qat = prepare(network, recipe, examples)
    schedule = Schedule(learning_rate, DECAY, max_epochs, batch_size, patience=max_epochs, target=1.0, workers=workers)
    name = f"QAT_{model}" if recipe == DEFAULT_RECIPE else f"QAT_{model}_{recipe}"
    stem = output_dir / f"{name}_fp32"
    fit(qat, sets, schedule, Path(f"{stem}.resume.pth"), resume=resume, training=training_mode)
    images = (images for images, _ in batches(sets.train, batch_size, shuffle=True))
    settle_ranges(qat, [batch.to(device_of(device)) for batch, _ in zip(images, range(SETTLING_BATCHES), strict=False)])
    rows["QAT"] = evaluate(qat, sets.test)
    torch.save({**checkpoint, "recipe": recipe, "state_dict": qat.state_dict(), "accuracy": rows["QAT"]}, f"{stem}.pth")
    console.print(str(export.pytorch(qat, examples[:1], f"{stem}.onnx")))

    status = 0
    held_out = next(iter(batches(sets.test, compiling.SAMPLES)))[0].numpy()
    if compiles:
        folder = output_dir / f"{name}_int8"
        status = compiling.compile_network(Path(f"{stem}.onnx"), folder, "pytorch", held_out)
        rows["INT8"] = evaluate(run_compiled(folder), sets.test)
    if ptq:
        calibration = next(iter(batches(sets.validation, compiling.CALIBRATION)))[0].numpy()
        folder = compiling.quantize_after_training(model, output_dir, calibration, held_out)
        rows["PTQ"] = evaluate(run_compiled(folder), sets.test)
    compiling.show(model, f"{data or checkpoint['data']}, {len(sets.test)} images", rows)
    sys.exit(status)


def run_compiled(folder: Path) -> Callable[[Tensor], Tensor]:
    """The compiled network as a function of float32 images (batch, channels, height, width)."""
    network = compiling.run_compiled(folder)
    return lambda images: torch.from_numpy(network(images.numpy()))


if __name__ == "__main__":
    main()
