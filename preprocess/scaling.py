"""Multiply quantized weights by a constant without a new rounding: only scales and signs change.

c > 0:  s' = s * c                  float64, rounded once to float32
c < 0:  s' = s * |c|,  real = -s(q - z) = s((-q) - (-z));  where -q leaves the type (-128): q' = ~q, z' = ~z
c = 0:  q' = z (all reals zero), s' = s
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from drpai_qat.core.quantization import SMALLEST_SCALE, QuantParams
from preprocess.surgery import Array


def scale_channels(
    q: Array, params: QuantParams, factor: NDArray[np.float64], axis: int | None
) -> tuple[Array, QuantParams] | None:
    """Multiply the reals of `q` by `factor`.

    Args:
        q: integers with parameters `params`.
        factor: shape (1,) or (channels,) along `axis`.
        axis: channel axis of factor.
    Returns: integers and parameters; None if the scale runs along another axis, or if a factor or the new scale is not
        finite or denormal.
    """
    if params.axis is not None and factor.size > 1 and axis != params.axis:
        return None
    new_axis = params.axis if params.axis is not None else axis if factor.size > 1 else None
    channels = 1 if new_axis is None else q.shape[new_axis]
    numbers = np.broadcast_to(factor, (channels,))
    scales = np.broadcast_to(params.scale.reshape(-1).astype(np.float64), (channels,))
    points = np.broadcast_to(params.zero_point.reshape(-1), (channels,)).astype(np.int64)
    zero = numbers == 0
    scaled = np.where(zero, scales, scales * np.abs(numbers))
    if not np.isfinite(scaled).all() or (scaled < SMALLEST_SCALE).any() or (scaled > np.finfo(np.float32).max).any():
        return None
    if (numbers <= 0).any():
        q, points = _with_signs(q, points, numbers, new_axis)
    shape = () if new_axis is None else (channels,)
    return q, QuantParams.of(scaled.reshape(shape), points.reshape(shape), params.dtype, axis=new_axis)


def _with_signs(
    q: Array, points: NDArray[np.int64], numbers: NDArray[np.float64], axis: int | None
) -> tuple[Array, NDArray[np.int64]]:
    """Negate the channels with a negative factor, blank those with a zero factor."""
    by_channel = q.reshape(1, -1).copy() if axis is None else np.moveaxis(q, axis, 0).copy()
    limits = np.iinfo(q.dtype)
    points = points.copy()
    for channel in np.flatnonzero(numbers <= 0):
        values = by_channel[channel]
        if numbers[channel] == 0:
            values[...] = points[channel]
        elif limits.min < 0 and values.min() > limits.min and points[channel] > limits.min:
            values[...] = -values
            points[channel] = -points[channel]
        else:  # complement: unsigned types mirror within their range, signed ones reach -128 -> 127
            values[...] = ~values
            points[channel] = limits.max + limits.min - points[channel]
    return (by_channel.reshape(q.shape) if axis is None else np.moveaxis(by_channel, 0, axis)), points
