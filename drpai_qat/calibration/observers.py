"""What data shows of a tensor, in memory that does not grow with the data: its ends, then a histogram between them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 4096
_PIECE = 1 << 20  # elements counted at a time


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
        low, high = float(values.min(initial=math.inf)), float(values.max(initial=-math.inf))
        if not (math.isfinite(low) and math.isfinite(high)):
            values = values[np.isfinite(values)]
            if not values.size:
                return
            low, high = float(values.min()), float(values.max())
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
        for start in range(0, flat.size, _PIECE):
            piece = flat[start : start + _PIECE]
            piece = piece[piece != 0]
            with np.errstate(invalid="ignore"):
                at = ((piece - np.float32(self.low)) * np.float32(1 / self.width)).astype(np.int32)
            np.clip(at, 0, BINS - 1, out=at)
            self.counts += np.bincount(at, minlength=BINS)
            self.zeros += min(_PIECE, flat.size - start) - piece.size

    def to_json(self) -> dict[str, Any]:
        """For a record."""
        return {"low": self.low, "high": self.high, "counts": self.counts.tolist(), "zeros": self.zeros}
