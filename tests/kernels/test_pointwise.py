"""Elementwise kernels: collapsed dims, odd channel counts, tables."""

from __future__ import annotations

import numpy as np
import pytest
import tvm

from drpai_qat.backends.cpu.fp_contraction import round_products
from drpai_qat.kernels import expr as E
from drpai_qat.kernels.epilogue import Epilogue, Operand
from drpai_qat.kernels.isa import AVX2, Isa
from drpai_qat.kernels.lookup import lookup
from drpai_qat.kernels.pointwise import pointwise
from tests.kernels.running import integers, on_each_isa, raw, run


@on_each_isa
@pytest.mark.parametrize("shape", [(1, 7, 5, 3), (2, 4, 4, 1), (1, 1, 1, 1), (3,), (2, 3, 64), (5, 5, 5, 5)], ids=str)
def test_quantize_with_channel_constants(isa: Isa, shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).uniform(-3, 3, shape).astype(np.float32)
    mul = np.linspace(16, 64, shape[-1]).reshape((1,) * (len(shape) - 1) + (-1,))
    epilogue = Epilogue(E.Snap(E.affine(E.Load(0), mul), -128, 127), "uint8", 128, (Operand(shape, "float32"),))
    np.testing.assert_array_equal(run(pointwise(shape, epilogue, isa), isa, x), epilogue.evaluate(None, [x]))


@on_each_isa
@pytest.mark.parametrize("other", [(2, 1, 1, 3), (1, 5, 7, 3), (2, 5, 7, 1), (1, 1, 7, 3), (1, 5, 1, 1), (1, 1, 1, 1)])
def test_broadcast_addition(isa: Isa, other: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    x, y = integers(rng, (2, 5, 7, 3), "uint8"), integers(rng, other, "int8")
    value = E.Snap(E.Binary("add", E.affine(E.Load(0), 0.5), E.affine(E.Load(1), 0.25, 3)), 0, 255)
    epilogue = Epilogue(value, "uint8", 0, (Operand(x.shape, "uint8"), Operand(other, "int8")))
    got = run(pointwise(x.shape, epilogue, isa), isa, x, y)
    np.testing.assert_array_equal(got, epilogue.evaluate(None, [x, y]))


@on_each_isa
def test_operands_alone_make_the_output(isa: Isa) -> None:
    """An outer sum: no operand has the output's shape."""
    x, y = np.arange(12, dtype=np.int16).reshape(4, 1, 3), np.arange(5, dtype=np.float32).reshape(1, 5, 1)
    epilogue = raw(E.Binary("sub", E.Load(0), E.Load(1)), (Operand(x.shape, "int16"), Operand(y.shape, "float32")))
    np.testing.assert_array_equal(run(pointwise((4, 5, 3), epilogue, isa), isa, x, y), x - y)


@on_each_isa
@pytest.mark.parametrize("size", [1, 15, 200, 70_001])
@pytest.mark.parametrize(("in_dtype", "out_dtype"), [("uint8", "uint8"), ("int8", "int8"), ("int8", "float32")])
def test_lookup(isa: Isa, size: int, in_dtype: str, out_dtype: str) -> None:
    rng = np.random.default_rng(size)
    x, table = integers(rng, (size,), in_dtype), integers(rng, (256,), out_dtype)
    x[: min(size, 256)] = np.arange(min(size, 256)).astype(np.uint8).view(in_dtype)
    first = 0 if in_dtype == "uint8" else -128
    got = run(lookup(size, in_dtype, table, first, isa), isa, x)
    np.testing.assert_array_equal(got, table[x.astype(int) - first])


def test_functions_of_functions_grow_with_their_number() -> None:
    """TVM's simplifier would repeat the inner ones wherever the outer ones use them: exponentially."""
    shape, sizes = (1, 4, 4, 16), []
    for depth in (2, 4, 6, 8):
        value: E.Expr = E.Load(0)
        for fn in (("exp", "log", "tanh", "erf") * 2)[:depth]:
            value = E.Unary(fn, value)
        kernel = pointwise(shape, Epilogue(value, "float32", 0, (Operand(shape, "float32"),)), AVX2)
        module = round_products(tvm.IRModule({"pointwise": kernel.func}))
        sizes.append(len(tvm.s_tir.transform.StmtSimplify()(module).script()))
    assert sizes[3] - sizes[2] < 1.5 * (sizes[1] - sizes[0])
