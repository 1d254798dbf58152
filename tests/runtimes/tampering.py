"""deploy.json as it should not be."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import Any

VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1 << 31, 1 << 59, 1 << 63, 10**30, 0.5, 1e308, "", "float4", "int8x16", "../../etc/passwd",
    "\ud800", "x\0y", [], [-1], [1] * 1000, [[]], {}, {"": None},
)  # fmt: skip


def ways(content: Any, before: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """All keys and indices, from the outside in."""
    pairs: Iterable[tuple[str | int, Any]] = ()
    if isinstance(content, dict | list):
        pairs = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in list(pairs):
        yield (*before, key)
        yield from ways(value, (*before, key))


def place(content: Any, way: tuple[str | int, ...]) -> Any:
    """What holds the field at the end of a way."""
    for key in way[:-1]:
        content = content[key]
    return content


def drop() -> None:
    """Stands for leaving a key out."""


def mutants(whole: dict[str, Any]) -> Iterator[tuple[tuple[str | int, ...], dict[str, Any]]]:
    """The way to each field in turn, and the whole with another value there, or without it."""
    for way in ways(whole):
        for value in (*VALUES, drop):
            changed = copy.deepcopy(whole)
            if value is drop:
                del place(changed, way)[way[-1]]
            else:
                place(changed, way)[way[-1]] = value
            yield way, changed
