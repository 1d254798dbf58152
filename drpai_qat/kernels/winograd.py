"""3x3 convolutions of stride 1 by Winograd's F(2x2, 3x3) and F(4x4, 3x3): fewer products, the same integers.

    k y = A' [ (G w G') * (B' d B) ] A        * elementwise, summed over the input channels; ' transposes

d is a window of 4x4 or 6x6 inputs, y the 2x2 or 4x4 outputs it gives, w the weights of one channel. 16 products replace
36, or 36 replace 144; they are int16 (`winograd_lines.py` holds the matrices), vpmaddwd's operands. All that follows
them is linear and so exact modulo 2**32. k is a power of two times an odd number, and odd numbers have inverses there:
the outputs come out exactly, however the sums before them wrap, provided they fit the bits that k leaves (`fits`).

Transformed operands take 4 or 8 bytes for each weight, 8 or 4.5 for each input, and neither is stored. Two loop orders:
over a large image the weights are transformed ahead (`transformed_weights`), and each task transforms windows of its
own; over a small one the windows are (`transformed_windows`), and each task transforms the weights of its own output
channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from drpai_qat.kernels.epilogue import Epilogue, EpilogueEmitter, Kernel, flat_arg
from drpai_qat.kernels.isa import (
    Vector,
    dot2_products,
    span,
    splat,
    spread,
    vector,
    wrapping_add,
    wrapping_multiply,
)
from drpai_qat.kernels.loops import Index, Registers, function
from drpai_qat.kernels.winograd_lines import Line
from drpai_qat.kernels.winograd_plan import VECTORS, Plan

Weights = npt.NDArray[np.int8]


def transformed_weights(plan: Plan, weights: Weights) -> Kernel:
    """Kernel of (): int16, [block][position][`weight_slab`]."""
    packed, channels = _packed(plan, weights), plan.shape.channels
    block_size = plan.positions * plan.weight_slab(channels)
    with function("winograd_weights") as builder:
        source = flat_arg("weights", packed.shape, "int8")
        out = flat_arg("out", (plan.blocks * block_size,), "int16")
        with T.parallel(plan.blocks) as block:
            _transform_weights(plan, source, block, 0, channels, out, block * block_size)
    return Kernel(builder.get(), (packed,), (plan.blocks * block_size,), "int16")


def transformed_windows(plan: Plan) -> Kernel:
    """Kernel of (data): int16, [position][`window_slab`]."""
    count = plan.batches * plan.batch
    slab = plan.window_slab(count)
    with function("winograd_windows") as builder:
        data = flat_arg("data", (plan.shape.in_size,), "uint8")
        out = flat_arg("out", (plan.positions * slab,), "int16")
        with T.parallel(count // plan.tile) as task, T.serial(plan.tile) as i:
            window = T.Bind(task * plan.tile + i)
            _transform_window(plan, data, window, out, window, slab)
    return Kernel(builder.get(), (), (plan.positions * slab,), "int16")


def winograd(plan: Plan, epilogue: Epilogue, weights: Weights, bias: npt.NDArray[np.int32] | None) -> Kernel:
    """The convolution behind what was transformed ahead.

    Args:
        weights: shape (out_channels, 3, 3, channels), for which `fits` holds.
        bias: what the accumulators start from, shape (out_channels,).
    Returns: kernel of (data, transformed weights, operands) or (transformed windows, operands), by `plan.ahead`.
    """
    shape = plan.shape
    out_shape = (shape.batch, shape.out_height, shape.out_width, shape.out_channels)
    emitter = EpilogueEmitter(epilogue, out_shape, plan.isa)
    body = _WeightsAhead(plan) if plan.ahead == "weights" else _WindowsAhead(plan)
    with function("winograd") as builder:
        body.declare_inputs()
        emitter.declare_operands()
        body.declare_constants()
        start = None if bias is None else flat_arg("bias", bias.shape, "int32")
        emitter.declare_constants()
        emitter.declare_output()
        emitter.fill_border()
        body.emit(_Outputs(plan, emitter, start))
    own = () if plan.ahead == "weights" else (_packed(plan, weights),)
    constants = (*own, *(() if bias is None else (bias,)), *emitter.constants)
    return Kernel(builder.get(), constants, emitter.stored_shape, epilogue.out_dtype)


class _WeightsAhead:
    """One task for each batch of windows."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._block_size = plan.positions * plan.weight_slab(plan.shape.channels)
        self._data: Any
        self._weights: Any

    def declare_inputs(self) -> None:
        plan = self._plan
        self._data = flat_arg("data", (plan.shape.in_size,), "uint8")
        self._weights = flat_arg("weights", (plan.blocks * self._block_size,), "int16")

    def declare_constants(self) -> None:
        pass

    def emit(self, outputs: _Outputs) -> None:
        plan = self._plan
        slab = plan.window_slab(plan.batch)
        with T.parallel(plan.batches) as task:
            windows = T.alloc_buffer((plan.positions * slab,), "int16")
            totals = T.alloc_buffer((plan.batch * plan.positions * plan.block,), "int32")
            with T.serial(plan.batch) as i:
                _transform_window(plan, self._data, T.Bind(task * plan.batch + i), windows, i, slab)
            with T.serial(plan.blocks) as block:
                start = T.Bind(block * self._block_size)
                _multiply(plan, windows, 0, slab, self._weights, start, plan.shape.channels, totals, False)
                outputs.emit(totals, task, block)


class _WindowsAhead:
    """One task for each block of output channels."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._slab = plan.window_slab(plan.batches * plan.batch)
        self._windows: Any
        self._weights: Any

    def declare_inputs(self) -> None:
        self._windows = flat_arg("windows", (self._plan.positions * self._slab,), "int16")

    def declare_constants(self) -> None:
        plan = self._plan
        self._weights = flat_arg("weights", (plan.blocks * 9 * plan.shape.channels * plan.block,), "int8")

    def emit(self, outputs: _Outputs) -> None:
        plan, chunks = self._plan, self._plan.shape.channels // self._plan.chunk
        size = plan.batch * plan.positions * plan.block
        with T.parallel(plan.blocks) as block:
            multipliers = T.alloc_buffer((plan.positions * plan.weight_slab(plan.chunk),), "int16")
            totals = T.alloc_buffer((size,), "int32")
            with T.serial(plan.batches) as batch:
                if chunks > 1:
                    lanes = plan.isa.lanes
                    with T.serial(size // lanes) as i:
                        T.buffer_store(totals, splat(T.int32(0), lanes), [span(i * lanes, lanes)])
                with T.serial(chunks) as chunk:
                    channel = T.Bind(chunk * plan.chunk)
                    _transform_weights(plan, self._weights, block, channel, plan.chunk, multipliers, 0)
                    first = T.Bind(batch * (plan.batch * plan.shape.channels) + channel)
                    _multiply(plan, self._windows, first, self._slab, multipliers, 0, plan.chunk, totals, chunks > 1)
                outputs.emit(totals, batch, block)


def _packed(plan: Plan, weights: Weights) -> Weights:
    """[block][pair of channels][row][column][output channel][2]; flat."""
    shape = plan.shape
    grouped = weights.reshape(plan.blocks, plan.block, 3, 3, shape.channels // 2, 2)
    return np.ascontiguousarray(grouped.transpose(0, 4, 2, 3, 1, 5)).reshape(-1)


def _transform_columns(
    line: Line, sizes: tuple[int, int], lanes: int, dtype: str, load: Callable[[Index, Index], Vector]
) -> Callable[[Index], list[Vector]]:
    """A one-dimensional transform of the columns of a square of vectors; a loop, since code for all takes long to make.

    Args:
        sizes: of a column before and after.
        load: vector at (row, column).
    Returns: what gives a row of the result.
    """
    before, after = sizes
    scratch = T.alloc_buffer((after * before * lanes,), dtype)
    with T.serial(before) as j:
        for i, value in enumerate(line([T.Bind(load(i, j)) for i in range(before)])):
            T.buffer_store(scratch, value, [span((i * before + j) * lanes, lanes)])

    def row(i: Index) -> list[Vector]:
        return [T.Bind(scratch.vload([(i * before + j) * lanes], vector(dtype, lanes))) for j in range(before)]

    return row


def _transform_weights(
    plan: Plan, source: Any, block: Index, channel: Index, channels: int, out: Any, start: Index
) -> None:
    """So many channels of one block of output channels, from `channel` on, to out[start:]."""
    lines, lanes, run = plan.lines, 2 * plan.isa.lanes, 2 * plan.block
    slab = plan.weight_slab(channels)
    base = T.Bind((block * (plan.shape.channels // 2) + channel // 2) * (9 * run))
    with T.serial(channels // 2) as pair, T.serial(run // lanes) as part:
        first = T.Bind(base + pair * (9 * run) + part * lanes)

        def load(row: Index, column: Index) -> Vector:
            values = source.vload([first + (3 * row + column) * run], vector("int8", lanes))
            return T.Cast(vector("int16", lanes), values)

        rows = _transform_columns(lines.weights, (3, lines.window), lanes, "int16", load)
        target = T.Bind(start + pair * run + part * lanes)
        with T.serial(lines.window) as i:
            for j, value in enumerate(lines.weights(rows(i))):
                T.buffer_store(out, value, [span(target + (i * lines.window + j) * slab, lanes)])


def _corner(plan: Plan, window: Index) -> tuple[Index, Index, Index]:
    """(image, row, column) of a window's first output; the last ones overlap their neighbours rather than run over."""
    rows, columns = plan.grid
    shape, outputs = plan.shape, plan.lines.outputs
    window = T.Bind(T.min(window, plan.windows - 1))
    image = tirx.floordiv(window, rows * columns) if shape.batch > 1 else 0
    row = tirx.floormod(tirx.floordiv(window, columns), rows) * outputs
    column = tirx.floormod(window, columns) * outputs
    return image, T.Bind(T.min(row, shape.out_height - outputs)), T.Bind(T.min(column, shape.out_width - outputs))


def _transform_window(plan: Plan, data: Any, window: Index, out: Any, place: Index, slab: int) -> None:
    """All channels of one window, to out[position][place]."""
    shape, lanes, size = plan.shape, 2 * plan.isa.lanes, plan.lines.window
    image, row, column = _corner(plan, window)
    origin = T.Bind(((image * shape.height + row) * shape.width + column) * shape.channels)
    with T.serial(shape.channels // lanes) as part:

        def load(i: Index, j: Index) -> Vector:
            at = origin + (i * shape.width + j) * shape.channels + part * lanes
            return T.Cast(vector("int16", lanes), data.vload([at], vector("uint8", lanes)))

        rows = _transform_columns(plan.lines.inputs, (size, size), lanes, "int16", load)
        target = T.Bind(place * shape.channels + part * lanes)
        with T.serial(size) as i:
            for j, value in enumerate(plan.lines.inputs(rows(i))):
                T.buffer_store(out, value, [span(target + (i * size + j) * slab, lanes)])


def _multiply(
    plan: Plan,
    windows: Any,
    first: Index,
    slab: int,
    weights: Any,
    start: Index,
    channels: int,
    totals: Any,
    accumulate: bool,
) -> None:
    """Sums over so many channels, for one batch of windows and one block: totals[window][position][output channel].

    Args:
        first: in windows[position], the first window's first channel; slab: elements of a position there.
        start: of the block's transformed weights.
        accumulate: add to the totals rather than set them.
    """
    lanes, block, wide = plan.isa.lanes, plan.block, vector("int16", 2 * plan.isa.lanes)
    total = vector("int32", lanes)
    tile = [(i, j) for i in range(plan.tile) for j in range(VECTORS)]
    with T.serial(plan.positions) as position, T.serial(plan.batch // plan.tile) as group:
        place = T.Bind((group * (plan.tile * plan.positions) + position) * block)
        places = [place + i * (plan.positions * block) + j * lanes for i, j in tile]
        acc = Registers(len(tile), lanes, "int32")
        for k, at in enumerate(places):
            acc[k] = totals.vload([at], total) if accumulate else splat(T.int32(0), lanes)
        data = T.Bind(first + position * slab + group * (plan.tile * plan.shape.channels))
        weight = T.Bind(start + position * plan.weight_slab(channels))
        with T.serial(channels // 2) as pair:
            starts = [weight + pair * (2 * block) + j * (2 * lanes) for j in range(VECTORS)]
            columns = [T.Bind(weights.vload([at], wide)) for at in starts]
            for i in range(plan.tile):
                both = windows.vload([data + i * plan.shape.channels + pair * 2], "int16x2")
                x = T.Bind(spread(both, wide, lanes))
                for j, column in enumerate(columns):
                    k = i * VECTORS + j
                    acc[k] = wrapping_add(acc[k], dot2_products(plan.isa, x, column))
        for k, at in enumerate(places):
            T.buffer_store(totals, acc[k], [span(at, lanes)])


@dataclass(frozen=True, eq=False)
class _Outputs:
    """From totals to stored outputs."""

    plan: Plan
    emitter: EpilogueEmitter
    start: Any

    def emit(self, totals: Any, batch: Index, block: Index) -> None:
        """Of one batch of windows and one block of output channels."""
        plan, shape, lines, lanes = self.plan, self.plan.shape, self.plan.lines, self.plan.isa.lanes
        kind = vector("int32", lanes)
        with T.serial(plan.batch) as i, T.serial(VECTORS) as vector_index:
            image, top, left = _corner(plan, batch * plan.batch + i)
            channel = T.Bind(block * plan.block + vector_index * lanes)
            first = T.Bind(i * (plan.positions * plan.block) + vector_index * lanes)

            def load(row: Index, column: Index) -> Vector:
                return totals.vload([first + (row * lines.window + column) * plan.block], kind)

            rows = _transform_columns(lines.totals, (lines.window, lines.outputs), lanes, "int32", load)
            corner = T.Bind((image * shape.out_height + top) * shape.out_width + left)
            with T.serial(lines.outputs) as y:
                values = [self._accumulator(total, channel) for total in lines.totals(rows(y))]
                pixels = self.emitter.neighbours(T.Bind(corner + y * shape.out_width), len(values))
                self.emitter.store_tile([(pixel, channel, value) for pixel, value in zip(pixels, values, strict=True)])

    def _accumulator(self, total: Vector, channel: Index) -> Vector:
        """What a direct convolution would have accumulated, as float32."""
        lines, lanes = self.plan.lines, self.plan.isa.lanes
        if lines.odd != 1:
            inverse = pow(lines.odd**2, -1, 2**32)
            total = wrapping_multiply(total, splat(T.int32(inverse - 2**32 * (inverse >> 31)), lanes))
        value = total >> splat(T.int32(2 * lines.shift), lanes)
        if self.start is not None:
            value = value + self.start.vload([channel], vector("int32", lanes))
        return T.Cast(vector("float32", lanes), value)
