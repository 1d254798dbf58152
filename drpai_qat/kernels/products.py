"""How a tile multiplies and accumulates: one small value type per arithmetic.

    name   activations      weights  accumulators  exact when
    dot4   uint8, Arm int8  int8     int32         always with VNNI or SDOT; otherwise where `dot4_steps` proves it
    pairs  int8 (Arm)       int8     int32         where `pair_steps` proves it, which is nearly always
    dot2   int16, centred   int8     int32         always (weights int16 in DOT2_WIDE: products of two activations)
    planes int16            int8     int32         always (SDOT): high bytes and low ones, dot4 each
    halves uint8            int8     int32         always: dot4's operands with dot2's multiplications (x86)
    fma    float32          float32  float32       (float; int8 weights are converted as they are read)

`steps` of dot4 without VNNI: how many vpmaddubsw results are added in int16 before they are widened; of `pairs`
likewise; 1 where the hardware accumulates in int32. `guard` of dot4: whether they fit is looked up in the activations
while the network runs (`guard.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from drpai_qat.kernels import guard
from drpai_qat.kernels.isa import (
    Isa,
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
    spread,
    vector,
    widen_pairs,
)


@dataclass(frozen=True)
class Product:
    """One way to multiply; see the module's table."""

    name: str
    pack: int
    in_dtype: str
    weight_dtype: str
    acc_dtype: str
    steps: int = 1
    guard: bool = False

    def accumulate(
        self,
        isa: Isa,
        acc: Any,
        data: Any,
        weights: Any,
        bases: list[Any],
        offset: Any,
        weight: Any,
        vectors: int,
        group: int,
        apart: int = 1,
    ) -> None:
        """Add `group` steps of pack channels each to every accumulator of the tile.

        Args:
            acc: local buffer, [pixel][vector][lane]; of `planes` [plane, the low one first][pixel][vector][lane].
            bases: input offset of each pixel; offset: of this step within it; weight: of this step in the weights.
            apart: from one of these steps to the next, in steps.
        """
        lanes, pack = isa.lanes, self.pack
        width = vectors * lanes * pack
        if self.by_lane(isa):
            self._accumulate_by_lane(isa, acc, data, weights, [base + offset for base in bases], weight, vectors, group)
            return
        starts = [[weight + g * apart * width + j * lanes * pack for g in range(group)] for j in range(vectors)]
        columns = [[T.Bind(self._weights(weights, start, lanes * pack)) for start in steps] for steps in starts]
        # Pixels outside: the weights of all vectors stay in registers, an activation lives for one pixel.
        for i, base in enumerate(bases):
            inputs = [T.Bind(x) for x in self._inputs(isa, data, base + offset, group, apart)]
            for j in range(vectors):
                index = tirx.Ramp((i * vectors + j) * lanes, 1, lanes)
                T.buffer_store(acc, self.multiply(isa, acc[index], inputs, columns[j]), [index])

    def by_lane(self, isa: Isa) -> bool:
        """Activations of several steps are loaded at once: SDOT and SMLAL multiply by any element of a register."""
        return isa.arm and self.name in ("dot4", "dot2", "planes")

    def groups(self, isa: Isa, steps: int) -> list[tuple[int, int]]:
        """(steps taken together, how often) that cover so many steps, in order."""
        if not self.by_lane(isa):
            group = self.steps if steps % self.steps == 0 else 1
            return [(group, steps // group)]
        parts = [(4, steps // 4), (2, steps % 4 // 2), (1, steps % 2)]
        return [(group, count) for group, count in parts if count]

    def _accumulate_by_lane(
        self, isa: Isa, acc: Any, data: Any, weights: Any, starts: list[Any], weight: Any, vectors: int, group: int
    ) -> None:
        # Steps outside: the activations of all pixels stay in registers, the weights of one step at a time.
        width = isa.lanes * self.pack
        loaded = [T.Bind(data.vload([start], vector(self.in_dtype, self.pack * group))) for start in starts]
        if self.name == "planes":
            loaded = [plane for planes in zip(*map(byte_planes, loaded), strict=True) for plane in planes]
        if self.pack == 4:
            loaded = [T.Bind(T.reinterpret(x, dtype=vector("int32", group))) for x in loaded]
        for g in range(group):
            for j in range(vectors):
                w = T.Bind(self._weights(weights, weight + (g * vectors + j) * width, width))
                for i, x in enumerate(loaded):
                    index = tirx.Ramp((i * vectors + j) * isa.lanes, 1, isa.lanes)
                    if self.pack == 4:
                        lane = T.reinterpret(element(x, g, group, isa.lanes), dtype=vector("int8", width))
                        T.buffer_store(acc, dot4_int32(isa, acc[index], lane, w), [index])
                    else:
                        pair = [element(x, 2 * g + k, 2 * group, isa.lanes) for k in range(2)]
                        T.buffer_store(acc, dot2_by_lane(acc[index], pair, w), [index])

    def _weights(self, weights: Any, start: Any, count: int) -> Any:
        value = weights.vload([start], vector(self.weight_dtype, count))
        factor = {"dot2": "int16", "fma": "float32"}.get(self.name, self.weight_dtype)
        return value if factor == self.weight_dtype else T.Cast(vector(factor, count), value)

    def _inputs(self, isa: Isa, data: Any, start: Any, group: int, apart: int) -> list[Any]:
        """The activations of each step, the same in every lane."""
        if self.name == "fma":
            return [splat(data[start + g], isa.lanes) for g in range(group)]
        parts = [data.vload([start + g * apart * self.pack], vector(self.in_dtype, self.pack)) for g in range(group)]
        if self.name == "pairs":
            halves = [T.broadcast(T.reinterpret(part, dtype="int16"), isa.lanes) for part in parts]
            return [T.reinterpret(half, dtype="int8x8") for half in halves]
        return [spread(part, vector(self.in_dtype, isa.lanes * self.pack), isa.lanes) for part in parts]

    def multiply(self, isa: Isa, acc: Any, inputs: list[Any], columns: list[Any]) -> Any:
        """`acc` plus the products of one group of steps."""
        if self.name == "pairs":
            sums = pair_products(inputs[0], columns[0])
            for x, w in zip(inputs[1:], columns[1:], strict=True):
                sums = sums + pair_products(x, w)
            return add_pairs(acc, sums)
        if self.name == "halves":
            return dot4_by_halves(isa, acc, inputs[0], columns[0])
        if self.name == "dot4" and not isa.dot4_exact:
            sums = dot4_int16(isa, inputs[0], columns[0])
            for x, w in zip(inputs[1:], columns[1:], strict=True):
                sums = sums + dot4_int16(isa, x, w)
            return acc + widen_pairs(isa, sums)
        for x, w in zip(inputs, columns, strict=True):
            if self.name == "fma":
                acc = multiply_add(isa, x, w, acc, vector("float32", isa.lanes))
            elif self.name == "dot4":
                acc = dot4_int32(isa, acc, x, w)
            else:
                acc = dot2(isa, acc, x, w)
        return acc


DOT2 = Product("dot2", 2, "int16", "int8", "int32")
DOT2_WIDE = Product("dot2", 2, "int16", "int16", "int32")  # both operands are activations
PLANES = Product("planes", 4, "int16", "int8", "int32")
HALVES = Product("halves", 4, "uint8", "int8", "int32")
FMA = Product("fma", 1, "float32", "float32", "float32")
FMA_INT8 = Product("fma", 1, "float32", "int8", "float32")


def dot4(steps: int = 1) -> Product:
    """uint8 times int8; `steps` as `dot4_steps` proves it, 1 with VNNI."""
    return Product("dot4", 4, "uint8", "int8", "int32", steps)


def product8(
    isa: Isa, weights: npt.NDArray[np.int8], qmin: int, qmax: int, zero_point: int | None = None
) -> tuple[Product, float]:
    """The fastest product of 8-bit activations that is exact for these weights, and its time (`DOT2_COST`).

    Args:
        weights: int8, shape (out_channels, rows, columns, channels), channels a multiple of 4.
        qmin, qmax: range of the stored activations (isa.activation).
        zero_point: of the same, where they may be looked at while the network runs.
    """
    if isa.arm:
        if isa.dot4_exact:
            return Product("dot4", 4, "int8", "int8", "int32"), 1.0
        return Product("pairs", 2, "int8", "int8", "int32", pair_steps(weights, max(-qmin, qmax))), 1.0
    if isa.dot4_exact:
        return dot4(), 1.0
    proven = dot4_steps(weights, qmax)
    best, best_cost = (dot4(proven), _cost(proven)) if proven else (DOT2, DOT2_COST)
    steps = 0 if zero_point is None else guard.likely_steps(weights, zero_point, qmax, isa)
    if steps > proven and _cost(steps) + _GUARD < best_cost:
        best, best_cost = replace(dot4(steps), guard=True), _cost(steps) + _GUARD
    return best, best_cost


# Times as multiples of one proven vpmaddubsw step's, which is 1; fitted on AVX2 cores whose limit is multiplications
# (Zen 3) and instructions (Golden Cove).
DOT2_COST = 1.2  # two multiplications and additions, and the widening of weights
_GUARD = 0.1  # the survey, and some exceptions


def _cost(steps: int) -> float:
    return 0.58 + 0.42 / steps


LEAST_COST = _cost(4)


def pair_steps(weights: npt.NDArray[np.int8], largest: int, limit: int = 4) -> int:
    """How many int8 x int8 products may be added in int16, proven for these weights.

    Args:
        weights: int8, shape (out_channels, rows, columns, channels), channels a multiple of 4.
        largest: magnitude of the activations, at most 128.
    Returns: 4, 2 or 1, a divisor of channels / 2; one product is at most 128 * 128 and always fits.
    """
    # Pair p holds channels 2p and 2p + 1; each adds up in an int16 of its own.
    bounds = np.abs(weights.reshape(-1, weights.shape[-1] // 2, 2).astype(np.int32)) * largest
    steps = limit
    while steps > 1:
        if bounds.shape[1] % steps == 0:
            sums = bounds.reshape(len(bounds), bounds.shape[1] // steps, steps, 2).sum(2)
            if sums.max(initial=0) <= 32767:
                return steps
        steps //= 2
    return steps


def dot4_steps(weights: npt.NDArray[np.int8], qmax: int, limit: int = 4) -> int:
    """How many vpmaddubsw results may be added in int16, proven for these weights; 0 where even one may saturate.

    vpmaddubsw adds neighbouring products a0*w0 + a1*w1 with 0 <= a <= qmax: at most qmax * (w0+ + w1+), at least
    qmax * (w0- + w1-). Steps are added pair by pair, so the bound of a sum is the sum of the bounds.

    Args:
        weights: int8, shape (out_channels, rows, columns, channels), channels a multiple of 4.
        qmax: largest stored activation (uint8).
    Returns: 4, 2, 1 or 0, a divisor of channels / 4.
    """
    pairs = weights.reshape(-1, weights.shape[-1] // 4, 2, 2).astype(np.int32)
    first, second = pairs[..., 0], pairs[..., 1]
    high = np.maximum(first, 0) + np.maximum(second, 0)
    low = np.minimum(first, 0) + np.minimum(second, 0)
    proven, steps = 0, 1
    # Bounds only grow with the steps: the first failure is the last question.
    while high.max(initial=0) * qmax <= 32767 and low.min(initial=0) * qmax >= -32768:
        proven, steps = steps, 2 * steps
        if steps > limit or high.shape[1] % 2:
            break
        high, low = high[:, 0::2] + high[:, 1::2], low[:, 0::2] + low[:, 1::2]
    return proven
