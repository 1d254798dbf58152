"""What is known of each tensor's values: an integer grid it lies on exactly, or bounds.

Grids start at FakeQuant steps and pass through every operator that only moves or selects elements (reshapes, ReLU,
pooling by maximum, concatenation of one grid ...). Bounds follow by interval arithmetic wherever the operands have
bounds. What has bounds but no grid may be given one (`wide_grids.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from drpai_qat.core.moving import MOVING
from drpai_qat.graph.canonical import DEQUANTIZE, FAKE_QUANT, Graph, Node
from drpai_qat.graph.grid import Grid
from drpai_qat.graph.tables import tabulate

Bounds = tuple[float, float]

_BY_IMPORTER = frozenset(("GatherND", "GatherElements", "Compress", "ReverseSequence"))  # moved as float32, by TVM
# Operators whose output elements are all elements of their first input.
SELECTING = frozenset(op for op, how in MOVING.items() if not how.joins) - _BY_IMPORTER | {"Dropout"}
# Operators whose output elements are weighted means of their first input's elements (weights >= 0, sum 1).
AVERAGING = frozenset(("AveragePool", "GlobalAveragePool", "ReduceMean", "Resize", "Upsample"))
UNIT = {
    "Sigmoid": (0.0, 1.0),
    "HardSigmoid": (0.0, 1.0),
    "Softmax": (0.0, 1.0),
    "Tanh": (-1.0, 1.0),
    "Erf": (-1.0, 1.0),
}
_CURVES = frozenset(
    ("Add", "Sub", "Mul", "Div", "Neg", "Sigmoid", "HardSigmoid", "Tanh", "Erf", "Exp", "Clip", "Relu", "Softplus")
)
MATRIX = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def selects(node: Node) -> bool:
    """The node's output holds only values of its first input."""
    if node.op in ("Resize", "Upsample"):
        return node.attributes.get("mode", "nearest") == "nearest"
    return node.op in SELECTING


def find_grids(graph: Graph, activation: str) -> dict[str, Grid]:
    """Tensors that lie on an integer grid by construction."""
    grids: dict[str, Grid] = {}
    bounds_before: dict[str, Bounds] = {}
    for node in graph.nodes:
        if node.op in (FAKE_QUANT, DEQUANTIZE):
            if node.params is None or node.params.per_channel:
                continue
            grid = Grid.of(node.params, activation)
            if node.op == FAKE_QUANT:
                grid = grid.narrowed(*bounds_before.get(node.inputs[0], (-math.inf, math.inf))).from_zero()
            grids[node.output] = grid
            continue
        limits = outer_limits(graph, node)
        if limits is not None:
            inner = bounds_before.get(data_input(graph, node), (-math.inf, math.inf))
            bounds_before[node.output] = _limited(graph, node, limits, inner)
        grid_out = _inherited(graph, node, grids)
        if grid_out is not None:
            for name in node.outputs:
                if name:
                    grids[name] = grid_out
    return grids


def clip_limits(graph: Graph, node: Node) -> Bounds | None:
    """The bounds that a Relu, Clip or two-operand Min/Max with a scalar enforces; None for other operators."""
    if node.op == "Relu":
        return 0.0, math.inf
    if node.op == "Clip":
        low = _scalar_input(graph, node, 1, node.attributes.get("min", -math.inf))
        high = _scalar_input(graph, node, 2, node.attributes.get("max", math.inf))
        return None if low is None or high is None else (min(low, high), high)  # ONNX: the maximum wins
    if node.op in ("Min", "Max") and len(node.inputs) == 2:
        values = [graph.constant(name) for name in node.inputs]
        scalars = [float(v.item()) for v in values if v is not None and v.size == 1]
        if len(scalars) == 1:
            return (-math.inf, scalars[0]) if node.op == "Min" else (scalars[0], math.inf)
    return None


def outer_limits(graph: Graph, node: Node) -> Bounds | None:
    """Bounds that every element keeps behind the node: those of `clip_limits`, or of a Min or Max per channel."""
    limits = clip_limits(graph, node)
    if limits is None and node.op in ("Min", "Max") and len(node.inputs) == 2:
        values = [v for v in (graph.constant(name) for name in node.inputs) if v is not None]
        if len(values) == 1:
            return (-math.inf, float(values[0].max())) if node.op == "Min" else (float(values[0].min()), math.inf)
    return limits


def _limited(graph: Graph, node: Node, limits: Bounds, inner: Bounds) -> Bounds:
    """Bounds behind a node that has `limits`; a Min or Max with several constants brings values of its own."""
    if node.op in ("Min", "Max"):
        values = next(v for v in (graph.constant(name) for name in node.inputs) if v is not None)
        choose = min if node.op == "Min" else max
        return choose(inner[0], float(values.min())), choose(inner[1], float(values.max()))
    low, high = (float(np.clip(bound, *limits)) for bound in inner)
    return low, high


def _scalar_input(graph: Graph, node: Node, index: int, default: float) -> float | None:
    if len(node.inputs) <= index or not node.inputs[index]:
        return float(default)
    value = graph.constant(node.inputs[index])
    return None if value is None or value.size != 1 else float(value.item())


def data_input(graph: Graph, node: Node) -> str:
    """The one non-constant operand of a node with constants, else its first."""
    return next((name for name in node.inputs if name and not graph.is_constant(name)), node.inputs[0])


def _inherited(graph: Graph, node: Node, grids: dict[str, Grid]) -> Grid | None:
    limits = clip_limits(graph, node)
    if limits is not None:
        grid = grids.get(data_input(graph, node))
        if grid is None:
            return None
        low, high = grid.bounds
        if all(
            not lo_hi or grid.holds(b) for b, lo_hi in ((limits[0], limits[0] > low), (limits[1], limits[1] < high))
        ):
            return grid.narrowed(*limits).from_zero()
        return None
    if selects(node):
        return grids.get(node.inputs[0])
    if node.op == "Concat":
        return _joined([grids.get(name) for name in node.inputs])
    if node.op == "Pad" and node.attributes.get("mode", "constant") == "constant":
        grid = grids.get(node.inputs[0])
        value = _scalar_input(graph, node, 2, 0.0)
        if grid is not None and value is not None and grid.holds(value):
            step = int(grid.steps(value))
            limits_of = np.iinfo(grid.dtype)
            if limits_of.min <= step <= limits_of.max:
                return Grid(grid.scale, grid.zero_point, min(grid.qmin, step), max(grid.qmax, step), grid.dtype)
    if node.op == "Pad":
        return grids.get(node.inputs[0]) if node.attributes.get("mode") in ("reflect", "edge") else None
    return None


def _joined(grids: list[Grid | None]) -> Grid | None:
    """The grid that holds the values of all; None where their scales differ or one dtype can't hold them."""
    known = [grid for grid in grids if grid is not None]
    if len(known) < len(grids) or len({(grid.scale, grid.dtype) for grid in known}) != 1:
        return None
    first = known[0]
    if all(first.same_steps(grid) for grid in known):
        return replace(first, qmin=min(g.qmin for g in known), qmax=max(g.qmax for g in known))
    low, high = min(g.qmin - g.zero_point for g in known), max(g.qmax - g.zero_point for g in known)
    limits = np.iinfo(first.dtype)
    zero_point = int(limits.min) - low
    if high + zero_point > limits.max:
        return None
    return replace(first, zero_point=zero_point, qmin=int(limits.min), qmax=high + zero_point)


def find_bounds(graph: Graph, grids: dict[str, Grid]) -> dict[str, Bounds]:
    """Bounds of tensors by interval arithmetic, from grids and from operators with a bounded image."""
    bounds: dict[str, Bounds] = {}
    row_sums = _row_sums(graph)
    curves = _Curves(graph, grids)

    def of(name: str) -> Bounds | None:
        if name in bounds:
            return bounds[name]
        value = graph.constant(name)
        if value is None or value.size == 0 or value.dtype.kind not in "fiu":
            return None
        return float(value.min()), float(value.max())

    for node in graph.nodes:
        for name in node.outputs:
            if name in grids:
                bounds[name] = grids[name].bounds
        if node.output in bounds:
            continue
        found = curves.bounds(node) or _bounds_of(graph, node, of)
        if node.op == "MatMul" and node.inputs[0] in row_sums:
            found = _weighted_mean(of(node.inputs[1]), row_sums[node.inputs[0]])
        if found is not None and all(math.isfinite(b) for b in found):
            for name in node.outputs:
                bounds[name] = found
    return bounds


class _Curves:
    """Functions of one 8-bit tensor, written as several nodes: SiLU as x * sigmoid(x), GELU with Erf ...

    The bounds of a product of two such functions are wider than the function's values: twice as wide for SiLU.
    """

    def __init__(self, graph: Graph, grids: dict[str, Grid]) -> None:
        self._graph, self._grids = graph, grids
        self._known: dict[str, tuple[str, tuple[Node, ...]]] = {}  # of each function its tensor and its nodes

    def bounds(self, node: Node) -> Bounds | None:
        """Bounds of the node's output, where it joins two functions of one tensor; to be called in order."""
        if node.op not in _CURVES or len(node.outputs) != 1:
            return None
        operands = [name for name in node.inputs if name and not self._graph.is_constant(name)]
        constants = [self._graph.constant(name) for name in node.inputs if name and name not in operands]
        known = [self._function(name) for name in operands]
        functions = [one for one in known if one is not None]
        sources = {source for source, _ in functions}
        if len(functions) < len(known) or len(sources) != 1 or any(c is None or c.size != 1 for c in constants):
            return None
        nodes = tuple({one.output: one for _, before in functions for one in before}.values())
        (source,) = sources
        self._known[node.output] = source, (*nodes, node)
        if len(operands) < 2 or not nodes:
            return None
        grid = self._grids[source]
        steps = np.arange(grid.qmin, grid.qmax + 1) - grid.zero_point
        values = tabulate(self._graph, (*nodes, node), source, (steps * np.float32(grid.scale)).astype(np.float32))
        low, high = float(values.min()), float(values.max())
        margin = 1e-5 * (high - low)  # other machines' curves
        return low - margin, high + margin

    def _function(self, name: str) -> tuple[str, tuple[Node, ...]] | None:
        grid = self._grids.get(name)
        if grid is not None:
            return (name, ()) if grid.dtype in ("int8", "uint8") else None
        return self._known.get(name)


def _row_sums(graph: Graph) -> dict[str, float]:
    """Largest sum of a row, along the last axis, of tensors that hold Softmax's probabilities."""
    sums: dict[str, float] = {}
    for node in graph.nodes:
        rank = len(graph.shapes.get(node.output, ()))
        if node.op == "Softmax" and rank and node.attributes.get("axis", -1) % rank == rank - 1:
            sums[node.output] = 1.0
        elif node.inputs and node.inputs[0] in sums and node.op in ("Identity", "Cast", "Dropout"):
            sums[node.output] = sums[node.inputs[0]]
        elif node.op == FAKE_QUANT and node.inputs[0] in sums and node.params is not None:
            step = float(np.max(node.params.scale))
            sums[node.output] = sums[node.inputs[0]] + graph.shapes[node.output][-1] * step / 2
    return sums


def _weighted_mean(values: Bounds | None, weight: float) -> Bounds | None:
    """Bounds of attention: values weighted by probabilities; a hundredth for those that int16 rounds up."""
    if values is None:
        return None
    return 1.01 * weight * min(values[0], 0.0), 1.01 * weight * max(values[1], 0.0)


def _bounds_of(graph: Graph, node: Node, of: Callable[[str], Bounds | None]) -> Bounds | None:
    if node.op in UNIT:
        return UNIT[node.op]
    limits = outer_limits(graph, node)
    if limits is not None:
        return _limited(graph, node, limits, of(data_input(graph, node)) or (-math.inf, math.inf))
    if not node.inputs:
        return None
    if node.op in ("Concat", "Sum", "Max", "Min", "Mean"):
        parts = [of(name) for name in node.inputs]
        if any(p is None for p in parts):
            return None
        known = [p for p in parts if p is not None]
        if node.op == "Sum":
            return sum(p[0] for p in known), sum(p[1] for p in known)
        return min(p[0] for p in known), max(p[1] for p in known)
    first = of(node.inputs[0])
    if first is None:
        return None
    if selects(node) or node.op in AVERAGING:
        return (min(first[0], 0.0), max(first[1], 0.0)) if node.op == "AveragePool" else first
    if node.op == "Pad":
        value = _scalar_input(graph, node, 2, 0.0) or 0.0
        return min(first[0], value), max(first[1], value)
    if node.op in ("LeakyRelu", "HardSwish", "Elu", "Gelu", "Mish", "Swish"):
        return min(first[0], -1.0) if first[0] < 0 else 0.0, max(first[1], 0.0)
    if node.op == "Abs":
        return 0.0, max(abs(first[0]), abs(first[1]))
    if node.op == "Neg":
        return -first[1], -first[0]
    if node.op == "BatchNormalization":
        return _batch_norm_bounds(graph, node, first)
    if node.op in ("Add", "Sub", "Mul", "Div") and len(node.inputs) == 2:
        second = of(node.inputs[1])
        if second is None:
            return None
        if node.op == "Add":
            return first[0] + second[0], first[1] + second[1]
        if node.op == "Sub":
            return first[0] - second[1], first[1] - second[0]
        if node.op == "Div":
            if second[0] <= 0.0 <= second[1]:
                return None
            second = (1 / second[1], 1 / second[0])
        products = [a * b for a in first for b in second]
        return min(products), max(products)
    return None


def _batch_norm_bounds(graph: Graph, node: Node, bounds: Bounds) -> Bounds | None:
    mul_add = batch_norm_affine(graph, node)
    if mul_add is None:
        return None
    mul, add = mul_add
    ends = np.concatenate([mul * bounds[0] + add, mul * bounds[1] + add])
    return float(ends.min()), float(ends.max())


def batch_norm_affine(graph: Graph, node: Node) -> tuple[np.ndarray, np.ndarray] | None:
    """BatchNormalization as y = x * mul + add, float64, shape (channels,); None where they are not constant."""
    values = [graph.constant(name) for name in node.inputs[1:5]]
    if any(v is None for v in values):
        return None
    gamma, beta, mean, variance = (np.asarray(v, np.float64) for v in values)
    mul = gamma / np.sqrt(variance + float(node.attributes.get("epsilon", 1e-5)))
    return mul, beta - mean * mul
