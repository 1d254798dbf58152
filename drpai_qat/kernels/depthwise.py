"""Depthwise convolution: every channel has its own kernel.

    acc[n, p, c] = bias[c] + sum over r, s of  (x[n, y(p, r), x(p, s), c] - zero_point) * w[r, s, c]
    y(p, r) = row(p) * stride + r * dilation;   x(p, s) = column(p) * stride + s * dilation

The products sum neighbouring bytes (or words), which are channels here and must not be summed. So the rows under the
kernel are interleaved: one 32-bit lane holds one channel of four rows (dot4) or two (dot2). An interleaved input column
serves all kernel columns, for a strip of neighbouring output pixels; its cost is shared by them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from drpai_qat.kernels.conv_shape import ConvShape
from drpai_qat.kernels.epilogue import Constant, Epilogue, EpilogueEmitter, Kernel, flat_arg, largest_acc
from drpai_qat.kernels.interleave import interleave, load_row, shuffle
from drpai_qat.kernels.isa import Isa, Vector, dot2, dot4_int16, dot4_int32, multiply_add, vector, widen_pairs
from drpai_qat.kernels.loops import Index, function, sweep, tasks
from drpai_qat.kernels.taps import TapLayout, choose_layouts

_MAX_STRIP = 8
_MAX_TAPS = 81  # larger kernels are not unrolled
_REGISTERS = 2  # of one block of channels


def depthwise(
    shape: ConvShape,
    isa: Isa,
    epilogue: Epilogue,
    weights: npt.NDArray[np.generic],
    bias: npt.NDArray[np.int32] | None,
    in_dtype: str,
    zero_point: int = 0,
    qmin: int = 0,
    qmax: int = 255,
) -> Kernel:
    """A depthwise convolution kernel with its packed weights.

    One output channel per input channel: for a channel multiplier m the caller repeats each input channel m times, or
    uses `conv` with groups.

    Args:
        shape: channels = out_channels = all channels, groups 1; the input is padded with `zero_point`, channels-last.
        weights: int8 (int16 for int16 activations), or float32 for float32; shape (rows, columns, channels).
        bias: int32, shape (channels,), without any zero-point correction (this kernel adds it); None for float32.
        in_dtype: isa.activation, int16 or float32.
        zero_point: of the input as stored.
        qmin, qmax: smallest and largest stored input value, for the proof that products fit int16.
    Returns: kernel of (data); output (batch, out_height, out_width, channels). Exact in int32.
    """
    rows, columns, channels = weights.shape
    acc_dtype = "float32" if in_dtype == "float32" else "int32"
    start = np.zeros(channels, np.int64) if bias is None else bias.astype(np.int64)
    if acc_dtype == "int32":
        start = start - zero_point * weights.astype(np.int64).sum((0, 1))
    while isa.lanes * _REGISTERS > channels and isa.lanes > 4:
        isa = replace(isa, lanes=isa.lanes // 2)
    unrolled = isa.lanes * _REGISTERS <= channels and rows * columns <= _MAX_TAPS
    out_shape = (shape.batch, shape.out_height, shape.out_width, channels)
    emitter = EpilogueEmitter(epilogue, out_shape, isa, largest_acc(acc_dtype))
    layouts = choose_layouts(weights, isa, in_dtype, _REGISTERS, qmax) if unrolled else ()
    constants: list[Constant] = [layout.weights for layout in layouts] or [np.ascontiguousarray(weights).reshape(-1)]
    if len(layouts) > 1:
        constants += [layout.starts for layout in layouts]
    constants.append(start.astype(acc_dtype))
    with function("depthwise") as builder:
        data = flat_arg("data", (shape.in_size,), in_dtype)
        emitter.declare_operands()
        own = [flat_arg(f"constant{i}", c.shape, str(c.dtype)) for i, c in enumerate(constants)]
        emitter.declare_constants()
        emitter.declare_output()
        emitter.fill_border()
        with tasks(shape.batch * shape.out_height, math.prod(out_shape) * rows * columns) as task:
            image, y = tirx.floordiv(task, shape.out_height), tirx.floormod(task, shape.out_height)
            origin = T.Bind((image * shape.height + y * shape.stride[0]) * (shape.width * channels))
            row = T.Bind(task * shape.out_width)
            if unrolled:
                _row(shape, isa, emitter, layouts, data, own, origin, row)
            else:
                _row_of_any_kernel(shape, isa, emitter, weights, data, own, origin, row)
    constants += emitter.constants
    return Kernel(builder.get(), tuple(constants), emitter.stored_shape, epilogue.out_dtype, epilogue.more_dtypes)


def _row(
    shape: ConvShape,
    isa: Isa,
    emitter: EpilogueEmitter,
    layouts: tuple[TapLayout, ...],
    data: Any,
    constants: list[Any],
    origin: Index,
    row: Index,
) -> None:
    """One output row: strips of pixels, and in each the blocks of channels, those of one layout after the other."""
    channels, width = shape.channels, isa.lanes * _REGISTERS
    strip = _strip(shape.out_width)
    count = math.ceil(shape.out_width / strip)
    with T.serial(count) as index:
        # The last strip starts early and overlaps its neighbour instead of running short.
        x = index * strip
        if shape.out_width % strip:
            x = T.Bind(T.min(x, shape.out_width - strip))
        for i, layout in enumerate(layouts):
            with T.serial(len(layout.starts)) as block:
                if len(layouts) > 1:
                    start = T.Bind(constants[len(layouts) + i][block])
                else:
                    start = block * width if channels % width == 0 else T.Bind(T.min(block * width, channels - width))
                base = T.Bind(origin + x * (shape.stride[1] * channels) + start)
                taps = _Taps(shape, isa, layout, data, constants[i], constants[-1])
                taps.strip(emitter, strip, base, block, row + x, start)


def _strip(out_width: int) -> int:
    """Pixels of one strip: long, and dividing the row with little overlap."""
    return min(range(1, min(_MAX_STRIP, out_width) + 1), key=lambda n: math.ceil(out_width / n) * (n + 2))


@dataclass(frozen=True, eq=False)
class _Taps:
    """The unrolled products of one block of channels."""

    shape: ConvShape
    isa: Isa
    layout: TapLayout
    data: Any
    weights: Any
    bias: Any

    def strip(
        self, emitter: EpilogueEmitter, pixels: int, base: Index, block: Index, row: Index, channel: Index
    ) -> None:
        """Compute and store `pixels` neighbouring output pixels, walking over the input columns they need."""
        layout, shape, lanes = self.layout, self.shape, self.isa.lanes
        (_, stride), (_, dilation), columns = shape.stride, shape.dilation, shape.kernel[1]
        weight_base = T.Bind(block * layout.block_size)
        sums = [_Sums(self.isa, layout, self.bias, channel) for _ in range(pixels)]
        rows = emitter.neighbours(row, pixels)
        finished: list[tuple[Any, Any, Vector | None]] = []
        for column in range((pixels - 1) * stride + (columns - 1) * dilation + 1):
            users = [(p, s) for p in range(pixels) for s in range(columns) if p * stride + s * dilation == column]
            if not users:
                continue
            loaded = {
                r: load_row(self.isa, self.data, layout.in_dtype, layout.pack, base + self._offset(r, column))
                for r in range(shape.kernel[0])
            }
            for i, slots in enumerate(layout.slots):
                inputs = self._interleaved([loaded[r] for r in slots])
                for pixel, s in users:
                    at = weight_base + (s * len(layout.slots) + i) * _REGISTERS * lanes * layout.pack
                    for j in range(_REGISTERS):
                        tap = self._weights(at + j * lanes * layout.pack)
                        sums[pixel].add(j, inputs[j], tap)
            for pixel, s in users:
                if s == columns - 1:
                    values = sums[pixel].values()
                    finished += [(rows[pixel], channel + j * lanes, value) for j, value in enumerate(values)]
            if len(finished) >= 4:
                emitter.store_tile(finished)
                finished = []
        emitter.store_tile(finished)

    def _offset(self, r: int, column: int) -> int:
        return (r * self.shape.dilation[0] * self.shape.width + column) * self.shape.channels

    def _interleaved(self, rows: list[Vector]) -> list[Vector]:
        if self.layout.pack > 1:
            return interleave(self.isa, rows, self.layout.in_dtype)
        lanes = self.isa.lanes
        row = rows[0] if self.layout.in_dtype == "float32" else T.Cast(vector("int16", lanes * _REGISTERS), rows[0])
        return [shuffle([row], list(range(j * lanes, (j + 1) * lanes))) for j in range(_REGISTERS)]

    def _weights(self, at: Index) -> Vector:
        return self.weights.vload([at], vector(self.layout.weight_dtype, self.isa.lanes * self.layout.pack))


class _Sums:
    """Accumulators of one output pixel; without VNNI, sums of `steps` products wait in int16."""

    def __init__(self, isa: Isa, layout: TapLayout, bias: Any, channel: Index) -> None:
        self.isa, self.layout = isa, layout
        acc_dtype = "float32" if layout.in_dtype == "float32" else "int32"
        self.acc = [bias.vload([channel + j * isa.lanes], vector(acc_dtype, isa.lanes)) for j in range(_REGISTERS)]
        self.waiting: list[Vector | None] = [None] * _REGISTERS
        self.count = [0] * _REGISTERS

    def add(self, j: int, data: Vector, weights: Vector) -> None:
        """Add one product to register j."""
        isa, acc = self.isa, self.acc[j]
        if self.layout.in_dtype == "float32":
            self.acc[j] = T.Bind(multiply_add(isa, data, weights, acc, vector("float32", isa.lanes)))
        elif self.layout.pack == 1:
            wide = vector("int32", isa.lanes)
            self.acc[j] = T.Bind(acc + T.Cast(wide, data) * T.Cast(wide, weights))
        elif self.layout.pack == 2:
            self.acc[j] = T.Bind(dot2(isa, acc, data, weights))
        elif isa.dot4_exact:
            self.acc[j] = T.Bind(dot4_int32(isa, acc, data, weights))
        else:
            product = dot4_int16(isa, data, weights)
            waiting = self.waiting[j]
            self.waiting[j] = T.Bind(product if waiting is None else waiting + product)
            self.count[j] += 1
            if self.count[j] == self.layout.steps:
                self._widen(j)

    def _widen(self, j: int) -> None:
        if self.count[j]:
            self.acc[j] = T.Bind(self.acc[j] + widen_pairs(self.isa, self.waiting[j]))
            self.waiting[j], self.count[j] = None, 0

    def values(self) -> list[Vector]:
        """The accumulators as float32."""
        for j in range(_REGISTERS):
            self._widen(j)
        if self.layout.in_dtype == "float32":
            return list(self.acc)
        return [T.Bind(T.Cast(vector("float32", self.isa.lanes), acc)) for acc in self.acc]


def _row_of_any_kernel(
    shape: ConvShape,
    isa: Isa,
    emitter: EpilogueEmitter,
    weights: npt.NDArray[np.generic],
    data: Any,
    constants: list[Any],
    origin: Index,
    row: Index,
) -> None:
    """One output row, tap by tap: few channels, or a kernel too large to unroll."""
    rows, columns, channels = weights.shape
    taps, bias = constants
    acc_dtype = "float32" if weights.dtype == np.float32 else "int32"
    with T.serial(shape.out_width) as x:

        def body(starts: list[Index], lanes: int) -> None:
            start = starts[0]
            kind = vector(acc_dtype, lanes)
            acc = T.alloc_buffer((lanes,), acc_dtype)
            whole = tirx.Ramp(0, 1, lanes) if lanes > 1 else 0
            T.buffer_store(acc, bias.vload([start], kind), [whole])
            with T.serial(rows) as r, T.serial(columns) as s:
                column = x * shape.stride[1] + s * shape.dilation[1]
                at = origin + (r * shape.dilation[0] * shape.width + column) * channels + start
                value = T.Cast(kind, data.vload([at], vector(str(data.dtype), lanes)))
                tap = taps.vload([(r * columns + s) * channels + start], vector(str(weights.dtype), lanes))
                before, tap = acc.vload([0], kind), T.Cast(kind, tap)
                added = multiply_add(isa, value, tap, before, kind) if acc_dtype == "float32" else before + value * tap
                T.buffer_store(acc, added, [whole])
            value = T.Bind(T.Cast(vector("float32", lanes), acc.vload([0], kind)))
            emitter.store(emitter.row(row + x), start, value, lanes)

        sweep(channels, isa.lanes, body)
