"""From what data showed of a tensor to the range of its grid.

minmax           the smallest and the largest value: nothing is clipped, one outlier makes all steps coarse
moving_average   averages of each frame's ends (Krishnamoorthi 2018): outliers of single frames count little
percentile       the ends leave out a share of the values (Wu et al. 2020: 99.99%)
mse              the range whose rounding and clipping together cost least, squared (Banner et al. 2019, and others)
layer            that of mse or a wider one, whichever costs the layers that read the tensor least (layer_error.py)
entropy          the range whose quantized histogram is nearest to the true one by Kullback-Leibler (Migacz 2017)
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from drpai_qat.calibration.observers import BINS, Ends, Histogram
from drpai_qat.core.quantization import SMALLEST_SCALE, QuantParams

Range = tuple[float, float]

LEVELS = 256
_LEAST_RANGE = 1e-12  # of a tensor that is all zero
_CANDIDATES = 128  # of each end
_LEAST_SHARE = 0.05  # of the largest value, that a range keeps


def minmax(ends: Ends) -> Range:
    """Smallest and largest value."""
    return ends.low, ends.high


def moving_average(ends: Ends) -> Range:
    """Average of the frames' smallest and largest values."""
    return ends.mean_low, ends.mean_high


def percentile(histogram: Histogram, share: float) -> Range:
    """The range that holds `share` percent of all values; what it leaves out is shared by its two ends.

    Args:
        share: 0 to 100.
    """
    counts = histogram.counts.astype(np.float64).copy()
    counts[int(np.clip(-histogram.low / max(histogram.width, SMALLEST_SCALE), 0, BINS - 1))] += histogram.zeros
    total = counts.sum()
    two_sided = histogram.low < 0 < histogram.high
    left_out = (100 - share) / 100 * total / (2 if two_sided else 1)
    below = np.cumsum(counts)
    first = int(np.searchsorted(below, left_out, side="right")) if histogram.low < 0 else 0
    last = int(np.searchsorted(below, total - left_out, side="left")) if histogram.high > 0 else BINS - 1
    return histogram.low + first * histogram.width, histogram.low + (min(last, BINS - 1) + 1) * histogram.width


def mse(histogram: Histogram) -> Range:
    """The range with the least squared error: step^2 / 12 within it, the squared distance beyond it."""
    centres, counts = histogram.centres, histogram.counts.astype(np.float64)
    sums = [np.concatenate([[0.0], np.cumsum(counts * centres**power)]) for power in range(3)]
    lows, highs = _candidates(histogram.low, histogram.high)
    below, above = _first_bin(histogram, lows), _first_bin(histogram, highs)
    clipped_low = _beyond(sums, 0, below, lows)
    clipped_high = _beyond(sums, above, BINS, highs)
    outside_low, outside_high = sums[0][below], sums[0][-1] - sums[0][above]
    step = (np.maximum(highs, 0)[None, :] - np.minimum(lows, 0)[:, None]) / (LEVELS - 1)
    inside = sums[0][-1] - outside_low[:, None] - outside_high[None, :]
    error = clipped_low[:, None] + clipped_high[None, :] + inside * step**2 / 12
    at = np.unravel_index(int(np.argmin(error)), error.shape)
    return float(lows[at[0]]), float(highs[at[1]])


def entropy(histogram: Histogram) -> Range:
    """The range whose quantized histogram diverges least from the whole one."""
    counts = histogram.counts.astype(np.float64)
    total = counts.sum()
    if not total:
        return histogram.low, histogram.high
    lows, highs = _candidates(histogram.low, histogram.high)
    best, found = np.inf, (histogram.low, histogram.high)
    for low, high in _shrinking(lows, highs):
        first, last = _bins(histogram, low, high)
        if last - first < LEVELS // 2:
            continue
        divergence = _divergence(counts, first, last) / total
        if divergence < best:
            best, found = divergence, (low, high)
    return found


def _divergence(counts: NDArray[np.float64], first: int, last: int) -> float:
    """Kullback-Leibler of the histogram, clipped to bins first..last, and the same on `LEVELS` levels."""
    inside = counts[first:last]
    clipped = inside.copy()
    clipped[0] += counts[:first].sum()
    clipped[-1] += counts[last:].sum()
    level = np.minimum(np.arange(inside.size) * LEVELS // inside.size, LEVELS - 1)
    used = inside > 0
    sums = np.bincount(level, inside, LEVELS)
    filled = np.bincount(level, used, LEVELS)
    spread = np.where(used, sums[level] / np.maximum(filled[level], 1), 0)
    spread *= clipped.sum() / max(spread.sum(), 1e-30)
    present = clipped > 0
    q = np.where(spread > 0, spread, 1e-4)
    return float((clipped[present] * np.log(clipped[present] / q[present])).sum())


def _candidates(low: float, high: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Ends that a search tries: shares of the largest ones; an end on the other side of zero is zero."""
    shares = np.linspace(_LEAST_SHARE, 1, _CANDIDATES)
    lows = low * shares if low < 0 else np.zeros(1)
    highs = high * shares if high > 0 else np.zeros(1)
    return lows, highs


def _shrinking(lows: NDArray[np.float64], highs: NDArray[np.float64]) -> list[Range]:
    """Ranges with the larger side cut first, then both: one path instead of all pairs."""
    largest = max(-lows[-1], highs[-1])
    return [
        (max(float(lows[-1]), -limit), min(float(highs[-1]), limit))
        for limit in np.linspace(_LEAST_SHARE, 1, _CANDIDATES) * largest
    ]


def _bins(histogram: Histogram, low: float, high: float) -> tuple[int, int]:
    """First bin whose centre lies from `low` on, and the first beyond `high`."""
    first, last = _first_bin(histogram, np.array([low, high]))
    return int(first), int(max(first, last))


def _first_bin(histogram: Histogram, values: NDArray[np.float64]) -> NDArray[np.int64]:
    """The first bin whose centre lies from each value on."""
    edges = (values - histogram.low) / max(histogram.width, SMALLEST_SCALE)
    return np.clip(np.ceil(edges - 0.5), 0, BINS).astype(np.int64)


def _beyond(
    sums: list[NDArray[np.float64]],
    first: int | NDArray[np.int64],
    last: int | NDArray[np.int64],
    end: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Sum of squared distances to each `end` over bins first..last."""
    mass, mean, square = (one[last] - one[first] for one in sums)
    return np.asarray(square - 2 * end * mean + end**2 * mass)


def of_histogram(histogram: Histogram, method: str, share: float) -> Range:
    """The range that a method of `METHODS` reads off a histogram; `share` is that of `percentile`."""
    if not histogram.high > histogram.low:
        return histogram.low, histogram.high
    if method == "percentile":
        return percentile(histogram, share)
    return entropy(histogram) if method == "entropy" else mse(histogram)


BY_ENDS: dict[str, Callable[[Ends], Range]] = {"minmax": minmax, "moving_average": moving_average}
"""Methods that need no histogram, hence one pass over the data."""


def grid_of_range(low: float, high: float, *, symmetric: bool = False) -> QuantParams:
    """The 8-bit grid of a range, widened to hold zero.

    Args:
        symmetric: int8 with zero point 0; a range that starts at zero keeps all 8 bits as uint8 from 0 on.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    if symmetric and low < 0:
        scale = np.float32(max(-low, high, _LEAST_RANGE) / 127)
        return QuantParams.of(scale, 0, np.int8)
    scale = np.float32(max(high - low, _LEAST_RANGE) / (LEVELS - 1))
    zero_point = int(np.clip(np.rint(-low / float(scale)), 0, LEVELS - 1))
    return QuantParams.of(scale, zero_point, np.uint8)
