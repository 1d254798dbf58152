"""Ranges read off data whose best range is known."""

import numpy as np
import pytest

from drpai_qat.calibration import ranges
from drpai_qat.calibration.observers import BINS, Ends, Histogram
from drpai_qat.core.quantization import QuantParams


def seen(*frames):
    """Ends and histogram of frames."""
    ends = Ends()
    for frame in frames:
        ends.add(frame.astype(np.float32))
    histogram = Histogram(ends.low, ends.high)
    for frame in frames:
        histogram.add(frame.astype(np.float32))
    return ends, histogram


def error(values, low, high):
    params = ranges.grid_of_range(low, high)
    return float(np.square(params.dequantize(params.quantize(values)) - values).mean())


def test_ends_of_frames():
    ends, _ = seen(np.array([-1.0, 2.0]), np.array([-3.0, 1.0]), np.array([np.nan, np.inf, 0.5]))
    assert ranges.minmax(ends) == (-3.0, 2.0)
    low, high = ranges.moving_average(ends)
    assert low == pytest.approx((-1 - 3 + 0.5) / 3)
    assert high == pytest.approx((2 + 1 + 0.5) / 3)


@pytest.mark.parametrize("ends", [(-3.0, 2.5), (-40.0, 2.0), (0.0, 1.0), (-5.0, 0.0), (0.5, 9.0)])
def test_each_value_counts_in_its_bin(ends):
    """Of more values than are counted at a time; zeros apart, and what lies beyond the ends in the outermost bins."""
    values = np.random.default_rng(0).normal(0, 1, (2, 70_000)).astype(np.float32)
    values[:, ::5] = [[0.0], [-0.0]]
    values[0, :3] = [np.nan, 1e9, -1e9]
    histogram = Histogram(*ends)
    histogram.add(values)
    counted = values[values != 0]
    with np.errstate(invalid="ignore"):
        at = ((counted - np.float32(ends[0])) * np.float32(BINS / (ends[1] - ends[0]))).astype(np.int32)
    assert np.array_equal(histogram.counts, np.bincount(np.clip(at, 0, BINS - 1), minlength=BINS))
    assert histogram.zeros == values.size - counted.size


@pytest.mark.parametrize("method", ["entropy", "percentile"])
def test_an_outlier_is_cut_off(method):
    values = np.append(np.random.default_rng(0).normal(0, 1, 20000), 200.0).astype(np.float32)
    _, histogram = seen(values)
    low, high = ranges.of_histogram(histogram, method, 99.9)
    assert -8 < low < -2
    assert 2 < high < 40


@pytest.mark.parametrize("shape", ["normal", "laplace", "uniform", "relu"])
def test_mse_is_near_the_best_range_there_is(shape):
    generator = np.random.default_rng(1)
    values = np.asarray(getattr(generator, "normal" if shape == "relu" else shape)(size=50000), np.float32)
    values = np.maximum(values, 0) if shape == "relu" else values
    low, high = ranges.mse(seen(values)[1])
    shares = np.linspace(0.3, 1, 15)
    tried = min(error(values, a * values.min(), b * values.max()) for a in shares for b in shares)
    assert error(values, low, high) < 1.05 * tried


def test_zeros_have_no_say_in_mse_and_count_for_percentile():
    values = np.random.default_rng(2).exponential(1, 10000)
    few, many = (seen(np.append(values, np.zeros(count)))[1] for count in (10, 1000000))
    assert ranges.mse(few) == ranges.mse(many)
    assert ranges.percentile(many, 99.9)[1] < ranges.percentile(few, 99.9)[1]


def test_grids():
    params = ranges.grid_of_range(0.5, 2.55)
    assert params == QuantParams.of(np.float32(2.55 / 255), 0, np.uint8)
    params = ranges.grid_of_range(-1.0, 0.5, symmetric=True)
    assert params == QuantParams.of(np.float32(1 / 127), 0, np.int8)
    assert ranges.grid_of_range(0.0, 2.55, symmetric=True).dtype == np.uint8  # all 8 bits are of use
    assert ranges.grid_of_range(0.0, 0.0).scale > 0
