"""Weights and biases of a layer as TFLite holds them.

Weights: int8, zero point 0, one scale per output channel or one in all; the trained integers and scales, bit for bit.
Bias: int32 (int64 under int16 activations) on the scale s_x * s_w of its channel, where accumulators are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drpai_qat.backends.tflite.context import Context, RefusedError
from drpai_qat.backends.tflite.grids import LiteGrid, Target
from drpai_qat.backends.tflite.stored import Stored
from drpai_qat.graph.canonical import Array, Node, Weight

LARGEST_MULTIPLIER = 256.0
"""XNNPACK does not load a layer with a larger s_x * s_w / s_y; the plain kernels' arithmetic ends at 2^30."""


@dataclass(frozen=True)
class Filter:
    """Weights in ONNX's axes, with the output channels at `axis`.

    Attributes:
        values: int8; int16 where they leave int8 without their zero point (see `in_halves`); or float32.
        scales: float32, one per output channel, or one; 1 for float32 values.
    """

    values: Array
    scales: NDArray[np.float32]
    axis: int

    @property
    def nine_bits(self) -> bool:
        """Some of the integers are beyond int8."""
        return bool(self.values.dtype == np.int16)


def read_filter(weight: Weight | None, axis: int, real: bool, *, nine_bits: bool = False) -> Filter:
    """The weights of a layer.

    Args:
        axis: of the output channels.
        real: float32 is enough.
        nine_bits: the operator can be written with weights in halves.
    Raises: RefusedError: TFLite has no such weights.
    """
    if weight is None:
        raise RefusedError("its weights are computed")
    if real:
        return Filter(weight.real, np.ones(1, np.float32), axis)
    params = weight.params
    if weight.integers is None or params is None:
        raise RefusedError("its weights have no trained grid")
    zero = params.zero_point
    if zero.ndim and params.axis is not None:
        zero = zero.reshape([-1 if i == params.axis else 1 for i in range(weight.integers.ndim)])
    integers = weight.integers.astype(np.int64) - zero
    low, high = int(integers.min(initial=0)), int(integers.max(initial=0))
    beyond = low < -128 or high > 127
    if beyond and not (nine_bits and low >= -256 and high <= 254):
        raise RefusedError(
            "its weights have a zero point, which TFLite's int8 weights have not, and leave int8 without it"
        )
    if params.axis is not None and params.axis != axis % integers.ndim:
        raise RefusedError("its weights have a scale per input channel; TFLite knows one per output channel")
    return Filter(integers.astype(np.int16 if beyond else np.int8), params.scale.reshape(-1).astype(np.float32), axis)


def in_halves(values: Array, axis: int) -> Array:
    """Weights of nine bits as two of eight, one behind the other along their input channels: w = a + b.

    The layer reads its input twice, w x = a x + b x: one accumulator, rounded once.
    """
    whole = np.asarray(values, np.int64)
    first = np.clip(whole, -128, 127)
    return np.concatenate([first, whole - first], axis)


@dataclass(frozen=True)
class Operands:
    """Indices of a layer's weights and bias in the file."""

    weights: int
    bias: int


def place(
    context: Context,
    node: Node,
    filter_: Filter,
    arranged: Array,
    channel_axis: int,
    data: Stored,
    bias: Array | None,
    target: Target | None,
) -> Operands:
    """Put a layer's constants into the file.

    Args:
        arranged: the filter's integers (or reals) in TFLite's axes.
        channel_axis: of the output channels in them.
        data: the layer's input.
        bias: float32, one per output channel.
        target: the grid of the result; None in float32.
    Raises: RefusedError: the scales are so far apart that kernels would overflow.
    """  # fmt: skip
    name = node.inputs[1]
    channels = arranged.shape[channel_axis]
    values = np.zeros(channels, np.float64) if bias is None else np.broadcast_to(np.float64(bias), (channels,))
    if target is None or data.grid is None:
        weights = context.file.constant(name, np.asarray(arranged, np.float32))
        return Operands(weights, context.file.constant(f"{name}:bias", values.astype(np.float32)))
    scales = _scales_that_hold(context, node, filter_.scales, arranged, channel_axis, data.grid, values, target)
    arranged, scales = _finer_steps(context, node, arranged, scales, channel_axis, data.grid.scale, target.grid.scale)
    grid = LiteGrid(tuple(scales.tolist()), 0, "int8", channel_axis if len(scales) > 1 else 0)
    units = np.float32(data.grid.scale) * scales
    dtype = "int64" if data.grid.dtype == "int16" else "int32"
    integers = np.rint(values / np.float64(units)).astype(dtype)
    weights = context.file.constant(name, np.asarray(arranged, np.int8), grid)
    bias_grid = LiteGrid(tuple(units.tolist()), 0, dtype)
    return Operands(weights, context.file.constant(f"{name}:bias", integers, bias_grid))


def _scales_that_hold(
    context: Context,
    node: Node,
    scales: NDArray[np.float32],
    arranged: Array,
    axis: int,
    grid: LiteGrid,
    bias: NDArray[np.float64],
    target: Target,
) -> NDArray[np.float32]:
    """The trained scales; a channel of zeros, whose scale means nothing, may get one that holds its bias."""
    channels = arranged.shape[axis]
    all_scales = np.broadcast_to(scales, (channels,)).astype(np.float64)
    rows = np.moveaxis(np.abs(np.asarray(arranged, np.int64)), axis, 0).reshape(channels, -1).sum(1)
    largest = max(abs(end - grid.zero_point) for end in grid.limits)
    room = 2.0**31 - 1 if grid.dtype == "int8" else 2.0**40
    units = grid.scale * all_scales
    bad = (rows * float(largest) + np.abs(bias) / units > room) | (units / target.grid.scale >= LARGEST_MULTIPLIER)
    coarse = (rows == 0) & (np.abs(bias) > 0) & (units / target.grid.scale > COARSE_STEP)
    if not (bad | coarse).any():
        return scales
    if rows[bad].any():
        first = int(np.flatnonzero(bad & (rows > 0))[0])
        raise RefusedError(
            f"its scales are degenerate: channel {first} has weights of scale {all_scales[first]:.3g}, an input of "
            f"scale {grid.scale:.3g} and a result of scale {target.grid.scale:.3g}, too far apart for TFLite's "
            "32-bit kernels; train it again with the observers on"
        )
    held = all_scales.copy()
    bad |= coarse
    held[bad] = np.maximum(target.grid.scale, np.abs(bias[bad])) / 2**20 / grid.scale
    context.notes.append((node.name, f"{bad.sum()} channels of zero weights got a scale that holds their bias"))
    return held.astype(np.float32)


COARSE_STEP = 1 / 64
"""Accumulator steps above this share of the result's step make a bias, a whole number of them, coarse."""


def _finer_steps(
    context: Context, node: Node, arranged: Array, scales: NDArray[np.float32], axis: int, scale: float, result: float
) -> tuple[Array, NDArray[np.float32]]:
    """Weights of a few bits times a power of two, their scales divided by it: the same reals, exactly.

    4-bit weights have large steps, so accumulators do, too: a bias rounded to them would be off by up to a tenth of
    the result's step.
    """
    rows = np.moveaxis(np.abs(np.asarray(arranged, np.int64)), axis, 0).reshape(arranged.shape[axis], -1)
    largest = rows.max() if len(scales) == 1 else rows.max(1)
    room = np.floor(np.log2(127 / np.maximum(largest, 1)))
    coarse = scale * scales.astype(np.float64) / result > COARSE_STEP
    powers = np.where(coarse & (largest > 0), np.maximum(room, 0), 0).astype(np.int64).reshape(-1)
    if not powers.any():
        return arranged, scales
    shape = [1] * arranged.ndim
    shape[axis] = -1 if len(powers) > 1 else 1
    factors = np.left_shift(np.int64(1), powers)
    context.notes.append(
        (node.name, f"weights of few bits are stored times 2^k (up to {factors.max()}), their scales divided by it")
    )
    finer = (scales / factors).astype(np.float32)
    return np.asarray(arranged, np.int64) * factors.reshape(shape), finer


def layer_bounds(filter_: Filter, grid: LiteGrid | None, bias: Array | None) -> tuple[float, float]:
    """Smallest and largest result that these weights can give, whatever the input's integers."""
    if filter_.values.dtype.kind == "f" or grid is None:
        return -np.inf, np.inf
    channels = filter_.values.shape[filter_.axis]
    rows = np.moveaxis(filter_.values.astype(np.float64), filter_.axis, 0).reshape(channels, -1)
    low, high = grid.bounds
    positive, negative = rows.clip(min=0).sum(1), rows.clip(max=0).sum(1)
    offset = np.zeros(channels) if bias is None else np.broadcast_to(np.float64(bias), (channels,))
    tops = filter_.scales * (positive * high + negative * low) + offset
    bottoms = filter_.scales * (positive * low + negative * high) + offset
    return float(min(bottoms.min(), 0.0)), float(max(tops.max(), 0.0))
