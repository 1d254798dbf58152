"""Reductions over [outer, reduced, inner]."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drpai_qat.kernels import expr as E
from drpai_qat.kernels.epilogue import Epilogue
from drpai_qat.kernels.isa import Isa
from drpai_qat.kernels.reduce import Kind, reduce
from tests.kernels.running import few, integers, on_each_isa, raw, run

NUMPY: dict[Kind, Callable[..., np.ndarray]] = {"sum": np.sum, "max": np.max, "min": np.min}


@on_each_isa
@pytest.mark.parametrize("kind", NUMPY)
@few
@given(
    dtype=st.sampled_from(["uint8", "int8", "int16", "float32"]),
    outer=st.integers(1, 3),
    reduced=st.sampled_from([1, 2, 7, 49, 130, 600]),
    inner=st.sampled_from([1, 1, 2, 9, 16, 31, 70]),
)
def test_reduce(isa: Isa, kind: Kind, dtype: str, outer: int, reduced: int, inner: int) -> None:
    x = integers(np.random.default_rng(reduced), (outer, reduced, inner), dtype)
    zero_point = 0 if dtype == "float32" else 5
    expected = NUMPY[kind](x.astype(np.int64) - zero_point, axis=1)
    got = run(reduce(outer, reduced, inner, kind, dtype, zero_point, raw(), isa), isa, x)
    np.testing.assert_array_equal(got, expected.astype(np.float32))


@on_each_isa
def test_sums_of_extremes_do_not_overflow(isa: Isa) -> None:
    for dtype in ("uint8", "int8", "int16"):
        for inner in (1, 40):
            x = np.full((1, 70_000, inner), np.iinfo(dtype).max, dtype)
            got = run(reduce(1, 70_000, inner, "sum", dtype, 0, raw(), isa), isa, x)
            np.testing.assert_allclose(got, 70_000 * int(np.iinfo(dtype).max), rtol=2e-7)


@on_each_isa
def test_mean_over_an_image_requantizes(isa: Isa) -> None:
    x = integers(np.random.default_rng(2), (2, 7, 5, 37), "uint8")
    scales = np.linspace(0.5, 2, 37).reshape(1, 1, 1, 37)
    epilogue = Epilogue(E.Snap(E.affine(E.Acc(), scales / 35), -128, 127), "int8", 0, out_shape=(2, 1, 1, 37))
    got = run(reduce(2, 35, 37, "sum", "uint8", 100, epilogue, isa), isa, x)
    sums = (x.astype(np.int64) - 100).sum((1, 2), keepdims=True)
    np.testing.assert_array_equal(got, epilogue.evaluate(sums.astype(np.int32), []).reshape(2, 37))
