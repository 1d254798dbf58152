"""The ranges of a layer's weights, channel by channel: which are dead, and which far beyond the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drpai_qat.graph.canonical import Weight

OUTLIER = 8.0
"""A channel is far beyond the others if its range is this many times their median."""

FEW_STEPS = 8
"""A channel whose weights reach no further than this many steps of the common grid has three bits left."""

_BINS = 32


@dataclass(frozen=True)
class WeightRanges:
    """Ranges of one weight tensor.

    Attributes:
        dtype: "int8", or "float32" where training gave no grid.
        per_channel: each output channel has a scale of its own.
        channels: number of output channels; 1 for a tensor without them.
        least, median, largest: of the channels' largest |weight|, in reals; dead channels left out.
        dead: channels whose weights are all zero.
        outliers: channels beyond `OUTLIER` medians, at most five, the widest first.
        coarse: channels of a tensor with one scale that use at most `FEW_STEPS` steps of it.
        histogram: number of channels by largest |weight|, in equal bins from 0 to `largest`.
    """

    dtype: str
    per_channel: bool
    channels: int
    least: float
    median: float
    largest: float
    dead: int
    outliers: tuple[int, ...]
    coarse: int
    histogram: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """As it stands in report.json."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}


def weight_ranges(weight: Weight, axis: int) -> WeightRanges:
    """Ranges of a layer's weights.

    Args:
        weight: at least one dim.
        axis: of the output channels.
    """
    params = weight.params
    values = weight.values
    axis = axis % max(values.ndim, 1)
    others = tuple(i for i in range(values.ndim) if i != axis)
    if params is None:
        reach = _reach(values, others, np.zeros((), np.int64))
        scale: NDArray = np.ones(())
    else:
        along = np.ndim(params.scale) == 1 and params.axis == axis
        zero = params.zero_point.reshape([-1 if i == axis else 1 for i in range(values.ndim)]) if along else None
        reach = _reach(values, others, params.zero_point.max(initial=0) if zero is None else zero)
        scale = params.scale if along or params.scale.ndim == 0 else params.scale.max()
    steps, reals = reach, reach * np.asarray(scale, np.float64)
    reals = np.where(np.isfinite(reals), reals, 0.0)  # a broken channel is dead, and the check says so of the outputs
    living = reals[reals > 0]
    median = float(np.median(living)) if living.size else 0.0
    far = np.flatnonzero(reals > OUTLIER * median) if median else np.empty(0, np.intp)
    widest = far[np.argsort(-reals[far])][:5]
    per_channel = params is not None and params.scale.size > 1
    coarse = 0 if params is None or per_channel else int(((steps > 0) & (steps <= FEW_STEPS)).sum())
    largest = float(reals.max(initial=0))
    counts = np.histogram(living, _BINS, (0, largest))[0] if largest > 0 else np.zeros(_BINS, int)
    return WeightRanges(
        dtype="float32" if params is None else params.dtype.name,
        per_channel=per_channel,
        channels=int(reals.size),
        least=float(living.min(initial=largest)),
        median=median,
        largest=largest,
        dead=int((reals == 0).sum()),
        outliers=tuple(int(i) for i in widest),
        coarse=coarse,
        histogram=tuple(int(i) for i in counts),
    )


def _reach(values: NDArray, others: tuple[int, ...], zero: NDArray | np.integer) -> NDArray[np.float64]:
    """Largest distance from the zero point along the other axes."""
    low, high = (np.asarray(edge(values, axis=others, keepdims=True), np.float64) - zero for edge in (np.min, np.max))
    return np.maximum(np.abs(low), np.abs(high)).reshape(-1)
