"""Epilogues: rounding, zero points, saturation, and where constants and operands are read."""

from __future__ import annotations

import numpy as np
import pytest

from drpai_qat.kernels import expr as E
from drpai_qat.kernels.epilogue import Epilogue, Operand, Output
from drpai_qat.kernels.isa import Isa
from drpai_qat.kernels.pointwise import pointwise
from tests.kernels.running import ISAS, on_each_isa, run, run_all


@on_each_isa
@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "uint16", "int32"])
def test_rounds_half_to_even_and_saturates(isa: Isa, dtype: str) -> None:
    x = np.concatenate([np.arange(-6, 6) + 0.5, [-1e6, 1e6, 0.49999997, -0.0, 2.5000002]]).astype(np.float32)
    low, high = (-300, 40_000) if dtype == "int32" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    zero_point = 3
    epilogue = Epilogue(
        E.Snap(E.Load(0), low - zero_point, high - zero_point), dtype, zero_point, (Operand(x.shape, "float32"),)
    )
    expected = np.clip(np.rint(x.astype(np.float64)) + zero_point, low, high).astype(dtype)
    np.testing.assert_array_equal(run(pointwise(x.shape, epilogue, isa), isa, x), expected)
    np.testing.assert_array_equal(epilogue.evaluate(None, [x]), expected)


@on_each_isa
def test_inner_roundings_are_kept(isa: Isa) -> None:
    x = np.arange(0, 256, dtype=np.uint8)
    first = E.Snap(E.affine(E.Load(0), 0.25, -20.0), -15, 15)
    epilogue = Epilogue(E.Snap(E.affine(first, 2.5), -128, 127), "int8", 0, (Operand((256,), "uint8"),))
    inner = np.clip(np.rint(x * 0.25 - 20), -15, 15)
    np.testing.assert_array_equal(run(pointwise((256,), epilogue, isa), isa, x), np.rint(inner * 2.5).astype(np.int8))


@on_each_isa
@pytest.mark.parametrize(
    "shape", [(2, 3, 4, 21), (1, 3, 4, 21), (2, 1, 4, 21), (2, 3, 1, 1), (1, 1, 4, 1), (1, 1, 1, 21), (1, 1, 1, 1)]
)
def test_operands_and_constants_broadcast(isa: Isa, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    out_shape = (2, 3, 4, 21)
    x, y = rng.integers(-99, 99, out_shape).astype(np.int16), rng.integers(-128, 128, shape).astype(np.int8)
    constant = rng.integers(1, 9, shape).astype(np.float64)
    value = E.Binary("add", E.affine(E.Load(0), constant, -constant), E.Load(1))
    epilogue = Epilogue(value, "float32", 0, (Operand(out_shape, "int16"), Operand(shape, "int8")))
    expected = x * constant - constant + y
    np.testing.assert_array_equal(run(pointwise(out_shape, epilogue, isa), isa, x, y), expected)


def test_layers_that_differ_in_numbers_alone_share_their_function() -> None:
    def function(scale: float, zero_point: int) -> str:
        value = E.Snap(E.affine(E.Load(0), np.full(8, scale) * np.arange(1, 9)), -zero_point, 255 - zero_point)
        return str(pointwise((4, 8), Epilogue(value, "uint8", zero_point, (Operand((4, 8), "int8"),)), ISAS[0]).func)

    assert function(0.1, 3) == function(0.7, 128)


@on_each_isa
@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "uint16"])
@pytest.mark.parametrize("tight", [0, 5], ids=["full range", "narrow range"])
@pytest.mark.parametrize("zero_point", [0, 100])
def test_integers_saturate_when_packed(isa: Isa, dtype: str, tight: int, zero_point: int) -> None:
    """Bounded expressions leave their limits to the saturation of the packing instructions."""
    edges = [
        -(2**30),
        -70_000,
        -32_900,
        -32_768,
        -400,
        -260,
        -129,
        -1,
        0,
        1,
        126,
        254,
        300,
        32_767,
        65_535,
        70_000,
        2**30,
    ]
    x = np.resize(np.asarray(edges, np.int32), 200)
    low, high = np.iinfo(dtype).min + tight, np.iinfo(dtype).max - tight
    value = E.Snap(E.affine(E.Load(0), 0.5), low - zero_point, high - zero_point)
    epilogue = Epilogue(value, dtype, zero_point, (Operand(x.shape, "int32"),))
    expected = np.clip(np.rint(x * 0.5) + zero_point, low, high).astype(dtype)
    np.testing.assert_array_equal(run(pointwise(x.shape, epilogue, isa), isa, x), expected)


@on_each_isa
@pytest.mark.parametrize("count", [200, 37, 3])
def test_several_outputs_share_what_they_compute(isa: Isa, count: int) -> None:
    """A masked integer and the two planes of another, each with its own type and zero point."""
    rng = np.random.default_rng(4)
    x, y = rng.normal(0, 4e6, count).astype(np.float32), rng.integers(0, 256, count).astype(np.uint8)
    fine = E.Snap(E.Load(0), -(2.0**23), 2.0**23 - 1)
    high = E.Unary("floor", E.affine(fine, 2.0**-8))
    low = E.Binary("sub", fine, E.affine(high, 256.0))
    masked = E.Mask(E.affine(E.Load(1), 1.0, -9.0), fine)
    operands = (Operand((count,), "float32"), Operand((count,), "uint8"))
    more = (Output(low, "uint8"), Output(masked, "uint8", 9), Output(fine, "float32"))
    epilogue = Epilogue(high, "int16", 0, operands, more=more)
    q = np.clip(np.rint(x.astype(np.float64)), -(2**23), 2**23 - 1).astype(np.int64)
    expected = [q >> 8, q & 255, np.where(q > 0, y, 9), q]
    found = run_all(pointwise((count,), epilogue, isa), isa, x, y)
    for got, computed, wanted in zip(found, epilogue.evaluate_all(None, [x, y]), expected, strict=True):
        np.testing.assert_array_equal(got, wanted)
        np.testing.assert_array_equal(computed, wanted)
