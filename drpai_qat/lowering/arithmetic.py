"""Which product a layer with constant weights is computed with, proven exact, and its weights in kernel form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from drpai_qat.graph.canonical import Weight
from drpai_qat.graph.grid import Grid
from drpai_qat.graph.layer_weights import INT32_MAX, IntegerWeights, LayerWeights, fits_int32, why_float
from drpai_qat.kernels.conv_shape import ConvShape
from drpai_qat.kernels.isa import Isa
from drpai_qat.kernels.product import Product
from drpai_qat.kernels.product_choice import DOT2_COST, LEAST_COST, product8
from drpai_qat.kernels.products import DOT2, DOT2_WIDE, FMA, FMA_INT8, PLANES, dot4
from drpai_qat.kernels.winograd_plan import WinogradPlan, choose_plan
from drpai_qat.lowering.storage import Form

# Output pixels for each of which int8 weights of a float layer are converted anew. First layers have few weights and
# many pixels: there it would take 15% of their time.
_MOST_CONVERTED = 1024
FMA_COST = 1.92  # time of a float32 product, as a multiple of a vpmaddubsw one's; measured on Zen 5
OUTRUN = "its input is bounded, but float32 is faster on this CPU than 8-bit parts of it"
_MOST_COST = 1.1  # what integers may take of float32's time
_LEAST_GAIN = 0.95  # what an algorithm with more code and memory may take of a direct convolution's time


@dataclass(frozen=True, eq=False)
class LayerPlan:
    """How one layer is computed.

    Attributes:
        grid: on which it reads its input; None for float32.
        product: the arithmetic.
        compute: "int8", "int16" or "float32", for the report.
        weights: values of the product's weight dtype, shape (out_channels, rows, columns, channels); not yet padded.
        mul: float64, shape (out_channels,): real = accumulator * mul.
        reason: why it is not computed in integers; empty where it is.
        winograd: how Winograd's algorithm computes it from the product's operands; None where it does not.
        cost: time of a product, as a multiple of a vpmaddubsw one's (`DOT2_COST`), on x86 without VNNI.
    """

    grid: Grid | None
    product: Product
    compute: str
    weights: npt.NDArray[np.generic]
    mul: npt.NDArray[np.float64]
    reason: str = ""
    winograd: WinogradPlan | None = None
    cost: float = FMA_COST

    @property
    def operand(self) -> Grid | None:
        """The grid of what is multiplied: 8 bits are centred when they are widened to int16."""
        return self.grid.centred() if self.grid is not None and self.product.in_dtype == "int16" else self.grid

    @property
    def zero_point(self) -> int:
        """Of the activations as they are multiplied."""
        return 0 if self.operand is None else self.operand.zero_point

    def form(self, channels: int, pads: tuple[int, int, int, int] = (0, 0, 0, 0), groups: int = 1) -> Form:
        """How the product reads images of so many channels."""
        pack = self.product.pack
        return Form(pads, -(-channels // groups // pack) * pack * groups, self.operand)


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
    grid: Grid | None,
    weights: LayerWeights,
    isa: Isa,
    shape: ConvShape | None = None,
    groups: int = 1,
    exact: bool = True,
) -> LayerPlan:
    """Choose the arithmetic of a layer.

    Args:
        grid: on which its input is stored; None for float32.
        weights: its own, or those of the channels that this input has.
        shape: sizes of a convolution that reads nothing but this.
        groups: of its channels.
        exact: no integers but those that training chose; False: rather than compute in float32, round weights to 15
            bits, or int16 activations to coarser ones.
    """
    integers = weights.integers
    if not exact:
        if integers is None and weights.trained and grid is not None:
            integers = _fine_weights(weights.real(), grid)
        else:
            grid = _fitting_grid(integers, grid)
    reason = why_float(grid, integers, weights.trained)
    if integers is None:
        return _in_float32(weights.real(), reason)
    values = integers.values
    narrow = values.min(initial=0) >= -128 and values.max(initial=0) <= 127
    if grid is None or reason:
        reused = shape is not None and shape.batch * shape.out_pixels > _MOST_CONVERTED
        if narrow and not reused:
            return LayerPlan(None, FMA_INT8, "float32", values.astype(np.int8), integers.scale, reason)
        return _in_float32(weights.real(), reason)
    product, cost, winograd = _product(grid, values, narrow, isa, shape, groups)
    compute = "int8" if grid.qmax - grid.qmin <= 255 else "int16"
    kept = values.astype(product.weight_dtype)
    return LayerPlan(grid, product, compute, kept, grid.scale * integers.scale, winograd=winograd, cost=cost)


def plan_sum(
    layers: Sequence[LayerPlan], isa: Isa, shape: ConvShape | None = None, computed: bool = True
) -> list[LayerPlan] | None:
    """The arithmetic of a layer that reads its input part by part.

    Args:
        layers: of the parts, as if each was alone.
        shape: sizes of a convolution, where all parts have the same weights.
        computed: the sum is computed in any case, so that float32 would not take a pass of its own.
    Returns: of the parts; None where it is computed in float32, because a part has no integer arithmetic or the CPU is
        faster so.
    """
    if any(layer.grid is None for layer in layers):
        return None
    if isa.arm or isa.dot4_exact:
        return list(layers)
    cost = sum(layer.cost for layer in layers)
    grids = [layer.grid for layer in layers if layer.grid is not None]
    bytes_of_int8 = all(grid.dtype == isa.activation for grid in grids) and layers[0].weights.dtype == np.int8
    if shape is not None and bytes_of_int8:
        values = layers[0].weights.astype(np.int64)
        winograd = choose_plan(shape, values, max(grid.qmax for grid in grids), isa, len(layers))
        if winograd is not None and winograd.cost < _LEAST_GAIN * cost:
            return [replace(layer, product=dot4(), winograd=winograd, cost=winograd.cost) for layer in layers]
    return None if isa.float_sums and computed and cost > _MOST_COST * FMA_COST else list(layers)


def _in_float32(real: npt.NDArray[np.float32], reason: str) -> LayerPlan:
    return LayerPlan(None, FMA, "float32", np.ascontiguousarray(real), np.ones(len(real)), reason)


def _product(
    grid: Grid, values: npt.NDArray[np.int64], narrow: bool, isa: Isa, shape: ConvShape | None, groups: int
) -> tuple[Product, float, WinogradPlan | None]:
    """The fastest exact product of an integer layer with its cost, and Winograd's algorithm where that is faster."""
    if not narrow:
        return DOT2_WIDE, DOT2_COST, None
    if grid.dtype == isa.activation:
        winograd = None if shape is None else choose_plan(shape, values, grid.qmax, isa)
        product, cost = DOT2, math.inf
        if winograd is None or winograd.cost > LEAST_COST:
            surveyed = grid.zero_point if groups == 1 else None
            product, cost = product8(isa, _padded(values, 4), grid.qmin, grid.qmax, surveyed)
        if winograd is not None and winograd.cost < _LEAST_GAIN * cost:
            return dot4(), winograd.cost, winograd
        return product, cost, None
    if grid.dtype != "int16":
        return DOT2, DOT2_COST, None
    winograd = None if shape is None else choose_plan(shape, values, None, isa)
    if winograd is not None and winograd.cost > _LEAST_GAIN * DOT2_COST:
        winograd = None
    by_bytes = isa.arm and isa.dot4_exact and values.shape[-1] % 4 == 0
    return PLANES if by_bytes else DOT2, DOT2_COST, winograd


def runs_depthwise(product: Product, groups: int, channels: int, out_channels: int) -> bool:
    """A convolution of these channels in all is computed by the depthwise kernel, which knows no int16 weights."""
    return groups == channels == out_channels and product.weight_dtype != "int16"


def _fitting_grid(weights: IntegerWeights | None, grid: Grid | None) -> Grid | None:
    """The finest int16 grid whose products fit a layer's int32 accumulators, where those of a 16-bit input do not.

    The input's own grid where it can stay as it is, or where fewer than 12 bits would be left.
    """
    if weights is None or grid is None or grid.dtype != "int16" or fits_int32(weights.values, grid):
        return grid
    total = int(np.abs(weights.values).reshape(len(weights.values), -1).sum(1).max(initial=1))
    steps = min(32767, int(0.79 * INT32_MAX / total))
    if steps < 4095:
        return grid
    return Grid(max(abs(end) for end in grid.bounds) / steps, 0, -steps, steps, "int16")


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
    layer: LayerPlan, bias: Weight | None, out_channels: int
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
    """Integers up to the rounding of a float32 scale; not where all of them would be zero beside a coarse grid."""
    near = 1e-4 * min(1.0, float(np.abs(steps).max(initial=0)))
    return bool((np.abs(steps - np.rint(steps)) <= 1e-6 * np.abs(steps) + near).all())
