"""Fake-quant written out in arithmetic, as hand-made quantizers (LSQ and its kin) export it.

    x -> Div(s) -> [Add z] -> [Clip] -> Round -> [Clip] -> [Sub z] -> Mul(s)   =>   Q(x, s, z) -> [Clip] -> DQ

Division can be a Mul by 1/s and the other way round, Clip a Min and a Max. The straight-through trick of training,
y = (round(v) - v) + v, is y = round(v). Weights written so are constants: they are evaluated, and recover_weights finds
the grid in the values.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import onnx_graphsurgeon as gs

from drpai_qat.core.quantization import check_scale
from preprocess.passlog import PassLog
from preprocess.quantize_nodes import DEQUANTIZE, QUANTIZE
from preprocess.surgery import Array, Names, clip_bounds, readers, take_over, value_of

_SAME = 1e-5
"""Two float32 roundings of one scale, and of a whole number, are this near, relatively and in steps."""
_Grid: TypeAlias = tuple[np.dtype[np.integer], int]
"""Integer type and zero point."""


@dataclass(frozen=True)
class _Steps:
    """The result of the arithmetic on x so far: a number of steps, x / scale + offset, limited to low..high."""

    scale: float
    offset: float = 0.0
    low: float = -np.inf
    high: float = np.inf

    def add(self, number: float) -> _Steps:
        """Add `number` to the steps."""
        return replace(self, offset=self.offset + number, low=self.low + number, high=self.high + number)

    def limit(self, low: float, high: float) -> _Steps:
        """Clip the steps."""
        return replace(self, low=max(self.low, low), high=min(self.high, high))

    def rounded(self) -> _Steps:
        """Round the steps; limits round with them."""
        return replace(self, low=float(np.rint(self.low)), high=float(np.rint(self.high)))


def recognize_arithmetic(graph: gs.Graph, log: PassLog) -> gs.Graph:
    """Replace written-out fake-quant of activations by QuantizeLinear and DequantizeLinear.

    Raises: QuantizationError: its scale is not a scale.
    """
    names = Names(graph)
    made: list[gs.Node] = []
    for node in list(graph.nodes):
        if node.op != "Round" or not node.outputs:
            continue
        chain = [node.inputs[0]]
        before = _steps_before(node.inputs[0], chain)
        found = None if before is None else _steps_behind(node.outputs[0], before[1].rounded(), chain)
        if before is None or found is None:
            log.skipped(node, "no scale around this rounding: not a fake-quant")
            continue
        source, output, steps = before[0], found[0], found[1]
        grid = _grid(steps)
        if grid is None:
            log.skipped(node, f"steps {steps.low:g}..{steps.high:g}, offset {steps.offset:g} are no integer grid")
            continue
        check_scale(np.array(steps.scale, np.float32), f"node {node.name}")
        made += _pair(node, source, output, steps, grid, names)
        log.note(node.name, "arithmetic fake-quant became QuantizeLinear and DequantizeLinear")
    graph.nodes.extend(made)
    return graph.cleanup().toposort() if made else graph


def _steps_before(tensor: gs.Tensor, chain: list[gs.Tensor]) -> tuple[gs.Tensor, _Steps] | None:
    """The tensor that is divided into steps, and the steps up to `tensor`."""
    node = tensor.inputs[0] if tensor.inputs else None
    operand = _operand(node)
    if node is None or operand is None:
        return None
    data, value = operand
    chain.append(data)
    if node.op in ("Div", "Mul"):
        scale = _scale(node, data, value, into_steps=True)
        return None if scale is None else (data, _Steps(scale))
    inner = _steps_before(data, chain)
    step = None if inner is None else _step(node, data, value, inner[1])
    return None if inner is None or step is None else (inner[0], step)


def _steps_behind(tensor: gs.Tensor, steps: _Steps, chain: list[gs.Tensor]) -> tuple[gs.Tensor, _Steps] | None:
    """The tensor where steps are reals again, and the steps up to there."""
    for _ in range(8):  # Clip, Sub, Mul and a straight-through pair or two
        followers = list(readers(tensor))
        if len(followers) != 1:
            return None
        node = followers[0]
        through = _straight_through(node, tensor, chain)
        if through is not None:
            tensor = through
            continue
        operand = _operand(node)
        if operand is None or operand[0] is not tensor:
            return None
        if node.op in ("Div", "Mul"):
            scale = _scale(node, tensor, operand[1], into_steps=False)
            if scale is None or not np.isclose(scale, steps.scale, rtol=_SAME, atol=0):
                return None
            return _real_output(node.outputs[0], chain), steps
        step = _step(node, tensor, operand[1], steps)
        if step is None:
            return None
        steps, tensor = step, node.outputs[0]
        chain.append(tensor)
    return None


def _real_output(tensor: gs.Tensor, chain: list[gs.Tensor]) -> gs.Tensor:
    """`tensor`, or the output of a straight-through pair behind it."""
    followers = list(readers(tensor))
    through = _straight_through(followers[0], tensor, chain) if len(followers) == 1 else None
    return tensor if through is None else through


def _straight_through(node: gs.Node, rounded: gs.Tensor, chain: list[gs.Tensor]) -> gs.Tensor | None:
    """Output of (rounded - v) + v where v is a tensor of the chain."""
    if node.op != "Sub" or node.inputs[0] is not rounded or not any(node.inputs[1] is one for one in chain):
        return None
    followers = list(readers(node.outputs[0]))
    if len(followers) != 1 or followers[0].op != "Add":
        return None
    others = [one for one in followers[0].inputs if one is not node.outputs[0]]
    return followers[0].outputs[0] if len(others) == 1 and others[0] is node.inputs[1] else None


def _operand(node: gs.Node | None) -> tuple[gs.Tensor, Array | None] | None:
    """The computed input of an elementwise node, and its constant scalar one (Clip: None)."""
    if node is None or node.op not in ("Div", "Mul", "Add", "Sub", "Min", "Max", "Clip"):
        return None
    if node.op == "Clip":
        return node.inputs[0], None
    computed = [one for one in node.inputs if not isinstance(one, gs.Constant)]
    values = [value_of(one) for one in node.inputs if isinstance(one, gs.Constant)]
    if len(computed) != 1 or len(values) != 1 or values[0] is None or values[0].size != 1:
        return None
    return computed[0], values[0]


def _scale(node: gs.Node, data: gs.Tensor, value: Array | None, *, into_steps: bool) -> float | None:
    """Scale that a Div or Mul works with: x / s and x * (1/s) go into steps, n * s and n / (1/s) come out of them."""
    if value is None or (node.op == "Div" and node.inputs[0] is not data):
        return None
    number = float(value.reshape(-1)[0])
    if (node.op == "Div") == into_steps:
        return number
    return 1 / number if number else None


def _step(node: gs.Node, data: gs.Tensor, value: Array | None, steps: _Steps) -> _Steps | None:
    """`steps` behind one more node."""
    if node.op in ("Clip", "Min", "Max"):
        bounds = clip_bounds(node, data)
        return None if bounds is None else steps.limit(*bounds)
    if value is None or node.op not in ("Add", "Sub") or (node.op == "Sub" and node.inputs[0] is not data):
        return None
    number = float(value.reshape(-1)[0])
    return steps.add(number if node.op == "Add" else -number)


def _grid(steps: _Steps) -> _Grid | None:
    """Integer type and zero point for steps around zero; None if they are unlimited or don't end where they began."""
    if not np.isfinite([steps.low, steps.high]).all() or abs(steps.offset) > _SAME or steps.low >= steps.high:
        return None
    low, high = round(steps.low), round(steps.high)
    if max(abs(steps.low - low), abs(steps.high - high)) > _SAME:
        return None
    candidates: list[tuple[type[np.integer], int]] = [(np.int8, 0), (np.uint8, 0), (np.uint8, -low)]
    candidates += [(np.int16, 0), (np.uint16, 0), (np.uint16, -low)]
    for dtype, zero_point in candidates:
        limits = np.iinfo(dtype)
        inside = limits.min <= low + zero_point and high + zero_point <= limits.max
        if inside and limits.min <= zero_point <= limits.max:
            return np.dtype(dtype), zero_point
    return None


def _pair(
    node: gs.Node,
    source: gs.Tensor,
    output: gs.Tensor,
    steps: _Steps,
    grid: _Grid,
    names: Names,
) -> list[gs.Node]:
    """Q -> Clip -> DQ from `source` to `output`."""
    dtype, zero_point = grid
    scale = gs.Constant(names(f"{node.name}_scale"), np.array(steps.scale, np.float32))
    point = gs.Constant(names(f"{node.name}_zero_point"), np.array(zero_point, dtype))
    bounds = [
        gs.Constant(names(f"{node.name}_{side}"), np.array(round(bound) + zero_point, dtype))
        for side, bound in (("min", steps.low), ("max", steps.high))
    ]
    integers, limited = (gs.Variable(names(f"{output.name}_{role}"), dtype, source.shape) for role in ("q", "limited"))
    last = gs.Node(DEQUANTIZE, names(f"{node.name}_dequantize"), {}, [limited, scale, point])
    take_over(last, output)
    return [
        gs.Node(QUANTIZE, names(f"{node.name}_quantize"), {}, [source, scale, point], [integers]),
        gs.Node("Clip", names(f"{node.name}_range"), {}, [integers, *bounds], [limited]),
        last,
    ]
