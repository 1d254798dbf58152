"""What data shows of a tensor, in memory that does not grow with the data: its ends, then a histogram between them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 4096
_PIECE = 1 << 16  # elements looked at a time: they stay in the cache from one step to the next


@dataclass
class Ends:
    """Smallest and largest value, and their moving averages over frames.

    Attributes:
        low, high: over all frames.
        mean_low, mean_high: averages over frames, in which each new frame counts `weight`.
        frames: how many were seen.
    """

    low: float = math.inf
    high: float = -math.inf
    mean_low: float = 0.0
    mean_high: float = 0.0
    frames: int = 0
    weight: float = 0.05

    def add(self, values: NDArray[np.float32]) -> None:
        """See one frame; infinities and NaN are not counted."""
        self.see(*finite_ends(values))

    def see(self, low: float, high: float) -> None:
        """See the ends of one frame; NaN where it held no finite value."""
        if math.isnan(low):
            return
        self.low, self.high = min(self.low, low), max(self.high, high)
        weight = max(self.weight, 1 / (self.frames + 1))  # a plain mean over the first frames
        self.mean_low += weight * (low - self.mean_low)
        self.mean_high += weight * (high - self.mean_high)
        self.frames += 1

    @property
    def seen(self) -> bool:
        """A finite value was."""
        return self.frames > 0


@dataclass
class Histogram:
    """How often values lie in each of `BINS` equal bins from `low` to `high`; exact zeros are counted apart.

    Zero is on every grid, so zeros are represented exactly whatever the range: they have no say in it.
    """

    low: float
    high: float
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    zeros: int = 0

    @property
    def width(self) -> float:
        """Of a bin."""
        return (self.high - self.low) / BINS

    @property
    def centres(self) -> NDArray[np.float64]:
        """Middle of each bin."""
        return np.asarray(self.low + (np.arange(BINS) + 0.5) * self.width)

    def add(self, values: NDArray[np.float32]) -> None:
        """Count one frame's values; those beyond the ends count in the outermost bins."""
        if not self.high > self.low:
            return
        flat = values.reshape(-1)
        places = np.empty(min(_PIECE, flat.size), np.result_type(flat, np.float32))
        bins = np.empty(places.size, np.intp)
        low, steps = np.float32(self.low), np.float32(1 / self.width)
        counts, zeros = np.zeros(BINS, np.int64), 0
        with np.errstate(invalid="ignore", over="ignore"):
            for start in range(0, flat.size, _PIECE):
                piece = flat[start : start + _PIECE]
                place, at = places[: piece.size], bins[: piece.size]
                np.multiply(np.subtract(piece, low, out=place), steps, out=place)
                if place.min() > -1 and place.max() < BINS + 1:  # False for NaN
                    np.copyto(at, place, casting="unsafe")
                else:
                    np.copyto(at, _bin_at(place))
                found = np.bincount(at, minlength=BINS + 1)
                counts += found[:BINS]
                counts[-1] += found[BINS]
                zeros += int(np.count_nonzero(piece == 0))
            counts[_bin_at((np.zeros(1, places.dtype) - low) * steps)[0]] -= zeros
        self.counts += counts
        self.zeros += zeros

    def to_json(self) -> dict[str, Any]:
        """For a record."""
        return {"low": self.low, "high": self.high, "counts": self.counts.tolist(), "zeros": self.zeros}


def _bin_at(places: NDArray[np.floating]) -> NDArray[np.int32]:
    """The bins of places in units of them, the outermost for those beyond the ends."""
    return np.clip(places.astype(np.int32), 0, BINS - 1)


def finite_ends(values: NDArray[np.float32]) -> tuple[float, float]:
    """Smallest and largest finite value; NaN if there is none."""
    low, high = _ends_of(values)
    if not (math.isfinite(low) and math.isfinite(high)):
        low, high = _ends_of(values[np.isfinite(values)])
    return (low, high) if low <= high else (math.nan, math.nan)


def _ends_of(values: NDArray[np.float32]) -> tuple[float, float]:
    """Smallest and largest value, in one way through memory; NaN if one is, infinities of the wrong sign for none."""
    flat = values.reshape(-1)
    pieces = [flat[start : start + _PIECE] for start in range(0, flat.size, _PIECE)]
    ends = np.array([(piece.min(), piece.max()) for piece in pieces], np.float64).reshape(-1, 2)
    return float(ends[:, 0].min(initial=math.inf)), float(ends[:, 1].max(initial=-math.inf))
