"""Conv, 1-D and 2-D, grouped, depthwise, in integers or float32."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from drpai_qat.graph.canonical import Node
from drpai_qat.kernels import expr as E
from drpai_qat.kernels.conv import conv_sum
from drpai_qat.kernels.conv_shape import ConvShape
from drpai_qat.kernels.depthwise import depthwise
from drpai_qat.kernels.epilogue import Epilogue, Kernel
from drpai_qat.kernels.prepare import prepare
from drpai_qat.kernels.products import Product
from drpai_qat.kernels.term import Term
from drpai_qat.kernels.winograd import transformed_weights, transformed_windows, winograd
from drpai_qat.kernels.winograd_plan import Plan
from drpai_qat.lowering.arithmetic import (
    IntegerWeights,
    Layer,
    convolution_weights,
    fitting_grid,
    padded_channels,
    runs_depthwise,
    start_and_add,
)
from drpai_qat.lowering.context import Context
from drpai_qat.lowering.elementwise import Value
from drpai_qat.lowering.fusion import lower_anchor
from drpai_qat.lowering.imported import lower_node
from drpai_qat.lowering.parts import Part
from drpai_qat.lowering.planning import planned_convolution
from drpai_qat.lowering.registry import lowers
from drpai_qat.lowering.storage import Stored, channels_last
from drpai_qat.lowering.window import Window, convolution_shape, image_dims, window_of


@lowers("Conv")
def lower_conv(context: Context, node: Node) -> bool:
    weight = context.graph.weight(node.inputs[1])
    in_shape, out_shape = context.shape(node.inputs[0]), context.shape(node.output)
    bias_name = node.inputs[2] if len(node.inputs) > 2 else ""
    bias = context.graph.weight(bias_name) if bias_name else None
    if weight is None or len(in_shape) not in (3, 4) or (bias_name and bias is None):
        return False
    integers, real = convolution_weights(weight)
    window = window_of(node, weight.shape[2:], in_shape[2:], out_shape[2:])
    shape = convolution_shape(node, window, in_shape, out_shape)
    by_rows = shape.suits_rows and node.inputs[0] not in context.parts
    if by_rows:
        shape, real = shape.rows_as_pixels(), _by_rows(real)
        integers = None if integers is None else replace(integers, values=_by_rows(integers.values))
    planned = _planned_parts(context, node, integers, real, shape)
    if planned is None:
        return False
    groups, out_channels = shape.groups, shape.out_channels
    data, layer = planned[0]
    is_depthwise = runs_depthwise(layer.product, groups, image_dims(in_shape)[3], out_channels)
    inputs = [_input(context, data, window, shape, layer, is_depthwise) for data, layer in planned]
    shape = replace(shape, channels=shape.channels if by_rows else inputs[0][1], groups=1 if is_depthwise else groups)
    start, add = start_and_add(layer, bias, out_channels)
    sources = [source for source, _ in inputs]
    if layer.winograd is not None:
        sources = _winograd_sources(context, layer.winograd, layer.weights, sources[0])
    terms = [Term(layer.product, padded_channels(layer.weights, layer.product.pack), start)]
    for other, plan in planned[1:]:
        assert other.grid is not None
        assert data.grid is not None
        weights = padded_channels(plan.weights, plan.product.pack)
        ratio = other.grid.scale / data.grid.scale
        terms.append(Term(plan.product, weights, start_and_add(plan, None, out_channels)[0], ratio))

    def make(epilogue: Epilogue) -> Kernel:
        if is_depthwise:
            return _depthwise_kernel(context, shape, epilogue, layer, data, start)
        if layer.winograd is not None:
            return winograd(layer.winograd, epilogue, layer.weights.astype(np.int8, copy=False), start)
        return conv_sum(shape, terms, context.isa, epilogue)

    rank = len(out_shape)
    anchor = Value(E.affine(E.Acc(), channel_constant(layer.mul, rank), channel_constant(add, rank)))
    label = "depthwise" if is_depthwise else "conv" if layer.winograd is None else "winograd"
    lower_anchor(context, node, anchor, channels_last(rank), make, sources, label, may_border=True)
    macs = math.prod(out_shape) * sum(math.prod(plan.weights.shape[1:]) for _, plan in planned)
    computes = {plan.compute for _, plan in planned}
    context.record(node, "int16" if "int16" in computes else layer.compute, macs, layer.reason)
    return True


def _planned_parts(
    context: Context, node: Node, integers: IntegerWeights | None, real: np.ndarray, shape: ConvShape
) -> list[tuple[Stored, Layer]] | None:
    """What a convolution reads and the arithmetic of each: its input, or the parts of one that is not computed."""
    name = node.inputs[0]
    whole = (Part(name, 0, real.shape[-1]),)
    planned = []
    for part in context.parts.get(name, whole):
        data = context.ordered(context.operand(part.name), channels_last(len(context.shape(name))))
        if data.dtype not in ("uint8", "int8", "int16", "float32"):
            return None
        own = slice(part.start, part.start + part.channels)
        some = None if integers is None else replace(integers, values=integers.values[..., own])
        coarser = fitting_grid(some, data.grid)
        if coarser is not None:
            data = context.converted(data, coarser)
        alone = shape if name not in context.parts else None
        layer = planned_convolution(context, node, part, data, some, real[..., own], alone)
        if layer.compute == "float32":
            if name in context.parts:
                _compute_whole(context, name)
                return _planned_parts(context, node, integers, real, shape)
            data = context.converted(data, None)
        planned.append((data, layer))
    return planned


def _by_rows(weights: np.ndarray) -> np.ndarray:
    """Weights (out_channels, rows, columns, channels) for `ConvShape.rows_as_pixels`."""
    return weights.reshape(*weights.shape[:2], 1, -1)


def _compute_whole(context: Context, name: str) -> None:
    """Compute a tensor that was to be read by its parts."""
    node = context.graph.nodes[context.positions[name]]
    del context.parts[name]
    for other in node.inputs:
        if node.op == "Concat" and other in context.parts:  # elementwise operators add the parts themselves
            _compute_whole(context, other)
    lower_node(context, node)


def _input(
    context: Context, data: Stored, window: Window, shape: ConvShape, layer: Layer, is_depthwise: bool
) -> tuple[Stored | int, int]:
    if is_depthwise:
        return _depthwise_input(context, data, window, layer)
    return convolution_input(
        context, data, window.pads, shape.groups, layer.product, layer.zero_point, by_rows=shape.pixel > 0
    )


def _winograd_sources(context: Context, plan: Plan, weights: np.ndarray, source: Stored | int) -> list[Stored | int]:
    """What the kernel reads, one of its operands transformed ahead."""
    if plan.ahead == "windows":
        return [context.kernel(transformed_windows(plan), (source,), "winograd_windows")]
    return [source, context.kernel(transformed_weights(plan, weights), (), "winograd_weights")]


def _depthwise_kernel(
    context: Context, shape: ConvShape, epilogue: Epilogue, layer: Layer, data: Stored, start: np.ndarray | None
) -> Kernel:
    taps = np.ascontiguousarray(layer.weights[..., 0].transpose(1, 2, 0))
    in_dtype = layer.product.in_dtype
    if in_dtype == "float32":
        taps = taps.astype(np.float32)
    bias = _plain_bias(layer, start)
    if data.grid is None or in_dtype != data.dtype:
        return depthwise(shape, context.isa, epilogue, taps, bias, in_dtype)
    grid = data.grid
    return depthwise(shape, context.isa, epilogue, taps, bias, in_dtype, layer.zero_point, grid.qmin, grid.qmax)


def channel_constant(values: np.ndarray, rank: int) -> np.ndarray:
    """Per-channel numbers in memory order (channels last)."""
    return values.reshape((1,) * (rank - 1) + (-1,))


def _plain_bias(layer: Layer, start: np.ndarray | None) -> np.ndarray | None:
    """The accumulators' start without the zero-point correction, which the depthwise kernel makes itself."""
    if start is None and not layer.zero_point:
        return None
    values = np.zeros(len(layer.weights), np.int64) if start is None else start.astype(np.int64)
    if layer.zero_point:
        values = values + layer.zero_point * layer.weights.astype(np.int64).reshape(len(values), -1).sum(1)
    return values.astype(np.int32)


def convolution_input(
    context: Context,
    data: Stored,
    pads: tuple[int, int, int, int],
    groups: int,
    product: Product,
    zero_point: int,
    by_rows: bool = False,
) -> tuple[Stored | int, int]:
    """The input as the product reads it, and the channels of one group in it.

    Args:
        by_rows: for `ConvShape.rows_as_pixels`: channels are not padded, and a row more is there.
    """
    dims = image_dims(data.shape)
    channels = dims[3] // groups
    padded = channels if by_rows else -(-channels // product.pack) * product.pack
    if data.pads == pads and padded == channels and data.dtype == product.in_dtype and not by_rows:
        return data, channels
    assert not any(data.pads), "`wanted_form` expected another reader"
    subtract = data.grid.zero_point if data.grid is not None and product.in_dtype == "int16" else 0
    fill = float(zero_point)
    kernel = prepare(
        dims, pads, groups, padded, data.dtype, product.in_dtype, subtract, fill, context.isa, extra_rows=int(by_rows)
    )
    return context.kernel(kernel, (data,), "prepare"), padded


def _depthwise_input(context: Context, data: Stored, window: Window, layer: Layer) -> tuple[Stored | int, int]:
    dims = image_dims(data.shape)
    in_dtype = layer.product.in_dtype
    if data.pads == window.pads and data.dtype == in_dtype:
        return data, dims[3]
    assert not any(data.pads), "`wanted_form` expected another reader"
    subtract = data.grid.zero_point if data.grid is not None and in_dtype == "int16" else 0
    zero_point = float(layer.zero_point)
    kernel = prepare(dims, window.pads, 1, dims[3], data.dtype, in_dtype, subtract, zero_point, context.isa)
    return context.kernel(kernel, (data,), "prepare"), dims[3]
