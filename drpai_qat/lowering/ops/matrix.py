"""Gemm and MatMul: a 1x1 convolution over rows; with constant weights or between two activations."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from drpai_qat.graph.canonical import Node, Weight
from drpai_qat.kernels import expr as E
from drpai_qat.kernels import movement
from drpai_qat.kernels.conv import conv
from drpai_qat.kernels.conv_shape import ConvShape
from drpai_qat.kernels.pack import pack_matrix
from drpai_qat.kernels.prepare import prepare
from drpai_qat.kernels.products import DOT2_WIDE, FMA
from drpai_qat.kernels.tiling import choose_tiling
from drpai_qat.lowering.arithmetic import (
    INT32_MAX,
    AnyWeights,
    LayerWeights,
    padded_channels,
    plan_layer,
    start_and_add,
)
from drpai_qat.lowering.context import Context
from drpai_qat.lowering.elementwise import Value
from drpai_qat.lowering.fusion import lower_anchor
from drpai_qat.lowering.ops.conv import channel_constant
from drpai_qat.lowering.registry import lowers
from drpai_qat.lowering.storage import Stored, permuted, row_major


@lowers("Gemm")
def lower_gemm(context: Context, node: Node) -> bool:
    alpha, beta = float(node.attributes.get("alpha", 1.0)), float(node.attributes.get("beta", 1.0))
    bias_name = node.inputs[2] if len(node.inputs) > 2 else ""
    bias = context.graph.weight(bias_name) if bias_name else None
    if bias_name and (bias is None or math.prod(bias.shape) not in (1, context.shape(node.output)[1])):
        return False
    if bias is not None and math.prod(bias.shape) > 1 and bias.shape[-1] == 1:
        return False  # one number a row
    data = context.operand(node.inputs[0])
    if node.attributes.get("transA", 0):
        data = permuted(data, (1, 0))
    if bias is not None and beta != 1.0:
        bias = Weight(bias.real * np.float32(beta))
    matrix = context.graph.weight(node.inputs[1])
    transposed = bool(node.attributes.get("transB", 0))
    if matrix is None:
        if bias is not None or alpha != 1.0:
            return False
        other = context.operand(node.inputs[1])
        return _two_activations(context, node, data, permuted(other, (1, 0)) if transposed else other)
    return _constant_matrix(context, node, data, matrix, bias, transposed, alpha)


@lowers("MatMul")
def lower_matmul(context: Context, node: Node) -> bool:
    first, second = (context.shape(name) for name in node.inputs)
    if len(first) < 2 or len(second) < 2:
        return False
    matrix = context.graph.weight(node.inputs[1])
    data = context.operand(node.inputs[0])
    if matrix is not None and math.prod(second[:-2]) == 1 and len(second) <= len(first):
        if len(second) > 2:
            matrix = _two_dimensional(matrix)
        if matrix is not None:
            return _constant_matrix(context, node, data, matrix, None, False, 1.0)
    return _two_activations(context, node, data, context.operand(node.inputs[1]))


def _two_dimensional(weight: Weight) -> Weight | None:
    """A weight (1, ..., 1, K, N) as (K, N)."""
    drop = len(weight.shape) - 2
    params = weight.params
    if params is not None and params.axis is not None:
        if params.axis < drop:
            return None
        params = replace(params, axis=params.axis - drop)
    return Weight(weight.values.reshape(weight.shape[-2:]), params)


def _constant_matrix(
    context: Context, node: Node, data: Stored, matrix: Weight, bias: Weight | None, transposed: bool, alpha: float
) -> bool:
    out_axis = 0 if transposed else 1
    out_channels, channels = matrix.shape[out_axis], matrix.shape[1 - out_axis]
    data = context.ordered(data, row_major(len(data.shape)))
    weights = LayerWeights.of(matrix, (0, 1) if transposed else (1, 0), out_axis).scaled(alpha).rearranged(_as_kernels)
    layer = plan_layer(data.grid, weights, context.isa)
    data = context.converted(data, layer.grid)
    rows = data.size // channels
    image = replace(data, shape=(1, channels, 1, rows), order=(0, 2, 3, 1))
    form = layer.form(channels)
    source = context.in_form(image, form)
    shape = ConvShape(1, 1, rows, form.channels, 1, rows, out_channels)
    rank = len(context.shape(node.output))
    start, add = start_and_add(layer, bias, out_channels)
    anchor = Value(E.affine(E.Acc(), channel_constant(layer.mul, rank), channel_constant(add, rank)))
    packed = padded_channels(layer.weights, layer.product.pack)
    lower_anchor(
        context, node, anchor, row_major(rank),
        lambda epilogue: conv(shape, layer.product, context.isa, epilogue, packed, start), (source,), "matmul",
    )  # fmt: skip
    context.record(node, layer.compute, rows * out_channels * channels, layer.reason)
    return True


def _as_kernels(matrix: AnyWeights) -> AnyWeights:
    """A matrix (out_channels, channels) as 1x1 kernels."""
    return matrix[:, None, None]


def _two_activations(context: Context, node: Node, first: Stored, second: Stored) -> bool:
    """acc[b] = sum over k of (a[b, m, k] - z_a) * (b[b, k, n] - z_b), both widened to int16."""
    out_shape = context.shape(node.output)
    rank = len(out_shape)
    if not {first.dtype, second.dtype} <= {"uint8", "int8", "int16", "float32"}:
        return False
    reduced = first.shape[-1]
    batch_shape = out_shape[:-2]
    integer = first.grid is not None and second.grid is not None and _products_fit(first, second, reduced)
    reason = "" if integer else "an operand has no trained range"
    product = DOT2_WIDE if integer else FMA
    if not integer:
        first, second = context.converted(first, None), context.converted(second, None)
    first = _batched(context, first, batch_shape)
    transposed = second.order[-1] == len(second.shape) - 2 and second.shape[-2] > 1
    if transposed:
        second = permuted(second, (*range(len(second.shape) - 2), len(second.shape) - 1, len(second.shape) - 2))
    second = _batched(context, second, batch_shape)
    batch = math.prod(batch_shape)
    rows, out_channels = out_shape[-2], out_shape[-1]
    padded = -(-reduced // product.pack) * product.pack
    subtract = first.grid.zero_point if integer and first.grid is not None else 0
    source: Stored | int = first
    if padded != reduced or first.dtype != product.in_dtype:
        dims = (batch, 1, rows, reduced)
        prepared = prepare(dims, (0, 0, 0, 0), 1, padded, first.dtype, product.in_dtype, subtract, 0.0, context.isa)
        source = context.kernel(prepared, (first,), "prepare")
    shape = ConvShape(batch, 1, rows, padded, 1, rows, out_channels)
    tiling = choose_tiling(shape, product, context.isa)
    zero_point = second.grid.zero_point if integer and second.grid is not None else 0
    packing = pack_matrix(shape, reduced, transposed, second.dtype, zero_point, product, tiling, context.isa)
    packed = context.kernel(packing, (second,), "pack")
    scale = (
        first.grid.scale * second.grid.scale if first.grid is not None and second.grid is not None and integer else 1.0
    )
    lower_anchor(
        context, node, Value(E.affine(E.Acc(), scale)), row_major(rank),
        lambda epilogue: conv(shape, product, context.isa, epilogue, None, None, tiling), (source, packed), "matmul",
    )  # fmt: skip
    eight_bit = integer and {first.dtype, second.dtype} <= {"uint8", "int8"}
    compute = ("int8" if eight_bit else "int16") if integer else "float32"
    context.record(node, compute, batch * rows * out_channels * reduced, reason)
    return True


def _products_fit(first: Stored, second: Stored, reduced: int) -> bool:
    assert first.grid is not None
    assert second.grid is not None
    largest = 1
    for grid in (first.grid, second.grid):
        ends = max(abs(grid.qmin - grid.zero_point), abs(grid.qmax - grid.zero_point))
        if ends > 32767:
            return False
        largest *= ends
    return largest * reduced < INT32_MAX


def _batched(context: Context, stored: Stored, batch_shape: tuple[int, ...]) -> Stored:
    """The operand row-major, with its batch dims repeated to the output's."""
    missing = len(batch_shape) + 2 - len(stored.shape)
    shape = (1,) * missing + stored.shape
    order = (*range(missing), *(axis + missing for axis in stored.order))
    stored = context.ordered(replace(stored, shape=shape, order=order), row_major(len(shape)))
    target = (*batch_shape, *shape[-2:])
    if shape == target:
        return stored
    kernel = movement.expand(shape, target, stored.dtype, context.isa)
    return replace(stored, buffer=context.kernel(kernel, (stored,), "expand"), shape=target)
