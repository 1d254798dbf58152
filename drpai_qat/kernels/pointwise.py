"""Elementwise kernels: an epilogue without an accumulator, and 256-entry tables."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from tvm.tirx.script.builder import ir as T

from drpai_qat.kernels.epilogue import Epilogue, EpilogueEmitter, Kernel, flat_arg
from drpai_qat.kernels.isa import Isa
from drpai_qat.kernels.loops import Index, function, sweep, tasks


def pointwise(out_shape: tuple[int, ...], epilogue: Epilogue, isa: Isa) -> Kernel:
    """Compute the epilogue's expression (no Acc in it) for each element of `out_shape`.

    Returns: kernel of the epilogue's operands alone; output as the epilogue says.
    """
    emitter = EpilogueEmitter(epilogue, out_shape, isa)
    with function("pointwise") as builder:
        emitter.declare_operands()
        emitter.declare_constants()
        emitter.declare_output()
        with tasks(math.prod(out_shape[:-1]), math.prod(out_shape)) as row:

            def body(start: Index, lanes: int) -> None:
                emitter.store(row, start, None, lanes)

            sweep(out_shape[-1], isa.lanes, body)
    return Kernel(builder.get(), emitter.constants, out_shape, epilogue.out_dtype)


def lookup(size: int, in_dtype: str, table: npt.NDArray[np.generic], first: int, isa: Isa) -> Kernel:
    """out[i] = table[in[i] - first].

    Args:
        size: elements.
        in_dtype: uint8 or int8.
        table: 256 entries (any dtype: the output's), for the inputs first .. first + 255.
        first: smallest input value: 0 for uint8, -128 for int8.
    Returns: kernel of (data); output (size,).
    """
    dtype = str(table.dtype)
    with function("lookup") as builder:
        data = flat_arg("data", (size,), in_dtype)
        values = flat_arg("table", table.shape, dtype)
        out = flat_arg("out", (size,), dtype)
        chunk = max(1, math.ceil(size / 16))
        with tasks(math.ceil(size / chunk), size) as task, T.serial(chunk) as i:
            at = T.min(task * chunk + i, size - 1)
            T.buffer_store(out, values[T.Cast("int32", data[at]) - first], [at])
    return Kernel(builder.get(), (np.ascontiguousarray(table),), (size,), dtype)
