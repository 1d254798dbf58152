"""Limits of an earlier rounding that a later one makes redundant are dropped, and nothing else changes."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from drpai_qat.graph.grid import Grid
from drpai_qat.kernels import expr as E
from drpai_qat.lowering.elementwise import Value, clamp, snap

SCALES = st.sampled_from([2.0**-4, 0.031, 0.05, 1 / 17, 0.11])


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    low = draw(st.integers(0, 200))
    return Grid(draw(SCALES), draw(st.integers(0, 255)), low, draw(st.integers(low, 255)), "uint8")


def plain(x: E.Expr, grid: Grid) -> E.Expr:
    """A rounding, and the real value behind it, with nothing left out."""
    low, high = grid.qmin - grid.zero_point, grid.qmax - grid.zero_point
    return E.Affine(E.Snap(x, low, high), np.asarray(grid.scale), np.zeros(()))


@settings(max_examples=300)
@given(
    first=grids(),
    second=grids(),
    low=st.sampled_from([-math.inf, -1.0, 0.0]),
    high=st.sampled_from([3.0, 6.0, math.inf]),
)
def test_two_roundings_and_a_clamp_give_the_same_integers(first: Grid, second: Grid, low: float, high: float) -> None:
    """But halfway between two integers, where constants folded in float64 may round to the other one."""
    acc = np.arange(-3000, 3001, dtype=np.int32)
    start = E.affine(E.Acc(), 0.0105)
    value = snap(clamp(snap(Value(start), first), low, high), second)
    assert value.ints is not None
    real = E.Clamp(plain(E.affine(start, 1 / first.scale), first), low, high)
    steps = E.evaluate(E.Affine(real, np.asarray(1 / second.scale), np.zeros(())), acc, [])
    expected = np.clip(np.rint(steps), second.qmin - second.zero_point, second.qmax - second.zero_point)
    halfway = np.abs(steps - np.floor(steps) - 0.5) < 1e-4
    np.testing.assert_array_equal(E.evaluate(value.ints, acc, [])[~halfway], expected[~halfway])


def test_relu_between_two_grids_of_one_scale_is_one_rounding() -> None:
    value = snap(
        clamp(snap(Value(E.affine(E.Acc(), 0.01)), Grid(0.05, 64, 0, 127, "uint8")), 0.0, math.inf),
        Grid(0.05, 0, 0, 60, "uint8"),
    )
    assert isinstance(value.ints, E.Snap)
    assert (value.ints.lo, value.ints.hi) == (0, 60)
    assert isinstance(value.ints.x, E.Affine)
    assert isinstance(value.ints.x.x, E.Acc)


def test_limits_that_tell_stay() -> None:
    value = snap(snap(Value(E.affine(E.Acc(), 0.01)), Grid(0.05, 10, 0, 20, "uint8")), Grid(0.05, 0, 0, 255, "uint8"))
    acc = np.asarray([-1000, 0, 30, 1000], np.int32)
    assert value.ints is not None
    np.testing.assert_array_equal(E.evaluate(value.ints, acc, []), [0, 0, 6, 10])
