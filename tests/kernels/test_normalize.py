"""Softmax and normalizations against float64."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from drpai_qat.kernels import expr as E
from drpai_qat.kernels.epilogue import Epilogue
from drpai_qat.kernels.isa import Isa
from drpai_qat.kernels.normalize import group_norm, layer_norm, softmax
from tests.kernels.running import few, integers, on_each_isa, raw, run

SCALES = {"uint8": (0.1, 100), "int8": (0.05, -3), "int16": (0.0004, 0), "float32": (1.0, 0)}
dtypes = st.sampled_from(list(SCALES))


def tensor(shape: tuple[int, ...], dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Stored numbers and what they mean."""
    x = integers(np.random.default_rng(shape[-1]), shape, dtype)
    scale, zero_point = SCALES[dtype]
    return x, (x.astype(np.float64) - zero_point) * np.float32(scale)


@on_each_isa
@few
@given(
    dtype=dtypes,
    outer=st.integers(1, 3),
    size=st.sampled_from([1, 2, 7, 10, 16, 33, 197, 1000]),
    inner=st.sampled_from([1, 1, 3, 20]),
    log=st.booleans(),
)
def test_softmax(isa: Isa, dtype: str, outer: int, size: int, inner: int, log: bool) -> None:
    x, real = tensor((outer, size, inner), dtype)
    exps = np.exp(real - real.max(1, keepdims=True))
    expected = exps / exps.sum(1, keepdims=True)
    kernel = softmax(outer, size, inner, dtype, *SCALES[dtype], raw(), isa, log)
    got = run(kernel, isa, x).reshape(x.shape)
    if log:
        np.testing.assert_allclose(got, np.log(np.maximum(expected, 1e-300)), rtol=1e-5, atol=1e-5)
    else:
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-7)
        epilogue = Epilogue(E.Snap(E.affine(E.Acc(), 256), 0, 255), "uint8", 0)
        quantized = run(softmax(outer, size, inner, dtype, *SCALES[dtype], epilogue, isa), isa, x)
        assert np.abs(quantized.reshape(x.shape) - np.clip(expected * 256, 0, 255)).max() <= 0.501


@on_each_isa
@few
@given(dtype=dtypes, rows=st.integers(1, 4), size=st.sampled_from([1, 2, 5, 16, 31, 192, 768]))
def test_layer_norm(isa: Isa, dtype: str, rows: int, size: int) -> None:
    x, real = tensor((rows, size), dtype)
    gamma, beta = np.linspace(0.5, 2, size), np.linspace(-1, 1, size)
    expected = (real - real.mean(1, keepdims=True)) / np.sqrt(real.var(1, keepdims=True) + 1e-5) * gamma + beta
    epilogue = raw(E.affine(E.Acc(), gamma.reshape(1, -1), beta.reshape(1, -1)))
    got = run(layer_norm(rows, size, 1e-5, dtype, *SCALES[dtype], epilogue, isa), isa, x)
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-5)


@on_each_isa
def test_layer_norm_of_values_far_from_zero(isa: Isa) -> None:
    """One pass over sum and sum of squares would lose these."""
    x = (10_000 + np.random.default_rng(0).standard_normal((3, 96))).astype(np.float32)
    real = x.astype(np.float64)
    expected = (real - real.mean(1, keepdims=True)) / np.sqrt(real.var(1, keepdims=True) + 1e-5)
    got = run(layer_norm(3, 96, 1e-5, "float32", 1.0, 0, raw(), isa), isa, x)
    np.testing.assert_allclose(got, expected, atol=5e-3)


@on_each_isa
@few
@given(
    dtype=dtypes,
    batch=st.integers(1, 2),
    positions=st.sampled_from([1, 9, 50]),
    group=st.sampled_from([(1, 24), (19, 1), (3, 7)]),
)
def test_group_norm(isa: Isa, dtype: str, batch: int, positions: int, group: tuple[int, int]) -> None:
    x, real = tensor((batch, positions, *group), dtype)
    mean, variance = real.mean((1, 3), keepdims=True), real.var((1, 3), keepdims=True)
    expected = ((real - mean) / np.sqrt(variance + 1e-5)).reshape(batch, positions, -1)
    got = run(group_norm(batch, positions, *group, 1e-5, dtype, *SCALES[dtype], raw(), isa), isa, x)
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-5)
