"""Operators that tf2onnx spells out, written as one node again.

    Relu(x) + c * Relu(-x)                                       =>   PRelu(x, -c)                 bit-equal
    BatchNormalization of Reshape(x, [1, n, d, 1]) by the        =>   LayerNormalization(x, axis -1)
    statistics of that tensor over axes 0, 2, 3, reshaped back

Keras computes layer normalization with its fused batch norm: each of the n vectors is a "channel", and its mean and
variance are computed at run time, so that the node is no batch norm that anything could fold.
"""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from preprocess.graph import Names, channel_vector, detach, produced_by, sole_consumer, value_of
from preprocess.passlog import PassLog
from preprocess.shapes import is_static

_LAYERNORM_OPSET = 17
_STATISTICS_AXES = [0, 2, 3]


def write_prelu(graph: gs.Graph, log: PassLog) -> gs.Graph:
    """Replace Relu(x) + c * Relu(-x) by PRelu."""
    names = Names(graph)
    for node in graph.nodes:
        found = _prelu(node) if node.op == "Add" and node.outputs else None
        if found is None:
            continue
        data, slope = found
        base = node.outputs[0].name
        node.op, node.inputs = "PRelu", [data, gs.Constant(names(f"{base}_slope"), slope)]
    return graph.cleanup()


def _prelu(add: gs.Node) -> tuple[gs.Tensor, np.ndarray] | None:
    """Input and slope of the PRelu that ends in `add`."""
    for index in (0, 1):
        positive, product = produced_by(add.inputs[index], "Relu"), produced_by(add.inputs[1 - index], "Mul")
        if positive is None or product is None:
            continue
        at = 0 if value_of(product.inputs[0]) is not None else 1
        factor, negative = value_of(product.inputs[at]), produced_by(product.inputs[1 - at], "Relu")
        negated = produced_by(negative.inputs[0], "Neg") if negative is not None else None
        data = positive.inputs[0]
        if factor is None or negated is None or negated.inputs[0] is not data or not is_static(data.shape):
            continue
        if list(np.broadcast_shapes(factor.shape, tuple(data.shape))) == list(data.shape):
            return data, -factor
    return None


def write_layernorm(graph: gs.Graph, log: PassLog) -> gs.Graph:
    """Replace Keras' layer normalization by LayerNormalization; raises the opset to 17, which has it.

    Between opsets 13 and 17 no operator of an inference graph changes its meaning.
    """
    names = Names(graph)
    for norm in list(graph.nodes):
        found = _layernorm(graph, norm) if norm.op == "BatchNormalization" and norm.outputs else None
        if found is None:
            continue
        data, back = found
        output, size = back.outputs[0], data.shape[-1]
        scale, bias = np.ones(size, np.float32), np.zeros(size, np.float32)
        for op in ("Mul", "Add"):
            step = sole_consumer(graph, output)
            vector = _last_axis_operand(step, output, op) if step is not None else None
            if step is None or vector is None:
                break
            scale, bias = (vector, bias) if op == "Mul" else (scale, vector)
            output = step.outputs[0]
            detach(step)
        attrs = {"axis": -1, "epsilon": float(norm.attrs.get("epsilon", 1e-5))}
        learned = [gs.Constant(names(f"{norm.name}_scale"), scale), gs.Constant(names(f"{norm.name}_bias"), bias)]
        name = names(f"{norm.name}_layernorm")
        detach(back)
        detach(norm)
        graph.nodes.append(gs.Node("LayerNormalization", name, attrs, [data, *learned], [output]))
        _raise_opset(graph)
    return graph.cleanup().toposort()


def _raise_opset(graph: gs.Graph) -> None:
    if graph.opset < _LAYERNORM_OPSET:
        graph.opset = _LAYERNORM_OPSET
        graph.import_domains = [onnx.helper.make_opsetid("", _LAYERNORM_OPSET)]


def _last_axis_operand(node: gs.Node, data: gs.Tensor, op: str) -> np.ndarray | None:
    """Constant operand of `node` along the last axis of `data`, float32 of shape (d,)."""
    if node.op != op or len(node.inputs) != 2 or not is_static(data.shape):
        return None
    value = value_of(node.inputs[1 if node.inputs[0] is data else 0])
    rank = len(data.shape)
    vector = None if value is None else channel_vector(value, rank, rank - 1, data.shape[-1])
    return None if vector is None else np.ascontiguousarray(vector, np.float32)


def _layernorm(graph: gs.Graph, norm: gs.Node) -> tuple[gs.Tensor, gs.Node] | None:
    """What is normalized over its last axis by `norm`, and the Reshape that ends it."""
    folded = norm.inputs[0]
    there, back = produced_by(folded, "Reshape"), sole_consumer(graph, norm.outputs[0])
    if there is None or back is None or back.op != "Reshape" or not is_static(there.inputs[0].shape):
        return None
    data = there.inputs[0]
    size = data.shape[-1]
    if list(folded.shape) != [1, math.prod(data.shape[:-1]), size, 1] or list(back.outputs[0].shape) != list(
        data.shape
    ):
        return None
    scale, bias = value_of(norm.inputs[1]), value_of(norm.inputs[2])
    if scale is None or bias is None or not (scale == 1).all() or bias.any():
        return None
    mean = _mean(norm.inputs[3], folded)
    return (data, back) if mean is not None and _is_variance(norm.inputs[4], folded, mean, size) else None


def _mean(tensor: gs.Tensor, folded: gs.Tensor) -> gs.Tensor | None:
    """The tensor of means, before the Squeeze to a vector."""
    squeeze = produced_by(tensor, "Squeeze", "Reshape")
    reduce = produced_by(squeeze.inputs[0] if squeeze is not None else tensor, "ReduceMean")
    if reduce is None or reduce.inputs[0] is not folded or _axes(reduce) != _STATISTICS_AXES:
        return None
    return reduce.outputs[0]


def _is_variance(tensor: gs.Tensor, folded: gs.Tensor, mean: gs.Tensor, size: int) -> bool:
    """True if `tensor` is the sum of squared distances from `mean`, divided by `size`."""
    divide = produced_by(tensor, "Div")
    count = value_of(divide.inputs[1]) if divide is not None else None
    if divide is None or count is None or count.size != 1 or float(count.reshape(-1)[0]) != size:
        return False
    squares = produced_by(divide.inputs[0], "ReduceSumSquare")
    if squares is None or _axes(squares) != _STATISTICS_AXES:
        return False
    distance = produced_by(squares.inputs[0], "Sub")
    return distance is not None and distance.inputs[0] is folded and distance.inputs[1] is mean


def _axes(reduce: gs.Node) -> list[int] | None:
    """Axes of a reduction: an attribute, or from opset 18 on an input."""
    axes = reduce.attrs.get("axes")
    if axes is None and len(reduce.inputs) > 1:
        value = value_of(reduce.inputs[1])
        axes = None if value is None else value.tolist()
    return None if axes is None else sorted(axes)
