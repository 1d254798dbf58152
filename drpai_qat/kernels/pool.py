"""Pooling over windows of channels-last tensors."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from drpai_qat.kernels.epilogue import Epilogue, EpilogueEmitter, Kernel, flat_arg, largest_acc
from drpai_qat.kernels.isa import Isa, Vector, span, splat, vector
from drpai_qat.kernels.loops import Index, Registers, byte_lanes, function, sweep, tasks

Size = tuple[int, int]


def max_pool(
    shape: tuple[int, int, int, int],
    kernel: Size,
    stride: Size,
    pads: tuple[int, int, int, int],
    dilation: Size,
    out_size: Size,
    dtype: str,
    isa: Isa,
) -> Kernel:
    """Largest value of each window; positions outside the image never win.

    Args:
        shape: (N, H, W, C) as stored, not padded.
        pads: top, left, bottom, right.
        out_size: (rows, columns) of the output; rounding up (ceil mode) is the caller's choice.
        dtype: uint8, int8, int16, uint16 or float32, kept.
    Returns: kernel of (data); output (N, *out_size, C).
    """
    batch, height, width, channels = shape
    out_shape = (batch, *out_size, channels)
    with function("max_pool") as builder:
        data = flat_arg("data", shape, dtype)
        out = flat_arg("out", out_shape, dtype)
        with tasks(batch * out_size[0], math.prod(out_shape) * math.prod(kernel)) as task:
            image, row = tirx.floordiv(task, out_size[0]), tirx.floormod(task, out_size[0])
            with T.serial(out_size[1]) as column:
                # Outside the image the nearest tap of the window inside it stands in: the maximum is the same.
                ys = _inside(row, kernel[0], stride[0], pads[0], dilation[0], height)
                xs = _inside(column, kernel[1], stride[1], pads[1], dilation[1], width)
                offsets = [T.Bind(((image * height + y) * width + x) * channels) for y in ys for x in xs]
                target = T.Bind((task * out_size[1] + column) * channels)

                def body(
                    starts: list[Index], lanes: int, offsets: list[Index] = offsets, target: Index = target
                ) -> None:
                    for start in starts:
                        value: Vector = data.vload([offsets[0] + start], vector(dtype, lanes))
                        for offset in offsets[1:]:
                            value = T.Bind(T.max(value, data.vload([offset + start], vector(dtype, lanes))))
                        T.buffer_store(out, value, [span(target + start, lanes)])

                sweep(channels, byte_lanes(isa, dtype), body, 2)
    return Kernel(builder.get(), (), out_shape, dtype)


def _inside(position: Index, taps: int, stride: int, pad: int, dilation: int, extent: int) -> list[Index]:
    """Input coordinate of each tap, clamped to the window's first and last tap inside the image."""
    start = T.Bind(position * stride - pad)
    # First tap >= 0, and last tap < extent, on the window's own grid of taps.
    low = T.Bind(T.max(start, start + tirx.floordiv(T.max(0 - start, 0) + dilation - 1, dilation) * dilation))
    high = T.Bind(start + T.min(tirx.floordiv(extent - 1 - start, dilation), taps - 1) * dilation)
    return [T.Bind(T.max(T.min(start + tap * dilation, high), low)) for tap in range(taps)]


def pool_counts(
    size: Size,
    kernel: Size,
    stride: Size,
    pads: tuple[int, int, int, int],
    dilation: Size,
    out_size: Size,
    include_pad: bool,
) -> npt.NDArray[np.float64]:
    """How many positions each window averages over: shape (1, rows, columns, 1), or () where all are the same.

    With `include_pad` the padding counts, but not what lies beyond it (ceil mode), as in ONNX.
    """
    counts = []
    for axis in (0, 1):
        before, after = (pads[axis], pads[axis + 2]) if include_pad else (0, 0)
        taps = np.arange(out_size[axis])[:, None] * stride[axis] - pads[axis] + np.arange(kernel[axis]) * dilation[axis]
        counts.append(((taps >= -before) & (taps < size[axis] + after)).sum(1))
    full = np.outer(*counts).astype(np.float64).reshape(1, *out_size, 1)
    return full if full.min() != full.max() else np.asarray(full.flat[0])


def average_pool(
    shape: tuple[int, int, int, int],
    kernel: Size,
    stride: Size,
    pads: tuple[int, int, int, int],
    dilation: Size,
    out_size: Size,
    dtype: str,
    zero_point: int,
    epilogue: Epilogue,
    isa: Isa,
) -> Kernel:
    """Sum of each window; the division is the epilogue's.

        acc[n, y, x, c] = sum over the window's positions inside the image of (in - zero_point)

    The caller multiplies by scale / pool_counts(...) in an affine step. Sums of integers are exact.

    Args: as in `max_pool`; zero_point of the stored integers (0 for float32).
    Returns: kernel of (data); output (N, *out_size, C).
    """
    batch, height, width, channels = shape
    out_shape = (batch, *out_size, channels)
    acc_dtype = "float32" if dtype == "float32" else "int32"
    emitter = EpilogueEmitter(epilogue, out_shape, isa, largest_acc(acc_dtype))
    with function("average_pool") as builder:
        data = flat_arg("data", shape, dtype)
        emitter.declare_operands()
        zero = flat_arg("zero_point", (1,), acc_dtype)
        emitter.declare_constants()
        emitter.declare_output()
        with tasks(batch * out_size[0], math.prod(out_shape) * math.prod(kernel)) as task:
            image, row = tirx.floordiv(task, out_size[0]), tirx.floormod(task, out_size[0])
            with T.serial(out_size[1]) as column:
                y0, y1 = _taps_inside(row, kernel[0], stride[0], pads[0], dilation[0], height)
                x0, x1 = _taps_inside(column, kernel[1], stride[1], pads[1], dilation[1], width)
                top, left = row * stride[0] - pads[0], column * stride[1] - pads[1]
                offset = T.Bind(T.Cast(acc_dtype, (y1 - y0) * (x1 - x0)) * zero[0])

                def body(starts: list[Index], lanes: int) -> None:
                    sums = Registers(len(starts), lanes, acc_dtype)
                    for j in range(len(starts)):
                        sums[j] = splat(tirx.const(0, acc_dtype) - offset, lanes)
                    with T.serial(y1 - y0) as r, T.serial(x1 - x0) as s:
                        y, x = top + (y0 + r) * dilation[0], left + (x0 + s) * dilation[1]
                        at = T.Bind(((image * height + y) * width + x) * channels)
                        for j, start in enumerate(starts):
                            value = data.vload([at + start], vector(dtype, lanes))
                            sums[j] = sums[j] + T.Cast(vector(acc_dtype, lanes), value)
                    accs = [T.Cast(vector("float32", lanes), sums[j]) for j in range(len(starts))]
                    emitter.store_vectors(task * out_size[1] + column, starts, accs, lanes)

                sweep(channels, isa.lanes, body, 4)
    constants = (np.asarray([zero_point], acc_dtype), *emitter.constants)
    return Kernel(builder.get(), constants, out_shape, epilogue.out_dtype, epilogue.more_dtypes)


def _taps_inside(position: Index, taps: int, stride: int, pad: int, dilation: int, extent: int) -> tuple[Index, Index]:
    """Range of taps that fall inside the image; empty as (n, n)."""
    start = position * stride - pad
    first = T.Bind(T.min(T.max(tirx.floordiv(dilation - 1 - start, dilation), 0), taps))
    last = T.Bind(T.max(T.min(tirx.floordiv(extent - 1 - start, dilation) + 1, taps), first))
    return first, last
