"""Places for the boxes of a graph picture: levels by depth from top to bottom, folded into columns like a newspaper.

level   longest path from an input; each level is a row
lane    side by side on one level, below the box that it reads if that place is free
column  a run of levels; cut where few edges cross
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 184, 40
_GAP_X, _GAP_Y, _GUTTER = 28, 20, 64
_LEVELS = 13
"""Levels of a column, about."""


@dataclass(frozen=True)
class Place:
    """Top left corner of a box, and the column it is in."""

    x: int
    y: int
    column: int


@dataclass(frozen=True)
class Picture:
    """A laid out graph.

    Attributes:
        places: of each box.
        edges: source, target, and the path between them in SVG's words.
    """

    width: int
    height: int
    places: tuple[Place, ...]
    edges: tuple[tuple[int, int, str], ...]


def arrange(inputs: Sequence[Sequence[int]]) -> Picture:
    """Lay out a graph.

    Args:
        inputs: for each box, in topological order, the boxes it reads; negative ones are no boxes.
    """
    levels: list[int] = []
    for i, sources in enumerate(inputs):
        assert all(one < i for one in sources)
        levels.append(1 + max((levels[one] for one in sources if one >= 0), default=-1))
    count = max(levels, default=-1) + 1
    lanes = _lanes(inputs, levels, count)
    starts = _columns(inputs, levels, count)
    column = [sum(level >= start for start in starts) - 1 for level in range(count)]
    widths = [1] * len(starts)
    for level, lane in zip(levels, lanes, strict=True):
        widths[column[level]] = max(widths[column[level]], lane + 1)
    lefts = [_GAP_X]
    for width in widths:
        lefts.append(lefts[-1] + width * (WIDTH + _GAP_X) + _GUTTER)
    places = tuple(
        Place(
            lefts[column[level]] + lane * (WIDTH + _GAP_X),
            _GAP_Y + (level - starts[column[level]]) * (HEIGHT + _GAP_Y),
            column[level],
        )
        for level, lane in zip(levels, lanes, strict=True)
    )
    tallest = max((place.y for place in places), default=0) + HEIGHT + _GAP_Y
    edges = tuple(
        (source, i, _path(places[source], places[i], levels[i] - levels[source]))
        for i, sources in enumerate(inputs)
        for source in sources
        if source >= 0
    )
    return Picture(lefts[-1] - _GUTTER, tallest, places, edges)


def _lanes(inputs: Sequence[Sequence[int]], levels: Sequence[int], count: int) -> list[int]:
    """Of each box: that of a box it reads, or the free one nearest to it; the longest way down goes straight."""
    left = [0] * len(inputs)  # boxes on the longest way to the end
    for i in reversed(range(len(inputs))):
        for one in inputs[i]:
            if one >= 0:
                left[one] = max(left[one], left[i] + 1)
    on_level: list[list[int]] = [[] for _ in range(count)]
    for i, level in enumerate(levels):
        on_level[level].append(i)
    lanes = [0] * len(inputs)
    for boxes in on_level:
        taken: set[int] = set()
        for i in sorted(boxes, key=lambda box: -left[box]):
            wanted = min((lanes[one] for one in inputs[i] if one >= 0), default=0)
            free = (lane for lane in range(len(taken) + wanted + 1) if lane not in taken)
            lanes[i] = min(free, key=lambda lane: (abs(lane - wanted), lane))
            taken.add(lanes[i])
    return lanes


def _columns(inputs: Sequence[Sequence[int]], levels: Sequence[int], count: int) -> list[int]:
    """First level of each column: near equal parts, moved to where the fewest tensors are read across."""
    parts = max(1, round(count / _LEVELS))
    last = list(levels)  # level of the last reader
    for level, sources in zip(levels, inputs, strict=True):
        for one in sources:
            if one >= 0:
                last[one] = max(last[one], level)
    crossing = [0] * (count + 1)
    for level, end in zip(levels, last, strict=True):
        for at in range(level + 1, end + 1):
            crossing[at] += 1
    starts = [0]
    for part in range(1, parts):
        even = round(part * count / parts)
        reach = range(max(even - _LEVELS // 4, starts[-1] + 1), min(even + _LEVELS // 4, count - 1) + 1)
        if reach:
            starts.append(min(reach, key=lambda at: (crossing[at], abs(at - even))))
    return starts


def _path(source: Place, target: Place, levels: int) -> str:
    if source.column != target.column:
        x0, y0, x1, y1 = source.x + WIDTH, source.y + HEIGHT // 2, target.x, target.y + HEIGHT // 2
        middle = (x0 + x1) // 2 if target.column == source.column + 1 else x1 - _GUTTER // 2
        return f"M{x0} {y0}C{middle} {y0} {middle} {y1} {x1} {y1}"
    if levels > 1 and source.x == target.x:
        x, y0, y1 = source.x + WIDTH, source.y + HEIGHT // 2, target.y + HEIGHT // 3
        out = x + min(14 + 4 * levels, _GAP_X + _GUTTER // 2)
        return f"M{x} {y0}C{out} {y0} {out} {y1} {x} {y1}"
    x0, y0, x1, y1 = source.x + WIDTH // 2, source.y + HEIGHT, target.x + WIDTH // 2, target.y
    down = y1 - _GAP_Y  # in its own lane, as far as it goes
    return f"M{x0} {y0}V{down}C{x0} {y1} {x1} {down} {x1} {y1}"
