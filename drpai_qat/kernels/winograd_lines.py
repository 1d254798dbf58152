"""Winograd's transforms of one row or column, in integers; `winograd.py` applies them to both.

    totals(weights(g) * inputs(d))        for 3 weights g and `window` inputs d; * elementwise

gives y[i] = d[i] g[0] + d[i + 1] g[1] + d[i + 2] g[2], each times 2**shift * odd. Fractions of the usual matrices are
multiplied out, so everything stays an integer. Source: Lavin and Gray, "Fast Algorithms for Convolutional
Neural Networks", 2015, whose matrices these are but for whole factors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from drpai_qat.kernels.isa import Vector, wrapping_add, wrapping_subtract

Line = Callable[[list[Vector]], list[Vector]]


@dataclass(frozen=True)
class Lines:
    """One of Winograd's minimal algorithms F(outputs, 3).

    Attributes:
        outputs: of one window.
        weights: 3 values to `window` of them, int16.
        inputs: `window` values to as many, int16.
        totals: `window` sums of products to `outputs` values, int32, modulo 2**32.
        shift, odd: outputs are 2**shift * odd times the convolution.
        weight_growth, input_growth: how many times larger than its arguments a result can be.
    """

    outputs: int
    weights: Line
    inputs: Line
    totals: Line
    shift: int
    odd: int
    weight_growth: int
    input_growth: int

    @property
    def window(self) -> int:
        """Inputs under one window, and products."""
        return self.outputs + 2


def _bound(*values: Vector) -> list[Vector]:
    return [T.Bind(value) for value in values]


def _times(x: Vector, power: int) -> Vector:
    """x * 2**power, modulo the width of its type."""
    kind = x.ty.dtype
    return T.Bind(x << T.broadcast(tirx.const(power, f"int{kind.bits}"), kind.lanes))


def _weights_for_two(g: list[Vector]) -> list[Vector]:
    ends = T.Bind(g[0] + g[2])
    return _bound(_times(g[0], 1), ends + g[1], ends - g[1], _times(g[2], 1))


def _inputs_for_two(d: list[Vector]) -> list[Vector]:
    return _bound(d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3])


def _totals_for_two(m: list[Vector]) -> list[Vector]:
    add, subtract = wrapping_add, wrapping_subtract
    return [add(add(m[0], m[1]), m[2]), subtract(subtract(m[1], m[2]), m[3])]


def _weights_for_four(g: list[Vector]) -> list[Vector]:
    near, far, middle = T.Bind(g[0] + g[2]), T.Bind(g[0] + _times(g[2], 2)), _times(g[1], 1)
    first, last = (_times(x, 2) + _times(x, 1) for x in (g[0], g[2]))
    return _bound(first, near + g[1], near - g[1], far + middle, far - middle, last)


def _inputs_for_four(d: list[Vector]) -> list[Vector]:
    even, odd = T.Bind(d[4] - _times(d[2], 2)), T.Bind(d[3] - _times(d[1], 2))
    near, step = T.Bind(d[4] - d[2]), _times(d[3] - d[1], 1)
    first, last = _times(d[0] - d[2], 2) + near, d[5] - d[3] - _times(step, 1)
    return _bound(first, even + odd, even - odd, near + step, near - step, last)


def _totals_for_four(m: list[Vector]) -> list[Vector]:
    add, subtract = wrapping_add, wrapping_subtract
    near, far = add(m[1], m[2]), add(m[3], m[4])
    near_odd, far_odd = _times(subtract(m[1], m[2]), 2), _times(subtract(m[3], m[4]), 1)
    near_even = _times(near, 2)
    return [
        add(subtract(m[0], near_even), far),
        subtract(far_odd, near_odd),
        subtract(_times(far, 2), near_even),
        add(subtract(_times(far_odd, 2), near_odd), _times(m[5], 2)),
    ]


TWO = Lines(2, _weights_for_two, _inputs_for_two, _totals_for_two, 1, 1, 3, 2)
FOUR = Lines(4, _weights_for_four, _inputs_for_four, _totals_for_four, 3, 3, 7, 10)
