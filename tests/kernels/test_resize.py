"""Resizing by given coordinates."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from drpai_qat.kernels import expr as E
from drpai_qat.kernels.epilogue import Epilogue
from drpai_qat.kernels.isa import Isa
from drpai_qat.kernels.resize import Blend, resize_linear, resize_nearest
from tests.kernels.running import few, integers, on_each_isa, raw, run

shapes = st.tuples(st.integers(1, 2), st.integers(1, 6), st.integers(1, 9), st.sampled_from([1, 3, 16, 35, 64]))


@on_each_isa
@few
@given(
    dtype=st.sampled_from(["uint8", "int16", "float32"]),
    shape=shapes,
    out=st.tuples(st.integers(1, 12), st.integers(1, 12)),
)
def test_nearest(isa: Isa, dtype: str, shape: tuple[int, int, int, int], out: tuple[int, int]) -> None:
    rng = np.random.default_rng(out[0])
    x = integers(rng, shape, dtype)
    rows, columns = rng.integers(0, shape[1], out[0]), rng.integers(0, shape[2], out[1])
    got = run(resize_nearest(shape, rows, columns, dtype, isa), isa, x)
    np.testing.assert_array_equal(got, x[:, rows][:, :, columns])


@on_each_isa
def test_nearest_doubling(isa: Isa) -> None:
    x = integers(np.random.default_rng(0), (1, 5, 7, 24), "uint8")
    rows, columns = np.arange(10) // 2, np.arange(14) // 2
    got = run(resize_nearest(x.shape, rows, columns, "uint8", isa), isa, x)
    np.testing.assert_array_equal(got, x.repeat(2, 1).repeat(2, 2))


def blend(rng: np.random.Generator, size: int, out: int) -> Blend:
    left = rng.integers(0, size, out)
    # Eighths are exact in float32, so the order of operations cannot show.
    return Blend(left, np.minimum(left + 1, size - 1), rng.integers(0, 8, out) / 8)


@on_each_isa
@few
@given(
    dtype=st.sampled_from(["uint8", "int8", "int16", "float32"]),
    shape=shapes,
    out=st.tuples(st.integers(1, 12), st.integers(1, 12)),
)
def test_linear(isa: Isa, dtype: str, shape: tuple[int, int, int, int], out: tuple[int, int]) -> None:
    rng = np.random.default_rng(out[1])
    x = integers(rng, shape, dtype)
    rows, columns = blend(rng, shape[1], out[0]), blend(rng, shape[2], out[1])
    down, across = rows.weight[:, None, None], columns.weight[:, None]
    tall = x[:, rows.left] * (1 - down) + x[:, rows.right] * down
    expected = tall[:, :, columns.left] * (1 - across) + tall[:, :, columns.right] * across
    np.testing.assert_array_equal(run(resize_linear(shape, rows, columns, dtype, raw(), isa), isa, x), expected)
    if dtype == "uint8":
        epilogue = Epilogue(E.Snap(E.affine(E.Acc(), 0.75, -20), -128, 127), "int8", 0)
        got = run(resize_linear(shape, rows, columns, dtype, epilogue, isa), isa, x)
        np.testing.assert_array_equal(got, epilogue.evaluate(expected.astype(np.float32), []))
