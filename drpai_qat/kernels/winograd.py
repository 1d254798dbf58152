"""3x3 convolutions of stride 1 by Winograd's F(2x2, 3x3) and F(4x4, 3x3): fewer products, the same integers.

    k y = A' [ (G w G') * (B' d B) ] A        * elementwise, summed over the input channels; ' transposes

d is a window of 4x4 or 6x6 inputs, y the 2x2 or 4x4 outputs it gives, w the weights of one channel. 16 products replace
36, or 36 replace 144; they are int16 (`winograd_lines.py` holds the matrices), vpmaddwd's operands. All that follows
them is linear and so exact modulo 2**32. k is a power of two times an odd number, and odd numbers have inverses there:
the outputs come out exactly, however the sums before them wrap, provided they fit the bits that k leaves (`fits`).

int16 activations are too large for that, so their two bytes are multiplied one by one: a high plane of -128..127 and a
low one of 0..255, which need not share k's bits, since 256 times the high plane's outputs need fewer than k took.
Several inputs with the same weights, each with a scale of its own, are planes as well (`graph/parts.py`): their
outputs are added as float32.

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

from drpai_qat.kernels import expr as E
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
from drpai_qat.kernels.winograd_plan import BYTE, VECTORS, WinogradPlan

Weights = npt.NDArray[np.int8]


def transformed_weights(plan: WinogradPlan, weights: Weights) -> Kernel:
    """Kernel of (): int16, [block][position][`weight_slab`]."""
    packed, channels = _packed(plan, weights), plan.shape.channels
    block_size = plan.positions * plan.weight_slab(channels)
    with function("winograd_weights") as builder:
        source = flat_arg("weights", packed.shape, "int8")
        out = flat_arg("out", (plan.blocks * block_size,), "int16")
        with T.parallel(plan.blocks) as block:
            _transform_weights(plan, source, block, 0, channels, out, block * block_size)
    return Kernel(builder.get(), (packed,), (plan.blocks * block_size,), "int16")


def transformed_windows(plan: WinogradPlan) -> Kernel:
    """Kernel of (data of each input): int16, [plane][position][`window_slab`]."""
    count = plan.batches * plan.batch
    slab = plan.window_slab(count)
    size = plan.planes * plan.positions * slab
    with function("winograd_windows") as builder:
        data = _declare_data(plan)
        out = flat_arg("out", (size,), "int16")
        with T.parallel(count // plan.tile) as task, T.serial(plan.tile) as i:
            window = T.Bind(task * plan.tile + i)
            _transform_window(plan, data, window, out, window, slab)
    return Kernel(builder.get(), (), (size,), "int16")


def winograd(
    plan: WinogradPlan,
    epilogue: Epilogue,
    weights: Weights,
    bias: npt.NDArray[np.int32] | None,
    ratios: npt.NDArray[np.float32] | None = None,
) -> Kernel:
    """The convolution that follows the transform made ahead.

    Args:
        weights: shape (out_channels, 3, 3, channels), for which `fits` holds.
        bias: start values of the accumulators, shape (out_channels,); of several inputs (inputs, out_channels).
        ratios: of several inputs, real value of one accumulator step as a multiple of the first one's.
    Returns: kernel of (data of each input, transformed weights, operands) or (transformed windows, operands), by
        `plan.ahead`.
    """
    shape = plan.shape
    out_shape = (shape.batch, shape.out_height, shape.out_width, shape.out_channels)
    largest = E.INT32 * (1.0 if ratios is None else float(ratios.sum()))
    emitter = EpilogueEmitter(epilogue, out_shape, plan.isa, largest)
    body = _WeightsAhead(plan) if plan.ahead == "weights" else _WindowsAhead(plan)
    with function("winograd") as builder:
        body.declare_inputs()
        emitter.declare_operands()
        body.declare_constants()
        start = None if bias is None else flat_arg("bias", bias.shape, "int32")
        scales = None if ratios is None else flat_arg("ratios", ratios.shape, "float32")
        emitter.declare_constants()
        emitter.declare_output()
        emitter.fill_border()
        body.emit(_Outputs(plan, emitter, start, scales))
    own = () if plan.ahead == "weights" else (_packed(plan, weights),)
    numbers = [values.reshape(-1) for values in (bias, ratios) if values is not None]
    constants = (*own, *numbers, *emitter.constants)
    return Kernel(builder.get(), constants, emitter.stored_shape, epilogue.out_dtype, epilogue.more_dtypes)


class _WeightsAhead:
    """One task for each batch of windows."""

    def __init__(self, plan: WinogradPlan) -> None:
        self._plan = plan
        self._block_size = plan.positions * plan.weight_slab(plan.shape.channels)
        self._data: list[Any] = []
        self._weights: Any

    def declare_inputs(self) -> None:
        plan = self._plan
        self._data = _declare_data(plan)
        self._weights = flat_arg("weights", (plan.blocks * self._block_size,), "int16")

    def declare_constants(self) -> None:
        pass

    def emit(self, outputs: _Outputs) -> None:
        plan = self._plan
        slab = plan.window_slab(plan.batch)
        with T.parallel(plan.batches) as task:
            windows = T.alloc_buffer((plan.planes * plan.positions * slab,), "int16")
            totals = T.alloc_buffer((_totals_size(plan),), "int32")
            with T.serial(plan.batch) as i:
                _transform_window(plan, self._data, T.Bind(task * plan.batch + i), windows, i, slab)
            with T.serial(plan.blocks) as block:
                start = T.Bind(block * self._block_size)
                _multiply(plan, windows, 0, slab, self._weights, start, plan.shape.channels, totals, False)
                outputs.emit(totals, task, block)


class _WindowsAhead:
    """One task for each block of output channels."""

    def __init__(self, plan: WinogradPlan) -> None:
        self._plan = plan
        self._slab = plan.window_slab(plan.batches * plan.batch)
        self._windows: Any
        self._weights: Any

    def declare_inputs(self) -> None:
        self._windows = flat_arg("windows", (self._plan.planes * self._plan.positions * self._slab,), "int16")

    def declare_constants(self) -> None:
        plan = self._plan
        self._weights = flat_arg("weights", (plan.blocks * 9 * plan.shape.channels * plan.block,), "int8")

    def emit(self, outputs: _Outputs) -> None:
        plan, chunks = self._plan, self._plan.shape.channels // self._plan.chunk
        size = _totals_size(plan)
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


def _declare_data(plan: WinogradPlan) -> list[Any]:
    names = [f"data{i}" if i else "data" for i in range(plan.inputs)]
    return [flat_arg(name, (plan.shape.in_size,), plan.dtype) for name in names]


def _totals_size(plan: WinogradPlan) -> int:
    """Elements of [plane][window][position][output channel], for one batch of windows and one block."""
    return plan.planes * plan.batch * plan.positions * plan.block


def _packed(plan: WinogradPlan, weights: Weights) -> Weights:
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
    Returns: function that gives a row of the result.
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
    plan: WinogradPlan, source: Any, block: Index, channel: Index, channels: int, out: Any, start: Index
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


def _corner(plan: WinogradPlan, window: Index) -> tuple[Index, Index, Index]:
    """(image, row, column) of a window's first output; the last ones overlap their neighbours rather than run over."""
    rows, columns = plan.grid
    shape, outputs = plan.shape, plan.lines.outputs
    window = T.Bind(T.min(window, plan.windows - 1))
    image = tirx.floordiv(window, rows * columns) if shape.batch > 1 else 0
    row = tirx.floormod(tirx.floordiv(window, columns), rows) * outputs
    column = tirx.floormod(window, columns) * outputs
    return image, T.Bind(T.min(row, shape.out_height - outputs)), T.Bind(T.min(column, shape.out_width - outputs))


def _transform_window(plan: WinogradPlan, data: list[Any], window: Index, out: Any, place: Index, slab: int) -> None:
    """All channels of one window, to out[plane][position][place]."""
    shape, lanes, size = plan.shape, 2 * plan.isa.lanes, plan.lines.window
    image, row, column = _corner(plan, window)
    origin = T.Bind(((image * shape.height + row) * shape.width + column) * shape.channels)

    def transform(plane: int, channel: Index) -> None:
        def load(i: Index, j: Index) -> Vector:
            at = origin + (i * shape.width + j) * shape.channels + channel
            source = data[plane if plan.inputs > 1 else 0]
            return _of_plane(plane, source.vload([at], vector(plan.dtype, lanes)), lanes)

        rows = _transform_columns(plan.lines.inputs, (size, size), lanes, "int16", load)
        target = T.Bind((plane * (plan.positions * slab) + place * shape.channels) + channel)
        with T.serial(size) as i:
            for j, value in enumerate(plan.lines.inputs(rows(i))):
                T.buffer_store(out, value, [span(target + (i * size + j) * slab, lanes)])

    with T.serial(shape.channels // lanes) as part:
        for plane in range(plan.planes):
            transform(plane, part * lanes)


def _of_plane(plane: int, activations: Vector, lanes: int) -> Vector:
    """As int16; of int16 activations their high bytes (plane 0) or their low ones (1)."""
    if activations.ty.dtype.bits == 8:
        return T.Cast(vector("int16", lanes), activations)
    return activations >> splat(T.int16(8), lanes) if plane == 0 else activations & splat(T.int16(BYTE), lanes)


def _multiply(
    plan: WinogradPlan,
    windows: Any,
    first: Index,
    slab: int,
    weights: Any,
    start: Index,
    channels: int,
    totals: Any,
    accumulate: bool,
) -> None:
    """Sums over so many channels, for one batch of windows and one block, to totals (`_totals_size`).

    Args:
        first: in windows[plane][position], the first window's first channel; slab: elements of a position there.
        start: of the block's transformed weights.
        accumulate: add to the totals rather than set them.
    """
    lanes, block, wide = plan.isa.lanes, plan.block, vector("int16", 2 * plan.isa.lanes)
    total = vector("int32", lanes)
    tile = [(i, j) for i in range(plan.tile) for j in range(VECTORS)]
    groups = plan.batch // plan.tile
    # A position's weights serve both planes while they are in the cache.
    with T.serial(plan.positions) as position, T.serial(plan.planes * groups) as index:
        plane, group = (0, index) if plan.planes == 1 else (tirx.floordiv(index, groups), tirx.floormod(index, groups))
        place = T.Bind((index * (plan.tile * plan.positions) + position) * block)
        places = [place + i * (plan.positions * block) + j * lanes for i, j in tile]
        acc = Registers(len(tile), lanes, "int32")
        for k, at in enumerate(places):
            acc[k] = totals.vload([at], total) if accumulate else splat(T.int32(0), lanes)
        data = T.Bind(first + (plane * plan.positions + position) * slab + group * (plan.tile * plan.shape.channels))
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

    plan: WinogradPlan
    emitter: EpilogueEmitter
    start: Any
    ratios: Any

    def emit(self, totals: Any, batch: Index, block: Index) -> None:
        """Of one batch of windows and one block of output channels."""
        plan, shape, lines, lanes = self.plan, self.plan.shape, self.plan.lines, self.plan.isa.lanes
        kind = vector("int32", lanes)
        with T.serial(plan.batch) as i, T.serial(VECTORS) as vector_index:
            image, top, left = _corner(plan, batch * plan.batch + i)
            channel = T.Bind(block * plan.block + vector_index * lanes)

            def rows(plane: int) -> Callable[[Index], list[Vector]]:
                window = plane * plan.batch + i
                first = T.Bind(window * (plan.positions * plan.block) + vector_index * lanes)

                def load(row: Index, column: Index) -> Vector:
                    return totals.vload([first + (row * lines.window + column) * plan.block], kind)

                return _transform_columns(lines.totals, (lines.window, lines.outputs), lanes, "int32", load)

            planes = [rows(plane) for plane in range(plan.planes)]
            corner = T.Bind((image * shape.out_height + top) * shape.out_width + left)
            with T.serial(lines.outputs) as y:
                totals_of_row = zip(*(lines.totals(row(y)) for row in planes), strict=True)
                values = [self._accumulator(of_planes, channel) for of_planes in totals_of_row]
                pixels = self.emitter.neighbours(T.Bind(corner + y * shape.out_width), len(values))
                self.emitter.store_tile([(pixel, channel, value) for pixel, value in zip(pixels, values, strict=True)])

    def _accumulator(self, totals: tuple[Vector, ...], channel: Index) -> Vector:
        """The accumulators of a direct convolution, as float32 in steps of the first input; from each plane's total."""
        lines, lanes = self.plan.lines, self.plan.isa.lanes
        if lines.odd != 1:
            inverse = pow(lines.odd**2, -1, 2**32)
            factor = splat(T.int32(inverse - 2**32 * (inverse >> 31)), lanes)
            totals = tuple(wrapping_multiply(total, factor) for total in totals)
        shift = 2 * lines.shift
        if self.plan.bytes_of_int16:
            high, low = totals
            value = low >> splat(T.int32(shift), lanes)
            values = [wrapping_add(value, high << splat(T.int32(8 - shift), lanes))]
        else:
            values = [total >> splat(T.int32(shift), lanes) for total in totals]
        result = None
        for i, value in enumerate(values):
            if self.start is not None:
                at = i * self.plan.shape.out_channels + channel
                value = wrapping_add(value, self.start.vload([at], vector("int32", lanes)))
            real = T.Cast(vector("float32", lanes), value)
            result = real if result is None else result + real * splat(self.ratios[i], lanes)
        return result
