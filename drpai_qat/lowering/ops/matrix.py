"""Gemm and MatMul: a 1x1 convolution over rows; with constant weights or between two activations."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from drpai_qat.graph.canonical import Node, Weight
from drpai_qat.graph.layer_weights import NO_OPERAND_RANGE, matrix_weights, products_fit
from drpai_qat.kernels import expr as E
from drpai_qat.kernels import movement
from drpai_qat.kernels.conv import conv, conv_sum
from drpai_qat.kernels.conv_shape import ConvShape
from drpai_qat.kernels.pack import pack_matrix
from drpai_qat.kernels.prepare import prepare
from drpai_qat.kernels.products import DOT2_WIDE, FMA
from drpai_qat.kernels.term import Term
from drpai_qat.kernels.tiling import choose_tiling
from drpai_qat.lowering.arithmetic import padded_channels, plan_layer, start_and_add
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
    if bias is not None and beta != 1.0:
        bias = Weight(bias.real * np.float32(beta))
    if _constant_matrix(context, node, bias):
        return True
    if bias is not None or alpha != 1.0:
        return False
    operands = [context.operand(name) for name in node.inputs[:2]]
    turned = [bool(node.attributes.get(name, 0)) for name in ("transA", "transB")]
    first, second = (permuted(one, (1, 0)) if turn else one for one, turn in zip(operands, turned, strict=True))
    return _two_activations(context, node, first, second)


@lowers("MatMul")
def lower_matmul(context: Context, node: Node) -> bool:
    if any(len(context.shape(name)) < 2 for name in node.inputs):
        return False
    if _constant_matrix(context, node, None):
        return True
    return _two_activations(context, node, *(context.operand(name) for name in node.inputs))


def _constant_matrix(context: Context, node: Node, bias: Weight | None) -> bool:
    """A product with constant weights; False where there are none, or not as one matrix."""
    if node.output in context.plan.matrices:
        layers = context.plan.matrices[node.output]
        inputs = [context.operand(part.name) for part in context.plan.parts[node.inputs[0]]]
    else:
        weights = matrix_weights(context.graph, node)
        if weights is None:
            return False
        inputs = [context.operand(node.inputs[0])]
        layers = (plan_layer(inputs[0].grid, weights, context.isa, exact=context.plan.exact),)
    out_shape = context.shape(node.output)
    rank, out_channels = len(out_shape), out_shape[-1]
    rows, channels = math.prod(out_shape[:-1]), layers[0].weights.shape[-1]
    terms: list[Term] = []
    sources: list[Stored | int] = []
    start, add = start_and_add(layers[0], bias, out_channels)
    for data, layer in zip(inputs, layers, strict=True):
        if node.attributes.get("transA", 0):
            data = permuted(data, (1, 0))
        data = context.converted(context.ordered(data, row_major(len(data.shape))), layer.grid)
        image = replace(data, shape=(1, channels, 1, rows), order=(0, 2, 3, 1))
        sources.append(context.in_form(image, layer.form(channels)))
        first = not terms
        begin = start if first else start_and_add(layer, None, out_channels)[0]
        packed = padded_channels(layer.weights, layer.product.pack)
        terms.append(Term(layer.product, packed, begin, 1.0 if first else float(layer.mul[0] / layers[0].mul[0])))
    shape = ConvShape(1, 1, rows, layers[0].form(channels).channels, 1, rows, out_channels)
    anchor = Value(E.affine(E.Acc(), channel_constant(layers[0].mul, rank), channel_constant(add, rank)))
    lower_anchor(
        context, node, anchor, row_major(rank),
        lambda epilogue: conv_sum(shape, terms, context.isa, epilogue), sources, "matmul",
    )  # fmt: skip
    compute = "int16" if any(layer.compute == "int16" for layer in layers) else layers[0].compute
    context.record(node, compute, rows * out_channels * channels, layers[0].reason)
    return True


def _two_activations(context: Context, node: Node, first: Stored, second: Stored) -> bool:
    """acc[b] = sum over k of (a[b, m, k] - z_a) * (b[b, k, n] - z_b), both widened to int16."""
    out_shape = context.shape(node.output)
    rank = len(out_shape)
    if not {first.dtype, second.dtype} <= {"uint8", "int8", "int16", "float32"}:
        return False
    reduced = first.shape[-1]
    batch_shape = out_shape[:-2]
    integer = first.grid is not None and second.grid is not None and products_fit(first.grid, second.grid, reduced)
    reason = "" if integer else NO_OPERAND_RANGE
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
