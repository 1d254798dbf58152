"""Depthwise convolution: every channel has its own kernel.

acc[n, p, c] = bias[c] + sum over r, s of  (x[n, y(p, r), x(p, s), c] - zero_point) * w[r, s, c]
y(p, r) = row(p) * stride + r * dilation;   x(p, s) = column(p) * stride + s * dilation
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from drpai_qat.kernels.conv import ConvShape
from drpai_qat.kernels.epilogue import Epilogue, EpilogueEmitter, Kernel, flat_arg
from drpai_qat.kernels.isa import Isa, vector
from drpai_qat.kernels.loops import Index, function, sweep, tasks


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
        weights: int8, or float32 for float32 activations; shape (rows, columns, channels).
        bias: int32, shape (channels,), without any zero-point correction (this kernel adds it); None for float32.
        in_dtype: uint8, int16 (centred, zero_point 0) or float32.
        zero_point: of the input as stored.
        qmin, qmax: smallest and largest stored input value, for the proof that products fit int16.
    Returns: kernel of (data); output (batch, out_height, out_width, channels). Exact in int32.
    """
    rows, columns, channels = weights.shape
    acc_dtype = "float32" if in_dtype == "float32" else "int32"
    out_shape = (shape.batch, shape.out_height, shape.out_width, channels)
    emitter = EpilogueEmitter(epilogue, out_shape, isa)
    start = np.zeros(channels, acc_dtype) if bias is None else bias.astype(np.int64)
    if acc_dtype == "int32":
        start = start - zero_point * weights.astype(np.int64).sum((0, 1))
    start = start.astype(acc_dtype)
    with function("depthwise") as builder:
        data = flat_arg("data", (shape.in_size,), in_dtype)
        emitter.declare_operands()
        taps = flat_arg("weights", weights.shape, str(weights.dtype))
        bias_arg = flat_arg("bias", start.shape, acc_dtype)
        emitter.declare_constants()
        emitter.declare_output()
        with tasks(shape.batch * shape.out_height, int(np.prod(out_shape)) * rows * columns) as task:
            image, y = tirx.floordiv(task, shape.out_height), tirx.floormod(task, shape.out_height)
            with T.serial(shape.out_width) as x:
                origin = T.Bind(
                    ((image * shape.height + y * shape.stride[0]) * shape.width + x * shape.stride[1]) * channels
                )

                def body(start: Index, lanes: int, origin: Index = origin, task: Index = task, x: Index = x) -> None:
                    acc = bias_arg.vload([start], vector(acc_dtype, lanes))
                    for r in range(rows):
                        for s in range(columns):
                            at = (r * shape.dilation[0] * shape.width + s * shape.dilation[1]) * channels
                            value = data.vload([origin + at + start], vector(in_dtype, lanes))
                            tap = taps.vload([(r * columns + s) * channels + start], vector(str(weights.dtype), lanes))
                            acc = acc + T.Cast(vector(acc_dtype, lanes), value) * T.Cast(vector(acc_dtype, lanes), tap)
                    value = T.Cast(vector("float32", lanes), T.Bind(acc))
                    emitter.store(task * shape.out_width + x, start, value, lanes)

                sweep(channels, isa.lanes, body)
    constants = (np.ascontiguousarray(weights).reshape(-1), start, *emitter.constants)
    return Kernel(builder.get(), constants, out_shape, epilogue.out_dtype)
