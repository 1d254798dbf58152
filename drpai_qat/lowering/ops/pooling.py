"""Pooling and reductions over axes."""

from __future__ import annotations

import math
from dataclasses import replace

from drpai_qat.graph.canonical import Node
from drpai_qat.graph.window import window_of
from drpai_qat.kernels import expr as E
from drpai_qat.kernels.pool import average_pool, max_pool, pool_counts
from drpai_qat.kernels.reduce import Kind, reduce
from drpai_qat.lowering.context import Context
from drpai_qat.lowering.elementwise import Value
from drpai_qat.lowering.fusion import Group, lower_anchor
from drpai_qat.lowering.registry import lowers
from drpai_qat.lowering.storage import Stored, channels_last
from drpai_qat.lowering.window import image_dims

STORABLE = frozenset(("uint8", "int8", "int16", "float32"))


def scale_of(stored: Stored) -> float:
    return 1.0 if stored.grid is None else stored.grid.scale


def zero_of(stored: Stored) -> int:
    return 0 if stored.grid is None else stored.grid.zero_point


@lowers("MaxPool")
def lower_max_pool(context: Context, node: Node) -> bool:
    in_shape, out_shape = context.shape(node.inputs[0]), context.shape(node.output)
    if len([o for o in node.outputs if o]) > 1 or len(in_shape) not in (3, 4):
        return False
    order = channels_last(len(in_shape))
    data = context.ordered(context.operand(node.inputs[0]), order)
    if data.dtype not in STORABLE:
        return False
    window = window_of(node, tuple(node.attributes["kernel_shape"]))
    dims, out_size = image_dims(in_shape), image_dims(out_shape)[1:3]
    kernel = max_pool(
        dims, window.kernel, window.stride, window.pads, window.dilation, out_size, data.dtype, context.isa
    )
    context.put(node.output, context.kernel(kernel, (data,), "max_pool"), order, data.grid, data.dtype)
    context.record(node, _compute(data))
    return True


def _compute(data: Stored) -> str:
    if data.grid is None:
        return "float32"
    return "int16" if data.dtype == "int16" else "int8"


@lowers("AveragePool")
def lower_average_pool(context: Context, node: Node) -> bool:
    in_shape, out_shape = context.shape(node.inputs[0]), context.shape(node.output)
    if len(in_shape) not in (3, 4):
        return False
    order = channels_last(len(in_shape))
    data = context.ordered(context.operand(node.inputs[0]), order)
    if data.dtype not in STORABLE:
        return False
    window = window_of(node, tuple(node.attributes["kernel_shape"]))
    dims, out_size = image_dims(in_shape), image_dims(out_shape)[1:3]
    include_pad = bool(node.attributes.get("count_include_pad", 0))
    counts = pool_counts(dims[1:3], window.kernel, window.stride, window.pads, window.dilation, out_size, include_pad)
    if counts.ndim == 4 and len(in_shape) == 3:
        counts = counts[:, 0]
    anchor = Value(E.affine(E.Acc(), scale_of(data) / counts))
    lower_anchor(
        context, node, anchor, order,
        lambda epilogue: average_pool(
            dims, window.kernel, window.stride, window.pads, window.dilation, out_size, data.dtype, zero_of(data),
            epilogue, context.isa,
        ),
        (data,), "average_pool",
    )  # fmt: skip
    context.record(node, _compute(data))
    return True


@lowers("GlobalAveragePool", "GlobalMaxPool")
def lower_global_pool(context: Context, node: Node) -> bool:
    axes = tuple(range(2, len(context.shape(node.inputs[0]))))
    return _reduce(
        context, node, axes, "sum" if node.op == "GlobalAveragePool" else "max", node.op == "GlobalAveragePool"
    )


@lowers("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin")
def lower_reduce(context: Context, node: Node) -> bool:
    rank = len(context.shape(node.inputs[0]))
    axes = node.attributes.get("axes")
    if len(node.inputs) > 1 and node.inputs[1]:
        constant = context.graph.constant(node.inputs[1])
        if constant is None:
            return False
        axes = [int(a) for a in constant.reshape(-1)]
    if not axes:
        if node.attributes.get("noop_with_empty_axes", 0):
            return False
        axes = range(rank)
    kind: Kind = {"ReduceMean": "sum", "ReduceSum": "sum", "ReduceMax": "max", "ReduceMin": "min"}[node.op]  # type: ignore[assignment]
    return _reduce(context, node, tuple(sorted(a % rank for a in axes)), kind, node.op == "ReduceMean")


def _reduce(context: Context, node: Node, axes: tuple[int, ...], kind: Kind, mean: bool) -> bool:
    data = context.operand(node.inputs[0])
    if data.dtype not in STORABLE:
        return False
    kept = [axis for axis in data.order if axis not in axes]
    positions = [i for i, axis in enumerate(data.order) if axis in axes]
    if positions != list(range(positions[0], positions[0] + len(positions))):
        data = context.ordered(data, (*kept, *axes))
        positions = list(range(len(kept), len(data.shape)))
    outer = math.prod(data.physical[: positions[0]])
    count = math.prod(data.shape[axis] for axis in axes)
    inner = math.prod(data.physical[positions[-1] + 1 :])
    if kind == "sum" and data.grid is not None and count * 65536 >= 2**31:
        data = context.converted(data, None)
    out_rank = len(context.shape(node.output))
    if out_rank == len(data.shape):  # the reduced axes stay, of size 1: keep them where they were
        order = data.order
    else:
        order = tuple(sorted(kept).index(axis) for axis in kept)
    shape = context.shape(node.output)
    last = shape[order[-1]] if order else 1
    single = last != inner or not order  # the kernel's last dim is not the output's: nothing else may join
    anchor = Value(E.affine(E.Acc(), scale_of(data) / (count if mean else 1)))
    kernel_shape = (outer, inner)
    lower_anchor(
        context, node, anchor, order,
        lambda epilogue: reduce(
            outer, count, inner, kind, data.dtype, zero_of(data),
            replace(epilogue, out_shape=kernel_shape) if single else epilogue, context.isa,
        ),
        (data,), "reduce", Group((node,)) if single else None,
    )  # fmt: skip
    context.record(node, _compute(data))
    return True
