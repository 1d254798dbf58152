"""256-entry tables over whole tensors: any function of one 8-bit tensor."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from drpai_qat.kernels.epilogue import Kernel, flat_arg
from drpai_qat.kernels.isa import Isa, Vector, llvm, span, splat, vector
from drpai_qat.kernels.loops import BYTES, Index, byte_lanes, chunks, function, sweep, tasks

_PSHUFB = {4: "llvm.x86.ssse3.pshuf.b.128", 8: "llvm.x86.avx2.pshuf.b", 16: "llvm.x86.avx512.pshuf.b.512"}
_REGISTERS = 2


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
    by_byte = np.roll(np.ascontiguousarray(table), first)  # entry of each stored bit pattern
    shuffled = BYTES[dtype] == 1 and not isa.arm and size >= isa.lanes * 4
    constant = _differences(by_byte, isa) if shuffled else by_byte
    with function("lookup") as builder:
        data = flat_arg("data", (size,), in_dtype)
        values = flat_arg("table", constant.shape, str(constant.dtype))
        out = flat_arg("out", (size,), dtype)
        count, part = chunks(size, byte_lanes(isa, "uint8") * _REGISTERS)
        with tasks(count, size) as task:
            base = T.Bind(T.min(task * part, size - part))

            def body(starts: list[Index], lanes: int) -> None:
                inputs = [T.Bind(data.vload([base + start], vector(in_dtype, lanes))) for start in starts]
                if shuffled:
                    results = _shuffle(isa, values, [T.reinterpret(x, dtype=vector("uint8", lanes)) for x in inputs])
                    results = [T.reinterpret(x, dtype=vector(dtype, lanes)) for x in results]
                else:
                    results = [values[_index(x, in_dtype, lanes)] for x in inputs]
                for start, result in zip(starts, results, strict=True):
                    T.buffer_store(out, result, [span(base + start, lanes)])

            if shuffled:
                sweep(part, isa.lanes * 4, body, _REGISTERS)
            else:
                sweep(part, 8, body)
    return Kernel(builder.get(), (constant,), (size,), dtype)


def _index(x: Vector, in_dtype: str, lanes: int) -> Vector:
    unsigned = x if in_dtype == "uint8" else T.reinterpret(x, dtype=vector("uint8", lanes))
    return T.Cast(vector("int32", lanes), unsigned)


def _differences(table: npt.NDArray[np.generic], isa: Isa) -> npt.NDArray[np.uint8]:
    """16 tables of 16 bytes, each repeated for every 128-bit lane, whose exclusive-or is the wanted byte.

    vpshufb takes the low 4 bits of an index and gives 0 where its top bit is set. With x - 16 * i as the index of table
    i, the tables with max(0, h - 7) <= i <= h contribute, h = x / 16: below 128 an index turns negative after table h,
    above it is negative up to table h - 8. So table h holds its entries combined with those of the other contributors.
    """
    wanted = table.view(np.uint8).reshape(16, 16)
    parts = np.zeros((16, 16), np.uint8)
    for high in range(16):
        before = parts[max(0, high - 7) : high]
        parts[high] = wanted[high] ^ np.bitwise_xor.reduce(before, axis=0, initial=0)
    return np.tile(parts, (1, isa.lanes // 4)).reshape(-1)


def _shuffle(isa: Isa, tables: Any, inputs: list[Vector]) -> list[Vector]:
    lanes = isa.lanes * 4
    bytes_, signed = vector("uint8", lanes), vector("int8", lanes)
    indices = [T.Bind(x) for x in inputs]
    results: list[Vector] = []
    for step in range(16):
        table = T.Bind(tables.vload([step * lanes], bytes_))
        if step:
            # From the ninth table on the subtraction saturates, lest small indices turn positive again.
            indices = [T.Bind(_subtract(x, lanes, saturating=step > 8)) for x in indices]
        found = [T.reinterpret(llvm(_PSHUFB[isa.lanes], signed, table, x), dtype=bytes_) for x in indices]
        results = (
            [T.Bind(a ^ b) for a, b in zip(results, found, strict=True)] if results else [T.Bind(x) for x in found]
        )
    return results


def _subtract(x: Vector, lanes: int, saturating: bool) -> Vector:
    sixteen = splat(tirx.const(16, "uint8"), lanes)
    if not saturating:
        return x - sixteen
    return llvm("llvm.ssub.sat", vector("uint8", lanes), x, sixteen)
