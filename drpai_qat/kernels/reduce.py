"""Reductions over one run of axes: layout [outer, reduced, inner]."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from drpai_qat.kernels.epilogue import Epilogue, EpilogueEmitter, Kernel, flat_arg
from drpai_qat.kernels.isa import Isa, Vector, span, splat, vector
from drpai_qat.kernels.loops import Index, function, sweep, tasks

Kind = Literal["sum", "max", "min"]


def reduce(
    outer: int,
    reduced: int,
    inner: int,
    kind: Kind,
    dtype: str,
    zero_point: int,
    epilogue: Epilogue,
    isa: Isa,
) -> Kernel:
    """Reduce the middle of three dims; a mean is a sum whose epilogue divides.

        acc[o, i] = sum (or max, min) over r of (in[o, r, i] - zero_point)

    Args:
        dtype: of the input: 8 or 16-bit integer, int32 or float32. Sums of integers are exact up to 2^31.
    Returns: kernel of (data); output (outer, inner).
    """
    shape = (outer, inner)
    acc_dtype = "float32" if dtype == "float32" else "int32"
    emitter = EpilogueEmitter(epilogue, shape, isa)
    with function("reduce") as builder:
        data = flat_arg("data", (outer, reduced, inner), dtype)
        emitter.declare_operands()
        zero = flat_arg("zero_point", (1,), acc_dtype)
        emitter.declare_constants()
        emitter.declare_output()

        def combine(x: Vector, y: Vector) -> Vector:
            return {"sum": lambda: x + y, "max": lambda: T.max(x, y), "min": lambda: T.min(x, y)}[kind]()

        with tasks(outer, outer * reduced * inner) as o:

            def body(start: Index, lanes: int) -> None:
                def load(r: Any) -> Vector:
                    at = (o * reduced + r) * inner + start
                    return T.Cast(vector(acc_dtype, lanes), data.vload([at], vector(dtype, lanes)))

                acc = T.alloc_buffer((lanes,), acc_dtype, scope="local")
                T.buffer_store(acc, load(0), [span(0, lanes)])
                with T.serial(reduced - 1) as r:
                    value = combine(acc.vload([0], vector(acc_dtype, lanes)), load(r + 1))
                    T.buffer_store(acc, value, [span(0, lanes)])
                offset = zero[0] * tirx.const(reduced if kind == "sum" else 1, acc_dtype)
                value = acc.vload([0], vector(acc_dtype, lanes)) - splat(offset, lanes)
                emitter.store(o, start, T.Cast(vector("float32", lanes), value), lanes)

            sweep(inner, isa.lanes, body)
    constants = (np.asarray([zero_point], acc_dtype), *emitter.constants)
    return Kernel(builder.get(), constants, shape, epilogue.out_dtype)


def global_pool(
    shape: tuple[int, int, int, int], kind: Kind, dtype: str, zero_point: int, epilogue: Epilogue, isa: Isa
) -> Kernel:
    """Sum, max or min over H and W of (N, H, W, C); a mean: the epilogue divides by H * W.

    Returns: kernel of (data); output (N, 1, 1, C).
    """
    batch, height, width, channels = shape
    spread = replace(epilogue, out_shape=epilogue.out_shape or (batch, 1, 1, channels))
    kernel = reduce(batch, height * width, channels, kind, dtype, zero_point, spread, isa)
    return replace(kernel, out_shape=(batch, 1, 1, channels))
