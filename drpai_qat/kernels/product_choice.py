"""Which product a layer of 8-bit activations gets: the fastest that is exact for its weights, and the proofs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from drpai_qat.kernels import guard
from drpai_qat.kernels.isa import Isa
from drpai_qat.kernels.product import Product
from drpai_qat.kernels.products import DOT2, Dot4, Pairs, dot4


def product8(
    isa: Isa, weights: npt.NDArray[np.int8], qmin: int, qmax: int, zero_point: int | None = None
) -> tuple[Product, float]:
    """The fastest product of 8-bit activations that is exact for these weights, and its time (`DOT2_COST`).

    Args:
        weights: int8, shape (out_channels, rows, columns, channels), channels a multiple of 4.
        qmin, qmax: range of the stored activations (isa.activation).
        zero_point: of the same, where they may be looked at while the network runs.
    """
    if isa.arm:
        if isa.dot4_exact:
            return Dot4("int8"), 1.0
        return Pairs(pair_steps(weights, max(-qmin, qmax))), 1.0
    if isa.dot4_exact:
        return dot4(), 1.0
    proven = dot4_steps(weights, qmax)
    best, best_cost = (dot4(proven), _cost(proven)) if proven else (DOT2, DOT2_COST)
    steps = 0 if zero_point is None else guard.likely_steps(weights, zero_point, qmax, isa)
    if steps > proven and _cost(steps) + _GUARD < best_cost:
        best, best_cost = Dot4(steps=steps, guard=True), _cost(steps) + _GUARD
    return best, best_cost


# Times as multiples of one proven vpmaddubsw step's, which is 1; fitted on AVX2 cores whose limit is multiplications
# (Zen 3) and instructions (Golden Cove).
DOT2_COST = 1.2  # two multiplications and additions, and the widening of weights
_GUARD = 0.1  # the survey, and some exceptions


def _cost(steps: int) -> float:
    return 0.58 + 0.42 / steps


LEAST_COST = _cost(4)


def pair_steps(weights: npt.NDArray[np.int8], largest: int, limit: int = 4) -> int:
    """How many int8 x int8 products may be added in int16, proven for these weights.

    Args:
        weights: int8, shape (out_channels, rows, columns, channels), channels a multiple of 4.
        largest: magnitude of the activations, at most 128.
    Returns: 4, 2 or 1, a divisor of channels / 2; one product is at most 128 * 128 and always fits.
    """
    # Pair p holds channels 2p and 2p + 1; each adds up in an int16 of its own.
    bounds = np.abs(weights.reshape(-1, weights.shape[-1] // 2, 2).astype(np.int32)) * largest
    steps = limit
    while steps > 1:
        if bounds.shape[1] % steps == 0:
            sums = bounds.reshape(len(bounds), bounds.shape[1] // steps, steps, 2).sum(2)
            if sums.max(initial=0) <= 32767:
                return steps
        steps //= 2
    return steps


def dot4_steps(weights: npt.NDArray[np.int8], qmax: int, limit: int = 4) -> int:
    """How many vpmaddubsw results may be added in int16, proven for these weights; 0 where even one may saturate.

    vpmaddubsw adds neighbouring products a0*w0 + a1*w1 with 0 <= a <= qmax: at most qmax * (w0+ + w1+), at least
    qmax * (w0- + w1-). Steps are added pair by pair, so the bound of a sum is the sum of the bounds.

    Args:
        weights: int8, shape (out_channels, rows, columns, channels), channels a multiple of 4.
        qmax: largest stored activation (uint8).
    Returns: 4, 2, 1 or 0, a divisor of channels / 4.
    """
    pairs = weights.reshape(-1, weights.shape[-1] // 4, 2, 2).astype(np.int32)
    first, second = pairs[..., 0], pairs[..., 1]
    high = np.maximum(first, 0) + np.maximum(second, 0)
    low = np.minimum(first, 0) + np.minimum(second, 0)
    proven, steps = 0, 1
    # Bounds only grow with the steps: the first failure is the last question.
    while high.max(initial=0) * qmax <= 32767 and low.min(initial=0) * qmax >= -32768:
        proven, steps = steps, 2 * steps
        if steps > limit or high.shape[1] % 2:
            break
        high, low = high[:, 0::2] + high[:, 1::2], low[:, 0::2] + low[:, 1::2]
    return proven
