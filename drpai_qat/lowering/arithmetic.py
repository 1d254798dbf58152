"""Which product a layer with constant weights is computed with, proven exact, and its weights in kernel form."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from drpai_qat.graph.canonical import Weight
from drpai_qat.graph.grid import Grid
from drpai_qat.kernels.conv_shape import ConvShape
from drpai_qat.kernels.isa import Isa
from drpai_qat.kernels.products import (
    DOT2,
    DOT2_COST,
    DOT2_WIDE,
    FMA,
    FMA_INT8,
    LEAST_COST,
    PLANES,
    Product,
    dot4,
    product8,
)
from drpai_qat.kernels.winograd_plan import Plan, choose_plan
from drpai_qat.lowering.storage import Stored

INT32_MAX = 2**31 - 1
# Output pixels for each of which int8 weights of a float layer are converted anew. First layers have few weights and
# many pixels: there it would take 15% of their time.
_MOST_CONVERTED = 1024
_LEAST_GAIN = 0.95  # what an algorithm with more code and memory may take of a direct convolution's time


@dataclass(frozen=True)
class IntegerWeights:
    """Weights with their zero point taken off.

    Attributes:
        values: int64, shape (out_channels, rows, columns, channels of one group).
        scale: float64, shape (out_channels,).
    """

    values: npt.NDArray[np.int64]
    scale: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Layer:
    """How one layer is computed.

    Attributes:
        product: the arithmetic.
        compute: "int8", "int16" or "float32", for the report.
        weights: values of the product's weight dtype, shape (out_channels, rows, columns, channels); not yet padded.
        mul: float64, shape (out_channels,): real = accumulator * mul.
        zero_point: of the activations as the kernel reads them (0 where they are centred first).
        reason: why it is not computed in integers; empty where it is.
        winograd: how Winograd's algorithm computes it from the product's operands; None where it does not.
    """

    product: Product
    compute: str
    weights: npt.NDArray[np.generic]
    mul: npt.NDArray[np.float64]
    zero_point: int
    reason: str = ""
    winograd: Plan | None = None


def integer_weights(weight: Weight, arranged: tuple[int, ...], out_axis: int) -> IntegerWeights | None:
    """Integers of a weight, transposed to (out, rows, columns, in); None where it has no grid per output channel.

    Args:
        arranged: permutation of the ONNX axes.
        out_axis: ONNX axis of the output channels.
    """
    if weight.integers is None or weight.params is None:
        return None
    params = weight.params
    if params.axis is not None and params.axis != out_axis:
        return None
    shape = [1] * weight.integers.ndim
    if params.axis is not None:
        shape[params.axis] = -1
    centred = weight.integers.astype(np.int64) - params.zero_point.reshape(shape)
    channels = weight.integers.shape[out_axis]
    scale = np.broadcast_to(params.scale.astype(np.float64).reshape(-1), (channels,))
    return IntegerWeights(centred.transpose(arranged), scale)


def convolution_weights(weight: Weight) -> tuple[IntegerWeights | None, np.ndarray]:
    """Integer weights of a Conv, if any, and its float weights, shape (out_channels, rows, columns, channels)."""
    if len(weight.shape) == 4:
        return integer_weights(weight, (0, 2, 3, 1), 0), np.ascontiguousarray(weight.real.transpose(0, 2, 3, 1))
    integers = integer_weights(weight, (0, 2, 1), 0)
    if integers is not None:
        integers = replace(integers, values=integers.values[:, None])
    return integers, np.ascontiguousarray(weight.real.transpose(0, 2, 1)[:, None])


def _fine_weights(real: npt.NDArray[np.float32], grid: Grid) -> IntegerWeights | None:
    """int16 weights for a layer whose trained scales run along its input channels.

    Such scales can't leave the sum, so the trained values are put on one grid per output channel, as fine as int32
    accumulators allow: at 15 bits the error stays some 90 dB below the weights. None where fewer than 11 bits are left.
    """
    values = real.reshape(len(real), -1).astype(np.float64)
    largest = max(abs(grid.qmin - grid.zero_point), abs(grid.qmax - grid.zero_point), 1)
    peak = np.abs(values).max(1)
    peak[peak == 0] = 1.0
    relative = np.abs(values / peak[:, None]).sum(1).max()
    steps = int(min(32767, 0.75 * INT32_MAX / (largest * relative)))
    if steps < 2047:
        return None
    scale = peak / steps
    return IntegerWeights(np.rint(values / scale[:, None]).astype(np.int64).reshape(real.shape), scale)


def plan_layer(
    data: Stored,
    weights: IntegerWeights | None,
    real: npt.NDArray[np.float32],
    isa: Isa,
    trained: bool = False,
    shape: ConvShape | None = None,
    groups: int = 1,
) -> Layer:
    """Choose the arithmetic of a layer.

    Args:
        data: its input activations.
        weights: its integer weights, if it has some per output channel.
        real: its float weights, arranged like the integer ones.
        trained: its weights were trained on a grid, if only along another axis.
        shape: sizes of a convolution that reads nothing but this.
        groups: of its channels.
    """
    grid = data.grid
    if weights is None and trained and grid is not None:
        weights = _fine_weights(real, grid)
    if weights is None:
        ones = np.ones(len(real))
        return Layer(FMA, "float32", real, ones, 0, "its weights have no integer grid per output channel")
    values = weights.values
    narrow = values.min(initial=0) >= -128 and values.max(initial=0) <= 127
    if grid is None or not _fits_int32(values, grid):
        reason = "its input has no trained range" if grid is None else "its accumulators could leave int32"
        reused = shape is not None and shape.batch * shape.out_pixels > _MOST_CONVERTED
        if narrow and not reused:
            return Layer(FMA_INT8, "float32", values.astype(np.int8), weights.scale, 0, reason)
        return Layer(FMA, "float32", real, np.ones(len(real)), 0, reason)
    mul = grid.scale * weights.scale
    compute = "int8" if grid.qmax - grid.qmin <= 255 else "int16"
    zero_point = grid.zero_point if grid.dtype == "int16" else 0  # 8 bits are centred when they are widened
    if not narrow:
        return Layer(DOT2_WIDE, compute, values.astype(np.int16), mul, zero_point)
    if grid.dtype == isa.activation:
        winograd = None if shape is None else choose_plan(shape, values, grid.qmax, isa)
        product, cost = DOT2, math.inf
        if winograd is None or winograd.cost > LEAST_COST:
            surveyed = grid.zero_point if groups == 1 else None
            product, cost = product8(isa, _padded(values, 4), grid.qmin, grid.qmax, surveyed)
        if winograd is not None and winograd.cost < _LEAST_GAIN * cost:
            return Layer(dot4(), compute, values.astype(np.int8), mul, grid.zero_point, winograd=winograd)
        if product != DOT2:
            return Layer(product, compute, values.astype(np.int8), mul, grid.zero_point)
    narrow_weights = values.astype(np.int8)
    if grid.dtype != "int16":
        return Layer(DOT2, compute, narrow_weights, mul, zero_point)
    winograd = None if shape is None else choose_plan(shape, values, None, isa)
    if winograd is not None and winograd.cost > _LEAST_GAIN * DOT2_COST:
        winograd = None
    by_bytes = isa.arm and isa.dot4_exact and values.shape[-1] % 4 == 0
    return Layer(PLANES if by_bytes else DOT2, compute, narrow_weights, mul, zero_point, winograd=winograd)


def runs_depthwise(product: Product, groups: int, channels: int, out_channels: int) -> bool:
    """A convolution of these channels in all is computed by the depthwise kernel, which knows no int16 weights."""
    return groups == channels == out_channels and product.weight_dtype != "int16"


def fitting_grid(weights: IntegerWeights | None, grid: Grid | None) -> Grid | None:
    """Where a 16-bit input would overflow a layer's int32 accumulators: the finest int16 grid that does not.

    None where the input can stay as it is, or where fewer than 12 bits would be left.
    """
    if weights is None or grid is None or grid.dtype != "int16" or _fits_int32(weights.values, grid):
        return None
    total = int(np.abs(weights.values).reshape(len(weights.values), -1).sum(1).max(initial=1))
    steps = min(32767, int(0.79 * INT32_MAX / total))
    if steps < 4095:
        return None
    return Grid(max(abs(end) for end in grid.bounds) / steps, 0, -steps, steps, "int16")


def _fits_int32(values: npt.NDArray[np.int64], grid: Grid) -> bool:
    largest = max(abs(grid.qmin - grid.zero_point), abs(grid.qmax - grid.zero_point))
    total = int(np.abs(values).reshape(len(values), -1).sum(1).max(initial=0))
    return total * largest < INT32_MAX // 5 * 4 and largest <= 65535


def _padded(values: npt.NDArray[np.int64], pack: int) -> npt.NDArray[np.int8]:
    channels = values.shape[-1]
    extra = -channels % pack
    padded = np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, extra)])
    return padded.astype(np.int8)


def padded_channels(values: npt.NDArray[np.generic], pack: int) -> npt.NDArray[np.generic]:
    """Weights with zero channels appended up to a multiple of the product's pack."""
    extra = -values.shape[-1] % pack
    if not extra:
        return values
    return np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, extra)])


def start_and_add(
    layer: Layer, bias: Weight | None, out_channels: int
) -> tuple[npt.NDArray[np.int32] | None, npt.NDArray[np.float64]]:
    """What accumulators start from, and what is added to the real value afterwards.

    A bias that lies on the accumulator's grid starts the accumulators; any other is added in float32. Where activations
    are read with their zero point, the start also takes zero_point * sum(w) off.
    """
    add = np.zeros(out_channels)
    integers = np.zeros(out_channels, np.int64)
    if bias is not None:
        real = np.broadcast_to(bias.real.astype(np.float64).reshape(-1), (out_channels,))
        steps = real / layer.mul
        if layer.compute != "float32" and np.abs(steps).max(initial=0) < INT32_MAX // 5 and _whole(steps):
            integers = np.rint(steps).astype(np.int64)
        else:
            add = real.copy()
    if layer.product.acc_dtype == "float32":
        return None, add
    if layer.zero_point:
        integers = integers - layer.zero_point * layer.weights.astype(np.int64).reshape(out_channels, -1).sum(1)
    if not integers.any():
        return None, add
    return integers.astype(np.int32), add


def _whole(steps: npt.NDArray[np.float64]) -> bool:
    """Integers up to the rounding of a float32 scale."""
    return bool((np.abs(steps - np.rint(steps)) <= 1e-6 * np.abs(steps) + 1e-4).all())
