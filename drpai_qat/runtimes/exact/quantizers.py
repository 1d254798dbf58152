"""QuantizeLinear and DequantizeLinear, per tensor, per channel and per block.

steps = x / scale + zero_point;   q = clamp(round_half_even(x / scale) + zero_point);   x = (q - zero_point) * scale
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx

from drpai_qat.runtimes.exact.values import Array, Attributes, NotEvaluatedError, Quantized

_LIMITS = {
    onnx.TensorProto.INT8: (-128, 127, np.int8),
    onnx.TensorProto.UINT8: (0, 255, np.uint8),
    onnx.TensorProto.INT16: (-32768, 32767, np.int16),
    onnx.TensorProto.UINT16: (0, 65535, np.uint16),
    onnx.TensorProto.INT4: (-8, 7, np.int8),
    onnx.TensorProto.UINT4: (0, 15, np.uint8),
}


def quantize(inputs: Sequence[Any], attributes: Attributes, elem_type: int) -> Quantized:
    """Evaluate QuantizeLinear.

    Args:
        elem_type: ONNX type of the output.
    """
    if elem_type not in _LIMITS:
        raise NotEvaluatedError(f"QuantizeLinear to {onnx.TensorProto.DataType.Name(elem_type)}")
    low, high, dtype = _LIMITS[elem_type]
    x = inputs[0]
    scale, zero_point = _parameters(inputs, attributes, x)
    ratio = x / scale
    integers = np.clip(np.rint(ratio) + zero_point, low, high).astype(dtype)
    ratio += zero_point
    return Quantized(ratio, integers)


def dequantize(inputs: Sequence[Any], attributes: Attributes) -> tuple[Array]:
    """Evaluate DequantizeLinear."""
    q = inputs[0]
    scale, zero_point = _parameters(inputs, attributes, q)
    reals = q.astype(np.float64)
    if np.any(zero_point):
        reals -= zero_point
    reals *= scale
    return (reals,)


def _parameters(inputs: Sequence[Any], attributes: Attributes, values: Array) -> tuple[Array, Array]:
    """Scale and zero point as float64, of shapes that broadcast to `values`."""
    scale = np.asarray(inputs[1], np.float64)
    given = inputs[2] if len(inputs) > 2 else None
    zero_point = np.zeros_like(scale) if given is None else np.asarray(given, np.float64)
    block = attributes.get("block_size", 0)
    if block:
        axis = attributes.get("axis", 1)
        cut = tuple(slice(0, size) for size in values.shape)
        return np.repeat(scale, block, axis)[cut], np.repeat(zero_point, block, axis)[cut]
    if scale.size == 1:
        return scale.reshape(()), zero_point.reshape(())
    shape = [1] * values.ndim
    shape[attributes.get("axis", 1)] = scale.size
    return scale.reshape(shape), zero_point.reshape(shape)
