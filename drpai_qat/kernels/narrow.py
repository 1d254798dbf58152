"""Narrowing: int32 registers to the 8 or 16-bit elements that are stored, several registers at a time, saturating.

x86 has no cheap way to narrow one register, but packs two into one. Packing works within 128-bit lanes, so one
permutation of 32-bit units at the end puts the elements in order. NEON narrows into either half of a register.
"""

from __future__ import annotations

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from drpai_qat.kernels.isa import Isa, Vector, llvm, pick, splat, vector

_TO_INT16 = {4: "llvm.x86.sse2.packssdw.128", 8: "llvm.x86.avx2.packssdw", 16: "llvm.x86.avx512.packssdw.512"}
_TO_UINT16 = {4: "llvm.x86.sse41.packusdw", 8: "llvm.x86.avx2.packusdw", 16: "llvm.x86.avx512.packusdw.512"}
_TO_INT8 = {4: "llvm.x86.sse2.packsswb.128", 8: "llvm.x86.avx2.packsswb", 16: "llvm.x86.avx512.packsswb.512"}
_TO_UINT8 = {4: "llvm.x86.sse2.packuswb.128", 8: "llvm.x86.avx2.packuswb", 16: "llvm.x86.avx512.packuswb.512"}
_NEON_SIGNED, _NEON_UNSIGNED = "llvm.aarch64.neon.sqxtn", "llvm.aarch64.neon.sqxtun"
_BITS = {"int8": 8, "uint8": 8, "int16": 16, "uint16": 16}


def registers_per_pack(isa: Isa, dtype: str) -> int:
    """How many int32 registers `narrow` takes for this dtype; 1 where it has no instruction for it."""
    return 32 // _BITS[dtype] if dtype in _BITS else 1


def narrow(
    isa: Isa, values: list[Vector], zero_point: Vector | None, dtype: str, limits: tuple[Vector | None, Vector | None]
) -> list[Vector]:
    """Add the zero point and narrow `registers_per_pack` registers, saturating at the limits of dtype.

    Args:
        values: int32, isa.lanes wide each, and at least 65536 away from the limits of int32.
        zero_point: int32 scalar, None for 0.
        limits: scalars of dtype, the least and the greatest result; None for the dtype's own.
    Returns: for each register its elements, as a vector of int32 units (lanes * bits / 32 of them).
    """
    lanes, parts = isa.lanes, len(values)
    if _BITS[dtype] == 8:
        halves = [_pack(_TO_INT16, isa, "int16", values[i], values[i + 1]) for i in (0, 2)]
        if zero_point is not None:
            zero = T.Bind(splat(T.Cast("int16", zero_point), lanes * 2))
            halves = [llvm("llvm.sadd.sat", vector("int16", lanes * 2), half, zero) for half in halves]
        packed = _pack(_TO_UINT8 if dtype == "uint8" else _TO_INT8, isa, dtype, *halves)
    else:
        if zero_point is not None:
            values = [value + splat(zero_point, lanes) for value in values]
        packed = _pack(_TO_UINT16 if dtype == "uint16" else _TO_INT16, isa, dtype, *values)
    for limit, tighter in zip(limits, (T.max, T.min), strict=True):
        if limit is not None:
            packed = tighter(packed, splat(limit, lanes * 32 // _BITS[dtype]))
    units = T.Bind(T.reinterpret(packed, dtype=vector("int32", lanes)))
    # Lane l holds the l-th 4 elements of each register in turn, `size` units each.
    blocks, size = lanes // 4, 4 // parts
    orders = [[b * 4 + part * size + k for b in range(blocks) for k in range(size)] for part in range(parts)]
    return [pick(units, order) for order in orders]


def _pack(names: dict[int, str], isa: Isa, dtype: str, low: Vector, high: Vector) -> Vector:
    """Two registers of integers twice as wide, saturated to dtype."""
    count = isa.lanes * 32 // _BITS[dtype]
    if isa.arm:
        name = _NEON_UNSIGNED if dtype.startswith("u") else _NEON_SIGNED
        halves = [llvm(name, vector(dtype, count // 2), part) for part in (low, high)]
        return tirx.Shuffle(halves, [tirx.const(i, "int32") for i in range(count)])
    return llvm(names[isa.lanes], vector(dtype, count), low, high)
