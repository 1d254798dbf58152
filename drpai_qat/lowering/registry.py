"""Which function lowers which operator. Modules of `ops` register theirs on import."""

from __future__ import annotations

from collections.abc import Callable

from drpai_qat.graph.canonical import Node
from drpai_qat.lowering.context import Context

Lowering = Callable[[Context, Node], bool]
"""Appends the node's kernels and notes its outputs; False where these operands need another implementation."""

LOWERINGS: dict[str, Lowering] = {}


def lowers(*ops: str) -> Callable[[Lowering], Lowering]:
    """Register the lowering of operators."""

    def register(function: Lowering) -> Lowering:
        for op in ops:
            if op in LOWERINGS:
                raise ValueError(f"{op} has a lowering already")
            LOWERINGS[op] = function
        return function

    return register
