"""Expressions: folding, integrality, and emitted code against numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drpai_qat.kernels import expr as E
from drpai_qat.kernels.epilogue import Epilogue, Operand
from drpai_qat.kernels.isa import Isa
from drpai_qat.kernels.pointwise import pointwise
from tests.kernels.running import ISAS, few, on_each_isa, raw, run

SHAPE = (2, 3, 19)


def test_affine_steps_fold_in_float64() -> None:
    inner = E.affine(E.Acc(), 0.1, 3.0)
    folded = E.affine(inner, np.array([2.0, 4.0]), 1.0)
    assert isinstance(folded, E.Affine)
    assert isinstance(folded.x, E.Acc)
    np.testing.assert_array_equal(folded.mul, [0.2, 0.4])
    np.testing.assert_array_equal(folded.add, [7.0, 13.0])


def test_neutral_affine_disappears() -> None:
    x = E.Load(0)
    assert E.affine(x) is x
    assert E.affine(E.affine(x, 4.0, 2.0), 0.25, -0.5) is x


def test_equal_constants_become_scalars() -> None:
    assert E.affine(E.Acc(), np.full((1, 5), 3.0)).mul.shape == ()  # type: ignore[attr-defined]


def test_rounding_is_not_folded_away() -> None:
    snapped = E.Snap(E.affine(E.Acc(), 0.1), -128, 127)
    assert E.affine(snapped, 2.0).children == (snapped,)


@pytest.mark.parametrize(
    ("value", "integer"),
    [
        (E.Snap(E.Acc(), -8, 7), True),
        (E.Clamp(E.Snap(E.Acc(), -8, 7), 0, math.inf), True),
        (E.Clamp(E.Snap(E.Acc(), -8, 7), 0.5, math.inf), False),
        (E.Clamp(E.Acc(), 0, 6), False),
        (E.Binary("max", E.Snap(E.Acc(), 0, 9), E.Snap(E.Load(0), 0, 9)), True),
        (E.Binary("add", E.Snap(E.Acc(), 0, 9), E.Snap(E.Load(0), 0, 9)), True),
        (E.Binary("add", E.Snap(E.Acc(), 0, 9), E.Load(0)), False),
        (E.Mask(E.Snap(E.Acc(), 0, 9), E.Load(0)), True),
        (E.Table(E.Snap(E.Acc(), 0, 1), 0, np.array([1, 2], np.float32)), True),
        (E.Table(E.Snap(E.Acc(), 0, 1), 0, np.array([1, 2.5], np.float32)), False),
    ],
)
def test_is_integer(value: E.Expr, integer: bool) -> None:
    assert E.is_integer(value) is integer


def test_stored_integers_less_their_zero_point_are_integers() -> None:
    relu = E.Clamp(E.affine(E.Load(0), 1.0, -81), 0, math.inf)
    assert not E.is_integer(relu)
    assert E.is_integer(relu, frozenset([0]))
    assert not E.is_integer(E.affine(E.Load(0), 0.5), frozenset([0]))


def test_integer_output_needs_a_rounding() -> None:
    with pytest.raises(ValueError, match="not rounded"):
        Epilogue(E.affine(E.Load(0), 0.5), "int8")


def test_walk_visits_shared_nodes_once() -> None:
    shared = E.affine(E.Acc(), 2.0)
    assert len(list(E.walk(E.Binary("mul", shared, shared)))) == 3


@on_each_isa
def test_unary_functions_are_float32_accurate(isa: Isa) -> None:
    values = np.concatenate([np.linspace(-9, 9, 90), [0.0, -0.0, 1e-7, 60.0, -60.0, 200.0, -200.0]])
    x = values.astype(np.float32)
    for name in E.UNARY:
        data = np.abs(x) + np.float32(1e-3) if name in ("sqrt", "log", "reciprocal") else x
        value = E.Unary(name, E.Load(0))
        kernel = pointwise(data.shape, raw(value, (Operand(data.shape, "float32"),)), isa)
        with np.errstate(over="ignore"):
            expected = E.evaluate(value, None, [data])
        finite = np.isfinite(expected)
        got = run(kernel, isa, data)
        np.testing.assert_allclose(got[finite], expected[finite], rtol=2e-6, atol=1e-6, err_msg=name)
        assert (got[~finite] > 1e38).all(), name


def test_exp_is_within_an_ulp() -> None:
    isa = ISAS[-1]
    x = np.linspace(-87, 88, 20_001).astype(np.float32)
    got = run(pointwise(x.shape, raw(E.Unary("exp", E.Load(0)), (Operand(x.shape, "float32"),)), isa), isa, x)
    expected = np.exp(x.astype(np.float64))
    assert np.abs((got - expected) / np.spacing(expected.astype(np.float32))).max() <= 1.0


def test_natural_log_is_within_an_ulp() -> None:
    isa = ISAS[-1]
    edges = [0.0, -0.0, -1.0, np.inf, -np.inf, np.nan, 1e-45, 1.1754944e-38, 3.4e38, 1.0]
    x = np.concatenate([np.exp(np.linspace(-103, 88, 20_001)), edges]).astype(np.float32)
    got = run(pointwise(x.shape, raw(E.Unary("log", E.Load(0)), (Operand(x.shape, "float32"),)), isa), isa, x)
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = np.log(x.astype(np.float64))
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(got[~finite], expected[~finite])
    error = np.abs(got[finite] - expected[finite]) / np.spacing(np.abs(expected[finite]).astype(np.float32))
    assert error.max() <= 1.0


@on_each_isa
def test_products_are_rounded_before_they_are_added(isa: Isa) -> None:
    """Fused multiply-adds would make the last bit depend on the CPU."""
    x = np.random.default_rng(0).normal(0, 1, (4, 1000)).astype(np.float32)
    squares = E.Binary("mul", E.Load(0), E.Load(0))
    tree = E.Binary("add", E.affine(E.Load(0), 1.1, 0.3), E.Binary("sub", E.affine(squares, 0.7, -0.1), squares))
    got = run(pointwise(x.shape, raw(tree, (Operand(x.shape, "float32"),)), isa), isa, x)
    np.testing.assert_array_equal(got, E.evaluate(tree, None, [x]))


@pytest.mark.parametrize("name", sorted(E.UNARY))
def test_instruction_sets_agree_to_the_bit(name: str) -> None:
    x = np.random.default_rng(0).uniform(-10, 10, 1003).astype(np.float32)
    kernels = {
        isa: pointwise(x.shape, raw(E.Unary(name, E.Load(0)), (Operand(x.shape, "float32"),)), isa) for isa in ISAS
    }
    first, *others = (run(kernel, isa, x).view(np.uint32) for isa, kernel in kernels.items())
    for other in others:
        np.testing.assert_array_equal(other, first)


def trees(depth: int) -> st.SearchStrategy[E.Expr]:
    leaves: st.SearchStrategy[E.Expr] = st.sampled_from([E.Load(0), E.Load(1), E.Load(2)])
    if depth == 0:
        return leaves
    below = trees(depth - 1)
    constants = st.sampled_from([0.5, -0.25, np.linspace(-1, 1, 19).reshape(1, 1, 19), np.array([[[1.0], [2], [3]]])])
    return st.one_of(
        leaves,
        st.builds(E.affine, below, constants, constants),
        st.builds(E.Snap, below, st.just(-20.0), st.just(100.0)),
        st.builds(E.Clamp, below, st.just(-3.0), st.sampled_from([6.0, math.inf])),
        st.builds(E.Binary, st.sampled_from(["add", "sub", "mul", "min", "max"]), below, below),
        st.builds(E.Unary, st.sampled_from(["abs", "neg", "floor"]), below),
        st.builds(
            E.Table,
            st.builds(E.Snap, below, st.just(-4.0), st.just(4.0)),
            st.just(-4),
            st.just(np.arange(9, dtype=np.float32)),
        ),
    )


@on_each_isa
@few
@given(tree=trees(4), seed=st.integers(0, 99))
def test_emitted_code_computes_what_numpy_does(isa: Isa, tree: E.Expr, seed: int) -> None:
    rng = np.random.default_rng(seed)
    # Quarters: sums and products of a few stay exact, so no rounding hides a difference (or a fused multiply-add).
    full = rng.integers(0, 256, SHAPE).astype(np.uint8)
    row = (rng.integers(-40, 40, (2, 1, 1)) / 4).astype(np.float32)
    channel = rng.integers(-128, 128, (1, 1, 19)).astype(np.int8)
    operands = (full, row, channel)
    epilogue = raw(tree, tuple(Operand(x.shape, str(x.dtype)) for x in operands))
    got = run(pointwise(SHAPE, epilogue, isa), isa, *operands)
    expected = np.broadcast_to(E.evaluate(tree, None, list(operands)), SHAPE)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("value", "bound"),
    [
        (E.affine(E.Acc(), 0.5, 3.0), 2.0**30 + 3),
        (E.affine(E.Load(0), np.array([1.0, -4.0]), 1.0), 4 * 255 + 1),
        (E.affine(E.Load(1), 2.0), 256.0),
        (E.Load(2), math.inf),
        (E.Snap(E.Load(2), -10, 20), 20.0),
        (E.Clamp(E.Load(2), 0, math.inf), math.inf),
        (E.Binary("add", E.Load(0), E.Snap(E.Load(2), -10, 20)), 275.0),
        (E.Binary("div", E.Load(0), E.Load(1)), math.inf),
        (E.Unary("sigmoid", E.Load(2)), 1.0),
    ],
)
def test_magnitude(value: E.Expr, bound: float) -> None:
    assert E.magnitude(value, ["uint8", "int8", "float32"]) == bound
