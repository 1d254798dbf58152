"""Signal to quantization noise ratio: the figure that all comparisons of tensors share."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def sqnr_db(found: NDArray, reference: NDArray) -> float:
    """Power of the reference over that of the difference, in dB.

    Returns: inf if they are equal; -inf where a silent reference is not met, or the difference is no finite number.
    """
    ours, theirs = (np.asarray(one, np.float64) for one in (found, reference))
    noise = float(np.square(ours - theirs).sum())
    if noise == 0:
        return math.inf
    signal = float(np.square(theirs).sum())
    if signal == 0 or not math.isfinite(noise):
        return -math.inf
    return 10 * math.log10(signal / noise)
