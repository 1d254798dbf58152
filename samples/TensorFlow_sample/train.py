"""Step 1 of 3: train a float32 network.

    python3 train.py -lr 0.001 --max_epochs 50

Writes pretrained_MODEL.h5 and pretrained_MODEL.onnx. Training stops earlier once the validation accuracy is reached
(--target) or no longer grows (--patience). Step 2 is qat_retrain.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click
import networks
from datasets import DEFAULT, batches, open_data
from framework import keras, tf
from training import evaluate, fit, use_device
from weights import load_weights, save

sys.path.extend(str(folder) for folder in Path(__file__).resolve().parents[1:3])  # an installed drpai_qat goes first
# What the samples of both frameworks share.
from common.options import CONTEXT, GRAY_NETWORKS, batch_size_option, output_option, run_options, training_options
from common.schedule import Schedule, console

from drpai_qat import export


@click.command(context_settings=CONTEXT)
@training_options(0.001, 50, networks.NAMES)
@click.option("--data", default=DEFAULT, show_default=True, help="mnist5k, or mnist|cifar10|food101|imagefolder:DIR.")
@click.option("--weights", help="Start from this .h5 file, or from `imagenet` (Keras's, downloaded).")
@click.option(
    "--decay",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.9,
    show_default=True,
    help="Of the learning rate, each epoch.",
)
@batch_size_option()
@click.option("--patience", type=click.IntRange(min=1), default=6, show_default=True)
@click.option("--target", type=click.FloatRange(0, 1), default=0.99, show_default=True)
@run_options("gpu", "Threads")
@output_option()
def main(
    learning_rate: float,
    max_epochs: int,
    model: str,
    data: str,
    weights: str | None,
    decay: float,
    batch_size: int,
    patience: int,
    target: float,
    seed: int,
    device: str,
    workers: int,
    resume: bool,
    output_dir: Path,
) -> None:
    """Train a float32 network; step 1 of 3."""
    use_device(device)
    keras.utils.set_random_seed(seed)
    output_dir.mkdir(parents=True, exist_ok=True)
    sets = open_data(data, gray=model in GRAY_NETWORKS, pixels=networks.PIXELS.get(model, "torch"))
    network = networks.build(model, sets.classes, sets.shape)
    if weights is not None:
        load_weights(network, model, weights)
    stem = output_dir / f"pretrained_{model}"
    schedule = Schedule(learning_rate, decay, max_epochs, batch_size, patience, target, workers)
    fit(network, sets, schedule, Path(f"{stem}.resume"), resume=resume)
    accuracy = evaluate(network.predict_on_batch, sets.test)
    console.print(f"{model} on {data}: {accuracy:.2%} of {len(sets.test)} test images")
    save(network, Path(f"{stem}.h5"), data=data, accuracy=accuracy)
    write_onnx(network, Path(f"{stem}.onnx"), next(iter(batches(sets.test, 1)))[0])
    console.print(f"wrote {stem}.h5 and {stem}.onnx; next: qat_retrain.py --model {model}", soft_wrap=True)


def write_onnx(network: keras.Model, path: Path, image: tf.Tensor) -> None:
    """Export a network for a batch of one, float or QAT, and say how close the file is.

    Args:
        network: takes (batch, H, W, C).
        path: the .onnx file to write.
        image: float32, (1, H, W, C).
    """
    names = {"input_names": ["input"], "output_names": ["output"]}
    console.print(str(export.tensorflow(network, path, example_inputs=image, **names)), soft_wrap=True)


if __name__ == "__main__":
    main()
