"""ConvTranspose as one convolution that computes all output phases at once.

With stride s, output row y = s*t + phase receives input row t + (phase + pad - k*dilation)/s for each kernel row k that
makes the division whole. So the layer is a convolution at stride 1 with s_rows * s_columns * K output channels, whose
kernels hold zeros where a phase lacks a tap, followed by interleaving the phases (a transposition of whole pixels).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from drpai_qat.graph.canonical import Node, Weight
from drpai_qat.graph.layer_weights import LayerWeights
from drpai_qat.kernels import expr as E
from drpai_qat.kernels import movement
from drpai_qat.kernels.conv import conv
from drpai_qat.kernels.conv_shape import ConvShape
from drpai_qat.lowering.arithmetic import padded_channels, plan_layer, start_and_add
from drpai_qat.lowering.context import Context
from drpai_qat.lowering.elementwise import Value
from drpai_qat.lowering.fusion import build, grow
from drpai_qat.lowering.ops.conv import channel_constant
from drpai_qat.lowering.registry import lowers
from drpai_qat.lowering.storage import channels_last
from drpai_qat.lowering.window import image_dims


@dataclass(frozen=True)
class Phases:
    """One axis of a transposed convolution.

    Attributes:
        taps: for each phase, (kernel index, input offset) pairs.
        low, high: smallest and largest input offset over all phases.
        steps: outputs of one phase.
    """

    taps: tuple[tuple[tuple[int, int], ...], ...]
    low: int
    high: int
    steps: int


def phases_of(kernel: int, stride: int, dilation: int, pad: int, out_size: int) -> Phases:
    taps = []
    for phase in range(stride):
        found = [
            (k, (phase + pad - k * dilation) // stride)
            for k in range(kernel)
            if (phase + pad - k * dilation) % stride == 0
        ]
        taps.append(tuple(found))
    offsets = [offset for phase in taps for _, offset in phase]
    return Phases(tuple(taps), min(offsets), max(offsets), -(-out_size // stride))


@lowers("ConvTranspose")
def lower_conv_transpose(context: Context, node: Node) -> bool:
    weight = context.graph.weight(node.inputs[1])
    in_shape, out_shape = context.shape(node.inputs[0]), context.shape(node.output)
    groups = int(node.attributes.get("group", 1))
    bias_name = node.inputs[2] if len(node.inputs) > 2 else ""
    bias = context.graph.weight(bias_name) if bias_name else None
    if weight is None or len(in_shape) not in (3, 4) or (bias_name and bias is None):
        return False
    batch, height, width, channels = image_dims(in_shape)
    _, out_height, out_width, out_channels = image_dims(out_shape)
    rows, columns = _axes(node, weight.shape[2:], out_shape[2:])
    data = context.ordered(context.operand(node.inputs[0]), channels_last(len(in_shape)))
    produced = kernel_channels(rows, columns, groups, out_channels)
    weights = _phase_weights(weight, rows, columns, groups, produced)
    layer = plan_layer(data.grid, weights, context.isa, groups=groups, exact=context.plan.exact)
    data = context.converted(data, layer.grid)
    all_bias = None
    if bias is not None:
        all_bias = Weight(np.broadcast_to(bias.real.reshape(-1), (out_channels,))[produced])
    start, add = start_and_add(layer, all_bias, len(produced))
    pads = (
        -rows.low,
        -columns.low,
        max(0, rows.steps - 1 + rows.high - (height - 1)),
        max(0, columns.steps - 1 + columns.high - (width - 1)),
    )
    product, form = layer.product, layer.form(channels, pads, groups)
    source = context.in_form(data, form, groups)
    shape = ConvShape(
        batch=batch,
        height=height + pads[0] + pads[2],
        width=width + pads[1] + pads[3],
        channels=form.channels // groups,
        out_height=rows.steps,
        out_width=columns.steps,
        out_channels=len(produced),
        kernel=(rows.high - rows.low + 1, columns.high - columns.low + 1),
        groups=groups,
    )
    group = grow(context, node, with_operands=False)
    order = channels_last(len(out_shape))
    mul, offset = channel_constant(layer.mul, len(out_shape)), channel_constant(add, len(out_shape))
    tail = build(context, group, Value(E.affine(E.Acc(), mul, offset)), order, produced)
    grid = context.target_grid(group.output)
    epilogue = context.epilogue(tail.value, grid, ())
    kernel = conv(shape, product, context.isa, epilogue, padded_channels(layer.weights, product.pack), start)
    buffer = context.kernel(kernel, (source,), "conv_transpose")
    buffer = _interleave(
        context,
        buffer,
        batch,
        rows,
        columns,
        (groups, out_channels // groups),
        (out_height, out_width),
        epilogue.out_dtype,
    )
    context.put(group.output, buffer, order, grid)
    context.done.update(member.output for member in group.nodes)
    macs = batch * height * width * channels * (out_channels // groups) * int(np.prod(weight.shape[2:]))
    context.record(node, layer.compute, macs, layer.reason)
    return True


def _phase_weights(weight: Weight, rows: Phases, columns: Phases, groups: int, produced: np.ndarray) -> LayerWeights:
    """The weights of the combined convolution, whose output channels are those in `produced`."""
    arranged = (1, 2, 3, 0) if len(weight.shape) == 4 else (1, 2, 0)
    weights = LayerWeights.of(weight, arranged, 1).rearranged(lambda one: _all_phases(one, rows, columns, groups))
    if weights.integers is None:
        return weights
    scale = weights.integers.scale
    return replace(weights, integers=replace(weights.integers, scale=scale[produced % len(scale)]))


def _axes(node: Node, kernel: tuple[int, ...], out_size: tuple[int, ...]) -> tuple[Phases, Phases]:
    rank = len(kernel)
    strides = node.attributes.get("strides", [1] * rank)
    dilations = node.attributes.get("dilations", [1] * rank)
    pads = node.attributes.get("pads", [0] * 2 * rank)
    axes = [phases_of(kernel[i], strides[i], dilations[i], pads[i], out_size[i]) for i in range(rank)]
    axes = [replace(a, low=min(a.low, 0)) for a in axes]
    return (axes[0], axes[1]) if rank == 2 else (Phases((((0, 0),),), 0, 0, 1), axes[0])


def kernel_channels(rows: Phases, columns: Phases, groups: int, out_channels: int) -> np.ndarray:
    """Output channel of each channel of the combined convolution, in the order (group, phase row, phase column, K)."""
    own = np.arange(out_channels).reshape(groups, 1, 1, -1)
    return np.broadcast_to(own, (groups, len(rows.taps), len(columns.taps), out_channels // groups)).reshape(-1)


def _all_phases(weights: np.ndarray, rows: Phases, columns: Phases, groups: int) -> np.ndarray:
    """Weights (K of a group, [rows,] columns, C) as those of the combined convolution, (channels, rows, columns, C)."""
    if weights.ndim == 3:
        weights = weights[:, None]
    out_channels, _, _, channels = weights.shape
    per_group = channels // groups
    size = (rows.high - rows.low + 1, columns.high - columns.low + 1)
    result = np.zeros((groups, len(rows.taps), len(columns.taps), out_channels, *size, per_group), weights.dtype)
    for group in range(groups):
        own = weights[..., group * per_group : (group + 1) * per_group]
        for i, row_taps in enumerate(rows.taps):
            for j, column_taps in enumerate(columns.taps):
                for k, y in row_taps:
                    for m, x in column_taps:
                        result[group, i, j, :, y - rows.low, x - columns.low] = own[:, k, m]
    return result.reshape(-1, *size, per_group)


def _interleave(
    context: Context,
    buffer: int,
    batch: int,
    rows: Phases,
    columns: Phases,
    channels: tuple[int, int],
    size: tuple[int, int],
    dtype: str,
) -> int:
    """(N, T, U, group, phase row, phase column, K) -> (N, T*s, U*s', group, K), cropped to the output's size."""
    s, t = len(rows.taps), len(columns.taps)
    groups, per_group = channels
    if s * t > 1:
        shape = (batch, rows.steps, columns.steps, groups, s, t, per_group)
        kernel = movement.transpose(shape, (0, 1, 4, 2, 5, 3, 6), dtype, context.isa)
        buffer = context.kernel(kernel, (buffer,), "interleave")
    full = (batch, rows.steps * s, columns.steps * t, groups * per_group)
    if full[1:3] != size:
        sizes = (batch, *size, groups * per_group)
        kernel = movement.slice_(full, (0, 0, 0, 0), sizes, (1, 1, 1, 1), dtype, context.isa)
        buffer = context.kernel(kernel, (buffer,), "slice")
    return buffer
