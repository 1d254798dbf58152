"""Operators that only move elements: their outputs hold elements of their input, and nothing computed.

Such an operator commutes with every step that treats each element alone, so quantizing, dequantizing, ReLU and the like
can change places with it; and a tensor behind it lies on the grid of the tensor in front. Which further steps it
commutes with depends on how it moves them: the attributes of `Movement` tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Movement:
    """How an operator moves elements.

    Attributes:
        whole: each element of the input is in the output once; else some are chosen, or repeated.
        in_order: `whole`, and in the same order, so that only the shape changes: a view of the same memory.
        by_value: elements are chosen by comparing them, as in max pooling: it commutes only with steps that keep the
            order of values, and can't tell where an element came from.
        joins: elements come from all inputs, not from the first alone (Concat): one grid only if all inputs share it.
    """

    whole: bool = False
    in_order: bool = False
    by_value: bool = False
    joins: bool = False


_VIEW, _PERMUTATION, _CHOICE = Movement(whole=True, in_order=True), Movement(whole=True), Movement()
_BY_VALUE, _JOIN = Movement(by_value=True), Movement(whole=True, joins=True)

MOVING: Mapping[str, Movement] = MappingProxyType(
    {
        **dict.fromkeys(("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze"), _VIEW),
        **dict.fromkeys(("Transpose", "DepthToSpace", "SpaceToDepth", "ReverseSequence"), _PERMUTATION),
        **dict.fromkeys(("Slice", "Split", "Gather", "GatherND", "GatherElements", "Compress"), _CHOICE),
        **dict.fromkeys(("Expand", "Tile"), _CHOICE),
        **dict.fromkeys(("MaxPool", "GlobalMaxPool", "ReduceMax", "ReduceMin"), _BY_VALUE),
        "Concat": _JOIN,
    }
)
"""By ONNX operator. Resize in mode "nearest" also chooses, but the operator's name doesn't tell."""

VIEWS = frozenset(op for op, movement in MOVING.items() if movement.in_order)
"""The elements stay in their order: only the shape changes."""

PLACED = frozenset(op for op, movement in MOVING.items() if not movement.by_value and not movement.joins)
"""Where an element of the first input goes depends on its place alone."""

KEEPS_GRID = frozenset(op for op, movement in MOVING.items() if not movement.joins) | {"Relu"}
"""The output lies on the grid of the first input. Relu moves nothing, but zero is on every grid."""
