"""Weights whose scale is zero or next to it: channels that training switched off.

    scale[c] < 2^-102   =>   integers of c at the zero point, scale[c] = that of a living channel

onnxruntime computes them as zeros, or as numbers so small that float32 drops them from any sum that holds something
else: q / 0 is infinite or NaN, clips to an end of the range, and is multiplied by 0 again. Kernels would divide by such
scales, and the products of two of them underflow. Activations of that kind are refused: their values would be lost.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from drpai_qat.core.quantization import SMALLEST_SCALE
from preprocess.passlog import PassLog
from preprocess.product_forms import is_trained
from preprocess.quantize_nodes import DEQUANTIZE, QUANTIZE
from preprocess.surgery import Array, Names, optional_input, value_of

_DEAD = SMALLEST_SCALE * 2**24
"""Below, not even the largest accumulator gives a number that matters."""


def blank_dead_channels(graph: gs.Graph, log: PassLog) -> gs.Graph:
    """Give dead channels of constants a scale that they can have, and zeros."""
    names = Names(graph)
    for node in graph.nodes:
        scale = value_of(optional_input(node, 1)) if node.op in (QUANTIZE, DEQUANTIZE) and node.outputs else None
        if scale is None or not is_trained(node.inputs[0]) or node.attrs.get("block_size", 0):
            continue
        dead = (scale >= 0) & (scale < _DEAD)
        if not dead.any():
            continue
        data = node.inputs[0]
        if isinstance(data, gs.Constant):
            node.inputs[0] = gs.Constant(names(f"{data.name}_blank"), _blanked(node, data.values, dead.reshape(-1)))
            log.note(node.name, f"{int(dead.sum())} dead channel(s), of scale {scale[dead].max():g} or less: zeros")
        living = scale[~dead & np.isfinite(scale) & (scale > 0)]
        safe = np.where(dead, np.median(living) if living.size else np.float32(1), scale).astype(np.float32)
        node.inputs[1] = gs.Constant(names(f"{node.inputs[1].name}_living"), safe)
    return graph.cleanup()


def _blanked(node: gs.Node, values: Array, dead: Array) -> Array:
    """`values` with the zero of their grid where `dead`: real zeros in front of Q, zero points in front of DQ."""
    point = value_of(optional_input(node, 2))
    zero = np.zeros(1, values.dtype) if node.op == QUANTIZE or point is None else point.reshape(-1).astype(values.dtype)
    if dead.size == 1:
        return np.full_like(values, zero[0])
    along = [1] * values.ndim
    along[int(node.attrs.get("axis", 1))] = dead.size
    return np.where(dead.reshape(along), zero.reshape(along if zero.size > 1 else [1] * values.ndim), values)
