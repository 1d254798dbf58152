"""int16 grids for bounded tensors that training left without one and that feed layers with integer weights.

As fine as the layer's int32 accumulators provably allow. What lies on an exact grid of its own, such as a product of
two grids or a mean, is given that one.
"""

from __future__ import annotations

import math

import numpy as np

from drpai_qat.graph.canonical import FAKE_QUANT, Graph, Node, Weight
from drpai_qat.graph.grid import Grid
from drpai_qat.graph.ranges import AVERAGING, MATRIX, SELECTING, Bounds, selects


def int16_grids(graph: Graph, grids: dict[str, Grid], bounds: dict[str, Bounds], exact: bool) -> dict[str, Grid]:
    """int16 grids for bounded tensors without a grid that feed layers with integer weights.

    A layer's accumulator is at most sum |w| * max |q| (plus its bias, below a fifth of the range): q may use as much of
    int16 as keeps that within int32.

    Args:
        exact: only grids that hold their tensor exactly.
    """
    consumers = graph.consumers()
    found: dict[str, Grid] = {}

    def steps_allowed(name: str, seen: set[str]) -> list[int]:
        if name in seen:
            return []
        seen.add(name)
        steps = []
        for node in consumers.get(name, []):
            if node.op in MATRIX and node.inputs[0] == name and len(node.inputs) > 1:
                weight = graph.weight(node.inputs[1])
                if weight is not None and weight.integers is not None:
                    steps.append(_accumulator_steps(weight, _out_axis(node)))
                elif weight is None and node.inputs[1] in bounds:
                    steps.append(_activation_steps(graph, node, grids.get(node.inputs[1])))
            elif node.op == "MatMul" and node.inputs[1] == name and node.inputs[0] in bounds:
                steps.append(_activation_steps(graph, node, grids.get(node.inputs[0])))
            elif selects(node) or node.op == "Concat" or node.op == "Pad":
                steps += steps_allowed(node.output, seen)
        return steps

    producers = {name: node for node in graph.nodes for name in node.outputs}
    for name, (low, high) in bounds.items():
        if name in grids or graph.dtypes.get(name, "float32") != "float32" or graph.is_constant(name):
            continue
        allowed = steps_allowed(name, set())
        largest = max(abs(low), abs(high))
        if not allowed or largest <= 0.0:
            continue
        steps = min(32767, *allowed)
        held = exact_steps(graph, producers[name], grids) if name in producers else None
        if held is not None and held[1] <= steps:
            found[name] = Grid(held[0], 0, -held[1], held[1], "int16")
        elif exact or (
            name in producers and producers[name].op not in _LINEAR and _feeds_coarse(graph, consumers, grids, name)
        ):
            continue
        elif min(allowed) >= 255:  # coarser than 8 bits would lose more than float32 costs
            centred = not all(_takes_zero_point(graph, node, name) for node in consumers[name])
            found[name] = _finest(low, high, steps if centred else min(allowed), centred)
    return found


def _finest(low: float, high: float, steps: int, centred: bool) -> Grid:
    """The finest int16 grid of a range, no integer (zero point taken off) beyond `steps`."""
    largest = max(abs(low), abs(high))
    if centred:
        return Grid(largest / steps, 0, -steps, steps, "int16")
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max((high - low) / 65534, largest / steps)
    bottom, top = int(np.rint(low / scale)), int(np.rint(high / scale))
    zero_point = -32768 - bottom
    return Grid(scale, zero_point, -32768, top + zero_point, "int16")


def _takes_zero_point(graph: Graph, node: Node, name: str) -> bool:
    """A node that reads int16 with a zero point: layers with constant weights, and elementwise ones."""
    if node.op in ("Conv", "Gemm", "MatMul"):
        constant = node.inputs[0] == name and graph.weight(node.inputs[1]) is not None
        return constant and node.attributes.get("group", 1) == 1
    return node.op in ("Add", "Sub", "Sum", "Relu", FAKE_QUANT)


def exact_steps(graph: Graph, node: Node, grids: dict[str, Grid]) -> tuple[float, int] | None:
    """Scale and largest integer of a grid that holds a node's output exactly, computed from operands on grids.

    Products lie on the product of the scales, sums of one scale on that scale, means on the scale over the count.
    """
    operands = [grids.get(name) for name in node.inputs if name]
    known = [grid for grid in operands if grid is not None]
    ends = [max(abs(g.qmin - g.zero_point), abs(g.qmax - g.zero_point)) for g in known]
    if node.op in ("Mul", "Add", "Sub") and len(operands) == len(known) == 2:
        if node.op == "Mul":
            return known[0].scale * known[1].scale, ends[0] * ends[1]
        return (known[0].scale, sum(ends)) if known[0].scale == known[1].scale else None
    if node.op in ("GlobalAveragePool", "ReduceMean") and known:
        count = math.prod(graph.shapes[node.inputs[0]]) // max(1, math.prod(graph.shapes[node.output]))
        return known[0].scale / count, ends[0] * count
    return None


# Operators whose int16 form is kept even in front of coarse grids: the residual sums of 4-bit networks.
_LINEAR = frozenset(("Add", "Sub", "Sum", "Concat", "Relu", "Clip", "Max", "Min", "Pad")) | SELECTING | AVERAGING
_COARSE = 63  # levels; below, one flipped rounding is an error of more than a percent of the range


def _feeds_coarse(graph: Graph, consumers: dict[str, list[Node]], grids: dict[str, Grid], name: str) -> bool:
    """A tensor leads, through one layer and elementwise steps, to a 4-bit (or 5 or 6-bit) grid.

    A curve such as SiLU has no exact int16 form, and a rounding that its approximation flips costs a whole coarse step:
    such layers stay float32.
    """
    waiting, seen = [(name, False)], {name}
    while waiting:
        tensor, passed = waiting.pop()
        for node in consumers.get(tensor, []):
            if node.op == FAKE_QUANT:
                grid = grids.get(node.output)
                if passed and grid is not None and grid.qmax - grid.qmin <= _COARSE:
                    return True
                continue
            layer = node.op in MATRIX
            if (layer and passed) or len(seen) > 64:
                continue
            for output in node.outputs:
                if output not in seen:
                    seen.add(output)
                    waiting.append((output, passed or layer))
    return False


def _out_axis(node: Node) -> int:
    """Axis of a layer's weight that counts output channels."""
    if node.op == "Gemm":
        return 0 if node.attributes.get("transB", 0) else 1
    return {"Conv": 0, "ConvTranspose": 1, "MatMul": -1}[node.op]


# Share of int32 that products may take; the rest is for the bias.
PRODUCTS_SHARE = 0.79


def _accumulator_steps(weight: Weight, out_axis: int) -> int:
    """Largest |q| that keeps every accumulator of a layer within int32."""
    assert weight.integers is not None
    assert weight.params is not None
    integers = weight.integers.astype(np.int64)
    zero = weight.params.zero_point
    if zero.ndim and weight.params.axis is not None:
        zero = zero.reshape([-1 if i == weight.params.axis else 1 for i in range(integers.ndim)])
    magnitude = np.moveaxis(np.abs(integers - zero), out_axis, 0)
    total = max(int(magnitude.reshape(len(magnitude), -1).sum(1).max()), 1)
    return int(PRODUCTS_SHARE * (2**31 - 1) / total)


def _activation_steps(graph: Graph, node: Node, other: Grid | None) -> int:
    """The same for a product of two activations: what the other's grid leaves; both get the square root without one."""
    products = PRODUCTS_SHARE * (2**31 - 1) / graph.shapes[node.inputs[0]][-1]
    if other is None:
        return int(math.sqrt(products))
    return int(products / max(abs(other.qmin - other.zero_point), abs(other.qmax - other.zero_point), 1))
