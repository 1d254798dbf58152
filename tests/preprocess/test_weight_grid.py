"""Scale recovery: whatever fake-quant and batch norm folding do to integers, they are found again, or nothing is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from preprocess.lattice import TOLERANCE
from preprocess.weight_grid import Misfit, WeightGrid, recover_grid

SEEDS = st.integers(0, 2**32 - 1)
SCALES = st.floats(1e-25, 1e20)


def integers(low: int, high: int) -> st.SearchStrategy[np.ndarray]:
    shapes = st.tuples(st.integers(1, 6), st.integers(1, 40))
    return npst.arrays(np.int64, shapes, elements=st.integers(low, high))


def fake_quantized(k: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """What fake-quant leaves: each product rounded to float32."""
    return k.astype(np.float32) * scale.astype(np.float32)[:, None]


def channel_scales(count: int, base: float, seed: int) -> np.ndarray:
    return (base * np.exp(np.random.default_rng(seed).uniform(-4, 4, count))).astype(np.float32)


def recovered(weights: np.ndarray) -> WeightGrid:
    grid = recover_grid(weights)
    assert isinstance(grid, WeightGrid), str(grid)
    return grid


def steps_of(grid: WeightGrid) -> np.ndarray:
    return grid.q.astype(np.int64) - np.reshape(grid.zero_point, (-1, 1)).astype(np.int64)


def assert_same_lattice(grid: WeightGrid, k: np.ndarray) -> None:
    """Channel by channel, the integers found are the trained ones divided by a common divisor."""
    found = steps_of(grid)
    for row, trained in zip(found, k, strict=True):
        np.testing.assert_array_equal(row * np.abs(trained).max(), trained * np.abs(row).max())
    if grid.scale.ndim:
        assert all(np.gcd.reduce(row) in (0, 1) for row in found)
    else:
        assert np.gcd.reduce(found, axis=None) in (0, 1)


def assert_reproduces(grid: WeightGrid, weights: np.ndarray, ulps: float) -> None:
    reals = steps_of(grid).astype(np.float32) * np.reshape(grid.scale, (-1, 1))
    peak = np.abs(weights).max(axis=1, keepdims=True)
    assert (np.abs(reals - weights) <= ulps * np.spacing(peak)).all()


@given(integers(-127, 127), SCALES, SEEDS)
def test_integers_of_plain_fake_quant_are_found(k: np.ndarray, base: float, seed: int) -> None:
    weights = fake_quantized(k, channel_scales(len(k), base, seed))
    grid = recovered(weights)
    assert_same_lattice(grid, k)
    assert_reproduces(grid, weights, 1)
    assert not grid.zero_point.any()


@given(integers(-127, 127), SCALES, SEEDS)
def test_batch_norm_folded_in_changes_nothing(k: np.ndarray, base: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    gain = (rng.normal(size=len(k)) * np.exp(rng.uniform(-2, 2, len(k)))).astype(np.float32)
    weights = fake_quantized(k, channel_scales(len(k), base, seed)) * gain[:, None]
    grid = recovered(weights)
    assert_same_lattice(grid, k * np.sign(gain).astype(np.int64)[:, None])
    assert grid.residual <= 3


@given(integers(-127, 127), st.floats(1e-6, 1e3), SEEDS)
def test_per_tensor_scale_survives_batch_norm_channel_by_channel(k: np.ndarray, scale: float, seed: int) -> None:
    gain = np.random.default_rng(seed).uniform(0.01, 100, len(k)).astype(np.float32)
    weights = fake_quantized(k, np.full(len(k), scale)) * gain[:, None]
    assert_same_lattice(recovered(weights), k)


@given(integers(-100, 155), SCALES, SEEDS)
def test_asymmetric_ranges_get_a_zero_point(k: np.ndarray, base: float, seed: int) -> None:
    weights = fake_quantized(k, channel_scales(len(k), base, seed))
    grid = recovered(weights)
    assert_same_lattice(grid, k)
    assert_reproduces(grid, weights, 1)


@given(integers(0, 255), SCALES, SEEDS)
def test_one_sided_ranges(k: np.ndarray, base: float, seed: int) -> None:
    assert_same_lattice(recovered(fake_quantized(k, channel_scales(len(k), base, seed))), k)


@given(integers(-8, 7), SCALES, SEEDS, st.booleans())
def test_few_bits_stay_few(k: np.ndarray, base: float, seed: int, negate: bool) -> None:
    k = -k if negate else k
    grid = recovered(fake_quantized(k, channel_scales(len(k), base, seed)))
    assert_same_lattice(grid, k)
    assert np.abs(steps_of(grid)).max() <= 8 or grid.scale.ndim == 0


@given(SEEDS, st.integers(6, 400))
def test_trained_floats_are_refused_with_their_distance(seed: int, size: int) -> None:
    weights = np.random.default_rng(seed).normal(size=(4, size)).astype(np.float32)
    misfit = recover_grid(weights)
    assert isinstance(misfit, Misfit)
    assert misfit.channels == 4
    assert misfit.ulp > TOLERANCE
    assert "no 8-bit grid" in str(misfit)


@given(SEEDS)
def test_one_value_off_the_grid_is_enough_to_refuse(seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights = fake_quantized(rng.integers(-127, 128, (3, 500)), np.array([0.01, 0.02, 0.07], np.float32))
    weights[1, rng.integers(500)] += 0.002
    misfit = recover_grid(weights)
    assert isinstance(misfit, Misfit)
    assert (misfit.channels, misfit.channel) == (1, 1)


def test_range_of_256_steps_with_negative_gain_needs_a_zero_point() -> None:
    k = np.array([[-127, 128, 5], [-128, 127, 5]])
    grid = recovered(fake_quantized(k, np.array([0.5, 0.3], np.float32)))
    np.testing.assert_array_equal(grid.zero_point, [-1, 0])
    np.testing.assert_array_equal(steps_of(grid), k)


def test_more_than_256_steps_are_refused() -> None:
    weights = fake_quantized(np.array([[-127, 129, 1, 64, -3]]), np.array([0.5], np.float32))
    assert isinstance(recover_grid(weights), Misfit)


def test_sixteen_bit_weights_are_refused() -> None:
    k = np.random.default_rng(0).integers(-32767, 32768, (2, 200))
    assert isinstance(recover_grid(fake_quantized(k, np.array([1e-4, 1e-5], np.float32))), Misfit)


def test_zero_channels_take_a_neighbours_scale() -> None:
    k = np.array([[0, 0, 0], [127, 3, -2], [5, 127, 1]])
    grid = recovered(fake_quantized(k, np.array([1, 0.1, 0.3], np.float32)))
    assert not grid.q[0].any()
    assert grid.scale[1] <= grid.scale[0] <= grid.scale[2]


def test_all_zero_weights() -> None:
    grid = recovered(np.zeros((3, 9), np.float32))
    assert grid.scale == 1
    assert not grid.q.any()


def test_denormal_channel_counts_as_zero() -> None:
    weights = np.array([[1e-40, -2e-40, 0], [0.127, 0.001, 0.004]], np.float32)
    grid = recovered(weights)
    assert not grid.q[0].any()
    np.testing.assert_array_equal(grid.q[1], [127, 1, 4])


def test_one_scale_is_preferred_to_one_a_channel() -> None:
    k = np.array([[2, 4, -6], [127, 5, 0], [0, 8, 16]])
    grid = recovered(fake_quantized(k, np.full(3, 0.0123)))
    assert grid.scale.shape == ()
    assert grid.scale == np.float32(0.0123)
    np.testing.assert_array_equal(grid.q, k)


@given(SEEDS)
def test_trained_scale_is_found_to_the_bit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scale = rng.uniform(1e-3, 1e-2, 8).astype(np.float32)
    grid = recovered(fake_quantized(rng.integers(-127, 128, (8, 300)), scale))
    np.testing.assert_array_equal(grid.scale, scale)
    assert grid.residual == 0


def test_noise_of_the_whole_tensor_is_told_from_none() -> None:
    """Older fake-quant adds the lower end of the range last, so small channels carry the large ones' rounding."""
    rng = np.random.default_rng(1)
    k = rng.integers(-127, 128, (4, 60))
    k[2] = rng.integers(-1, 2, 60)
    scale = np.float32(0.0371)
    lower = np.float32(-127) * scale
    weights = (k + 127).astype(np.float32) * scale + lower
    grid = recovered(weights)
    np.testing.assert_array_equal(grid.q, k)


@pytest.mark.parametrize("density", [0.001, 0.02])
def test_pruned_weights(density: float) -> None:
    rng = np.random.default_rng(2)
    k = rng.integers(-127, 128, (16, 4000)) * (rng.random((16, 4000)) < density)
    assert_same_lattice(recovered(fake_quantized(k, channel_scales(16, 0.01, 3))), k)


def test_layer_of_many_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("preprocess.lattice._BLOCK", 64)
    k = np.random.default_rng(4).integers(-127, 128, (3, 1000))
    grid = recovered(fake_quantized(k, np.array([0.1, 0.2, 0.5], np.float32)))
    np.testing.assert_array_equal(grid.q, k)


@pytest.mark.parametrize("channels", [1, 5])
def test_zero_between_two_steps(channels: int) -> None:
    """DoReFa: m (2 q / 255 - 1), on no grid of 8 bits through zero."""
    rng = np.random.default_rng(4)
    q = rng.integers(0, 256, (channels, 40))
    q[:, 0] = 255
    peak = np.abs(rng.normal(1, 0.3, (channels, 1))).astype(np.float32)
    weights = (peak * (np.float32(2) * (q / np.float32(255)).astype(np.float32) - np.float32(1))).astype(np.float32)
    grid = recover_grid(weights)
    assert isinstance(grid, WeightGrid)
    assert grid.q.dtype == np.int16
    assert not grid.zero_point.any()
    np.testing.assert_array_equal(grid.q, 2 * q - 255)
