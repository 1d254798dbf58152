"""The order of a tensor's axes on two sides: ONNX has channels first, TFLite last."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drpai_qat.check.figures import cosine

Order = tuple[int, ...]

CHANNELS_FIRST, CHANNELS_LAST = (0, 3, 1, 2), (0, 2, 3, 1)


def arranged(values: NDArray[Any], order: Order | None, shape: tuple[int, ...]) -> NDArray[Any]:
    """Values in the axes of the other side.

    Args:
        order: permutation; None: none.
        shape: of the other side; axes of size 1 may stand elsewhere.
    """
    return (values if order is None else values.transpose(order)).reshape(shape)


def orders(shape: tuple[int, ...], wanted: tuple[int, ...]) -> list[Order | None]:
    """The permutations that may make one shape of the other, the usual ones first; None: no change."""
    found: list[Order | None] = []
    if _plain(shape) == _plain(wanted):
        found.append(None)
    if len(shape) == 4:
        usual = [order for order in (CHANNELS_FIRST, CHANNELS_LAST) if _fits(shape, order, wanted)]
        found += usual
    elif len(shape) == 3 and _fits(shape, (0, 2, 1), wanted):
        found.append((0, 2, 1))
    return found


def all_orders(shape: tuple[int, ...], wanted: tuple[int, ...]) -> list[Order]:
    """Every permutation of the axes behind the batch that makes one shape of the other."""
    return [(0, *rest) for rest in itertools.permutations(range(1, len(shape))) if _fits(shape, (0, *rest), wanted)]


def best_order(values: NDArray[Any], wanted: NDArray[Any]) -> tuple[float, Order | None]:
    """The order in which values come nearest to the other side's, and their cosine; -1 where no order fits."""
    ours = wanted.astype(np.float64)
    scored = [
        (cosine(arranged(values, order, wanted.shape).astype(np.float64), ours), number, order)
        for number, order in enumerate(orders(values.shape, wanted.shape))
    ]
    if not scored:
        return -1.0, None
    score, _, order = max(scored, key=lambda one: (one[0], -one[1]))
    return score, order


def inverse(order: Order | None) -> Order | None:
    """The permutation back."""
    return None if order is None else tuple(order.index(axis) for axis in range(len(order)))


def _plain(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


def _fits(shape: tuple[int, ...], order: Order, wanted: tuple[int, ...]) -> bool:
    return len(shape) == len(order) and tuple(shape[axis] for axis in order) == wanted
