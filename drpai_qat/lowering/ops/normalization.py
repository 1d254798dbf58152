"""Softmax, LayerNormalization and InstanceNormalization: float32 inside, between integer tensors."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from drpai_qat.graph.canonical import Node
from drpai_qat.kernels import expr as E
from drpai_qat.kernels.normalize import group_norm, layer_norm, softmax
from drpai_qat.lowering.context import Context
from drpai_qat.lowering.elementwise import Value
from drpai_qat.lowering.fusion import Group, lower_anchor
from drpai_qat.lowering.ops.pooling import STORABLE, scale_of, zero_of
from drpai_qat.lowering.registry import lowers
from drpai_qat.lowering.storage import channels_last, row_major


@lowers("Softmax", "LogSoftmax")
def lower_softmax(context: Context, node: Node) -> bool:
    data = context.operand(node.inputs[0])
    if data.dtype not in STORABLE:
        return False
    rank = len(data.shape)
    axis = int(node.attributes.get("axis", -1)) % rank
    position = data.order.index(axis)
    inner = math.prod(data.physical[position + 1 :])
    if position < rank - 2 or inner == 1:  # the kernel's last dim must be the tensor's
        data = context.ordered(data, (*(a for a in data.order if a != axis), axis))
        position, inner = rank - 1, 1
    dims = data.physical
    outer = math.prod(dims[:position])
    lower_anchor(
        context, node, Value(E.Acc()), data.order,
        lambda epilogue: softmax(
            outer, dims[position], inner, data.dtype, scale_of(data), zero_of(data), epilogue, context.isa,
            node.op == "LogSoftmax",
        ),
        (data,), "softmax",
    )  # fmt: skip
    context.record(node, "float32", 0, "computed in float32 between integer tensors")
    return True


@lowers("LayerNormalization")
def lower_layer_norm(context: Context, node: Node) -> bool:
    data = context.operand(node.inputs[0])
    rank = len(data.shape)
    axis = int(node.attributes.get("axis", -1)) % rank
    constants = [context.graph.constant(name) for name in node.inputs[1:] if name]
    if data.dtype not in STORABLE or any(c is None for c in constants) or _is_read(context, node.outputs[1:]):
        return False
    data = context.ordered(data, row_major(rank))
    normalized = data.shape[axis:]
    size = math.prod(normalized)
    # Normalizing over several axes, the kernel's last dim is not the output's: nothing else may join.
    single = axis < rank - 1
    shape = (1, size) if single else (1,) * (rank - 1) + (size,)
    values = [np.broadcast_to(np.asarray(c, np.float64), normalized).reshape(shape) for c in constants]
    anchor = Value(E.affine(E.Acc(), *values))
    epsilon = float(node.attributes.get("epsilon", 1e-5))
    rows = data.size // size
    lower_anchor(
        context, node, anchor, row_major(rank),
        lambda epilogue: layer_norm(
            rows, size, epsilon, data.dtype, scale_of(data), zero_of(data),
            replace(epilogue, out_shape=(rows, size)) if single else epilogue, context.isa,
        ),
        (data,), "layer_norm", Group((node,)) if single else None,
    )  # fmt: skip
    context.record(node, "float32", 0, "computed in float32 between integer tensors")
    return True


def _is_read(context: Context, names: tuple[str, ...]) -> bool:
    return any(context.consumers.get(name) or name in context.graph.outputs for name in names if name)


@lowers("InstanceNormalization")
def lower_instance_norm(context: Context, node: Node) -> bool:
    data = context.operand(node.inputs[0])
    rank = len(data.shape)
    gamma, beta = (context.graph.constant(name) for name in node.inputs[1:3])
    if data.dtype not in STORABLE or rank < 3 or gamma is None or beta is None:
        return False
    order = channels_last(rank)
    data = context.ordered(data, order)
    shape = (1,) * (rank - 1) + (-1,)
    anchor = Value(E.affine(E.Acc(), gamma.reshape(shape), beta.reshape(shape)))
    reduced = math.prod(data.shape[2:])
    epsilon = float(node.attributes.get("epsilon", 1e-5))
    lower_anchor(
        context, node, anchor, order,
        lambda epilogue: group_norm(
            data.shape[0], reduced, data.shape[1], 1, epsilon, data.dtype, scale_of(data), zero_of(data), epilogue,
            context.isa,
        ),
        (data,), "instance_norm",
    )  # fmt: skip
    context.record(node, "float32", 0, "computed in float32 between integer tensors")
    return True
