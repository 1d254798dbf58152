"""Conv, 1-D and 2-D, grouped, depthwise, in integers or float32; as planned (`planning.py`)."""

from __future__ import annotations

import math

import numpy as np

from drpai_qat.graph.canonical import Node
from drpai_qat.kernels import expr as E
from drpai_qat.kernels.conv import conv_sum
from drpai_qat.kernels.depthwise import depthwise
from drpai_qat.kernels.epilogue import Epilogue, Kernel
from drpai_qat.kernels.term import Term
from drpai_qat.kernels.winograd import transformed_weights, transformed_windows, winograd
from drpai_qat.kernels.winograd_plan import WinogradPlan
from drpai_qat.lowering.arithmetic import LayerPlan, padded_channels, start_and_add
from drpai_qat.lowering.context import Context
from drpai_qat.lowering.elementwise import Value
from drpai_qat.lowering.fusion import lower_anchor
from drpai_qat.lowering.network_plan import ConvPlan, Read
from drpai_qat.lowering.registry import lowers
from drpai_qat.lowering.storage import Stored, channels_last


@lowers("Conv")
def lower_conv(context: Context, node: Node) -> bool:
    plan = context.plan.convolutions.get(node.output)
    if plan is None:
        return False
    out_shape = context.shape(node.output)
    layer, out_channels, rank = plan.reads[0].layer, out_shape[1], len(out_shape)
    bias = context.graph.weight(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else None
    start, add = start_and_add(layer, bias, out_channels)
    sources = [_source(context, read, plan.shape.groups) for read in plan.reads]
    starts = [start, *(start_and_add(read.layer, None, out_channels)[0] for read in plan.reads[1:])]
    if layer.winograd is not None:
        sources = _winograd_sources(context, layer.winograd, layer.weights, sources)

    def make(epilogue: Epilogue) -> Kernel:
        if plan.kernel == "depthwise":
            return _depthwise_kernel(context, plan, epilogue, start)
        if layer.winograd is not None:
            weights = layer.weights.astype(np.int8, copy=False)
            if len(plan.reads) == 1:
                return winograd(layer.winograd, epilogue, weights, start)
            ratios = np.asarray([plan.ratio(read) for read in plan.reads], np.float32)
            return winograd(layer.winograd, epilogue, weights, _all_starts(starts, out_channels), ratios)
        terms = [_term(plan, read, one) for read, one in zip(plan.reads, starts, strict=True)]
        return conv_sum(plan.shape, terms, context.isa, epilogue)

    anchor = Value(E.affine(E.Acc(), channel_constant(layer.mul, rank), channel_constant(add, rank)))
    label = "conv" if plan.kernel == "direct" else plan.kernel
    lower_anchor(context, node, anchor, channels_last(rank), make, sources, label, may_border=True)
    macs = math.prod(out_shape) * math.prod(context.shape(node.inputs[1])[1:])
    context.record(node, plan.compute, macs, layer.reason)
    return True


def _source(context: Context, read: Read, groups: int) -> Stored | int:
    data = context.operand(read.name)
    data = context.ordered(data, channels_last(len(data.shape)))
    if not read.form.is_of(data):
        data = context.converted(data, read.layer.grid)
    return context.in_form(data, read.form, groups)


def _term(plan: ConvPlan, read: Read, start: np.ndarray | None) -> Term:
    product = read.layer.product
    return Term(product, padded_channels(read.layer.weights, product.pack), start, plan.ratio(read))


def _all_starts(starts: list[np.ndarray | None], out_channels: int) -> np.ndarray | None:
    """What the accumulators of several inputs start from."""
    if all(start is None for start in starts):
        return None
    return np.stack([np.zeros(out_channels, np.int32) if start is None else start for start in starts])


def _winograd_sources(
    context: Context, plan: WinogradPlan, weights: np.ndarray, sources: list[Stored | int]
) -> list[Stored | int]:
    """What the kernel reads, one of its operands transformed ahead."""
    if plan.ahead == "windows":
        return [context.kernel(transformed_windows(plan), sources, "winograd_windows")]
    return [*sources, context.kernel(transformed_weights(plan, weights), (), "winograd_weights")]


def _depthwise_kernel(context: Context, plan: ConvPlan, epilogue: Epilogue, start: np.ndarray | None) -> Kernel:
    layer = plan.reads[0].layer
    taps = np.ascontiguousarray(layer.weights[..., 0].transpose(1, 2, 0))
    in_dtype = layer.product.in_dtype
    if in_dtype == "float32":
        taps = taps.astype(np.float32)
    bias = _plain_bias(layer, start)
    grid = layer.operand
    if grid is None:
        return depthwise(plan.shape, context.isa, epilogue, taps, bias, in_dtype)
    return depthwise(plan.shape, context.isa, epilogue, taps, bias, in_dtype, grid.zero_point, grid.qmin, grid.qmax)


def channel_constant(values: np.ndarray, rank: int) -> np.ndarray:
    """Per-channel numbers in memory order (channels last)."""
    return values.reshape((1,) * (rank - 1) + (-1,))


def _plain_bias(layer: LayerPlan, start: np.ndarray | None) -> np.ndarray | None:
    """The accumulators' start without the zero-point correction, which the depthwise kernel makes itself."""
    if start is None and not layer.zero_point:
        return None
    values = np.zeros(len(layer.weights), np.int64) if start is None else start.astype(np.int64)
    if layer.zero_point:
        values = values + layer.zero_point * layer.weights.astype(np.int64).reshape(len(values), -1).sum(1)
    return values.astype(np.int32)
