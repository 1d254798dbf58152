"""Softmax and normalizations: float32 inside, integers or float32 outside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from drpai_qat.kernels.emit import exp, natural_log
from drpai_qat.kernels.epilogue import Epilogue, EpilogueEmitter, Kernel, flat_arg
from drpai_qat.kernels.isa import Isa, Vector, span, splat, vector
from drpai_qat.kernels.loops import Index, Registers, fold, function, sweep, tasks

_REGISTERS = 4


@dataclass(frozen=True, eq=False)
class _Input:
    """Stored numbers as float32, less `zero`: means round differently about another origin, as int8 has on Arm."""

    data: Any
    dtype: str
    zero: Any = None

    def load(self, at: Index, lanes: int) -> Vector:
        """`lanes` neighbouring numbers from `at`."""
        value = T.Cast(vector("float32", lanes), self.data.vload([at], vector(self.dtype, lanes)))
        return value if self.zero is None else value - splat(self.zero, lanes)


def softmax(
    outer: int,
    size: int,
    inner: int,
    in_dtype: str,
    scale: float,
    zero_point: int,
    epilogue: Epilogue,
    isa: Isa,
    log: bool = False,
) -> Kernel:
    """Softmax over the middle of three dims.

        acc[o, a, i] = exp(r[o, a, i]) / sum over a of exp(r[o, a, i]),   r = scale * (in - zero_point)

    The zero point drops out: the largest number of each row is subtracted first.

    Args:
        in_dtype: uint8, int8, int16, uint16 or float32 (scale 1, zero point 0).
        log: acc is the logarithm of the probability.
    Returns: kernel of (data); output (outer, size, inner), or (outer, size) where inner is 1.
    """
    shape = (outer, size) if inner == 1 else (outer, size, inner)
    emitter = EpilogueEmitter(epilogue, shape, isa)
    with function("softmax") as builder:
        source = _Input(flat_arg("data", (outer, size, inner), in_dtype), in_dtype)
        emitter.declare_operands()
        numbers = flat_arg("numbers", (1,), "float32")
        emitter.declare_constants()
        emitter.declare_output()
        with tasks(outer, outer * size * inner * 8) as row:
            base = T.Bind(row * (size * inner))
            if inner == 1:
                _softmax_row(emitter, source, numbers[0], base, row, size, log)
            else:

                def body(starts: list[Index], lanes: int) -> None:
                    _softmax_columns(emitter, source, numbers[0], base, row, (size, inner), starts[0], lanes, log)

                sweep(inner, isa.lanes, body)
    constants = (np.asarray([scale], np.float32), *emitter.constants)
    return Kernel(builder.get(), constants, shape, epilogue.out_dtype, epilogue.more_dtypes)


def _softmax_row(
    emitter: EpilogueEmitter, source: _Input, scale: Any, base: Index, row: Index, size: int, log: bool
) -> None:
    """One contiguous row: largest, exponentials into a scratch row with their sum, then the quotients."""
    isa = emitter.isa
    largest = fold(size, isa.lanes, "float32", lambda i, lanes: source.load(base + i, lanes), T.max)
    scratch = T.alloc_buffer((size,), "float32")

    def exponential(i: Index, lanes: int) -> Vector:
        shifted = T.Bind((source.load(base + i, lanes) - splat(largest, lanes)) * splat(scale, lanes))
        value = T.Bind(exp(isa, shifted, lanes))
        T.buffer_store(scratch, shifted if log else value, [span(i, lanes)])
        return value

    total = fold(size, isa.lanes, "float32", exponential, lambda x, y: x + y)
    factor = T.Bind(natural_log(total, 1) if log else T.float32(1) / total)

    def body(starts: list[Index], lanes: int) -> None:
        values = [scratch.vload([start], vector("float32", lanes)) for start in starts]
        wide = splat(factor, lanes)
        emitter.store_vectors(row, starts, [x - wide if log else x * wide for x in values], lanes)

    sweep(size, isa.lanes, body, _REGISTERS)


def _softmax_columns(
    emitter: EpilogueEmitter,
    source: _Input,
    scale: Any,
    base: Index,
    row: Index,
    dims: tuple[int, int],
    start: Index,
    lanes: int,
    log: bool,
) -> None:
    """`lanes` neighbouring columns at once."""
    size, inner = dims
    state = Registers(2, lanes, "float32")

    def load(a: Index) -> Vector:
        return source.load(base + a * inner + start, lanes)

    state[0] = load(0)
    with T.serial(size - 1) as a:
        state[0] = T.max(state[0], load(a + 1))
    largest = T.Bind(state[0])
    state[1] = splat(T.float32(0), lanes)
    with T.serial(size) as a:
        state[1] = state[1] + exp(emitter.isa, (load(a) - largest) * splat(scale, lanes), lanes)
    factor = T.Bind(natural_log(state[1], lanes) if log else splat(T.float32(1), lanes) / state[1])
    with T.serial(size) as a:
        shifted = T.Bind((load(a) - largest) * splat(scale, lanes))
        value = shifted - factor if log else exp(emitter.isa, shifted, lanes) * factor
        emitter.store(emitter.row(row * size + a), start, value, lanes)


def layer_norm(
    rows: int,
    size: int,
    epsilon: float,
    in_dtype: str,
    scale: float,
    zero_point: int,
    epilogue: Epilogue,
    isa: Isa,
) -> Kernel:
    """Normalize each row to mean 0 and variance 1; gamma and beta are the epilogue's affine step.

        acc[r, c] = (x[r, c] - mean_r) / sqrt(variance_r + epsilon),   x = scale * (in - zero_point)

    Args:
        in_dtype: uint8, int8, int16, uint16 or float32 (scale 1, zero point 0).
    Returns: kernel of (data); output (rows, size).
    """
    emitter = EpilogueEmitter(epilogue, (rows, size), isa)
    with function("layer_norm") as builder:
        data = flat_arg("data", (rows, size), in_dtype)
        emitter.declare_operands()
        numbers = flat_arg("numbers", (3,), "float32")
        source = _Input(data, in_dtype, numbers[2] if zero_point else None)
        emitter.declare_constants()
        emitter.declare_output()
        with tasks(rows, rows * size * 4) as row:
            base = T.Bind(row * size)
            total = fold(size, isa.lanes, "float32", lambda i, n: source.load(base + i, n), lambda x, y: x + y)
            mean = T.Bind(total * numbers[1])

            def square(i: Index, lanes: int) -> Vector:
                x = T.Bind(source.load(base + i, lanes) - splat(mean, lanes))
                return x * x

            squares = fold(size, isa.lanes, "float32", square, lambda x, y: x + y)
            factor = T.Bind(T.float32(1) / tirx.op.sqrt(squares * numbers[1] + numbers[0]))

            def body(starts: list[Index], lanes: int) -> None:
                wide, centre = splat(factor, lanes), splat(mean, lanes)
                values = [(source.load(base + start, lanes) - centre) * wide for start in starts]
                emitter.store_vectors(row, starts, values, lanes)

            sweep(size, isa.lanes, body, _REGISTERS)
    # variance(x) = scale^2 * variance(in): normalize the raw numbers with epsilon / scale^2.
    constants = (np.asarray([epsilon / scale**2, 1.0 / size, zero_point], np.float32), *emitter.constants)
    return Kernel(builder.get(), constants, (rows, size), epilogue.out_dtype, epilogue.more_dtypes)


def group_norm(
    batch: int,
    positions: int,
    groups: int,
    width: int,
    epsilon: float,
    in_dtype: str,
    scale: float,
    zero_point: int,
    epilogue: Epilogue,
    isa: Isa,
) -> Kernel:
    """Normalize each group of `width` neighbouring channels over all positions of a channels-last image.

        acc[n, p, g, c] = (x[n, p, g, c] - mean_ng) / sqrt(variance_ng + epsilon),   x = scale * (in - zero_point)

    width 1 is InstanceNormalization.

    Args: as in `layer_norm`.
    Returns: kernel of (data); output (batch, positions, groups * width).
    """
    channels = groups * width
    emitter = EpilogueEmitter(epilogue, (batch, positions, channels), isa)
    tile = width if width > 1 else min(channels, isa.lanes * _REGISTERS)
    tiles = -(-channels // tile)
    with function("group_norm") as builder:
        data = flat_arg("data", (batch, positions, channels), in_dtype)
        emitter.declare_operands()
        numbers = flat_arg("numbers", (3,), "float32")
        source = _Input(data, in_dtype, numbers[2] if zero_point else None)
        emitter.declare_constants()
        emitter.declare_output()
        with tasks(batch * tiles, batch * positions * channels * 4) as task:
            image, index = tirx.floordiv(task, tiles), tirx.floormod(task, tiles)
            first = T.Bind(T.min(index * tile, channels - tile))
            moments = _Moments(
                isa, source, numbers, T.Bind(image * positions * channels + first), positions, channels, width
            )
            mean, factor = T.alloc_buffer((tile,), "float32"), T.alloc_buffer((tile,), "float32")
            moments.means(mean, tile)
            moments.factors(mean, factor, tile)
            with T.serial(positions) as p:
                row = T.Bind(image * positions + p)

                def body(starts: list[Index], lanes: int) -> None:
                    kind, values = vector("float32", lanes), []
                    for start in starts:
                        x = source.load(row * channels + first + start, lanes) - mean.vload([start], kind)
                        values.append(x * factor.vload([start], kind))
                    emitter.store_vectors(row, [first + start for start in starts], values, lanes)

                sweep(tile, isa.lanes, body, _REGISTERS)
    numbers_used = [epsilon / scale**2, 1.0 / (positions * width), zero_point]
    constants = (np.asarray(numbers_used, np.float32), *emitter.constants)
    return Kernel(builder.get(), constants, (batch, positions, channels), epilogue.out_dtype, epilogue.more_dtypes)


@dataclass(frozen=True, eq=False)
class _Moments:
    """Mean and 1 / standard deviation of one tile of channels, per channel or (width > 1) of the tile as a whole."""

    isa: Isa
    source: _Input
    numbers: Any
    base: Index
    positions: int
    channels: int
    width: int

    def means(self, mean: Any, tile: int) -> None:
        """mean[c] of all channels of the tile."""
        self._sums(mean, tile, lambda x, start, lanes: x)
        self._spread(mean, tile, lambda total, lanes: total * splat(self.numbers[1], lanes))

    def factors(self, mean: Any, factor: Any, tile: int) -> None:
        """factor[c] = 1 / sqrt(variance + epsilon)."""

        def square(x: Vector, start: Index, lanes: int) -> Vector:
            distance = T.Bind(x - mean.vload([start], vector("float32", lanes)))
            return distance * distance

        def inverse(total: Vector, lanes: int) -> Vector:
            variance = total * splat(self.numbers[1], lanes) + splat(self.numbers[0], lanes)
            return splat(T.float32(1), lanes) / tirx.op.sqrt(variance)

        self._sums(factor, tile, square)
        self._spread(factor, tile, inverse)

    def _sums(self, out: Any, tile: int, value: Any) -> None:
        def body(starts: list[Index], lanes: int) -> None:
            sums = Registers(len(starts), lanes, "float32")
            for j in range(len(starts)):
                sums[j] = splat(T.float32(0), lanes)
            with T.serial(self.positions) as p:
                for j, start in enumerate(starts):
                    x = T.Bind(self.source.load(self.base + p * self.channels + start, lanes))
                    sums[j] = sums[j] + value(x, start, lanes)
            for j, start in enumerate(starts):
                T.buffer_store(out, sums[j], [span(start, lanes)])

        sweep(tile, self.isa.lanes, body, _REGISTERS)

    def _spread(self, values: Any, tile: int, change: Any) -> None:
        """Replace sums by means; a group's own sum first where a tile is a group."""
        if self.width > 1:
            add = lambda x, y: x + y  # noqa: E731
            total = fold(tile, self.isa.lanes, "float32", lambda i, n: values.vload([i], vector("float32", n)), add)
            result = T.Bind(change(total, 1))

        def body(starts: list[Index], lanes: int) -> None:
            for start in starts:
                if self.width > 1:
                    value = splat(result, lanes)
                else:
                    value = change(values.vload([start], vector("float32", lanes)), lanes)
                T.buffer_store(values, value, [span(start, lanes)])

        # Full vectors may overlap at the end, and this reads what it writes: one element at a time there.
        _each_once(tile, self.isa.lanes, body)


def _each_once(count: int, lanes: int, body: Any) -> None:
    with T.serial(count // lanes) as i:
        body([i * lanes], lanes)
    with T.serial(count % lanes) as i:
        body([count // lanes * lanes + i], 1)
