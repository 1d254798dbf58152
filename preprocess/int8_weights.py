"""Integers of weights as int8, around zero where they fit.

uint8, z        =>  int8, q - 128, z - 128
|q - z| <= 127  =>  q - z, zero point 0:  the same reals, and kernels without a zero-point correction
int16, int32    =>  int8 if the values fit
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from drpai_qat.core.quantization import QuantParams
from preprocess.passlog import PassLog
from preprocess.quantize_nodes import DEQUANTIZE
from preprocess.surgery import Array, Names, make_dequantize, params_of
from preprocess.weights import is_dequantized_constant, weight_reader


def canonical_weights(graph: gs.Graph, log: PassLog) -> gs.Graph:
    """Rewrite the integers of every layer's weights as int8, with zero point 0 where the values allow."""
    names = Names(graph)
    made: list[gs.Node] = []
    for node in graph.nodes:
        if node.op != DEQUANTIZE or not is_dequantized_constant(node) or weight_reader(node.outputs[0]) is None:
            continue
        q, params = node.inputs[0].values, params_of(node)
        if params.dtype == np.int8 and params.symmetric:
            continue
        result = to_int8(q, params)
        if result is None:
            if params.dtype == np.int16:
                log.note(node.name, "weights of more than 8 bits: int16")
            else:
                log.skipped(node, f"{params.dtype.name} weights don't fit int8")
            continue
        log.folded(node, f"{params.dtype.name} weights as int8")
        output = node.outputs[0]
        node.outputs.clear()
        made.append(make_dequantize(names, node.inputs[0].name, *result, output))
    graph.nodes.extend(made)
    return graph.cleanup().toposort() if made else graph


def to_int8(q: Array, params: QuantParams) -> tuple[Array, QuantParams] | None:
    """The same reals on an int8 grid; None if they span more than 256 steps."""
    along = [1] * q.ndim
    if params.axis is not None:
        along[params.axis] = -1
    points = params.zero_point.reshape(along) if params.axis is not None else params.zero_point
    steps = q.astype(np.int32) - points.astype(np.int32)
    if q.size and steps.min() >= -128 and steps.max() <= 127:
        centred = QuantParams.of(params.scale, 0, np.int8, axis=params.axis)
        return steps.astype(np.int8), centred
    shift = 128 if params.dtype == np.uint8 else 0
    moved, zero_point = q.astype(np.int32) - shift, params.zero_point - shift
    if moved.min() < -128 or moved.max() > 127 or zero_point.min() < -128 or zero_point.max() > 127:
        return None
    return moved.astype(np.int8), QuantParams.of(params.scale, zero_point, np.int8, axis=params.axis)
