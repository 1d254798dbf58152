"""y = x * mul + add per channel, as BatchNormalization between two trained roundings leaves it: one rounding."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from drpai_qat.backends.tflite.context import Context, RefusedError, compute_of
from drpai_qat.backends.tflite.flatbuffer import padding
from drpai_qat.backends.tflite.grids import LiteGrid
from drpai_qat.backends.tflite.plain_kernels import requantized
from drpai_qat.backends.tflite.registry import writes
from drpai_qat.backends.tflite.stored import Stored, row_major
from drpai_qat.backends.tflite.tail import along_axis, limited_more
from drpai_qat.graph.canonical import Node
from drpai_qat.graph.ranges import batch_norm_affine, clip_limits

Reals: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Affine:
    """y = x * mul + add, one number each per channel along `axis`; float64."""

    axis: int
    mul: Reals
    add: Reals


def affine_chain(context: Context, node: Node, affine: Affine) -> tuple[Node, Affine]:
    """The operations with constants that follow one another from a node on, as one; returns the last of them."""
    last = node
    while last.output not in context.graph.outputs and len(context.consumers.get(last.output, ())) == 1:
        (reader,) = context.consumers[last.output]
        if reader.op not in ("Add", "Sub", "Mul", "Div") or clip_limits(context.graph, reader) is not None:
            break
        more = as_affine(context, reader, last.output, affine.axis)
        if more is None:
            break
        affine = Affine(affine.axis, affine.mul * more.mul, affine.add * more.mul + more.add)
        last = reader
        context.done.add(reader.output)
    return last, affine


def as_affine(context: Context, node: Node, data: str, axis: int | None = None) -> Affine | None:
    """An operation with a constant that has one number per channel.

    Args:
        axis: of the channels, where an operation before has determined it; there one number in all is enough.
    """
    shape = context.shape(data)
    if context.shape(node.output) != shape or len(set(node.inputs)) != 2:
        return None
    constant = context.graph.constant(next(name for name in node.inputs if name != data))
    if constant is None or (constant.size == 1 and axis is None):
        return None  # one number alone: TFLite's own operator holds it exactly
    if axis is None:
        padded = (1,) * (len(shape) - constant.ndim) + constant.shape
        axis = int(np.argmax(padded))
    values = along_axis(constant, len(shape), axis, shape[axis])
    if values is None:
        return None
    c, ones, zeros = values.astype(np.float64), np.ones(len(values)), np.zeros(len(values))
    first = node.inputs[0] == data
    if node.op == "Add":
        return Affine(axis, ones, c)
    if node.op == "Sub":
        return Affine(axis, ones, -c) if first else Affine(axis, -ones, c)
    if node.op == "Mul":
        return Affine(axis, c, zeros)
    if node.op == "Div" and first and (c != 0).all():
        return Affine(axis, 1.0 / c, zeros)
    return None


@writes("BatchNormalization")
def write_batch_norm(context: Context, node: Node, real: bool) -> None:
    affine = batch_norm_affine(context.graph, node)
    if affine is None or node.attributes.get("training_mode", 0):
        raise RefusedError("its statistics are computed")
    write_affine(context, node, real, node.inputs[0], Affine(1, *affine))


def write_affine(
    context: Context,
    node: Node,
    real: bool,
    name: str,
    affine: Affine,
    recorded: Node | None = None,
    limits: tuple[float, float] = (-math.inf, math.inf),
) -> None:
    """y = x * mul + add per channel, with one rounding: a depthwise convolution of 1x1.

    Its weights are integers of 64 to 127, chosen so that the bias comes closest to a whole number of accumulator steps.
    """
    tail = limited_more(context.tail(node, real), limits)
    rank, mul, add = len(context.shape(name)), affine.mul, affine.add
    data = context.operand(name, real)
    if data.order[-1] != affine.axis:
        data = context.ordered(data, (*(axis for axis in data.order if axis != affine.axis), affine.axis))
    channels = len(mul)
    physical = data.physical
    if real:
        made = context.new(f"{node.output}:scaled", data.shape, data.order, None)
        factor, summand = (
            context.file.constant(f"{node.output}:{part}", np.asarray(values, np.float32))
            for part, values in (("mul", mul), ("add", add))
        )
        context.emit("MUL", [data.tensor, factor], [made.tensor], "MulOptions")
        context.finish(
            node, tail, data.order, None,
            lambda output, fused: context.emit(
                "ADD", [made.tensor, summand], [output], "AddOptions", fusedActivationFunction=fused
            ),
        )  # fmt: skip
        context.record(node, "float32")
        return
    assert data.grid is not None
    ends = np.concatenate([mul * end + add for end in data.grid.bounds])
    target = context.target(tail, float(ends.min()), float(ends.max()))
    wide = data.grid.dtype == "int16" or target.grid.dtype == "int16"
    if wide:
        data = context.wide(data)
    grid = data.grid
    assert grid is not None
    flat = context.reshaped(
        Stored(data.tensor, physical, row_major(rank), grid), (1, 1, math.prod(physical[:-1]), channels)
    )
    factors = _factors(affine, grid, target.grid)
    units = np.float32(grid.scale) * factors.scales
    bias_type = "int64" if wide else "int32"
    mul_grid = LiteGrid(tuple(factors.scales.tolist()), 0, "int8", 3)
    add_grid = LiteGrid(tuple(units.tolist()), 0, bias_type)
    operands = [
        flat.tensor,
        context.file.constant(f"{node.output}:mul", factors.weights.reshape(1, 1, 1, channels), mul_grid),
        context.file.constant(f"{node.output}:add", factors.biases.astype(bias_type), add_grid),
    ]

    def emit(output: int, fused: int) -> None:
        file, same = context.file, len(physical) == 4 and physical[:2] == (1, 1)
        result = output
        if not same:
            shape = (1, 1, math.prod(physical[:-1]), channels)
            result = context.new(f"{file.tensors[output].name}:flat", shape, row_major(4), file.grids[output]).tensor
        context.emit(
            "DEPTHWISE_CONV_2D", operands, [result], "DepthwiseConv2DOptions", padding=padding("VALID"), strideH=1,
            strideW=1, depthMultiplier=1, dilationHFactor=1, dilationWFactor=1, fusedActivationFunction=fused,
        )  # fmt: skip
        if not same:
            context.reshape(result, output)

    context.finish(node, tail, data.order, target, emit, wide=wide)
    context.record(recorded or node, compute_of(data.grid))


# How far, in accumulator steps, a bias may stay below the exact summand; plain kernels lift values by up to half a one.
_LOWERED = (0.0, 0.15, 0.3, 0.45)
_EACH = 3
_LARGEST_BIAS = 2.0**24


@dataclass(frozen=True)
class _Factors:
    """weight * scale = mul, bias * scale_x * scale = add; one of each per channel."""

    weights: NDArray[np.int8]
    scales: NDArray[np.float32]
    biases: Reals


def _factors(affine: Affine, grid: LiteGrid, result: LiteGrid) -> _Factors:
    """The integers of a factor and a summand per channel.

    A bias is a whole number of steps, and each weight (64 to 127) makes steps of another size: with the right one, any
    summand is nearly whole, or lower by any share of a step. Of some such weights, the best is found by computing the
    256 integers of the input as XNNPACK and as the plain kernels do: the one whose worse kernel errs least.
    """
    mul, add = affine.mul, affine.add
    candidates = np.arange(127, 63, -1, dtype=np.float64)
    least = np.maximum(np.abs(add) / (grid.scale * _LARGEST_BIAS), np.finfo(np.float32).tiny)[:, None]
    scales = np.maximum(np.abs(mul)[:, None] / candidates, least).astype(np.float32)
    weights: Reals = np.rint(mul[:, None] / scales)
    units = (np.float32(grid.scale) * scales).astype(np.float64)
    steps = add[:, None] / units
    rows = np.arange(len(mul))
    narrow = grid.dtype == "int8" and result.dtype == "int8"
    inputs = np.arange(-128, 128) - grid.zero_point
    exact = np.rint((mul[:, None] * inputs * grid.scale + add[:, None]) / result.scale)
    low, high = (end - result.zero_point for end in result.limits)
    best, picked, biases = np.full(len(mul), np.inf), np.zeros(len(mul), np.int64), np.zeros(len(mul))
    for lowered in _LOWERED if narrow else _LOWERED[:1]:
        off = np.abs(steps - lowered - np.rint(steps - lowered))
        for column in off.argsort(1, kind="stable")[:, : _EACH if narrow else 1].T:
            bias = np.rint(steps[rows, column] - lowered)
            cost = off[rows, column]
            if narrow:
                accumulators = weights[rows, column].reshape(-1, 1) * inputs + bias[:, None]
                factor = units[rows, column].reshape(-1, 1) / result.scale
                found = requantized(accumulators.astype(np.int64), factor), np.rint(accumulators * factor)
                first, second = ((one.clip(low, high) != exact.clip(low, high)).sum(1) for one in found)
                cost = np.maximum(first, second) + 1e-3 * (first + second)
            better = cost < best
            best[better], picked[better], biases[better] = cost[better], column[better], bias[better]
    return _Factors(weights[rows, picked].astype(np.int8), scales[rows, picked], biases)
