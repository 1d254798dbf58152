"""Sums and concatenations that are never computed: a convolution reads their parts.

    conv(a + b)         = conv(a) + conv(b)
    conv(concat(a, b))  = conv_a(a) + conv_b(b)     (each with its own channels of the weights)

A residual sum without a FakeQuant behind it lies on no grid: its operands do, each on its own. Stored in int16 it would
be rounded once more, and in a deep network such roundings flip others. Read part by part every product is exact, and
8-bit parts multiply faster than an int16 sum. Elementwise readers add the parts themselves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from drpai_qat.graph.canonical import Graph, Node
from drpai_qat.graph.grid import Grid
from drpai_qat.graph.ranges import Bounds
from drpai_qat.lowering.elementwise import is_elementwise

MOST_PARTS = 4  # a part costs a convolution's pass over its weights, and code
_LEAST_REDUCTION = 8  # products in a part's accumulator; below, adding up the parts costs more than their products


@dataclass(frozen=True)
class Part:
    """A stored tensor that a virtual one is made of: it adds to channels start .. start + channels."""

    name: str
    start: int
    channels: int


Parts = dict[str, tuple[Part, ...]]


def find_parts(graph: Graph, grids: dict[str, Grid], bounds: dict[str, Bounds]) -> Parts:
    """Sums and concatenations without a grid of which every reader takes the parts, and a convolution is among them."""
    candidates: Parts = {}
    sums: set[str] = set()
    for node in graph.nodes:
        parts = _parts_of(graph, node, grids, bounds, candidates, sums)
        if parts is not None:
            candidates[node.output] = parts
            if node.op != "Concat" and all(n in sums or n not in candidates for n in node.inputs):
                sums.add(node.output)
    consumers = graph.consumers()
    found: Parts = {}
    read_by_conv: set[str] = set()
    for node in reversed(graph.nodes):
        name = node.output
        if name not in candidates or name in graph.outputs:
            continue
        readers = consumers.get(name, [])
        kept = [reader.output in found for reader in readers]
        convolutions = [_takes_parts(graph, reader, name, candidates[name]) for reader in readers]
        elementwise = [name in sums and is_elementwise(graph, reader) for reader in readers]
        if all(any(ways) for ways in zip(kept, convolutions, elementwise, strict=True)) and (
            any(convolutions) or any(reader.output in read_by_conv for reader in readers)
        ):
            found[name] = candidates[name]
            read_by_conv.add(name)
    return found


def _parts_of(
    graph: Graph, node: Node, grids: dict[str, Grid], bounds: dict[str, Bounds], known: Parts, sums: set[str]
) -> tuple[Part, ...] | None:
    if node.op not in ("Add", "Sum", "Concat"):  # others may lack their first output, and with it a shape
        return None
    shape = graph.shapes[node.output]
    if node.output in grids or len(shape) not in (3, 4):
        return None
    if node.op in ("Add", "Sum") and len(node.inputs) > 1:
        if any(graph.shapes[name] != shape or graph.is_constant(name) for name in node.inputs):
            return None
        # An int16 operand would cost as much as the int16 sum.
        leaves = [known.get(n) or _leaf(n, shape, _eight_bits(grids.get(n))) for n in node.inputs]
    elif node.op == "Concat" and node.attributes.get("axis") in (1, 1 - len(shape)):
        leaves, start = [], 0
        for name in node.inputs:
            if graph.is_constant(name):
                return None
            inner = known.get(name) or _leaf(name, graph.shapes[name], name in grids or name in bounds)
            leaves.append(inner and tuple(replace(part, start=part.start + start) for part in inner))
            start += graph.shapes[name][1]
    else:
        return None
    parts = [part for leaf in leaves if leaf for part in leaf]
    if any(not leaf for leaf in leaves) or len(parts) > MOST_PARTS:
        return None
    return tuple(parts)


def _leaf(name: str, shape: tuple[int, ...], fits: bool) -> tuple[Part, ...] | None:
    return (Part(name, 0, shape[1]),) if fits else None


def _eight_bits(grid: Grid | None) -> bool:
    return grid is not None and grid.dtype in ("int8", "uint8")


def _takes_parts(graph: Graph, node: Node, name: str, parts: tuple[Part, ...]) -> bool:
    """A convolution over all channels with integer weights, one scale an output channel at most."""
    if node.op != "Conv" or node.inputs[0] != name or node.attributes.get("group", 1) != 1:
        return False
    weight = graph.weight(node.inputs[1])
    if weight is None or weight.integers is None or weight.params is None or weight.params.axis not in (None, 0):
        return False
    taps = math.prod(weight.shape[2:])
    return all(taps * part.channels >= _LEAST_REDUCTION for part in parts)
