"""Steps 2 and 3 of 3: fine-tune with quantization-aware training, export, compile into INT8, compare.

    python3 qat_retrain.py -lr 0.0001 --max_epochs 3

Reads pretrained_MODEL.h5 of train.py; writes QAT_MODEL_fp32.h5, QAT_MODEL_fp32.onnx, the images that the compiler
checks the network on in QAT_MODEL_samples.npz, and the compiled network in the folder QAT_MODEL_int8. The epoch that
did best on the validation set is kept.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click
import networks
from datasets import DEFAULT, batches, open_data
from framework import keras
from ranges import quantize, settle_ranges
from train import write_onnx
from training import evaluate, fit, use_device
from weights import open_model, save

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
from common.schedule import Schedule

DECAY = 0.5  # of the learning rate, each epoch
SETTLING_BATCHES = 16


@click.command(context_settings=CONTEXT)
@training_options(0.0001, 3, networks.NAMES)
@click.option("--data", help=f"As in train.py. [default: what the pretrained network saw, at first {DEFAULT}]")
@batch_size_option()
@run_options("gpu", "Threads")
@compile_options()
@output_option()
def main(
    learning_rate: float,
    max_epochs: int,
    model: str,
    data: str | None,
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
    use_device(device)
    keras.utils.set_random_seed(seed)
    pretrained = output_dir / f"pretrained_{model}.h5"
    if not pretrained.is_file():
        raise click.UsageError(f"{pretrained} is missing: run train.py --model {model} first")
    network, seen = open_model(pretrained)
    data = data or seen or DEFAULT
    sets = open_data(data, gray=model in GRAY_NETWORKS, pixels=networks.PIXELS.get(model, "torch"))
    rows = {"float": evaluate(network.predict_on_batch, sets.test)}

    shuffled = batches(sets.train, batch_size, shuffle=True, workers=workers)
    images = [images for images, _ in shuffled.take(SETTLING_BATCHES)]
    qat = quantize(network, images)
    schedule = Schedule(learning_rate, DECAY, max_epochs, batch_size, patience=max_epochs, target=1.0, workers=workers)
    stem = output_dir / f"QAT_{model}_fp32"
    fit(qat, sets, schedule, Path(f"{stem}.resume"), resume=resume)
    settle_ranges(qat, images)
    rows["QAT"] = evaluate(qat.predict_on_batch, sets.test)
    save(qat, Path(f"{stem}.h5"), data=data, accuracy=rows["QAT"])
    write_onnx(qat, Path(f"{stem}.onnx"), images[0][:1])

    status = 0
    held_out = next(iter(batches(sets.test, compiling.SAMPLES)))[0].numpy()
    if compiles:
        folder = output_dir / f"QAT_{model}_int8"
        status = compiling.compile_network(Path(f"{stem}.onnx"), folder, "tensorflow", held_out)
        rows["INT8"] = evaluate(compiling.run_compiled(folder), sets.test)
    if ptq:
        calibration = next(iter(batches(sets.validation, compiling.CALIBRATION)))[0].numpy()
        folder = compiling.quantize_after_training(model, output_dir, calibration, held_out)
        rows["PTQ"] = evaluate(compiling.run_compiled(folder), sets.test)
    compiling.show(model, f"{data}, {len(sets.test)} images", rows)
    sys.exit(status)


if __name__ == "__main__":
    main()
