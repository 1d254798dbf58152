"""Experiments on a layer's values: where they end, and how they are rounded."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from drpai_qat.compare.layers import Reals
from drpai_qat.compare.structure import FOLLOW, MOVE, kind_of, region
from drpai_qat.compare.suspect import EXPLAINED, Cause, Suspect


def fused_activation(suspect: Suspect) -> Cause | None:
    """One side ends the values at an activation's limit, the other does not."""
    grid = suspect.grid
    scale, zero = (1.0, 0.0) if grid is None else (float(grid.scale), float(grid.zero_point))
    mask, steps, found = suspect.seen.wrong, suspect.seen.steps, suspect.seen.found
    for name, real in (("ReLU", 0.0), ("ReLU6", 6.0), ("ReLU1", 1.0), ("ReLU1", -1.0)):
        at = real / scale + zero
        low = real <= 0
        if grid is not None and not np.iinfo(grid.dtype).min < np.rint(at) < np.iinfo(grid.dtype).max:
            continue  # the type's own end
        limited = np.maximum(steps, at) if low else np.minimum(steps, at)
        if suspect.explained(suspect.rounded(limited)):
            return Cause("fused activation", f"B has a {name} here that A has not: its values end at {real:g}")
        beyond = found < at - 0.5 if low else found > at + 0.5
        flat = np.abs(steps - at) < 0.01
        if mask.any() and (flat & beyond)[mask].mean() >= EXPLAINED:
            return Cause("fused activation", f"A has a {name} here that B has not: B's values go beyond {real:g}")
    return None


def saturation(suspect: Suspect) -> Cause | None:
    """The values end elsewhere, or wrap around."""
    mask, found = suspect.seen.wrong, suspect.seen.found
    whole = np.rint(suspect.seen.steps)
    grid, other = suspect.grid, suspect.b.structure.tensors[suspect.figures.pair.theirs].grid
    if not mask.any() or (grid is None) != (other is None):
        return _one_side_without_a_grid(suspect) if mask.any() else None
    if grid is None:
        return None
    low, high = float(found.min()), float(found.max())
    if suspect.explained(np.clip(whole, low, high)) and (low > grid.qmin or high < grid.qmax):
        beyond = float((((whole > high) | (whole < low)) & mask).sum()) / suspect.wrong
        if beyond >= EXPLAINED:
            return Cause("saturation", f"B's integers end at {low:g} and {high:g}, A's at {grid.qmin} and {grid.qmax}")
    outside = (whole >= grid.qmax) | (whole <= grid.qmin)
    span = float(1 << (8 * grid.dtype.itemsize))
    wrapped = np.abs((found - whole + span / 2) % span - span / 2) < 0.51
    if (wrapped & outside)[mask].mean() >= EXPLAINED:
        return Cause("saturation", "B's integers wrap around where A's end at the limit of the type")
    if outside[mask].mean() >= EXPLAINED and (found[mask].max() > grid.qmax or found[mask].min() < grid.qmin):
        return Cause("saturation", f"A's integers end at {grid.qmin} and {grid.qmax}, B's go beyond")
    return None


def _one_side_without_a_grid(suspect: Suspect) -> Cause | None:
    """A float tensor goes on where the other side's grid ends."""
    grid, other = suspect.grid, suspect.b.structure.tensors[suspect.figures.pair.theirs].grid
    mask, steps, found = suspect.seen.wrong, suspect.seen.steps, suspect.seen.found
    if grid is not None:
        apart = np.abs(np.clip(steps, grid.qmin, grid.qmax) - np.clip(found, grid.qmin, grid.qmax))
        if (apart[mask] < 0.02).mean() >= EXPLAINED:
            return Cause("saturation", f"A's integers end at {grid.qmin} and {grid.qmax}; B is not quantized here")
    elif other is not None and not other.per_channel:
        low, high = (float(end) for end in other.real_range())
        apart = np.abs(np.clip(steps, low, high) - found)
        if (apart[mask] < 0.6 * float(other.scale)).mean() >= EXPLAINED:
            return Cause("saturation", f"B's grid ends at {low:.4g} and {high:.4g}; A is not quantized here")
    return None


_ROUND_NOTHING = (MOVE, FOLLOW, "minimum", "maximum", "max")

_ROUNDINGS: Sequence[tuple[str, Callable[[Reals], Reals]]] = (
    ("down (floor)", np.floor),
    ("toward zero", np.trunc),
    ("up (ceil)", np.ceil),
    ("half up", lambda x: np.floor(x + 0.5)),
    ("half away from zero", lambda x: np.sign(x) * np.floor(np.abs(x) + 0.5)),
)


def rounding(suspect: Suspect) -> Cause | None:
    """B rounds in another way."""
    grid = suspect.grid
    zero = 0.0 if grid is None else float(grid.zero_point)
    for text, rounded in _ROUNDINGS:
        expected = rounded(np.round(suspect.seen.steps - zero, 6)) + zero
        if grid is not None:
            expected = np.clip(expected, grid.qmin, grid.qmax)
        if suspect.explained(expected) and suspect.equal(expected) >= EXPLAINED:
            return Cause("rounding mode", f"B rounds {text}, A half to even")
    return None


def rounding_twice(suspect: Suspect) -> Cause | None:
    """One side rounds to a grid of its own first, and the other's values are no farther off than both roundings."""
    pair, grid = suspect.figures.pair, suspect.grid
    if grid is None:
        return None
    far = float(np.abs(np.clip(suspect.seen.steps, grid.qmin, grid.qmax) - suspect.seen.found).max(initial=0))
    ends = (dict.fromkeys(one.ours for one in suspect.matching.points),
            dict.fromkeys(one.theirs for one in suspect.matching.points))  # fmt: skip
    for label, side, name, known in (("B", suspect.b, pair.theirs, ends[1]), ("A", suspect.a, pair.ours, ends[0])):
        for inner in reversed(region(side.structure, name, known)):
            tensor = side.structure.tensors[inner]
            if inner == name or not tensor.op or tensor.grid is None or tensor.grid.per_channel:
                continue
            if kind_of(tensor.op) in _ROUND_NOTHING:
                continue
            if far <= (0.56 if suspect.seen.exact else 1.06) + 0.5 * float(tensor.grid.scale) / float(grid.scale):
                return Cause("rounding mode", f"{label} rounds twice: to the grid of {inner} ({tensor.op}) first")
    return None
