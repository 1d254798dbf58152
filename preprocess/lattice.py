"""The integer grid that float weights sit on: scale recovery.

tf2onnx evaluates the fake-quant of weights and often multiplies batch norm into the result, so trained weights arrive
as plain float32 numbers. Each channel is still a lattice: w = s * k + noise, with integers k and noise of a few ulp
from float32 rounding (fake-quant rounds once or twice, the product with batch norm once more). Given w, find s and k.

Method, for each row (channel) with largest magnitude p. p is on the lattice itself, p = s * n with n in 1..255, so s is
one of 255 candidates p / n. They are tried from the coarsest grid, n = 1, on: a few probe values rule out nearly all
candidates, a survivor is checked on the whole row, and a value that refutes it joins the probes. Then s is refined
to the least-squares fit sum(k w) / sum(k k), and the residual max|w - s k| decides. It is counted in ulp of p, since
the noise of fake-quant arithmetic is that of its largest numbers.

Why the answer is unique: if two grids explain a value v, both fractions j/n and k/n' are within the tolerance of v / p;
unequal fractions with denominators up to 255 differ by at least 1/255**2 = 1.5e-5, and the tolerance is 1.9e-6. So the
grid that passes is the trained one or, where the trained integers have a common divisor, the trained one thinned out by
it, which holds the same values. Nothing is assumed of the range: 127 steps to the largest weight is the usual outcome,
not a premise. Where zero lies in the middle between two steps (DoReFa: w = m (2 q / 255 - 1)), all integers are odd,
and span up to 510. And whatever passes reproduces the weights to 1e-6 of the row's largest, trained that way or not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TOLERANCE = 8.0
"""Largest residual taken for rounding noise, in float32 ulp of the row's largest magnitude. Measured on exports: 0.5
for plain fake-quant, up to 2.5 with batch norm folded in."""
MAX_STEPS = 255
"""Steps between the ends of an 8-bit range."""
ORDER = (1, 127, *range(2, 127), *range(128, MAX_STEPS + 1))
"""Candidates for the peak's integer. 127 is prime, so that only n = 1 can be coarser: the usual answer comes second."""
_PROBES = 4
_BLOCK = 1 << 21
"""Elements worked on at a time: bounds the memory that float64 copies take."""

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Grid:
    """Rows on lattices through zero: row[i] = scale[i] * k[i].

    Attributes:
        k: int16, shape (rows, n); all 0 in a row of zeros.
        scale: float64, shape (rows,); 0 in a row of zeros, NaN in a row on no lattice of 255 steps.
    """

    k: NDArray[np.int16]
    scale: Doubles


def ulp(magnitude: Doubles) -> Doubles:
    """Distance to the next float32, shape of `magnitude`."""
    return np.spacing(np.abs(magnitude).astype(np.float32)).astype(np.float64)


def fit_rows(rows: NDArray[np.float32], allowed: Doubles) -> Grid:
    """Find the coarsest lattice of each row.

    Args:
        rows: finite float32, shape (rows, n).
        allowed: shape (rows,); largest distance that passes for noise, at most 8 ulp of the row's peak.
    """
    count, size = rows.shape
    grid = Grid(np.zeros(rows.shape, np.int16), np.full(count, np.nan))
    peak = np.abs(rows).max(axis=1, initial=0.0).astype(np.float64)
    grid.scale[peak == 0] = 0.0
    probes = rows[:, :: max(1, size // _PROBES)].astype(np.float64)
    refuted = np.zeros(count, np.int64)
    active = np.flatnonzero(peak > 0)
    for n in ORDER:
        ratio = n / peak[active]
        steps = probes[active] * ratio[:, None]
        near = np.abs(steps - np.rint(steps)) <= (2 * allowed[active] * ratio)[:, None]
        passing = active[near.all(axis=1)]
        for at in range(0, passing.size, max(1, _BLOCK // size)):
            some = passing[at : at + max(1, _BLOCK // size)]
            k, scale, worst, fits = _fit(rows[some], n / peak[some], allowed[some])
            grid.k[some[fits]], grid.scale[some[fits]] = k[fits], scale[fits]
            off = some[~fits]
            probes[off, refuted[off] % probes.shape[1]] = rows[off, worst[~fits]]
            refuted[off] += 1
        active = active[np.isnan(grid.scale[active])]
        if not active.size:
            break
    return grid


def _fit(
    rows: NDArray[np.float32], ratio: Doubles, allowed: Doubles
) -> tuple[NDArray[np.int16], Doubles, NDArray[np.intp], NDArray[np.bool_]]:
    """Fit the lattice of step 1 / ratio to whole rows.

    Returns: integers, least-squares scale, index of the value that is farthest off, and whether it is near enough.
    """
    count, size = rows.shape
    k = np.zeros(rows.shape, np.int16)
    products, squares = np.zeros(count), np.zeros(count)
    for part in _parts(size):
        exact = rows[:, part].astype(np.float64)
        nearest = np.rint(exact * ratio[:, None])
        k[:, part] = nearest
        products += np.einsum("ij,ij->i", nearest, exact)
        squares += np.einsum("ij,ij->i", nearest, nearest)
    scale = products / squares
    residual, worst = np.zeros(count), np.zeros(count, np.intp)
    for part in _parts(size):
        off = np.abs(rows[:, part] - k[:, part] * scale[:, None])
        at = off.argmax(axis=1)
        largest = off[np.arange(count), at]
        worst = np.where(largest > residual, part.start + at, worst)
        residual = np.maximum(residual, largest)
    span = k.max(axis=1, initial=0).astype(np.int64) - k.min(axis=1, initial=0)
    span[(k % 2 != 0).all(axis=1)] //= 2  # zero is half a step off the grid: steps of two, each half of one from zero
    return k, scale, worst, (residual <= allowed) & (span <= MAX_STEPS)


def nearest_miss(values: NDArray[np.float32]) -> tuple[float, float]:
    """How far a row stays from the best of all candidate lattices, tried on a sample of 64 values.

    Returns: residual in ulp of the row's largest magnitude, and in steps of that lattice.
    """
    peak = float(np.abs(values).max())
    sample = values[:: max(1, values.size // 64)].astype(np.float64)
    ratio = np.arange(1, MAX_STEPS + 1)[:, None] / peak
    steps = sample * ratio
    off = np.abs(steps - np.rint(steps)).max(axis=1)
    best = int((off / ratio[:, 0]).argmin())
    return float(off[best] / ratio[best, 0] / np.spacing(np.float32(peak))), float(off[best])


def float32_scale(rows: NDArray[np.float32], k: NDArray[np.int16], scale: Doubles) -> NDArray[np.float32]:
    """Round fitted scales to float32: of the nearest five, the one that reproduces most weights to the bit.

    Args:
        rows: shape (rows, n); up to 512 of a row's values take part.
        k: integers, shape (rows, n).
        scale: least-squares scales, shape (rows,).
    Returns: float32, shape (rows,).
    """
    every = max(1, rows.shape[1] // 512)
    values, integers = rows[:, ::every], k[:, ::every].astype(np.float32)
    nearest = scale.astype(np.float32)
    best, hits = nearest, np.full(len(rows), -1)
    for offset in (0, -1, 1, -2, 2):
        candidate = (nearest + offset * np.spacing(nearest)).astype(np.float32)
        equal = (integers * candidate[:, None] == values).sum(axis=1)
        best = np.where(equal > hits, candidate, best)
        hits = np.maximum(hits, equal)
    return best


def _parts(size: int) -> Iterator[slice]:
    for start in range(0, size, _BLOCK):
        yield slice(start, min(start + _BLOCK, size))
