"""Instruction sets: vector width and the multiply-accumulate instructions a kernel may use.

Four kinds of products exist (`products.py` has their variants), the first three named by how many activations one
32-bit lane consumes:
    dot4   uint8 (x86) or int8 (Arm) activations times int8 weights, four per lane
    dot2   int16 activations times int8 weights widened to int16, two per lane; exact on every instruction set
    fma    float32, one per lane
    pairs  dot4's stand-in on Arm without SDOT: int8 times int8, two per lane, through int16 (SMULL, SMLAL, SADALP)
`dot4` is exact without conditions only where the hardware accumulates in int32 (`dot4_exact`). On AVX2 and SSE it is
vpmaddubsw, which saturates at int16: that no sum of a pair does is proven for the weights and the range, or looked up
in the activations (`guard.py`).
Source: Intel Intrinsics Guide; Arm Architecture Reference Manual (SDOT, SMLAL, SADALP).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

Vector = Any  # a tirx expression; TVM's own types are not precise enough to say more


@dataclass(frozen=True)
class Isa:
    """One instruction set.

    Attributes:
        name: as tests and benchmarks write it; users name a target (`targets.py`), `--mcpu` takes LLVM's CPU names.
        lanes: 32-bit lanes of one vector register.
        registers: vector registers.
        dot4_exact: dot4 accumulates in int32, so no saturation can occur.
        activation: dtype in which 8-bit activations are stored ("uint8" on x86, "int8" on Arm).
        features: those that the CPU must report to run code of this set (names as in /proc/cpuinfo).
        float_sums: a layer that reads a sum by its parts may be computed in float32 where that is faster.
    """

    name: str
    lanes: int
    registers: int
    dot4_exact: bool
    activation: str
    features: tuple[str, ...]
    float_sums: bool = False

    @property
    def arm(self) -> bool:
        """NEON: signed activations, products that multiply by one lane of a register."""
        return self.activation == "int8"

    @property
    def fma(self) -> bool:
        """It has a fused multiply-add."""
        return self.arm or "fma" in self.features or "avx512f" in self.features


SSE42 = Isa("x86-64-v2", 4, 16, False, "uint8", ("ssse3", "sse4_1", "sse4_2", "popcnt"), True)
AVX2 = Isa("avx2", 8, 16, False, "uint8", ("avx2", "fma"), True)
AVX_VNNI = Isa("avx-vnni", 8, 16, True, "uint8", ("avx2", "fma", "avx_vnni"))
AVX512_VNNI = Isa("avx512-vnni", 16, 32, True, "uint8", ("avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni"))

NEON = Isa("neon", 4, 32, False, "int8", ("asimd",))
NEON_DOTPROD = Isa("neon-dotprod", 4, 32, True, "int8", ("asimd", "asimddp"))

_MADDUBS = {4: "llvm.x86.ssse3.pmadd.ub.sw.128", 8: "llvm.x86.avx2.pmadd.ub.sw", 16: "llvm.x86.avx512.pmaddubs.w.512"}
_MADDWD = {4: "llvm.x86.sse2.pmadd.wd", 8: "llvm.x86.avx2.pmadd.wd", 16: "llvm.x86.avx512.pmaddw.d.512"}
_DPBUSD = {4: "llvm.x86.avx512.vpdpbusd.128", 8: "llvm.x86.avx512.vpdpbusd.256", 16: "llvm.x86.avx512.vpdpbusd.512"}
_DPWSSD = {4: "llvm.x86.avx512.vpdpwssd.128", 8: "llvm.x86.avx512.vpdpwssd.256", 16: "llvm.x86.avx512.vpdpwssd.512"}
_PTESTZ = {4: "llvm.x86.sse41.ptestz", 8: "llvm.x86.avx.ptestz.256"}
_SDOT = "llvm.aarch64.neon.sdot.v4i32.v16i8"
_SADDLP = "llvm.aarch64.neon.saddlp.v4i32.v8i16"
_CVTPS2DQ = {4: "llvm.x86.sse2.cvtps2dq", 8: "llvm.x86.avx.cvt.ps2dq.256"}


def vector(dtype: str, lanes: int) -> str:
    """TIR's name of a vector dtype; one lane is the scalar."""
    return dtype if lanes == 1 else f"{dtype}x{lanes}"


def splat(value: Vector, lanes: int) -> Vector:
    """The same scalar in every lane."""
    return value if lanes == 1 else T.broadcast(value, lanes)


def span(start: Vector, lanes: int) -> Vector:
    """Index of `lanes` neighbouring elements."""
    return start if lanes == 1 else tirx.Ramp(start, 1, lanes)


def llvm(name: str, dtype: str, *args: Vector) -> Vector:
    """Call of an LLVM intrinsic without side effects."""
    return T.call_llvm_pure_intrin(T.llvm_lookup_intrinsic_id(name), *args, dtype=dtype)


def held(value: Vector, lanes: int) -> Vector:
    """A float32 value under a name that stays.

    TVM's simplifiers substitute a value that `T.Bind` names wherever it is used, so that functions of functions grow
    exponentially. A value that is stored and loaded they leave alone, and LLVM keeps it in a register.
    """
    box = T.alloc_buffer((lanes,), "float32")
    T.buffer_store(box, value, [span(0, lanes)])
    return T.Bind(box.vload([0], vector("float32", lanes)))


def spread(scalar_group: Vector, dtype: str, lanes: int) -> Vector:
    """One 32-bit group of activations (uint8x4, int16x2) copied into every lane, as a vector of `dtype`."""
    return T.reinterpret(T.broadcast(T.reinterpret(scalar_group, dtype="int32"), lanes), dtype=dtype)


def dot4_int16(isa: Isa, activations: Vector, weights: Vector) -> Vector:
    """uint8 x int8 summed in pairs to int16 (saturating): lanes*4 bytes in, lanes*2 int16 out."""
    return llvm(_MADDUBS[isa.lanes], vector("int16", isa.lanes * 2), activations, weights)


def widen_pairs(isa: Isa, sums: Vector) -> Vector:
    """int16 sums of pairs -> int32 lanes."""
    return llvm(_MADDWD[isa.lanes], vector("int32", isa.lanes), sums, T.broadcast(T.int16(1), isa.lanes * 2))


def dot4_by_halves(isa: Isa, acc: Vector, activations: Vector, weights: Vector) -> Vector:
    """acc + the sum of four uint8 x int8 products per lane, always exact; even bytes and odd ones as int16."""
    words = isa.lanes * 2
    x = T.reinterpret(activations, dtype=vector("uint16", words))
    w = T.reinterpret(weights, dtype=vector("int16", words))
    even, odd = x & T.broadcast(T.uint16(255), words), x >> T.broadcast(T.uint16(8), words)
    by = T.broadcast(T.int16(8), words)
    for values, factors in ((even, (w << by) >> by), (odd, w >> by)):
        acc = acc + dot2_products(isa, T.reinterpret(values, dtype=vector("int16", words)), factors)
    return acc


def prefetch(buffer: Any, index: Vector) -> None:
    """Ask for the cache line of an element, into L2; beyond the buffer's end it does nothing."""
    where = T.address_of(buffer[index])
    T.evaluate(tirx.call_intrin("void", "tirx.prefetch", where, T.int32(0), T.int32(2), T.int32(1)))


def saturating_add(x: Vector, y: Vector) -> Vector:
    """x + y, no further than the ends of their type."""
    return llvm("llvm.sadd.sat", str(x.ty.dtype), x, y)


def nothing_set(value: Vector, lanes: int) -> Vector:
    """Whether 4 or 8 lanes of int32 are all zero (x86)."""
    quads = T.reinterpret(value, dtype=vector("int64", lanes // 2))
    return llvm(_PTESTZ[lanes], "int32", quads, quads) == 1


def dot4_int32(isa: Isa, acc: Vector, activations: Vector, weights: Vector) -> Vector:
    """acc + the sum of four 8-bit products per lane, in int32 (VNNI: uint8 x int8; SDOT: int8 x int8)."""
    if isa.arm:
        # Activations last: SDOT takes one lane of that operand, so they need not be spread.
        return llvm(_SDOT, "int32x4", acc, weights, activations)
    return llvm(_DPBUSD[isa.lanes], vector("int32", isa.lanes), acc, activations, weights)


def dot2(isa: Isa, acc: Vector, activations: Vector, weights: Vector) -> Vector:
    """acc + the sum of two int16 x int16 products per lane, in int32 (x86)."""
    if isa.dot4_exact:
        return llvm(_DPWSSD[isa.lanes], vector("int32", isa.lanes), acc, activations, weights)
    return acc + dot2_products(isa, activations, weights)


def dot2_products(isa: Isa, activations: Vector, weights: Vector) -> Vector:
    """The sum of two int16 x int16 products per lane, in int32 (x86)."""
    return llvm(_MADDWD[isa.lanes], vector("int32", isa.lanes), activations, weights)


def dot2_by_lane(acc: Vector, activations: list[Vector], weights: Vector) -> Vector:
    """The same on Arm, of two activations that are in all lanes each: SMLAL by element, with even and odd weights."""
    for x, order in zip(activations, ([0, 2, 4, 6], [1, 3, 5, 7]), strict=True):
        acc = acc + T.Cast("int32x4", pick(weights, order)) * T.Cast("int32x4", x)
    return acc


def byte_planes(values: Vector) -> tuple[Vector, Vector]:
    """int16 x as two int8: x = 256 * high + low + 128; (low, high)."""
    count = values.ty.dtype.lanes
    low, high = T.Cast(vector("int8", count), values), T.Cast(vector("int8", count), values >> splat(T.int16(8), count))
    return T.Bind(low ^ splat(T.int8(-128), count)), T.Bind(high)


def element(values: Vector, index: int, count: int, lanes: int) -> Vector:
    """Element `index` of a vector of `count`, in all lanes."""
    if count == 1:
        return T.broadcast(values, lanes)
    return tirx.Shuffle([values] * -(-lanes // count), [tirx.const(index, "int32")] * lanes)


def pair_products(activations: Vector, weights: Vector) -> Vector:
    """int8 x int8 -> int16, eight of them (Arm's SMULL; added to others SMLAL)."""
    return T.Cast("int16x8", activations) * T.Cast("int16x8", weights)


def add_pairs(acc: Vector, products: Vector) -> Vector:
    """acc + the sum of two neighbouring int16 per lane, in int32 (Arm's SADALP)."""
    return acc + llvm(_SADDLP, "int32x4", products)


def wrapping_add(x: Vector, y: Vector) -> Vector:
    """x + y modulo 2**32, which TVM's own addition of int32 leaves undefined where it overflows."""
    return _wrapping("add", x, y)


def wrapping_subtract(x: Vector, y: Vector) -> Vector:
    """x - y modulo 2**32."""
    return _wrapping("sub", x, y)


def wrapping_multiply(x: Vector, y: Vector) -> Vector:
    """x * y modulo 2**32."""
    return _wrapping("mul", x, y)


def _wrapping(name: str, x: Vector, y: Vector) -> Vector:
    # LLVM's intrinsics with a mask (all true, all lanes) become plain instructions, without the promise not to wrap.
    lanes = x.ty.dtype.lanes
    every = T.broadcast(tirx.const(True, "bool"), lanes)
    return T.Bind(llvm(f"llvm.vp.{name}", vector("int32", lanes), x, y, every, T.uint32(lanes)))


def multiply_add(isa: Isa, x: Vector, y: Vector, acc: Vector, dtype: str) -> Vector:
    """acc + x * y in float32, rounded once; twice on x86-64-v2, which lacks the instruction."""
    return llvm("llvm.fma", dtype, x, y, acc) if isa.fma else acc + x * y


def at_most(isa: Isa, value: Vector, limit: Vector, dtype: str) -> Vector:
    """min(value, limit) of float32; a limit is neither 0 nor not-a-number: there CPUs choose differently."""
    return llvm("llvm.minnum", dtype, value, limit) if isa.arm else T.min(value, limit)


def at_least(isa: Isa, value: Vector, limit: Vector, dtype: str) -> Vector:
    """max(value, limit) of float32; a limit is neither -0 nor not-a-number."""
    return llvm("llvm.maxnum", dtype, value, limit) if isa.arm else T.max(value, limit)


def pick(values: Vector, order: list[int]) -> Vector:
    """Elements of a vector, by constant position; a scalar where there is one."""
    return tirx.Shuffle([values], [tirx.const(i, "int32") for i in order])


def round_to_int(isa: Isa, value: Vector, lanes: int) -> Vector:
    """float32 -> int32, round half to even. The value must lie within int32."""
    if isa.activation == "uint8" and lanes in _CVTPS2DQ:
        return llvm(_CVTPS2DQ[lanes], vector("int32", lanes), value)
    if isa.activation == "uint8" and lanes == 16:
        nothing, current_mode = T.broadcast(T.int32(0), 16), T.int32(4)
        return llvm("llvm.x86.avx512.mask.cvtps2dq.512", "int32x16", value, nothing, T.int16(-1), current_mode)
    if isa.arm and lanes in (2, 4):
        return llvm("llvm.aarch64.neon.fcvtns", vector("int32", lanes), value)
    return T.Cast(vector("int32", lanes), tirx.op.nearbyint(value))
