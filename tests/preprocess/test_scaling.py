from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from drpai_qat.core.quantization import QuantParams
from preprocess.int8_weights import to_int8
from preprocess.scaling import scale_channels

DTYPES = st.sampled_from([np.int8, np.uint8, np.int16])


def grid(dtype: type, zero_points: list[int], seed: int, axis: int | None) -> tuple[np.ndarray, QuantParams]:
    rng, limits = np.random.default_rng(seed), np.iinfo(dtype)
    q: np.ndarray = rng.integers(limits.min, limits.max, (3, 3, 2), endpoint=True).astype(dtype)
    points = np.clip(zero_points, limits.min, limits.max)
    if axis is None:
        return q, QuantParams.of(rng.uniform(1e-3, 1), points[0], dtype)
    return q, QuantParams.of(rng.uniform(1e-3, 1, 3), points, dtype, axis=axis)


@given(
    dtype=DTYPES,
    zero_points=st.lists(st.integers(-200, 300), min_size=3, max_size=3),
    factor=st.lists(st.floats(-8, 8, width=32).filter(lambda f: f == 0 or abs(f) > 1e-3), min_size=3, max_size=3),
    seed=st.integers(0, 2**31),
    axis=st.sampled_from([None, 0, 1]),
)
def test_reals_are_multiplied_and_integers_stay_on_the_grid(
    dtype: type, zero_points: list[int], factor: list[float], seed: int, axis: int | None
) -> None:
    q, params = grid(dtype, zero_points, seed, axis)
    along = axis if axis is not None else 1
    result = scale_channels(q, params, np.array(factor), along)
    assert result is not None
    shape = [3 if at == along else 1 for at in range(3)]
    expected = params.dequantize(q).astype(np.float64) * np.array(factor).reshape(shape)
    np.testing.assert_allclose(result[1].dequantize(result[0]), expected, rtol=3e-7, atol=0)
    assert result[0].dtype == dtype


def test_scale_along_another_axis_is_refused() -> None:
    q, params = grid(np.int8, [0, 0, 0], 0, 0)
    assert scale_channels(q, params, np.array([1.0, 2.0, 3.0]), 1) is None


def test_factor_of_one_number_keeps_a_per_channel_axis() -> None:
    q, params = grid(np.int8, [0, 0, 0], 0, 1)
    result = scale_channels(q, params, np.array([-2.0]), None)
    assert result is not None
    assert result[1].axis == 1


def test_factors_that_leave_float32_are_refused() -> None:
    q, params = grid(np.int8, [0, 0, 0], 0, 0)
    for factor in (1e-42, 1e42, np.inf, np.nan):
        assert scale_channels(q, params, np.array([1.0, factor, 1.0]), 0) is None


@given(
    dtype=DTYPES,
    zero_points=st.lists(st.integers(-200, 300), min_size=3, max_size=3),
    seed=st.integers(0, 2**31),
    narrow=st.booleans(),
    axis=st.sampled_from([None, 0, 2]),
)
def test_int8_holds_the_same_reals(
    dtype: type, zero_points: list[int], seed: int, narrow: bool, axis: int | None
) -> None:
    rng, limits = np.random.default_rng(seed), np.iinfo(dtype)
    points = np.clip(zero_points, limits.min, limits.max)
    span = 60 if narrow else 127
    low = max(int(points.min()) - span, limits.min)
    high = min(low + 2 * span, limits.max)
    q: np.ndarray = rng.integers(low, high, (3, 2, 3), endpoint=True).astype(dtype)
    scale = rng.uniform(1e-3, 1, 3)
    params = (
        QuantParams.of(scale[0], points[0], dtype) if axis is None else QuantParams.of(scale, points, dtype, axis=axis)
    )
    result = to_int8(q, params)
    steps = q.astype(int) - (
        points[0] if axis is None else points.reshape([-1 if at == axis else 1 for at in range(3)])
    )
    if result is None:
        assert dtype == np.int16
        return
    assert result[0].dtype == np.int8
    np.testing.assert_array_equal(result[1].dequantize(result[0]), params.dequantize(q))
    if np.abs(steps).max() <= 127:
        assert result[1].symmetric
