"""How LiteRT's plain kernels, and those of microcontrollers, requantize an accumulator: in fixed point, rounded twice.

    a = floor(acc * m / 2^31 + 1/2),  q = floor(a / 2^r + 1/2) + zero_point      with  s_x * s_w / s_y = m / 2^31 / 2^r

XNNPACK rounds once, in float32. Where accumulators are small, r is, and the first rounding lifts values below a tie
onto it: they end one step too high.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def requantized(accumulators: Ints, multipliers: NDArray[np.float64]) -> Ints:
    """Accumulators as a plain kernel rounds them; `multipliers` (below 1) broadcast against them."""
    mantissa, exponent = np.frexp(multipliers)
    factor = np.rint(mantissa * 2**31).astype(np.int64)
    high = factor == 2**31
    factor, exponent = np.where(high, factor // 2, factor), exponent + high
    left, right = np.maximum(exponent, 0), np.maximum(-exponent, 0)
    first = ((accumulators << left) * factor + (1 << 30)) >> 31
    half = np.where(right > 0, np.int64(1) << np.maximum(right - 1, 0), 0)
    return (first + half) >> right
