"""Operators that only move the elements of quantized weights: evaluated on the integers.

Per-channel parameters follow: the index of each element's channel is moved the same way, and where it then varies along
one axis only, that axis is the new channel axis (a Split or Slice of stacked weights keeps the right scales).
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx.reference import ReferenceEvaluator
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter

from drpai_qat.core.quantization import QuantParams
from preprocess.surgery import Array, value_of


def move(node: gs.Node, q: Array, params: QuantParams, opset: int) -> list[tuple[Array, QuantParams]] | None:
    """Evaluate `node`, one of PLACED, whose first input is the reals of `q`.

    Args:
        opset: version of the operator set that node is written in.
    Returns: integers and parameters of each output; None if another input is no constant or channels get mixed.
    """
    feeds = {tensor.name: value_of(tensor) for tensor in node.inputs[1:] if not tensor.is_empty()}
    if any(value is None for value in feeds.values()):
        return None
    evaluate = ReferenceEvaluator(_one_node_model(node, opset))
    name = node.inputs[0].name
    moved = evaluate.run(None, {name: q, **feeds})
    if params.axis is None:
        return [(part, params) for part in moved]
    if node.op == "Transpose":
        perm = node.attrs.get("perm", list(range(q.ndim))[::-1])
        return [(moved[0], _on_axis(params, params.scale, params.zero_point, list(perm).index(params.axis)))]
    channels = np.arange(q.shape[params.axis], dtype=np.int32)
    along = [-1 if at == params.axis else 1 for at in range(q.ndim)]
    indices = evaluate.run(None, {name: np.broadcast_to(channels.reshape(along), q.shape), **feeds})
    parts = [part for index in indices if (part := _channels_of(index, params)) is not None]
    return list(zip(moved, parts, strict=True)) if len(parts) == len(moved) else None


def concatenate(parts: list[tuple[Array, QuantParams]], axis: int) -> tuple[Array, QuantParams] | None:
    """Join integers along `axis`.

    Returns: integers and parameters; None if their types differ, or their scales along another axis than `axis`.
    """
    rank = parts[0][0].ndim
    axis %= max(rank, 1)
    first = parts[0][1]
    if any(params.dtype != first.dtype for _, params in parts):
        return None
    joined = np.concatenate([q for q, _ in parts], axis)
    if all(params == first for _, params in parts) and first.axis != axis:
        return joined, first
    if any(params.axis not in (None, axis) for _, params in parts):
        return None
    sizes = [q.shape[axis] for q, _ in parts]
    scales, points = (
        np.concatenate([np.broadcast_to(one.reshape(-1), (size,)) for one, size in zip(values, sizes, strict=True)])
        for values in ([params.scale for _, params in parts], [params.zero_point for _, params in parts])
    )
    return joined, _on_axis(first, scales, points, axis)


def _one_node_model(node: gs.Node, opset: int) -> onnx.ModelProto:
    """Model of `node` alone; every input is fed."""
    inputs = [onnx.helper.make_empty_tensor_value_info(one.name) for one in node.inputs if not one.is_empty()]
    outputs = [onnx.helper.make_empty_tensor_value_info(one.name) for one in node.outputs]
    graph = onnx.helper.make_graph([OnnxExporter.export_node(node)], "move", inputs, outputs)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])


def _channels_of(index: Array, params: QuantParams) -> QuantParams | None:
    """Parameters of integers whose channel numbers are `index`; None if they vary along several axes."""
    if index.size == 0:
        return None
    for axis in range(max(index.ndim, 1)):
        line = index if index.ndim == 0 else np.moveaxis(index, axis, 0).reshape(index.shape[axis], -1)[:, 0]
        along = [-1 if at == axis else 1 for at in range(index.ndim)]
        if np.array_equal(index, np.broadcast_to(line.reshape(along), index.shape)):
            if np.ptp(line) == 0:
                first = int(line.reshape(-1)[0])
                return _on_axis(params, params.scale[first], params.zero_point[first], None)
            return _on_axis(params, params.scale[line], params.zero_point[line], axis)
    return None


def _on_axis(params: QuantParams, scale: Array, zero_point: Array, axis: int | None) -> QuantParams:
    return QuantParams.of(scale, zero_point, params.dtype, axis=axis)
