"""Quantizes one ONNX file with another tool: run by ptq.py with the Python of an environment that has these.

python benchmarks/ptq_peers.py METHOD MODEL.onnx FRAMES.npz OUT.onnx
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx


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

    found = tool.quantize(
        onnx.load(model), tool.Dataset(frames), subset_size=len(frames), fast_bias_correction=fast
    )  # fmt: skip
    onnx.save(found, out)


def main(method: str, model: str, data: str, out: str) -> None:
    """Quantize."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    arrays = dict(np.load(data))
    frames = [{name: values[at] for name, values in arrays.items()} for at in range(len(next(iter(arrays.values()))))]
    if method.startswith("nncf"):
        nncf(method == "nncf-fast", model, frames, out)
    else:
        onnxruntime(method, model, frames, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
