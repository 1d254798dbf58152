"""From tfmot to TFLite, the whole road in one script: INT8, FP16 and FP32 files, run in LiteRT, in one table.

    python3 train.py --model small_cnn -lr 0.001 --max_epochs 8
    python3 tflite_road.py

Fine-tunes with tfmot's `quantize_model`, exports ONNX, and writes three TFLite files with the ranges that training
learned. The table also has the file that TensorFlow's own converter makes of the QAT model. Reads pretrained_MODEL.h5
of train.py; writes QAT_MODEL_tfmot.onnx and the folder QAT_MODEL_tfmot_tflite.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click
import networks
import numpy as np
from datasets import DEFAULT, Part, batches, open_data
from framework import keras, tf
from ranges import quantize, settle_ranges
from train import write_onnx
from training import fit
from weights import open_model

sys.path.append(str(Path(__file__).resolve().parents[1]))
# What the samples of both frameworks share.
from common import compiling, lite
from common.options import CONTEXT, GRAY_NETWORKS, batch_size_option, output_option
from common.schedule import Schedule

SETTLING_BATCHES = 16


@click.command(context_settings=CONTEXT)
@click.option("-lr", "--learning_rate", type=click.FloatRange(min=0, min_open=True), default=0.0001, show_default=True)
@click.option("--max_epochs", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--model", type=click.Choice(networks.NAMES), default="small_cnn", show_default=True)
@batch_size_option()
@click.option("--seed", type=int, default=0, show_default=True)
@output_option()
def main(learning_rate: float, max_epochs: int, model: str, batch_size: int, seed: int, output_dir: Path) -> None:
    """TensorFlow QAT to TFLite: train with QAT, export, write three files, and run them."""
    keras.utils.set_random_seed(seed)
    pretrained = output_dir / f"pretrained_{model}.h5"
    if not pretrained.is_file():
        raise click.UsageError(f"{pretrained} is missing: run train.py --model {model} first")
    network, seen = open_model(pretrained)
    data = seen or DEFAULT
    sets = open_data(data, gray=model in GRAY_NETWORKS, pixels=networks.PIXELS.get(model, "torch"))

    images = [images for images, _ in batches(sets.train, batch_size, shuffle=True).take(SETTLING_BATCHES)]
    qat = quantize(network, images)
    schedule = Schedule(learning_rate, 0.5, max_epochs, batch_size, patience=max_epochs, target=1.0)
    name = output_dir / f"QAT_{model}_tfmot"
    fit(qat, sets, schedule, Path(f"{name}.resume"), resume=False)
    settle_ranges(qat, images)
    source, folder = Path(f"{name}.onnx"), Path(f"{name}_tflite")
    write_onnx(qat, source, images[0][:1])
    held_out = next(iter(batches(sets.test, compiling.SAMPLES)))[0].numpy()
    status = compiling.compile_network(source, folder, "tensorflow", held_out, lite.OPTIONS)
    theirs = Path(f"{name}_converter.tflite")
    theirs.write_bytes(convert(qat, images[0].shape[1:]))

    labels = np.concatenate([labels.numpy() for _, labels in batches(sets.test, 64)])
    rows = [
        lite.Row("float", answers(network.predict_on_batch, sets.test)),
        lite.Row("QAT", answers(qat.predict_on_batch, sets.test)),
    ]
    for form, file in {**lite.files_of(folder), "TensorFlow's converter": theirs}.items():
        rows.append(lite.Row(form, answers(lite.interpreted(file), sets.test), file.stat().st_size))
    lite.show(f"{model} on {data}, {len(labels)} images", labels, rows, "QAT")
    sys.exit(status)


def convert(qat: keras.Model, shape: tuple[int, ...]) -> bytes:
    """What TensorFlow's converter makes of a QAT model: int8 inside, float32 at both ends."""
    function = tf.function(qat).get_concrete_function(tf.TensorSpec((1, *shape), tf.float32))
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], qat)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    return bytes(converter.convert())


def answers(predict: lite.Predict, part: Part) -> lite.Ints:
    """The class that a network gives each image."""
    return np.concatenate([predict(images.numpy()).argmax(1) for images, _ in batches(part, 64)])


if __name__ == "__main__":
    main()
