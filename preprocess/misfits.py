"""What contradicts itself although ONNX's shape inference lets it pass: refused, since compiled code checks nothing.

Constant indices outside of what they index, updates of another shape than their indices, layers whose weights don't
fit their input. onnxruntime refuses them, too, but only as it runs.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_graphsurgeon as gs

from drpai_qat.core.errors import ModelError
from drpai_qat.core.indexing import indices_of, misfit
from preprocess.passlog import PassLog
from preprocess.sizes import is_static
from preprocess.surgery import value_of

_SIZES = ("kernel_shape", "strides", "dilations")
_POOLS = ("MaxPool", "AveragePool", "LpPool")


def refuse_misfits(graph: gs.Graph, log: PassLog) -> gs.Graph:
    """Check layers, poolings, and the indices of Gather, ScatterND and their kin.

    Raises: ModelError: names the node, and what doesn't fit.
    """
    for node in graph.nodes:
        tensors = [one for one in node.inputs if not one.is_empty()]
        if not node.outputs or not all(isinstance(one, gs.Constant) or is_static(one.shape) for one in tensors):
            continue
        shapes = [() if one.is_empty() else tuple(one.shape) for one in node.inputs]
        wrong = misfit(node.op, node.attrs, shapes) or _layer(node, shapes) or _index(node, shapes)
        if wrong:
            raise ModelError(f"node {node.name} ({node.op}): {wrong}")
    return graph


def _index(node: gs.Node, shapes: Sequence[Sequence[int]]) -> str:
    if not is_static(node.outputs[0].shape):
        return ""
    found = indices_of(node.op, node.attrs, shapes, node.outputs[0].shape)
    values = None if found is None else value_of(node.inputs[found.at])
    index = None if found is None or values is None else found.outside(values)
    if found is None or index is None:
        return ""
    return f"index {index} is outside of the {', '.join(map(str, dict.fromkeys(found.extents)))} entries there"


def _layer(node: gs.Node, shapes: Sequence[Sequence[int]]) -> str:
    """Of layers and poolings over images."""
    for name in _SIZES:
        if any(int(one) < 1 for one in node.attrs.get(name) or ()):
            return f"{name} {list(node.attrs[name])}: give positive numbers"
    if node.op in _POOLS:
        return _window(node, shapes[0], node.attrs.get("kernel_shape") or ())
    if node.op not in ("Conv", "ConvTranspose"):
        return ""
    data, weights, groups = shapes[0], shapes[1], int(node.attrs.get("group", 1))
    told = f"{groups} group{'' if groups == 1 else 's'} for an input {list(data)} and weights {list(weights)}"
    if groups < 1 or len(data) < 3 or len(weights) != len(data):
        return told
    if node.op == "Conv":
        fits = data[1] == weights[1] * groups and weights[0] % groups == 0
        out_channels = weights[0]
    else:
        fits = data[1] == weights[0] and weights[0] % groups == 0
        out_channels = weights[1] * groups
    if not fits:
        return told
    if list(node.attrs.get("kernel_shape") or weights[2:]) != list(weights[2:]):
        return f"kernel_shape {list(node.attrs['kernel_shape'])} for weights {list(weights)}"
    if len(shapes) > 2 and shapes[2] and tuple(shapes[2]) != (out_channels,):
        return f"a bias {list(shapes[2])} for {out_channels} channels"
    return _window(node, data, weights[2:]) if node.op == "Conv" else ""


def _window(node: gs.Node, data: Sequence[int], window: Sequence[int]) -> str:
    """A window that no place of the input takes; shape inference leaves the output's size open there, or negative."""
    if node.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or node.attrs.get("ceil_mode", 0):
        return ""
    rank = len(window)
    pads, dilations = node.attrs.get("pads") or [0] * (2 * rank), node.attrs.get("dilations") or [1] * rank
    if len(data) != rank + 2 or len(pads) != 2 * rank or len(dilations) != rank:
        return f"a window {list(window)}, pads {list(pads)} and dilations {list(dilations)} for an input {list(data)}"
    spans = [step * (size - 1) + 1 for size, step in zip(window, dilations, strict=True)]
    padded = [size + sum(pads[axis::rank]) for axis, size in enumerate(data[2:])]
    if all(size >= span for size, span in zip(padded, spans, strict=True)):
        return ""
    return f"a window {list(window)} for an input {list(data)} (spans {spans}, of {padded} with its padding)"
