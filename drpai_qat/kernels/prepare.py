"""Bring an activation into the form the products read: padded with the zero point, channels padded, perhaps widened."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from drpai_qat.kernels.epilogue import Kernel, flat_arg
from drpai_qat.kernels.isa import Isa, Vector, span, splat, vector
from drpai_qat.kernels.loops import BYTES, Index, byte_lanes, function, sweep, tasks

_REGISTERS = 4


def prepare(
    shape: tuple[int, int, int, int],
    pads: tuple[int, int, int, int],
    groups: int,
    pad_channels_to: int,
    in_dtype: str,
    out_dtype: str,
    subtract: int,
    fill: float,
    isa: Isa,
    extra_rows: int = 0,
) -> Kernel:
    """Pad and convert a channels-last tensor in one pass.

        out[n, y + top, x + left, g, c] = convert(in[n, y, x, g, c]);   `fill` everywhere else

    Conversions: equal dtypes copy; int8 to uint8 adds 128, uint8 to int8 takes 128 off; 8 bits to int16 or float32
    subtracts `subtract` (the zero point); int16 to float32 likewise.

    Args:
        shape: (N, H, W, C) as stored, C = groups * channels of one group.
        pads: top, left, bottom, right.
        pad_channels_to: channels of one group in the output.
        fill: in units of the output: the zero point; 0 for centred values and for float32.
        extra_rows: rows of `fill` below the bottom padding.
    Returns: kernel of (data); out_shape (N, H + top + bottom + extra_rows, W + left + right, groups * pad_channels_to).
    """
    batch, height, width, channels = shape
    top, left, bottom, right = pads
    rows, columns, pixel = height + top + bottom + extra_rows, width + left + right, groups * pad_channels_to
    out_shape = (batch, rows, columns, pixel)
    number = "float32" if out_dtype == "float32" else "int32"
    per_group = channels // groups
    with function("prepare") as builder:
        data = flat_arg("data", shape, in_dtype)
        numbers = flat_arg("numbers", (3,), number)
        out = flat_arg("out", out_shape, out_dtype)
        copy = _Copy(isa, data, out, numbers, in_dtype, out_dtype)
        with tasks(batch * rows, math.prod(out_shape)) as task:
            image, row = tirx.floordiv(task, rows), tirx.floormod(task, rows)
            base = T.Bind(task * (columns * pixel))
            source = T.Bind((image * height + row - top) * (width * channels))
            with T.If(tirx.all(row >= top, row < top + height)):
                with T.Then():
                    copy.blank(base, left * pixel)
                    copy.groups(source, base + left * pixel, width * groups, per_group, pad_channels_to)
                    copy.blank(base + (left + width) * pixel, right * pixel)
                with T.Else():
                    copy.blank(base, columns * pixel)
    constant = np.asarray([subtract, fill, _fill_as_stored(fill, subtract, in_dtype, out_dtype)], number)
    return Kernel(builder.get(), (constant,), out_shape, out_dtype)


def _fill_as_stored(fill: float, subtract: int, in_dtype: str, out_dtype: str) -> float:
    """The stored value that converts to `fill`, or the nearest to it that the input's dtype has."""
    if in_dtype == "float32":
        return fill
    shift = {("int8", "uint8"): -128, ("uint8", "int8"): 128}.get((in_dtype, out_dtype), subtract)
    stored = fill if in_dtype == out_dtype else fill + shift
    return float(np.clip(stored, np.iinfo(in_dtype).min, np.iinfo(in_dtype).max))


@dataclass(frozen=True, eq=False)
class _Copy:
    """Runs of elements from the input to the output."""

    isa: Isa
    data: Any
    out: Any
    numbers: Any
    in_dtype: str
    out_dtype: str

    def groups(self, source: Index, target: Index, count: int, size: int, padded: int) -> None:
        """Copy `count` neighbouring groups of `size` elements, each padded to `padded` with the fill."""
        lanes = byte_lanes(self.isa, self.out_dtype)
        per_vector = lanes // padded
        if size == padded:
            self.run(source, target, count * size)
        elif lanes % padded == 0 and per_vector > 1 and count * size >= lanes and count >= per_vector:
            self._spread(source, target, count, size, padded, per_vector)
        else:
            with T.serial(count) as i:
                at = T.Bind(target + i * padded)
                self.run(source + i * size, at, size)
                self.blank(at + size, padded - size)

    def run(self, source: Index, target: Index, count: int) -> None:
        """Copy and convert `count` elements."""

        def body(starts: list[Index], lanes: int) -> None:
            for start in starts:
                value = self.data.vload([source + start], vector(self.in_dtype, lanes))
                T.buffer_store(self.out, self._convert(value, lanes), [span(target + start, lanes)])

        sweep(count, byte_lanes(self.isa, self.out_dtype), body, _REGISTERS)

    def blank(self, target: Index, count: int) -> None:
        """Write the fill."""

        def body(starts: list[Index], lanes: int) -> None:
            for start in starts:
                T.buffer_store(
                    self.out, splat(T.Cast(self.out_dtype, self.numbers[1]), lanes), [span(target + start, lanes)]
                )

        sweep(count, byte_lanes(self.isa, self.out_dtype), body, _REGISTERS)

    def _spread(self, source: Index, target: Index, count: int, size: int, padded: int, per_vector: int) -> None:
        """Groups that fill a register several at a time: one load, one shuffle.

        A load brings more than its groups; those near the end are loaded so that they end with the last group.
        """
        lanes = per_vector * padded
        spare = lanes - per_vector * size  # elements a load brings beyond its groups
        safe = (count * size - spare) // (per_vector * size)  # vectors whose load stays inside
        with T.serial(safe) as i:
            self._spread_one(source + i * (per_vector * size), 0, target + i * lanes, size, padded, per_vector)
        done = safe * per_vector
        while done < count:
            start = min(done, count - per_vector)
            early = min(start * size, count * size - lanes)
            offset = start * size - early
            self._spread_one(source + early, offset, target + start * padded, size, padded, per_vector)
            done = start + per_vector

    def _spread_one(self, source: Index, offset: int, target: Index, size: int, padded: int, per_vector: int) -> None:
        lanes = per_vector * padded
        value = T.Bind(self.data.vload([source], vector(self.in_dtype, lanes)))
        fill = T.Bind(splat(T.Cast(self.in_dtype, self.numbers[2]), lanes))
        order = [offset + g * size + c if c < size else lanes for g in range(per_vector) for c in range(padded)]
        spread = T.Bind(tirx.Shuffle([value, fill], [tirx.const(i, "int32") for i in order]))
        T.buffer_store(self.out, self._convert(spread, lanes), [span(target, lanes)])

    def _convert(self, value: Vector, lanes: int) -> Vector:
        if self.in_dtype == self.out_dtype:
            return value
        if BYTES[self.in_dtype] == BYTES[self.out_dtype]:
            unsigned = T.reinterpret(value, dtype=vector("uint8", lanes)) ^ splat(tirx.const(128, "uint8"), lanes)
            return T.reinterpret(unsigned, dtype=vector(self.out_dtype, lanes))
        subtract = splat(T.Cast(self.out_dtype, self.numbers[0]), lanes)
        return T.Cast(vector(self.out_dtype, lanes), value) - subtract
