"""Plots over the layers, as numbers that the template draws: bars, dots, areas, ticks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 960, 180
LEFT, RIGHT, TOP, BOTTOM = 64, 8, 14, 30
_BOTTOM_LINE = HEIGHT - BOTTOM
_WIDEST = 36.0


@dataclass(frozen=True)
class Bar:
    """One layer's bar; `kind` colours it."""

    layer: int
    x: float
    y: float
    width: float
    height: float
    kind: str


@dataclass(frozen=True)
class Plot:
    """One plot over the layers, or over the kernels of a run.

    Attributes:
        key: names it in the page.
        title, unit: of the vertical axis.
        note: a sentence below the title; "" for none.
        bars: from the bottom up.
        dots: layer, x, y and kind; lines join those of one run without gaps.
        lines: paths in SVG's words.
        across: ticks of the layer index: x, text.
        up: ticks of the vertical axis: y, text.
        step: width of a layer's column.
        values: what each column stands for, as text.
        over: what a column is: a "layer", or a "kernel" of the schedule.
    """

    key: str
    title: str
    unit: str
    note: str = ""
    bars: tuple[Bar, ...] = ()
    dots: tuple[tuple[int, float, float, str], ...] = ()
    lines: tuple[str, ...] = ()
    across: tuple[tuple[float, str], ...] = ()
    up: tuple[tuple[float, str], ...] = ()
    step: float = 1.0
    values: tuple[str, ...] = ()
    over: str = "layer"


def bars(
    key: str, title: str, unit: str, values: Sequence[float], kinds: Sequence[str], text: Callable[[float], str]
) -> Plot:
    """A bar for each layer.

    Args:
        values: of the layers; not negative.
        kinds: what colours them.
        text: of a value, with its unit.
    """
    ticks = nice(max(values, default=0.0))
    top = ticks[-1] or 1.0
    step = _step(len(values))
    width = min(max(step - (2 if step > 6 else 0.5), 0.5), _WIDEST)
    made = []
    for i, (value, kind) in enumerate(zip(values, kinds, strict=True)):
        if value > 0:
            height = max(_scaled(value / top), 1.0)
            made.append(
                Bar(i, r(LEFT + i * step + (step - width) / 2), r(_BOTTOM_LINE - height), r(width), r(height), kind)
            )
    return Plot(
        key, title, unit, bars=tuple(made), across=_across(len(values), step), step=step,
        up=tuple((r(_BOTTOM_LINE - _scaled(tick / top)), text(tick)) for tick in ticks),
        values=tuple(text(value) for value in values),
    )  # fmt: skip


def dots(
    key: str,
    title: str,
    unit: str,
    values: Sequence[float | None],
    text: Callable[[float], str],
    *,
    full: float | None = None,
    note: str = "",
) -> Plot:
    """A dot for each layer that has a value; infinite ones lie on the upper edge, under the word "exact".

    Args:
        values: None: the layer has none.
        text: of a value, with its unit.
        full: upper end of the axis; None: follows from the values.
    """
    finite = [value for value in values if value is not None and math.isfinite(value)]
    low, high = _axis(finite, full)
    exact = any(value == math.inf for value in values)
    room = 0.86 if exact and full is None else 1.0  # leaves a band for the exact ones
    step = _step(len(values))
    at = [None if v is None else _height(v, low, high, room) for v in values]
    points = [(i, r(LEFT + (i + 0.5) * step), r(y)) for i, y in enumerate(at) if y is not None]
    kinds = ["exact" if values[i] in (math.inf, full) else "value" for i, _, _ in points]
    up = [(r(_height(tick, low, high, room)), text(tick)) for tick in _ticks(low, high)]
    if room < 1:
        up.append((float(TOP), "exact"))
    line = "M" + "L".join(f"{x:g} {y:g}" for _, x, y in points) if len(points) > 1 else ""
    return Plot(
        key, title, unit, note=note, dots=tuple((*point, kind) for point, kind in zip(points, kinds, strict=True)),
        lines=(line,) if line else (), across=_across(len(values), step), up=tuple(up), step=step,
        values=tuple("" if v is None else "exact" if v in (math.inf, full) else text(v) for v in values),
    )  # fmt: skip


def histogram(counts: Sequence[float], width: int, height: int = 34) -> str:
    """A small histogram: its outline as a path in SVG's words, from the bottom line up."""
    most = max(counts, default=0)
    if not most:
        return ""
    step = width // len(counts)
    tops = [height - (max(round(height * count / most), 1) if count else 0) for count in counts]
    return f"M0 {height}" + "".join(f"V{top}h{step}" for top in tops) + f"V{height}z"


def nice(most: float, parts: int = 4) -> list[float]:
    """Round ticks from 0 to at least `most`."""
    if most <= 0 or not math.isfinite(most):
        return [0.0]
    rough = most / parts
    power = 10 ** math.floor(math.log10(rough))
    size = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))
    return [size * i for i in range(math.ceil(most / size - 1e-9) + 1)]


def _axis(values: Sequence[float], full: float | None) -> tuple[float, float]:
    if not values:
        return 0.0, full if full is not None else 1.0
    low, high = min(values), max(values) if full is None else full
    if full is None:
        return (0.0 if low >= 0 else 10 * math.floor(low / 10)), nice(max(high, 10.0))[-1]
    spread = nice(max(high - low, 1e-6), 2)
    return max(high - spread[-1], 0.0) if low >= 0 else high - spread[-1], high


def _ticks(low: float, high: float) -> list[float]:
    return [low + (high - low) * i / 4 for i in range(5)]


def _height(value: float, low: float, high: float, room: float) -> float:
    if value == math.inf:
        return float(TOP)
    share = 0.0 if value == -math.inf or high == low else min(max((value - low) / (high - low), 0.0), 1.0)
    return _BOTTOM_LINE - _scaled(share * room)


def _scaled(share: float) -> float:
    return share * (_BOTTOM_LINE - TOP)


def _step(count: int) -> float:
    return (WIDTH - LEFT - RIGHT) / max(count, 1)


def _across(count: int, step: float) -> tuple[tuple[float, str], ...]:
    every = next((size for size in (1, 2, 5, 10, 20, 50, 100, 200, 500) if count / size <= 16), 1000)
    return tuple((r(LEFT + (i + 0.5) * step), str(i)) for i in range(0, count, every))


def r(value: float) -> float:
    """With as many digits as a pixel needs."""
    return round(value, 1)
