"""The largest or smallest elements of [outer, sorted, inner], in order."""

from __future__ import annotations

import numpy as np
import pytest

from drpai_qat.kernels.sort import arg_best, top_k
from tests.kernels.running import ISAS, run, run_all


@pytest.mark.parametrize("dtype", ["float32", "uint8", "int8", "int16", "int64", "uint64"])
@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize(
    ("outer", "count", "inner", "k"), [(1, 1, 1, 1), (2, 2, 3, 1), (3, 37, 2, 37), (1, 1000, 1, 5), (1, 3000, 7, 300)]
)
def test_top_k(outer: int, count: int, inner: int, k: int, largest: bool, dtype: str) -> None:
    rng = np.random.default_rng(count)
    x = rng.integers(0, 100, (outer, count, inner)).astype(dtype)  # with equal ones
    if dtype.startswith("uint"):
        x = np.iinfo(dtype).max - x  # beyond the signed type of that size
    values, places = run_all(top_k(outer, count, inner, k, largest, dtype), ISAS[0], x)
    ranks = np.unique(x, return_inverse=True)[1].reshape(x.shape)
    order = np.argsort(-ranks if largest else ranks, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(places, order)
    np.testing.assert_array_equal(values, np.take_along_axis(x, order, 1))


@pytest.mark.parametrize("dtype", ["float32", "uint8", "int8", "int16", "int64"])
@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize("last", [True, False])
def test_arg_best(largest: bool, last: bool, dtype: str) -> None:
    for outer, count, inner in ((1, 1, 1), (3, 37, 2), (2, 5, 700), (1, 1000, 1)):
        x = np.random.default_rng(count).integers(0, 100, (outer, count, inner)).astype(dtype)
        best = x.max(1, keepdims=True) if largest else x.min(1, keepdims=True)
        equal = x == best
        wanted = count - 1 - equal[:, ::-1].argmax(1) if last else equal.argmax(1)
        np.testing.assert_array_equal(run(arg_best(outer, count, inner, largest, last, dtype), ISAS[0], x), wanted)
