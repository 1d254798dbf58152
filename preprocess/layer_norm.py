"""Layer normalization, which exporters below opset 17 spell out, as one node again.

As PyTorch and tf2onnx write it, in seven steps over the last axis:

    mean = ReduceMean(x)      d = Sub(x, mean)      variance = ReduceMean(Pow(d, 2))
    y = Div(d, Sqrt(Add(variance, epsilon)))

As Keras computes it, with its fused batch norm: BatchNormalization of Reshape(x, [1, n, d, 1]) by the statistics of
that tensor over axes 0, 2, 3, reshaped back. Each of the n vectors is a "channel", and its mean and variance are
computed at run time, so that the node is no batch norm that anything could fold.

A Mul and an Add by constants along the last axis are the scale and bias of the new node. A quantizer between any two of
the steps is a trained rounding: such chains stay as they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from preprocess.passlog import PassLog
from preprocess.sizes import is_static
from preprocess.surgery import (
    Array,
    Names,
    channel_vector,
    detach,
    is_graph_output,
    produced_by,
    sole_consumer,
    value_of,
)

_LAYERNORM_OPSET = 17
_STATISTICS_AXES = [0, 2, 3]


@dataclass(frozen=True)
class _Spelled:
    """A layer normalization in steps: its input, its last step, its epsilon."""

    data: gs.Tensor
    last: gs.Node
    epsilon: float


def write_layer_norm(graph: gs.Graph, log: PassLog) -> gs.Graph:
    """Replace spelled-out layer normalization by LayerNormalization; raises the opset to 17, which has it.

    Between opsets 13 and 17 no operator of an inference graph changes its meaning.
    """
    names = Names(graph)
    made: list[gs.Node] = []
    for node in list(graph.nodes):
        found = _spelled(graph, node) if node.outputs else None
        if found is not None:
            made.append(_as_one_node(graph, node, found, names))
    if made:
        graph.nodes.extend(made)
        raise_opset(graph)
    return graph.cleanup().toposort() if made else graph


def _spelled(graph: gs.Graph, node: gs.Node) -> _Spelled | None:
    """The layer normalization whose division, or batch norm, is `node`."""
    if node.op == "BatchNormalization":
        return _by_batchnorm(graph, node)
    return _by_steps(graph, node) if node.op == "Div" else None


def _as_one_node(graph: gs.Graph, node: gs.Node, found: _Spelled, names: Names) -> gs.Node:
    """The LayerNormalization that replaces the steps, and the scale and bias behind them."""
    output, size = found.last.outputs[0], found.data.shape[-1]
    scale, bias = np.ones(size, np.float32), np.zeros(size, np.float32)
    for op in ("Mul", "Add"):
        step = sole_consumer(graph, output)
        vector = _last_axis_operand(step, output, op) if step is not None else None
        if step is None or vector is None:
            break
        scale, bias = (vector, bias) if op == "Mul" else (scale, vector)
        output = step.outputs[0]
        detach(step)
    learned = [gs.Constant(names(f"{node.name}_scale"), scale), gs.Constant(names(f"{node.name}_bias"), bias)]
    detach(found.last)
    detach(node)
    attrs = {"axis": -1, "epsilon": found.epsilon}
    return gs.Node("LayerNormalization", names(f"{node.name}_layernorm"), attrs, [found.data, *learned], [output])


def raise_opset(graph: gs.Graph) -> None:
    """Let the graph be of opset 17 at least."""
    if graph.opset < _LAYERNORM_OPSET:
        graph.opset = _LAYERNORM_OPSET
        graph.import_domains = [onnx.helper.make_opsetid("", _LAYERNORM_OPSET)]


def _last_axis_operand(node: gs.Node, data: gs.Tensor, op: str) -> Array | None:
    """Constant operand of `node` along the last axis of `data`, float32 of shape (d,)."""
    if node.op != op or len(node.inputs) != 2 or not is_static(data.shape):
        return None
    value = value_of(node.inputs[1 if node.inputs[0] is data else 0])
    rank = len(data.shape)
    vector = None if value is None else channel_vector(value, rank, rank - 1, data.shape[-1])
    return None if vector is None else np.ascontiguousarray(vector, np.float32)


def _by_batchnorm(graph: gs.Graph, norm: gs.Node) -> _Spelled | None:
    """Layer normalization of Keras, by batch norm between two Reshape nodes."""
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
    if mean is None or not _is_variance(norm.inputs[4], folded, mean, size):
        return None
    return _Spelled(data, back, float(norm.attrs.get("epsilon", 1e-5)))


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


def _by_steps(graph: gs.Graph, divide: gs.Node) -> _Spelled | None:
    """Layer normalization in seven steps, of which nothing else reads any."""
    centred, root = produced_by(divide.inputs[0], "Sub"), produced_by(divide.inputs[1], "Sqrt")
    shifted = produced_by(root.inputs[0], "Add") if root is not None else None
    mean = produced_by(centred.inputs[1], "ReduceMean") if centred is not None else None
    if centred is None or root is None or shifted is None or mean is None:
        return None
    epsilon = [value for value in map(value_of, shifted.inputs) if value is not None]
    variance = next((one for one in (produced_by(t, "ReduceMean") for t in shifted.inputs) if one is not None), None)
    if len(epsilon) != 1 or epsilon[0].size != 1 or variance is None:
        return None
    square = produced_by(variance.inputs[0], "Pow", "Mul")
    if square is None or not _is_square(square, centred.outputs[0]):
        return None
    data = centred.inputs[0]
    if mean.inputs[0] is not data or not is_static(data.shape) or not (_is_row_mean(mean) and _is_row_mean(variance)):
        return None
    inside = (mean, centred, square, variance, shifted, root)
    if any(not _is_read_within(graph, one, (*inside, divide)) for one in inside):
        return None
    return _Spelled(data, divide, float(epsilon[0].reshape(-1)[0]))


def _is_square(node: gs.Node, data: gs.Tensor) -> bool:
    if node.op == "Mul":
        return all(tensor is data for tensor in node.inputs)
    exponent = value_of(node.inputs[1])
    return node.inputs[0] is data and exponent is not None and exponent.size == 1 and bool((exponent == 2).all())


def _is_row_mean(reduce: gs.Node) -> bool:
    """True for a mean over the last axis that keeps it."""
    axes, shape = _axes(reduce), reduce.inputs[0].shape
    if axes is None or not is_static(shape) or not reduce.attrs.get("keepdims", 1):
        return False
    return [int(axis) % len(shape) for axis in axes] == [len(shape) - 1]


def _is_read_within(graph: gs.Graph, node: gs.Node, nodes: tuple[gs.Node, ...]) -> bool:
    """True if none but `nodes` read the output of `node`."""
    output = node.outputs[0]
    return not is_graph_output(graph, output) and all(any(one is two for two in nodes) for one in output.outputs)


def _axes(reduce: gs.Node) -> list[int] | None:
    """Axes of a reduction: an attribute, or from opset 18 on an input."""
    axes = reduce.attrs.get("axes")
    if axes is None and len(reduce.inputs) > 1:
        value = value_of(reduce.inputs[1])
        axes = None if value is None else value.tolist()
    return None if axes is None else sorted(axes)
