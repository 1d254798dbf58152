"""How a tile multiplies and accumulates: one small value type per arithmetic.

    class   activations      weights  accumulators  exact when
    Dot4    uint8, Arm int8  int8     int32         always with VNNI or SDOT; otherwise where `dot4_steps` proves it
    Pairs   int8 (Arm)       int8     int32         where `pair_steps` proves it, which is nearly always
    Dot2    int16, centred   int8     int32         always (weights int16 in DOT2_WIDE: products of two activations)
    Planes  int16            int8     int32         always (SDOT): high bytes and low ones, dot4 each
    Halves  uint8            int8     int32         always: dot4's operands with dot2's multiplications (x86)
    Fma     float32          float32  float32       (float; int8 weights are converted as they are read)

Which of them a layer gets is decided in `product_choice.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from drpai_qat.kernels.conv_shape import Index
from drpai_qat.kernels.isa import (
    Isa,
    Vector,
    add_pairs,
    byte_planes,
    dot2,
    dot2_by_lane,
    dot4_by_halves,
    dot4_int16,
    dot4_int32,
    element,
    multiply_add,
    pair_products,
    splat,
    vector,
    widen_pairs,
    wrapping_add,
)
from drpai_qat.kernels.product import Integers, Product


@dataclass(frozen=True)
class Dot4(Product):
    """vpdpbusd and SDOT: four 8-bit products per lane; on x86 without VNNI vpmaddubsw, whose int16 sums must fit."""

    in_dtype: str = "uint8"
    steps: int = 1
    guard: bool = False
    name = "dot4"
    pack = 4
    weight_dtype = "int8"

    def by_lane(self, isa: Isa) -> bool:
        """On Arm."""
        return isa.arm

    def _beside(self, isa: Isa, pixels: int, vectors: int) -> int:
        if isa.dot4_exact:
            return vectors + 2
        if self.steps > 1:
            # The weights of all steps, the activations of two, the ones, two products on their way to a sum.
            return vectors * self.steps + 2 + 1 + 2
        return vectors + 3  # the activation, the ones, a product

    def multiply(self, isa: Isa, acc: Vector, inputs: list[Vector], columns: list[Vector]) -> Vector:
        """Without VNNI or SDOT, added in int16 before they are widened."""
        if isa.dot4_exact:
            return super().multiply(isa, acc, inputs, columns)
        sums = dot4_int16(isa, inputs[0], columns[0])
        for x, w in zip(inputs[1:], columns[1:], strict=True):
            sums = sums + dot4_int16(isa, x, w)
        return acc + widen_pairs(isa, sums)

    def _multiply_step(self, isa: Isa, acc: Vector, x: Any, w: Vector) -> Vector:
        return dot4_int32(isa, acc, x, w) if isa.dot4_exact else self.multiply(isa, acc, [x], [w])


@dataclass(frozen=True)
class Pairs(Product):
    """SMULL, SMLAL and SADALP, for Arm CPUs without SDOT: sums of pairs wait in int16."""

    steps: int = 1
    name = "pairs"
    pack = 2
    in_dtype = "int8"
    weight_dtype = "int8"

    def _beside(self, isa: Isa, pixels: int, vectors: int) -> int:
        # Of several steps, the activations of all pixels stay.
        return 3 + (max(vectors, pixels) if self.steps > 1 else vectors)

    def _inputs(self, isa: Isa, data: Any, start: Index, group: int, apart: int) -> list[Vector]:
        parts = self._parts(data, start, group, apart)
        halves = [T.broadcast(T.reinterpret(part, dtype="int16"), isa.lanes) for part in parts]
        return [T.reinterpret(half, dtype="int8x8") for half in halves]

    def multiply(self, isa: Isa, acc: Vector, inputs: list[Vector], columns: list[Vector]) -> Vector:
        """Added in int16 before they are widened."""
        sums = pair_products(inputs[0], columns[0])
        for x, w in zip(inputs[1:], columns[1:], strict=True):
            sums = sums + pair_products(x, w)
        return add_pairs(acc, sums)

    def _multiply_step(self, isa: Isa, acc: Vector, x: Any, w: Vector) -> Vector:
        return self.multiply(isa, acc, [x], [w])


@dataclass(frozen=True)
class Dot2(Product):
    """vpmaddwd, and SMLAL by element: int16 products, added in int32."""

    weight_dtype: str = "int8"
    name = "dot2"
    pack = 2
    in_dtype = "int16"

    def by_lane(self, isa: Isa) -> bool:
        """On Arm."""
        return isa.arm

    def weight_loads(self, isa: Isa) -> int:
        """On x86 they are widened as well."""
        return super().weight_loads(isa) if self.by_lane(isa) else 3

    def _factors(self, weights: Any, start: Index, count: int) -> Vector:
        value = super()._factors(weights, start, count)
        return value if self.weight_dtype == "int16" else T.Cast(vector("int16", count), value)

    def _loaded(self, activations: list[Vector]) -> list[Vector]:
        return activations

    def _lane(self, isa: Isa, x: Vector, step: int, group: int) -> Any:
        return [element(x, 2 * step + k, 2 * group, isa.lanes) for k in range(2)]

    def _multiply_step(self, isa: Isa, acc: Vector, x: Any, w: Vector) -> Vector:
        return dot2_by_lane(acc, x, w) if isa.arm else dot2(isa, acc, x, w)


@dataclass(frozen=True)
class Planes(Product):
    """SDOT with the two bytes of int16 activations, each in accumulators of its own until all products are added.

    `byte_planes` takes 128 off each activation, which `start` makes good. Sums are exact modulo 2**32.
    """

    name = "planes"
    pack = 4
    in_dtype = "int16"
    weight_dtype = "int8"
    planes = 2  # the low one first

    def by_lane(self, isa: Isa) -> bool:
        """Always: SDOT."""
        return True

    def start(self, weights: npt.NDArray[np.generic], bias: Integers | None) -> Integers | None:
        """With the 128 times the weights that the products lack."""
        offset = 128 * weights.astype(np.int64).reshape(len(weights), -1).sum(1)
        return (offset if bias is None else offset + bias).astype(np.int32)

    @contextmanager
    def sums(self, isa: Isa, acc: Any, size: int) -> Iterator[Any]:
        """Both planes, put together at the end."""
        planes = T.alloc_buffer((2 * size,), "int32")
        for position in range(0, 2 * size, isa.lanes):
            T.buffer_store(planes, splat(T.int32(0), isa.lanes), [tirx.Ramp(position, 1, isa.lanes)])
        yield planes
        for position in range(0, size, isa.lanes):
            where = tirx.Ramp(position, 1, isa.lanes)
            high = planes[tirx.Ramp(size + position, 1, isa.lanes)] << splat(T.int32(8), isa.lanes)
            T.buffer_store(acc, wrapping_add(acc[where], wrapping_add(planes[where], high)), [where])

    def _loaded(self, activations: list[Vector]) -> list[Vector]:
        return super()._loaded([x for planes in zip(*map(byte_planes, activations), strict=True) for x in planes])

    def _multiply_step(self, isa: Isa, acc: Vector, x: Any, w: Vector) -> Vector:
        return dot4_int32(isa, acc, x, w)


@dataclass(frozen=True)
class Halves(Product):
    """vpmaddwd on the even and the odd bytes of dot4's operands: the exact way out of a guarded product."""

    name = "halves"
    pack = 4
    in_dtype = "uint8"
    weight_dtype = "int8"

    def _multiply_step(self, isa: Isa, acc: Vector, x: Any, w: Vector) -> Vector:
        return dot4_by_halves(isa, acc, x, w)


@dataclass(frozen=True)
class Fma(Product):
    """float32 multiply-add."""

    weight_dtype: str = "float32"
    name = "fma"
    pack = 1
    in_dtype = "float32"
    acc_dtype = "float32"
    scratch = 2

    def _factors(self, weights: Any, start: Index, count: int) -> Vector:
        value = super()._factors(weights, start, count)
        return value if self.weight_dtype == "float32" else T.Cast(vector("float32", count), value)

    def _inputs(self, isa: Isa, data: Any, start: Index, group: int, apart: int) -> list[Vector]:
        return [splat(data[start + g * apart], isa.lanes) for g in range(group)]

    def _multiply_step(self, isa: Isa, acc: Vector, x: Any, w: Vector) -> Vector:
        return multiply_add(isa, x, w, acc, vector("float32", isa.lanes))


DOT2: Product = Dot2()
DOT2_WIDE: Product = Dot2("int16")  # both operands are activations
PLANES: Product = Planes()
HALVES: Product = Halves()
FMA: Product = Fma()
FMA_INT8: Product = Fma("int8")


def dot4(steps: int = 1) -> Product:
    """uint8 times int8; `steps` as `dot4_steps` proves it, 1 with VNNI."""
    return Dot4(steps=steps)
