"""Padding in the layer's own attributes, as explicit numbers.

    auto_pad = SAME_UPPER, output_shape                =>   pads, from the static shapes
    Pad(zeros) -> Conv                                 =>   Conv(pads)
    Pad(zeros) -> Relu -> Q -> DQ -> Transpose -> Conv =>   Relu -> Q -> DQ -> Transpose -> Conv(pads)
    Relu -> Q -> DQ -> Pad(zeros) -> MaxPool           =>   Relu -> Q -> DQ -> MaxPool(pads)

Conv pads with the real value 0. Q -> DQ of a per-tensor grid keeps 0, since the zero point lies within its type, and so
do Relu and the like; so a Pad of zeros may come after them, and there it is the convolution's own. Transpose, Squeeze
and Unsqueeze renumber the padded axes. MaxPool ignores its own padding, which equals zeros where no value is below 0.
TensorFlow's `same` padding of a strided convolution is asymmetric: one more at the end than at the start.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from preprocess.passlog import PassLog
from preprocess.sizes import is_static
from preprocess.surgery import bypass, is_graph_output, optional_input, producer, readers, value_of

Amounts: TypeAlias = NDArray[np.int64]
"""Padding before (row 0) and after (row 1) each axis."""

_WINDOWED = ("Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool")
_PADDING = ("Conv", "MaxPool")
_KEEP_ZERO = ("Relu", "LeakyRelu", "QuantizeLinear", "DequantizeLinear", "Clip", "Tanh", "HardSwish")


def explicit_pads(graph: gs.Graph, log: PassLog) -> gs.Graph:
    """Replace auto_pad and output_shape by pads, wherever shapes are static."""
    for node in graph.nodes:
        if node.op not in _WINDOWED:
            continue
        mode = node.attrs.get("auto_pad", "NOTSET")
        sized = node.op == "ConvTranspose" and "output_shape" in node.attrs
        if mode != "NOTSET" or sized:
            if not (is_static(node.inputs[0].shape) and is_static(node.outputs[0].shape)):
                continue
            if mode == "VALID" and not sized:
                node.attrs["pads"] = [0] * (2 * (len(node.inputs[0].shape) - 2))
            else:
                _write_pads(node, smaller_first=mode == "SAME_UPPER")
        for name in ("auto_pad", "output_shape"):
            node.attrs.pop(name, None)
        _bound_steps(node)
    return graph


def _bound_steps(node: gs.Node) -> None:
    """Strides and dilations no larger than what they step over: beyond it they mean the same, but don't fit int32."""
    if node.op == "ConvTranspose" or not is_static(node.inputs[0].shape):
        return
    sizes = node.inputs[0].shape[2:]
    pads = node.attrs.get("pads") or [0] * (2 * len(sizes))
    padded = [max(size + sum(pads[axis :: len(sizes)]), 1) for axis, size in enumerate(sizes)]
    for name in ("strides", "dilations"):
        if name in node.attrs:
            node.attrs[name] = [min(int(one), most) for one, most in zip(node.attrs[name], padded, strict=True)]


def _write_pads(node: gs.Node, *, smaller_first: bool) -> None:
    """Pads that make the output as large as it is: ceil(input / stride), for ConvTranspose input * stride or as given.

    A transposed convolution that would come out too small gets the rest as output_padding.
    """
    source, target = node.inputs[0].shape[2:], node.outputs[0].shape[2:]
    rank = len(source)
    kernel = node.attrs.get("kernel_shape") or list(node.inputs[1].shape[2:])
    strides, dilations = node.attrs.get("strides") or [1] * rank, node.attrs.get("dilations") or [1] * rank
    extra = list(node.attrs.get("output_padding") or [0] * rank)
    before, after = [], []
    for at in range(rank):
        small, large = (target[at], source[at]) if node.op != "ConvTranspose" else (source[at], target[at])
        total = (small - 1) * strides[at] + (kernel[at] - 1) * dilations[at] + 1 + extra[at] - large
        if total < 0:
            extra[at], total = extra[at] - total, 0
        half = total // 2
        before.append(half if smaller_first else total - half)
        after.append(total - before[-1])
    node.attrs["pads"] = before + after
    if node.op == "ConvTranspose" and any(extra):
        node.attrs["output_padding"] = extra


def fold_pads(graph: gs.Graph, log: PassLog) -> gs.Graph:
    """Fold zero padding into the convolutions and max poolings behind it."""
    for node in graph.nodes:
        pads = _zeros(node) if node.op == "Pad" and node.outputs else None
        ends = None if pads is None else _ends(graph, node.outputs[0], pads)
        if not ends:
            continue
        for tensor, amounts in ends:
            tensor.shape = [size - int(added) for size, added in zip(tensor.shape, amounts.sum(0), strict=True)]
        layers = [(layer, amounts) for tensor, amounts in ends for layer in readers(tensor) if layer.op in _PADDING]
        for layer, amounts in layers:
            layer.attrs["pads"] = [old + int(new) for old, new in zip(_pads(layer), amounts[:, 2:].flat, strict=True)]
        log.note(node.name, f"zero padding is now that of {', '.join(layer.name for layer, _ in layers)}")
        bypass(graph, node)
    return graph.cleanup()


def _zeros(pad: gs.Node) -> Amounts | None:
    """The zeros that `pad` adds before and after each axis; None if it does anything else."""
    amounts, value, axes = (
        None if tensor is None else value_of(tensor) for tensor in (optional_input(pad, at) for at in (1, 2, 3))
    )
    if pad.attrs.get("mode", "constant") != "constant" or amounts is None or not is_static(pad.outputs[0].shape):
        return None
    if optional_input(pad, 2) is not None and (value is None or value.any()):
        return None
    if optional_input(pad, 3) is not None and axes is None:
        return None
    rank = len(pad.outputs[0].shape)
    full = np.zeros((2, rank), np.int64)
    full[:, range(rank) if axes is None else [int(axis) % rank for axis in axes]] = amounts.reshape(2, -1)
    return None if (full < 0).any() else full


def _ends(graph: gs.Graph, tensor: gs.Tensor, pads: Amounts) -> list[tuple[gs.Tensor, Amounts]] | None:
    """The padded tensors from `tensor` to the convolutions that read it, each with its padding.

    None if anything but operators that keep zero, views and convolutions reads one of them.
    """
    if is_graph_output(graph, tensor) or not is_static(tensor.shape):
        return None
    found = [(tensor, pads)]
    for node in readers(tensor):
        if node.inputs[0] is not tensor:
            return None
        if node.op in _PADDING and _takes(node, pads):
            continue
        behind = pads if node.op in _KEEP_ZERO and _keeps_zero(node) else _viewed(node, pads)
        rest = None if behind is None else _ends(graph, node.outputs[0], behind)
        if rest is None:
            return None
        found += rest
    return found


def _takes(layer: gs.Node, pads: Amounts) -> bool:
    """True if `layer` can do the padding itself."""
    if "auto_pad" in layer.attrs or pads[:, :2].any():
        return False
    if layer.op == "Conv":
        return True
    window = layer.attrs["kernel_shape"]
    whole = np.array(_pads(layer)).reshape(2, -1) + pads[:, 2:]
    simple = not layer.attrs.get("ceil_mode", 0) and set(layer.attrs.get("dilations") or [1]) == {1}
    return simple and bool((whole < window).all()) and len(layer.outputs) == 1 and _is_positive(layer.inputs[0])


def _is_positive(tensor: gs.Tensor) -> bool:
    """True if `tensor` comes from a Relu, or a Clip from 0 on, through operators that keep the order."""
    while (node := producer(tensor)) is not None and node.op in (*_KEEP_ZERO, "Pad"):
        if node.op == "Relu":
            return True
        low = value_of(optional_input(node, 1)) if node.op == "Clip" else None
        if low is not None and low.min() >= 0:
            return True
        tensor = node.inputs[0]
    return False


def _viewed(node: gs.Node, pads: Amounts) -> Amounts | None:
    """Padding of the same zeros behind a Transpose, Squeeze or Unsqueeze; None behind anything else."""
    if node.op == "Transpose":
        return pads[:, list(node.attrs["perm"])] if "perm" in node.attrs else pads[:, ::-1]
    axes = value_of(node.inputs[1]) if node.op in ("Squeeze", "Unsqueeze") and len(node.inputs) > 1 else None
    if axes is None:
        return None
    rank = pads.shape[1]
    if node.op == "Squeeze":
        gone = [int(axis) % rank for axis in axes]
        return None if pads[:, gone].any() else np.delete(pads, gone, axis=1)
    added = {int(axis) % (rank + axes.size) for axis in axes}
    wider = np.zeros((2, rank + axes.size), np.int64)
    wider[:, [axis for axis in range(rank + axes.size) if axis not in added]] = pads
    return wider


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
