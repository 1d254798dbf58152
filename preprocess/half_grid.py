"""The grid of weights that went through float16, found within float16's rounding.

    w = half(s * k):   |w - s k| <= 2^-11 |w|   (2^-25 where float16 is denormal)

For given integers k every weight bounds s from both sides; a scale that satisfies all of them explains the row. The
candidates for k are those of lattice.py: the peak is on the lattice itself. As the tolerance grows with k up to a
sixteenth of a step, few weights can lie on a grid by accident: a row counts only if that is less likely than 2^-16.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from preprocess.lattice import MAX_STEPS, ORDER, Grid

_RELATIVE, _ABSOLUTE = 2.0**-11, 2.0**-25
_BITS = 16.0
_BLOCK = 1 << 20

Doubles = NDArray[np.float64]


def went_through_half(weights: NDArray[np.float32]) -> bool:
    """True if float16 holds every one of `weights` exactly."""
    with np.errstate(over="ignore"):
        return bool((weights.astype(np.float16).astype(np.float32) == weights).all())


def fit_half_rows(rows: NDArray[np.float32]) -> Grid:
    """Find the coarsest lattice of each row; the scale is NaN where there is none."""
    grid = Grid(np.zeros(rows.shape, np.int16), np.full(len(rows), np.nan))
    peak = np.abs(rows).max(axis=1, initial=0.0).astype(np.float64)
    grid.scale[peak == 0] = 0.0
    active = np.flatnonzero(peak > 0)
    for n in ORDER:
        for part in np.array_split(active, max(1, active.size * rows.shape[1] // _BLOCK)):
            values = rows[part].astype(np.float64)
            k = np.rint(values * (n / peak[part])[:, None])
            scale = _scale(values, k)
            grid.k[part], grid.scale[part] = k, scale
        active = active[np.isnan(grid.scale[active])]
        if not active.size:
            break
    grid.k[np.isnan(grid.scale)] = 0
    return grid


def _scale(values: Doubles, k: Doubles) -> Doubles:
    """The scale of each row that explains all its values by the integers k; NaN where there is none."""
    slack = np.maximum(np.abs(values) * _RELATIVE, _ABSOLUTE) * 1.001
    used = k != 0
    size = np.where(used, np.abs(k), 1)
    low = np.where(used, (np.abs(values) - slack) / size, -np.inf).max(axis=1)
    high = np.where(used, (np.abs(values) + slack) / size, np.inf).min(axis=1)
    middle = (low + high) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        chance = np.log2(np.clip(4 * slack / middle[:, None], 2.0**-20, 1)).sum(axis=1)
    span = k.max(axis=1) - k.min(axis=1)
    lost = (~used & (np.abs(values) > _ABSOLUTE * 1.001)).any(axis=1)
    fits = (low <= high) & (chance + np.log2(MAX_STEPS) <= -_BITS) & (span <= MAX_STEPS) & ~lost
    return np.where(fits, middle, np.nan)
