"""Padding in the layer's own attributes, as explicit numbers.

    auto_pad = SAME_UPPER                       =>   pads, from the static shapes
    Pad(zeros) -> Conv                          =>   Conv(pads)
    Pad(zeros) -> [Relu | Q -> DQ] -> Conv      =>   [Relu | Q -> DQ] -> Conv(pads)

Conv pads with the real value 0. Q -> DQ of a per-tensor grid keeps 0, since the zero point lies within its type, and so
do Relu and the like; so a Pad of zeros may come after them, and there it is the convolution's own. TensorFlow's `same`
padding of a strided convolution is asymmetric: one more at the end than at the start.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from preprocess.graph import bypass, is_graph_output, optional_input, readers, value_of
from preprocess.passlog import PassLog
from preprocess.shapes import is_static

_WINDOWED = ("Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool")
_KEEP_ZERO = ("Relu", "LeakyRelu", "QuantizeLinear", "DequantizeLinear", "Clip", "Tanh", "HardSwish")


def explicit_pads(graph: gs.Graph, log: PassLog) -> gs.Graph:
    """Replace auto_pad by pads wherever shapes are static."""
    for node in graph.nodes:
        mode = node.attrs.get("auto_pad", "NOTSET")
        if node.op not in _WINDOWED:
            continue
        if mode == "NOTSET":
            node.attrs.pop("auto_pad", None)
        elif is_static(node.inputs[0].shape) and is_static(node.outputs[0].shape):
            node.attrs["pads"] = [0] * (2 * (len(node.inputs[0].shape) - 2)) if mode == "VALID" else _same(node, mode)
            del node.attrs["auto_pad"]
    return graph


def _same(node: gs.Node, mode: str) -> list[int]:
    """Pads that make output = ceil(input / stride), or for ConvTranspose input * stride."""
    source, target = node.inputs[0].shape[2:], node.outputs[0].shape[2:]
    rank = len(source)
    kernel = node.attrs.get("kernel_shape") or list(node.inputs[1].shape[2:])
    strides, dilations = node.attrs.get("strides") or [1] * rank, node.attrs.get("dilations") or [1] * rank
    extra = node.attrs.get("output_padding") or [0] * rank
    before, after = [], []
    for at in range(rank):
        small, large = (target[at], source[at]) if node.op != "ConvTranspose" else (source[at], target[at])
        total = max((small - 1) * strides[at] + (kernel[at] - 1) * dilations[at] + 1 + extra[at] - large, 0)
        half = total // 2 if mode == "SAME_UPPER" else total - total // 2
        before.append(half)
        after.append(total - half)
    if node.op == "ConvTranspose":
        node.attrs.pop("output_shape", None)
    return before + after


def fold_pads(graph: gs.Graph, log: PassLog) -> gs.Graph:
    """Fold zero padding into the convolutions behind it."""
    for node in graph.nodes:
        pads = _spatial_zeros(node) if node.op == "Pad" and node.outputs else None
        between: list[gs.Tensor] = []
        layers = None if pads is None else _convolutions(graph, node.outputs[0], between)
        if pads is None or not layers:
            continue
        for tensor in between:
            tensor.shape = list(node.inputs[0].shape)
        for layer in layers:
            layer.attrs["pads"] = [old + new for old, new in zip(_pads(layer), pads, strict=True)]
        log.note(node.name, f"zero padding is now that of {', '.join(layer.name for layer in layers)}")
        bypass(graph, node)
    return graph.cleanup()


def _spatial_zeros(pad: gs.Node) -> list[int] | None:
    """ONNX pads of the spatial axes, if `pad` adds zeros to these alone."""
    amounts, value, axes = (
        None if tensor is None else value_of(tensor) for tensor in (optional_input(pad, at) for at in (1, 2, 3))
    )
    if pad.attrs.get("mode", "constant") != "constant" or amounts is None or not is_static(pad.inputs[0].shape):
        return None
    if optional_input(pad, 2) is not None and (value is None or value.any()):
        return None
    if optional_input(pad, 3) is not None and axes is None:
        return None
    rank = len(pad.inputs[0].shape)
    full = np.zeros((2, rank), np.int64)
    full[:, range(rank) if axes is None else [int(axis) % rank for axis in axes]] = amounts.reshape(2, -1)
    if full[:, :2].any() or (full < 0).any():
        return None
    return [int(size) for size in full[:, 2:].reshape(-1)]


def _convolutions(graph: gs.Graph, tensor: gs.Tensor, between: list[gs.Tensor]) -> list[gs.Node] | None:
    """The convolutions that read `tensor`, through operators that keep zero; None if anything else reads it.

    `between` collects the tensors on the way.
    """
    if is_graph_output(graph, tensor):
        return None
    between.append(tensor)
    found: list[gs.Node] = []
    for node in readers(tensor):
        if node.op == "Conv" and node.inputs[0] is tensor and node.attrs.get("auto_pad", "NOTSET") == "NOTSET":
            behind: list[gs.Node] | None = [node]
        elif node.op in _KEEP_ZERO and node.inputs[0] is tensor and _keeps_zero(node):
            behind = _convolutions(graph, node.outputs[0], between)
        else:
            return None
        if behind is None:
            return None
        found += behind
    return found


def _keeps_zero(node: gs.Node) -> bool:
    """True if `node` turns 0 into 0, or into the zero point and back."""
    constants = [value_of(tensor) for tensor in node.inputs[1:] if not tensor.is_empty()]
    if any(value is None or value.size != 1 for value in constants):
        return False
    if node.op != "Clip":
        return True
    low, high = (optional_input(node, at) for at in (1, 2))
    return (low is None or float(low.values) <= 0) and (high is None or float(high.values) >= 0)


def _pads(layer: gs.Node) -> list[int]:
    rank = len(layer.inputs[0].shape) - 2
    return list(layer.attrs.get("pads") or [0] * (2 * rank))
