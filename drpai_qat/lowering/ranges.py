"""What is known of each tensor's values: an integer grid it lies on exactly, or bounds.

Grids start at FakeQuant steps and pass through every operator that only moves or selects elements (reshapes, ReLU,
pooling by maximum, concatenation of one grid ...). Bounds follow by interval arithmetic wherever the operands have
bounds. A tensor that has bounds but no grid, and that feeds a layer with integer weights, is given an int16 grid
(`int16_grids`): as fine as the layer's int32 accumulators provably allow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container
from dataclasses import replace

import numpy as np

from drpai_qat.lowering.graph import DEQUANTIZE, FAKE_QUANT, Graph, Node, Weight
from drpai_qat.lowering.storage import Grid

Bounds = tuple[float, float]

# Operators whose output elements are all elements of their first input.
SELECTING = frozenset(
    ("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Split", "Gather", "Expand",
     "Tile", "DepthToSpace", "SpaceToDepth", "MaxPool", "GlobalMaxPool", "ReduceMax", "ReduceMin", "Dropout")
)  # fmt: skip
# Operators whose output elements are weighted means of their first input's elements (weights >= 0, sum 1).
AVERAGING = frozenset(("AveragePool", "GlobalAveragePool", "ReduceMean", "Resize", "Upsample"))
UNIT = {
    "Sigmoid": (0.0, 1.0),
    "HardSigmoid": (0.0, 1.0),
    "Softmax": (0.0, 1.0),
    "Tanh": (-1.0, 1.0),
    "Erf": (-1.0, 1.0),
}
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
            low, high = bounds_before.get(data_input(graph, node), (-math.inf, math.inf))
            bounds_before[node.output] = max(low, limits[0]), min(high, limits[1])
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
            step = grid.steps(value)
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
        found = _bounds_of(graph, node, of)
        if found is not None and all(math.isfinite(b) for b in found):
            for name in node.outputs:
                bounds[name] = found
    return bounds


def _bounds_of(graph: Graph, node: Node, of: Callable[[str], Bounds | None]) -> Bounds | None:
    if node.op in UNIT:
        return UNIT[node.op]
    limits = outer_limits(graph, node)
    if limits is not None:
        inner = of(data_input(graph, node)) or (-math.inf, math.inf)
        low, high = (float(np.clip(b, *limits)) for b in inner)
        return low, high
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


def int16_grids(
    graph: Graph, grids: dict[str, Grid], bounds: dict[str, Bounds], unstored: Container[str] = ()
) -> dict[str, Grid]:
    """int16 grids for bounded tensors without a grid that feed layers with integer weights.

    A layer's accumulator is at most sum |w| * max |q| (plus its bias, below a fifth of the range): q may use as much of
    int16 as keeps that within int32. Tensors in `unstored` are never computed (`parts.py`) and need none.
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
                    steps.append(_activation_steps(graph, node))
            elif node.op == "MatMul" and node.inputs[1] == name and node.inputs[0] in bounds:
                steps.append(_activation_steps(graph, node))
            elif selects(node) or node.op == "Concat" or node.op == "Pad":
                steps += steps_allowed(node.output, seen)
        return steps

    producers = {name: node for node in graph.nodes for name in node.outputs}
    for name, (low, high) in bounds.items():
        if (
            name in grids
            or name in unstored
            or graph.dtypes.get(name, "float32") != "float32"
            or graph.is_constant(name)
        ):
            continue
        allowed = steps_allowed(name, set())
        largest = max(abs(low), abs(high))
        if not allowed or largest <= 0.0:
            continue
        steps = min(32767, *allowed)
        exact = _exact_steps(graph, producers[name], grids) if name in producers else None
        if exact is not None and exact[1] <= steps:
            found[name] = Grid(exact[0], 0, -exact[1], exact[1], "int16")
        elif name in producers and producers[name].op not in _LINEAR and _feeds_coarse(graph, consumers, grids, name):
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


def _exact_steps(graph: Graph, node: Node, grids: dict[str, Grid]) -> tuple[float, int] | None:
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


def _activation_steps(graph: Graph, node: Node) -> int:
    """The same for a product of two activations, neither of which is known when compiling: both get the square root."""
    reduced = graph.shapes[node.inputs[0]][-1]
    return int(math.sqrt(PRODUCTS_SHARE * (2**31 - 1) / reduced))
