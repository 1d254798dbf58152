"""Float weights of one layer as int8 with scale and zero point.

    w[c] = scale[c] * (q[c] - zero_point[c])

A grid for all channels is preferred (per-tensor training leaves one to 1 ulp, even where one channel alone would allow
a coarser grid), else one grid per channel. The integers k of the lattice become q = k where they fit -128..127, else
q = k + zero_point with the zero point that fits: asymmetric training, or a range -127..128 from a batch norm that
flipped the sign. Odd integers beyond int8, whose zero lies between two steps, stay as they are, in int16.

Weights that float16 holds exactly went through it: their grid is looked for within its rounding (half_grid.py).

A channel of few distinct values, or whose integers have a common divisor, gets the coarsest grid that explains it: any
finer one holds the same weights. A channel of zeros gets the median scale of the others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drpai_qat.core.quantization import SMALLEST_SCALE
from preprocess.half_grid import fit_half_rows, went_through_half
from preprocess.lattice import MAX_STEPS, TOLERANCE, Grid, fit_rows, float32_scale, nearest_miss, ulp


@dataclass(frozen=True)
class WeightGrid:
    """Recovered integers.

    Attributes:
        q: int8 or int16, shape (channels, n).
        scale: float32, shape (channels,), or () where one grid explains all channels.
        zero_point: type of q, shape of scale.
        residual: largest distance of a weight from the grid, in float32 ulp of its channel's largest magnitude.
    """

    q: NDArray[np.integer]
    scale: NDArray[np.float32]
    zero_point: NDArray[np.integer]
    residual: float


@dataclass(frozen=True)
class Misfit:
    """Why there is no 8-bit grid: the first channel without one, and how far it misses the best candidate."""

    channels: int
    channel: int
    ulp: float
    steps: float

    def __str__(self) -> str:
        return (
            f"{self.channels} channel(s) on no 8-bit grid; channel {self.channel} misses the nearest by "
            f"{self.steps:.2g} steps ({self.ulp:.2g} ulp; up to {TOLERANCE:g} would be rounding)"
        )


def recover_grid(weights: NDArray[np.float32]) -> WeightGrid | Misfit:
    """Recover the grid of fake-quantized weights.

    Args:
        weights: finite float32, shape (channels, n).
    Returns: the grid, or why there is none.
    """
    peak = np.abs(weights).max(axis=1, initial=0.0).astype(np.float64)
    alive = peak >= MAX_STEPS * SMALLEST_SCALE  # below, the scale would be denormal: as good as zero
    if not alive.any():
        return WeightGrid(np.zeros(weights.shape, np.int8), np.array(1, np.float32), np.array(0, np.int8), 0.0)
    weights = np.ascontiguousarray(np.where(alive[:, None], weights, np.float32(0)))
    unit = ulp(peak)
    grid = _one_grid(weights, float(unit[alive].min()))
    if grid is None:
        by_channel = fit_rows(weights, TOLERANCE * unit)
        lost = np.flatnonzero(np.isnan(by_channel.scale))
        if lost.size:  # older TensorFlow adds the lower end of the range last: the noise is that of the whole tensor
            grid = _one_grid(weights, TOLERANCE * float(unit.max()))
        else:
            scale = by_channel.scale
            grid = Grid(by_channel.k, np.where(scale > 0, scale, np.median(scale[scale > 0])))
    if grid is None and went_through_half(weights):
        grid = _half_grid(weights)
    if grid is None:
        return Misfit(lost.size, int(lost[0]), *nearest_miss(weights[lost[0]]))
    return _as_integers(weights, grid, unit)


def _one_grid(weights: NDArray[np.float32], allowed: float) -> Grid | None:
    """A lattice for all channels, to a residual of `allowed`; None if there is none."""
    grid = fit_rows(weights.reshape(1, -1), np.array([allowed]))
    return None if np.isnan(grid.scale[0]) else Grid(grid.k.reshape(weights.shape), grid.scale)


def _half_grid(weights: NDArray[np.float32]) -> Grid | None:
    """A lattice for all channels, or one each, within float16's rounding; None if there is none."""
    whole = fit_half_rows(weights.reshape(1, -1))
    if not np.isnan(whole.scale[0]):
        return Grid(whole.k.reshape(weights.shape), whole.scale)
    by_channel = fit_half_rows(weights)
    scale = by_channel.scale
    if np.isnan(scale).any():
        return None
    return Grid(by_channel.k, np.where(scale > 0, scale, np.median(scale[scale > 0])))


def _as_integers(weights: NDArray[np.float32], grid: Grid, unit: NDArray[np.float64]) -> WeightGrid:
    """Integers shifted into int8 where they fit, scales rounded to float32, the residual as computed in float32."""
    single = grid.scale.size == 1
    rows, k = (weights.reshape(1, -1), grid.k.reshape(1, -1)) if single else (weights, grid.k)
    scale = float32_scale(rows, k, grid.scale)
    low, high = k.min(axis=1, initial=0), k.max(axis=1, initial=0)
    fits = (low >= -128) & (high <= 127)
    wide = bool((high.astype(np.int64) - low > MAX_STEPS).any())
    dtype: np.dtype[np.integer] = np.dtype(np.int16 if wide else np.int8)
    zero_point: NDArray[np.integer] = np.where(fits | wide, 0, -128 - low).astype(dtype)
    off = np.abs(k.astype(np.float32) * scale[:, None] - rows).reshape(weights.shape)
    residual = float((off.max(axis=1, initial=0) / np.where(unit > 0, unit, 1)).max())
    q: NDArray[np.integer] = (k + zero_point[:, None]).astype(dtype).reshape(weights.shape)
    shape = () if single else scale.shape
    return WeightGrid(q, scale.reshape(shape), zero_point.reshape(shape), residual)
