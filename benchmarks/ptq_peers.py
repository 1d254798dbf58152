"""Quantizes one model with another tool: run by ptq.py with the Python of an environment that has it.

python benchmarks/ptq_peers.py METHOD MODEL FRAMES.npz OUT

MODEL is ONNX, and OUT too; for `litert` both are TFLite files, for `tensorflow` a Keras model and a TFLite file.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np


def onnxruntime(method: str, model: str, frames: list[dict[str, Any]], out: str) -> None:
    """quantize_static with 8-bit activations and weights per channel, after its own preprocessing."""
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self._frames: Iterator[dict[str, Any]] = iter(frames)

        def get_next(self) -> dict[str, Any] | None:
            return next(self._frames, None)

    try:
        quant_pre_process(model, out)
    except AssertionError:  # its symbolic shape inference, on Paddle's models
        quant_pre_process(model, out, skip_symbolic_shape=True)
    quantization.quantize_static(
        out, out, Reader(), quant_format=quantization.QuantFormat.QDQ, per_channel=True,
        activation_type=quantization.QuantType.QUInt8, weight_type=quantization.QuantType.QInt8,
        calibrate_method=quantization.CalibrationMethod[method],
    )  # fmt: skip


def nncf(fast: bool, model: str, frames: list[dict[str, Any]], out: str) -> None:
    """quantize, with fast or with full bias correction."""
    import nncf as tool
    import onnx

    found = tool.quantize(
        onnx.load(model), tool.Dataset(frames), subset_size=len(frames), fast_bias_correction=fast
    )  # fmt: skip
    onnx.save(found, out)


def litert(model: str, frames: list[dict[str, Any]], out: str) -> None:
    """LiteRT's quantizer: 8 bits for all operators that have them, weights per channel."""
    from ai_edge_quantizer import quantizer, recipe

    tool = quantizer.Quantizer(Path(model), recipe.static_wi8_ai8())
    ranges = tool.calibrate({"serving_default": frames})
    Path(out).write_bytes(tool.quantize(ranges).quantized_model)


def tensorflow(model: str, frames: list[dict[str, Any]], out: str) -> None:
    """TensorFlow's converter with a representative_dataset: 8 bits inside, float32 at both ends."""
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    import tensorflow as tf
    import tf_keras

    network = tf_keras.models.load_model(model, compile=False)
    shape = next(iter(frames[0].values())).shape
    function = tf.function(network).get_concrete_function(tf.TensorSpec(shape, tf.float32))
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], network)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: (list(frame.values()) for frame in frames)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    Path(out).write_bytes(converter.convert())


def main(method: str, model: str, data: str, out: str) -> None:
    """Quantize."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    arrays = dict(np.load(data))
    frames = [{name: values[at] for name, values in arrays.items()} for at in range(len(next(iter(arrays.values()))))]
    if method.startswith("nncf"):
        nncf(method == "nncf-fast", model, frames, out)
    elif method in ("litert", "tensorflow"):
        {"litert": litert, "tensorflow": tensorflow}[method](model, frames, out)
    else:
        onnxruntime(method, model, frames, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
