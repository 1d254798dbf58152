"""Transpose and Reshape out of the way: layout wrappers between a layer and its rounding, and pairs that cancel.

    MatMul -> Reshape -> Add(b) -> Relu -> Q -> DQ    =>   MatMul -> Add(b) -> Relu -> Q -> DQ -> Reshape
    Transpose(p) -> Transpose(q)                      =>   Transpose(p[q]), or nothing
    Reshape -> Reshape                                =>   Reshape, or nothing

Elementwise operators and views commute exactly; a constant operand is turned to the view's other side. tf2onnx wraps
1-D convolutions in Unsqueeze and Squeeze, dense layers on more than two dimensions in Reshape, and NHWC operators in
Transpose (in Reshape, where only dimensions of size 1 move).
"""

from __future__ import annotations

import math

import numpy as np
import onnx_graphsurgeon as gs

from drpai_qat.core.moving import VIEWS
from preprocess.passlog import PassLog
from preprocess.sizes import is_static
from preprocess.surgery import Array, Names, bypass, is_graph_output, produced_by, readers, value_of

_ELEMENTWISE = frozenset((
    "Relu", "LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Erf",
    "Softplus", "Softsign", "Exp", "Log", "Sqrt", "Reciprocal", "Abs", "Neg", "Round", "Add", "Sub", "Mul", "Div",
    "Pow", "Min", "Max", "QuantizeLinear", "DequantizeLinear",
))  # fmt: skip


def sink_views(graph: gs.Graph, log: PassLog) -> gs.Graph:
    """Move each view behind the elementwise operators that follow it."""
    graph.toposort()
    names = Names(graph)
    for view in reversed(list(graph.nodes)):  # from the outputs up: a view that moved leaves room for the one before it
        if (view.op == "Transpose" or view.op in VIEWS) and view.outputs and _is_static(view):
            while region := _region(graph, view):
                _sink(graph, view, region, names)
    return graph.cleanup().toposort()


def merge_views(graph: gs.Graph, log: PassLog) -> gs.Graph:
    """Merge views of views; drop those that change nothing."""
    graph.toposort()
    names = Names(graph)
    for view in list(graph.nodes):
        if not view.outputs or not _is_static(view):
            continue
        inner = produced_by(view.inputs[0], "Transpose", *VIEWS)
        if view.op == "Transpose" and inner is not None and inner.op == "Transpose":
            perm = [_perm(inner)[axis] for axis in _perm(view)]
            view.inputs[0], view.attrs["perm"] = inner.inputs[0], perm
        elif inner is not None and _is_static(inner) and _is_reshape(inner) and _is_reshape(view):
            shape = np.array(view.outputs[0].shape, np.int64)
            view.op, view.attrs = "Reshape", {}
            view.inputs = [inner.inputs[0], gs.Constant(names(f"{view.name}_shape"), shape)]
        if _is_reshape(view) and list(view.inputs[0].shape) == list(view.outputs[0].shape):
            bypass(graph, view)
    return graph.cleanup().toposort()


def _is_static(node: gs.Node) -> bool:
    return is_static(node.inputs[0].shape) and is_static(node.outputs[0].shape)


def _perm(node: gs.Node) -> list[int]:
    return list(node.attrs.get("perm") or reversed(range(len(node.inputs[0].shape))))


def _is_reshape(node: gs.Node) -> bool:
    """True if `node` keeps the order of the elements."""
    if node.op != "Transpose":
        return node.op in VIEWS
    wide = [axis for axis in _perm(node) if node.inputs[0].shape[axis] != 1]
    return wide == sorted(wide)


def _region(graph: gs.Graph, view: gs.Node) -> list[gs.Node]:
    """The largest set of elementwise nodes behind `view` that leaves one tensor to be viewed instead."""
    inside, best = [view.outputs[0]], 0
    members: list[gs.Node] = []
    for tensor in inside:
        for node in readers(tensor):
            if any(node is member for member in members) or not _commutes(node, inside, view):
                continue
            members.append(node)
            inside.append(node.outputs[0])
            if len(_frontier(graph, inside, members)) == 1:
                best = len(members)
    return members[:best]


def _commutes(node: gs.Node, inside: list[gs.Tensor], view: gs.Node) -> bool:
    """True if `node` is elementwise on tensors of `inside` and constants that can be turned."""
    if node.op not in _ELEMENTWISE or len(node.outputs) != 1:
        return False
    shape = view.outputs[0].shape
    if not is_static(node.outputs[0].shape) or list(node.outputs[0].shape) != list(shape):
        return False
    for tensor in node.inputs:
        if any(tensor is one for one in inside) or tensor.is_empty():
            continue
        value = value_of(tensor)
        if value is None or _turned(value, view) is None:
            return False
        if node.op in ("QuantizeLinear", "DequantizeLinear") and value.ndim:  # per channel: along an axis of its own
            return False
    return True


def _frontier(graph: gs.Graph, inside: list[gs.Tensor], members: list[gs.Node]) -> list[gs.Tensor]:
    """Tensors of `inside` that something outside reads."""
    return [
        tensor
        for tensor in inside
        if is_graph_output(graph, tensor)
        or any(not any(node is member for member in members) for node in readers(tensor))
    ]


def _turned(value: Array, view: gs.Node) -> Array | None:
    """A constant that broadcasts to the view's output as one that broadcasts to its input; None if there is none."""
    source, target = list(view.inputs[0].shape), list(view.outputs[0].shape)
    if value.size == 1:
        return value.reshape(())
    if value.ndim > len(target):
        return None
    full = value.reshape((1,) * (len(target) - value.ndim) + value.shape)
    if view.op == "Transpose":
        return full.transpose(np.argsort(_perm(view)))
    if list(full.shape) == target:
        return full.reshape(source)
    wide = [axis for axis, size in enumerate(full.shape) if size != 1]
    if len(wide) != 1 or full.shape[wide[0]] != target[wide[0]]:
        return None
    size, behind = target[wide[0]], math.prod(target[wide[0] + 1 :])
    for axis, length in enumerate(source):
        if length == size and math.prod(source[axis + 1 :]) == behind:
            return value.reshape([size if at == axis else 1 for at in range(len(source))])
    return None


def _sink(graph: gs.Graph, view: gs.Node, region: list[gs.Node], names: Names) -> None:
    """Let `region` work on the view's input; the view then makes the one tensor that is read outside."""
    source, output = view.inputs[0], view.outputs[0]
    inside = [output, *(node.outputs[0] for node in region)]
    (last,) = _frontier(graph, inside, region)
    for node in region:
        for index, tensor in enumerate(node.inputs):
            if tensor is output:
                node.inputs[index] = source
            elif isinstance(tensor, gs.Constant) and tensor.values.ndim:
                node.inputs[index] = gs.Constant(names(f"{tensor.name}_turned"), _turned(tensor.values, view))
        node.outputs[0].shape = list(source.shape)
    maker = next(node for node in region if node.outputs[0] is last)
    before = gs.Variable(names(f"{last.name}_before_view"), last.dtype, list(source.shape))
    for node in region:
        node.inputs = [before if tensor is last else tensor for tensor in node.inputs]
    maker.outputs = [before]
    view.inputs[0], view.outputs = before, [last]
    last.shape = list(output.shape)
