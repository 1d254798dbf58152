"""Bring an activation into the form the products read: padded with the zero point, channels padded, perhaps widened."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from drpai_qat.kernels.epilogue import Kernel, flat_arg
from drpai_qat.kernels.isa import Isa, Vector, span, splat, vector
from drpai_qat.kernels.loops import Index, byte_lanes, function, sweep, tasks


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

    Conversions: equal dtypes copy; int8 to uint8 adds 128; 8 bits to int16 or float32 subtracts `subtract` (the zero
    point); int16 to float32 likewise.

    Args:
        shape: (N, H, W, C) as stored, C = groups * channels of one group.
        pads: top, left, bottom, right.
        pad_channels_to: channels of one group in the output.
        fill: in units of the output: the zero point for uint8, 0 for int16 and float32.
        extra_rows: rows of `fill` below the bottom padding.
    Returns: kernel of (data); out_shape (N, H + top + bottom + extra_rows, W + left + right, groups * pad_channels_to).
    """
    batch, height, width, channels = shape
    top, left, bottom, right = pads
    rows, columns, pixel = height + top + bottom + extra_rows, width + left + right, groups * pad_channels_to
    out_shape = (batch, rows, columns, pixel)
    dense = channels == pixel
    number = "float32" if out_dtype == "float32" else "int32"
    with function("prepare") as builder:
        data = flat_arg("data", shape, in_dtype)
        numbers = flat_arg("numbers", (2,), number)
        out = flat_arg("out", out_shape, out_dtype)
        lanes = byte_lanes(isa, out_dtype if out_dtype != in_dtype else in_dtype)

        def copy(source: Index, target: Index, count: int) -> None:
            def body(start: Index, lanes: int) -> None:
                value = data.vload([source + start], vector(in_dtype, lanes))
                T.buffer_store(
                    out, _convert(value, in_dtype, out_dtype, numbers[0], lanes), [span(target + start, lanes)]
                )

            sweep(count, lanes, body)

        def blank(target: Index, count: int) -> None:
            def body(start: Index, lanes: int) -> None:
                T.buffer_store(out, splat(T.Cast(out_dtype, numbers[1]), lanes), [span(target + start, lanes)])

            sweep(count, lanes, body)

        with tasks(batch * rows, math.prod(out_shape)) as task:
            image, row = tirx.floordiv(task, rows), tirx.floormod(task, rows)
            base = task * (columns * pixel)
            source = T.Bind((image * height + row - top) * (width * channels))
            with T.If(tirx.all(row >= top, row < top + height)):
                with T.Then():
                    blank(base, left * pixel)
                    if dense:
                        copy(source, base + left * pixel, width * channels)
                    else:
                        per_group = channels // groups
                        with T.serial(width * groups) as i:
                            at = base + left * pixel + i * pad_channels_to
                            copy(source + i * per_group, at, per_group)
                            blank(at + per_group, pad_channels_to - per_group)
                    blank(base + (left + width) * pixel, right * pixel)
                with T.Else():
                    blank(base, columns * pixel)
    constant = np.asarray([subtract, fill], number)
    return Kernel(builder.get(), (constant,), out_shape, out_dtype)


def _convert(value: Vector, in_dtype: str, out_dtype: str, subtract: Any, lanes: int) -> Vector:
    if in_dtype == out_dtype:
        return value
    if (in_dtype, out_dtype) == ("int8", "uint8"):
        return T.reinterpret(value, dtype=vector("uint8", lanes)) ^ splat(tirx.const(128, "uint8"), lanes)
    return T.Cast(vector(out_dtype, lanes), value) - splat(T.Cast(out_dtype, subtract), lanes)
