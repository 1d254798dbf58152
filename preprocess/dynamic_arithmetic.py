"""Ranges that are computed in the graph, and fake-quant in arithmetic with such a scale.

s = f(ReduceMax(x), ReduceMin(x))        Abs, Max, Div and the like between them, per tensor or per row
y = s * (Clip(Round(x / s) + z) - z)     x but for its rounding; z, where there is one, of any kind: it cancels
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from preprocess.surgery import Array, produced_by, producer, sole_consumer, value_of

_REDUCTIONS = ("ReduceMin", "ReduceMax")
_LIMITS = ("Clip", "Min", "Max", "Cast")
_MOST_NODES = 60  # between a tensor and its scale; onnx's own definition of DynamicQuantizeLinear has 25
_LONGEST = 8


@dataclass(frozen=True)
class Written:
    """Fake-quant in arithmetic.

    Attributes:
        rounding: its Round.
        source, output: in front of it and behind it.
    """

    rounding: gs.Node
    source: gs.Tensor
    output: gs.Tensor


def scale_is_of(scale: gs.Tensor, x: gs.Tensor) -> bool:
    """The scale is computed from the smallest and largest value of `x`, and constants."""
    reduces, seen, stack = False, {id(x)}, [scale]
    while stack:
        tensor = stack.pop()
        if id(tensor) in seen or isinstance(tensor, gs.Constant) or tensor.is_empty():
            continue
        seen.add(id(tensor))
        maker = producer(tensor)
        if maker is None or len(seen) > _MOST_NODES:
            return False
        reduces |= maker.op in _REDUCTIONS
        stack += maker.inputs
    return reduces


def find_written(graph: gs.Graph) -> Iterator[Written]:
    """All places where a tensor is rounded to a scale of its own, and multiplied by it again."""
    for node in graph.nodes:
        found = _around(graph, node) if node.op == "Round" else None
        if found is not None:
            yield found


def _around(graph: gs.Graph, rounding: gs.Node) -> Written | None:
    points = list[Array | int]()  # added to the steps, and not yet taken off
    tensor = rounding.inputs[0]
    while (maker := produced_by(tensor, "Add")) is not None and len(points) < _LONGEST:
        at = 0 if produced_by(maker.inputs[0], "Div", "Add") is not None else 1
        tensor = maker.inputs[at]
        points.append(_identity(maker.inputs[1 - at]))
    division = produced_by(tensor, "Div")
    if division is None or not scale_is_of(division.inputs[1], division.inputs[0]):
        return None
    scale, tensor = division.inputs[1], rounding.outputs[0]
    for _ in range(_LONGEST):
        node = sole_consumer(graph, tensor)
        if node is None:
            return None
        others = [one for one in node.inputs if one is not tensor]
        if node.op == "Mul" and len(others) == 1 and others[0] is scale:
            return None if points else Written(rounding, division.inputs[0], node.outputs[0])
        if node.op == "Add" and len(others) == 1:
            points.append(_identity(others[0]))
        elif node.op == "Sub" and node.inputs[0] is tensor:
            same = [at for at, one in enumerate(points) if _same(one, _identity(node.inputs[1]))]
            if not same:
                return None
            del points[same[0]]
        elif node.op not in _LIMITS or node.inputs[0] is not tensor:
            return None
        tensor = node.outputs[0]
    return None


def _identity(tensor: gs.Tensor) -> Array | int:
    """What two zero points are compared by: values of constants, else the tensor itself."""
    value = value_of(tensor)
    return id(tensor) if value is None else value


def _same(one: Array | int, other: Array | int) -> bool:
    return type(one) is type(other) and bool(np.array_equal(one, other))
