"""Experiments on what a layer is fed: other units, other channels, axes in another order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drpai_qat.compare.arrangement import CHANNELS_FIRST, CHANNELS_LAST, all_orders
from drpai_qat.compare.layers import Reals
from drpai_qat.compare.structure import Feeds, frontier
from drpai_qat.compare.suspect import EXPLAINED, Cause, Suspect


def preprocessing(suspect: Suspect) -> Cause | None:
    """B expects other inputs: another scale, other means, other channels first."""
    if not suspect.first:
        return None
    index = [one.pair for one in suspect.comparison.figures].index(suspect.figures.pair)
    plain = suspect.matching.feeds(suspect.sample, suspect.b.inputs)
    for text, change in _input_changes(plain):
        changed = {name: np.ascontiguousarray(change(value), value.dtype) for name, value in plain.items()}
        again = list(suspect.comparison.seen(suspect.sample, None, changed))[index]
        if again.wrong.sum() <= (1 - EXPLAINED) * suspect.wrong:
            return Cause("preprocessing", f"fed {text}, B's layer is right")
    return None


def _input_changes(feeds: Feeds) -> list[tuple[str, Callable[[NDArray[Any]], NDArray[Any]]]]:
    if any(value.dtype.kind != "f" for value in feeds.values()):
        return []
    changes: list[tuple[str, Callable[[NDArray[Any]], NDArray[Any]]]] = [
        ("255 times the input", lambda x: x * 255),
        ("a 255th of the input", lambda x: x / 255),
        ("2 x - 1 for each x", lambda x: 2 * x - 1),
        ("(x + 1) / 2 for each x", lambda x: (x + 1) / 2),
        ("x / 127.5 - 1 for each x", lambda x: x / 127.5 - 1),
        ("127.5 (x + 1) for each x", lambda x: 127.5 * (x + 1)),
        ("the input minus its 128", lambda x: x - 128),
        ("the input plus 128", lambda x: x + 128),
    ]
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    for axis in (1, -1):
        if all(value.ndim == 4 and value.shape[axis] == 3 for value in feeds.values()):
            shape = (1, 3, 1, 1) if axis == 1 else (1, 1, 1, 3)
            m, d = mean.reshape(shape), deviation.reshape(shape)
            changes += [
                ("the input's channels in reverse (RGB and BGR)", lambda x, axis=axis: np.flip(x, axis)),  # type: ignore[misc]
                ("ImageNet's mean and deviation taken off", lambda x, m=m, d=d: (x - m) / d),  # type: ignore[misc]
                ("ImageNet's mean and deviation added", lambda x, m=m, d=d: x * d + m),  # type: ignore[misc]
            ]
    return changes


def layout(suspect: Suspect) -> Cause | None:
    """B has the axes, or what was flattened, in another order."""
    found = suspect.seen.found
    for order in all_orders(found.shape, suspect.seen.steps.shape):
        if order != tuple(range(found.ndim)) and suspect.explained(suspect.rounded(_back(suspect, order))):
            return Cause("layout", f"with its axes in the order {list(order)}, B's tensor is right")
    fed = _fed_in_another_order(suspect)
    if fed or suspect.layers is None:
        return fed
    mine, yours = (layer.real for layer in suspect.layers)
    if mine.shape != yours.shape or np.allclose(mine, yours, rtol=1e-3, atol=1e-3 * float(np.abs(mine).max(initial=0))):
        return None
    if mine.shape[1] < 2 or not _same_columns(mine, yours):
        return None
    return Cause("layout", f"the {mine.shape[1]} columns of B's weights are A's in another order, as of channels last")


def _fed_in_another_order(suspect: Suspect) -> Cause | None:
    """What the layer reads was flattened channels first on one side and last on the other."""
    values = suspect.a.exposed([pair.ours for pair in suspect.matching.points])(suspect.sample)
    ends = {pair.ours: pair for pair in suspect.matching.points}
    for name in frontier(suspect.a.structure, suspect.figures.pair.ours, ends):
        for order in (CHANNELS_LAST, CHANNELS_FIRST) if values[name].ndim == 4 else ():
            turned = values[name].transpose(order).reshape(values[name].shape)
            exact = suspect.comparison.exact(suspect.sample, {**values, name: turned}).get(suspect.figures.pair.ours)
            if exact is not None and suspect.explained(suspect.rounded(exact)):
                last = "last" if order == CHANNELS_LAST else "first"
                return Cause("layout", f"with {name} read channels {last}, A has B's integers")
    return None


def _back(suspect: Suspect, order: tuple[int, ...]) -> Reals:
    """A's exact values as they would lie in B's order."""
    return suspect.seen.steps.transpose(np.argsort(order)).reshape(suspect.seen.found.shape)


def _same_columns(one: Reals, other: Reals) -> bool:
    """The same columns, in any order."""
    ours, theirs = (np.sort(values.sum(axis=0)) for values in (one, other))
    return bool(np.allclose(ours, theirs, rtol=1e-3, atol=1e-3 * (float(np.abs(ours).max(initial=0)) or 1.0)))
