"""Operators that choose elements by comparing them, and say where they stood."""

from __future__ import annotations

import math
from dataclasses import replace

from drpai_qat.graph.canonical import Node
from drpai_qat.kernels.sort import arg_best, top_k
from drpai_qat.lowering.context import Context
from drpai_qat.lowering.registry import lowers
from drpai_qat.lowering.storage import Stored


@lowers("TopK")
def lower_top_k(context: Context, node: Node) -> bool:
    """In the integers that hold the tensor: a larger integer is a larger value.

    TVM's own TopK calls a function of libtvm_runtime_extra, which boards do not have.
    """
    data = context.operand(node.inputs[0])
    axis = int(node.attributes.get("axis", -1)) % len(data.shape)
    shape = context.shape(next(name for name in node.outputs if name))
    if 0 in data.shape or 0 in shape:
        return False
    where = data.order.index(axis)
    outer, inner = math.prod(data.physical[:where]), math.prod(data.physical[where + 1 :])
    largest = bool(node.attributes.get("largest", 1))
    kernel = top_k(outer, data.shape[axis], inner, shape[axis], largest, data.dtype)
    values, places = context.program.run(kernel, (data,), "top_k")
    for name, buffer in zip(node.outputs, (values, places), strict=False):
        if name:
            chosen = replace(data, buffer=buffer, shape=shape)
            context.stored[name] = chosen if buffer == values else Stored(buffer, shape, data.order, "int64")
    context.record(node, "view")
    return True


@lowers("ArgMax", "ArgMin")
def lower_arg_best(context: Context, node: Node) -> bool:
    """In the integers that hold the tensor, likewise."""
    data = context.operand(node.inputs[0])
    axis = int(node.attributes.get("axis", 0)) % len(data.shape)
    shape = context.shape(node.output)
    where = data.order.index(axis)
    outer, inner = math.prod(data.physical[:where]), math.prod(data.physical[where + 1 :])
    last = bool(node.attributes.get("select_last_index", 0))
    kernel = arg_best(outer, data.shape[axis], inner, node.op == "ArgMax", last, data.dtype)
    buffer = context.kernel(kernel, (data,), "arg_best")
    kept = [one for one in data.order if one != axis]
    if len(shape) == len(data.shape):
        order = data.order
    else:
        order = tuple(one - (one > axis) for one in kept)
    context.stored[node.output] = Stored(buffer, shape, order, "int64")
    context.record(node, "view")
    return True
