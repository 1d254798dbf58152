"""Fake-quant written out in arithmetic, as hand-made quantizers (LSQ, DoReFa, PACT and their kin) export it.

    x -> [Sub b] -> Div(s) -> [Add z] -> [Clip] -> Round -> [Clip] -> [Cast] -> [Sub z] -> Mul(s) -> [Add b]
                                                                                =>   Q(x, s, z) -> [Clip] -> DQ

In front of the rounding the steps are n = a x + c, in any order and number of Add, Sub, Mul, Div by scalars, with
limits between them; behind it the reals are y = p n + q. Where p a = 1 and p c + q = 0, and c is whole, that is a grid
of scale 1 / a and zero point c. Of several such places the last one behind the rounding counts, so that nothing is left
over; where only n itself remains (scales per channel), it is the grid of scale 1.

Roundings are Round, Floor(v + 1/2), Ceil(v - 1/2) and Sign(v) * Floor(Abs(v) + 1/2); these differ in what becomes of
exact halves, and Q rounds them to even. The straight-through trick of training, y = (round(v) - v) + v, is
y = round(v). Weights written so are constants: they are evaluated, and recover_weights finds the grid in the values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import onnx.helper
import onnx_graphsurgeon as gs

from drpai_qat.core.quantization import check_scale
from preprocess.passlog import PassLog
from preprocess.quantize_nodes import DEQUANTIZE, QUANTIZE
from preprocess.surgery import (
    Array,
    Names,
    clip_bounds,
    is_graph_output,
    produced_by,
    readers,
    take_over,
)

_SAME = 1e-5
"""Two float32 roundings of one scale, and of a whole number, are this near, relatively and in steps."""
_LIMITS = ("Clip", "Min", "Max", "Relu")
_LONGEST = 12
"""Nodes on either side of a rounding that are looked at."""
_Grid: TypeAlias = tuple[np.dtype[np.integer], int]
"""Integer type and zero point."""


@dataclass(frozen=True)
class _Rounding:
    """Where steps become whole.

    Attributes:
        source: tensor in front; the steps are source + shift.
        output: tensor of whole numbers.
        shift: 0, or the half that a rounding up or down takes away again.
        to_even: halves go to the even neighbour.
    """

    source: gs.Tensor
    output: gs.Tensor
    shift: float = 0.0
    to_even: bool = True


@dataclass(frozen=True)
class _Steps:
    """The steps as a function of a tensor: factor * tensor + offset, limited to low..high."""

    tensor: gs.Tensor
    factor: float
    offset: float
    low: float = -np.inf
    high: float = np.inf

    def limit(self, low: float, high: float) -> _Steps:
        """Take in limits of the tensor itself."""
        ends = sorted((self.factor * low + self.offset, self.factor * high + self.offset))
        return replace(self, low=max(self.low, ends[0]), high=min(self.high, ends[1]))


@dataclass(frozen=True)
class _Reals:
    """What follows the whole numbers n: a tensor that holds factor * n + offset, where n was limited to low..high."""

    tensor: gs.Tensor
    factor: float = 1.0
    offset: float = 0.0
    low: float = -np.inf
    high: float = np.inf

    def limit(self, low: float, high: float) -> _Reals:
        """Take in limits of the tensor itself."""
        with np.errstate(divide="ignore"):
            ends = sorted(((low - self.offset) / self.factor, (high - self.offset) / self.factor))
        return replace(self, low=max(self.low, ends[0]), high=min(self.high, ends[1]))


@dataclass(frozen=True)
class _Found:
    """A fake-quant: its input, its output, scale, whole steps and the one that stands for zero."""

    source: gs.Tensor
    output: gs.Tensor
    scale: float
    low: float
    high: float
    zero: int


def recognize_arithmetic(graph: gs.Graph, log: PassLog) -> gs.Graph:
    """Replace written-out fake-quant of activations by QuantizeLinear and DequantizeLinear.

    Raises: QuantizationError: its scale is not a scale.
    """
    names = Names(graph)
    made: list[gs.Node] = []
    for node in list(graph.nodes):
        rounding = _rounding(node) if node.outputs else None
        if rounding is None:
            continue
        found = _match(graph, node, rounding)
        if found is None:
            log.skipped(node, "no scale around this rounding: not a fake-quant")
            continue
        grid = _grid(found)
        if grid is None:
            log.skipped(node, f"steps {found.low:g}..{found.high:g} from {found.zero} are no integer grid")
            continue
        check_scale(np.array(found.scale, np.float32), f"node {node.name}")
        made += _pair(node, found, grid, names)
        halves = "" if rounding.to_even else "; halves go to even here"
        log.note(node.name, f"arithmetic fake-quant became QuantizeLinear and DequantizeLinear{halves}")
    graph.nodes.extend(made)
    return graph.cleanup().toposort() if made else graph


def _rounding(node: gs.Node) -> _Rounding | None:
    """The rounding that `node` is, or is the heart of."""
    if node.op == "Round":
        return _Rounding(node.inputs[0], node.outputs[0])
    if node.op == "Ceil":
        return _Rounding(node.inputs[0], node.outputs[0], 0.5, to_even=False)
    if node.op != "Floor":
        return None
    plain = _Rounding(node.inputs[0], node.outputs[0], -0.5, to_even=False)
    shifted = produced_by(node.inputs[0], "Add")
    size = None if shifted is None else _scalar(shifted)
    size = None if size is None or abs(size[1] - 0.5) > _SAME else produced_by(size[0], "Abs")
    followers = list(readers(node.outputs[0]))
    if size is None or len(followers) != 1 or followers[0].op != "Mul":
        return plain
    signs = [produced_by(one, "Sign") for one in followers[0].inputs if one is not node.outputs[0]]
    if len(signs) == 1 and signs[0] is not None and signs[0].inputs[0] is size.inputs[0]:
        return _Rounding(size.inputs[0], followers[0].outputs[0], to_even=False)
    return plain


def _match(graph: gs.Graph, node: gs.Node, rounding: _Rounding) -> _Found | None:
    """The fake-quant around a rounding: that of the last tensor behind it that holds the reals of one in front."""
    in_front = list(_steps_before(node, rounding))
    chain = [rounding.source, *(steps.tensor for steps in in_front)]
    behind = list(_reals_behind(graph, rounding, chain))
    for reals in reversed(behind):
        if reals.tensor.dtype is not None and reals.tensor.dtype != np.float32:
            continue
        for at, steps in enumerate(in_front):
            product = reals.factor * steps.factor
            zero = round(steps.offset) if np.isfinite(steps.offset) else 0
            if steps.factor <= 0 or abs(product - 1) > _SAME or abs(steps.offset - zero) > _SAME * max(1, abs(zero)):
                continue
            if abs(steps.offset + reals.offset * steps.factor) > _SAME * max(1, abs(zero)):
                continue
            limits = [_whole(end, rounding) for end in _all_limits(in_front, at)]
            low, high = max(limits[0], reals.low), min(limits[1], reals.high)
            return _Found(steps.tensor, reals.tensor, 1 / steps.factor, low, high, zero)
    return None


def _whole(end: float, rounding: _Rounding) -> float:
    """A limit of the steps, rounded as they are."""
    return float(np.rint(end) if rounding.to_even else np.floor(end + 0.5))


def _all_limits(in_front: list[_Steps], at: int) -> tuple[float, float]:
    """Limits of the steps at that place, and those of the nodes right in front of it that only limit."""
    steps = in_front[at]
    for further in in_front[at + 1 :]:
        if (further.factor, further.offset) != (steps.factor, steps.offset):
            break
        steps = further
    return steps.low, steps.high


def _steps_before(node: gs.Node, rounding: _Rounding) -> Iterator[_Steps]:
    """The steps as a function of each tensor in front of a rounding, from the nearest on."""
    steps = _Steps(rounding.source, 1.0, rounding.shift)
    for _ in range(_LONGEST):
        yield steps
        maker = steps.tensor.inputs[0] if steps.tensor.inputs else None
        if maker is None:
            return
        if maker.op in _LIMITS:
            limits = _limits(maker)
            if limits is None:
                return
            steps = replace(steps.limit(*limits[1:]), tensor=limits[0])
            continue
        operand = _scalar(maker)
        if operand is None or (maker.op in ("Sub", "Div") and maker.inputs[0] is not operand[0]):
            return
        data, number = operand
        if maker.op in ("Mul", "Div"):
            if maker.op == "Div":
                check_scale(np.array(number, np.float32), f"node {node.name}")
            factor = steps.factor / number if maker.op == "Div" else steps.factor * number
            steps = replace(steps, tensor=data, factor=factor)
        else:
            added = steps.factor * number
            steps = replace(steps, tensor=data, offset=steps.offset + (added if maker.op == "Add" else -added))


def _reals_behind(graph: gs.Graph, rounding: _Rounding, chain: list[gs.Tensor]) -> Iterator[_Reals]:
    """What each tensor behind a rounding holds, from the whole numbers on; straight-through pairs are passed."""
    reals = _Reals(rounding.output)
    for _ in range(_LONGEST):
        yield reals
        followers = list(readers(reals.tensor))
        if len(followers) != 1 or is_graph_output(graph, reals.tensor):
            return
        node = followers[0]
        through = _straight_through(node, reals.tensor, chain)
        if through is not None:
            reals = replace(reals, tensor=through)
            continue
        output = node.outputs[0]
        if node.op in _LIMITS:
            limits = _limits(node)
            if limits is None or limits[0] is not reals.tensor:
                return
            reals = replace(reals.limit(*limits[1:]), tensor=output)
        elif node.op == "Cast":
            if not _holds(node.attrs["to"], reals):
                return
            reals = replace(reals, tensor=output)
        else:
            operand = _scalar(node)
            if operand is None or operand[0] is not reals.tensor:
                return
            number = operand[1]
            if (node.op in ("Sub", "Div") and node.inputs[0] is not reals.tensor) or (node.op == "Div" and not number):
                return
            scale = {"Mul": number, "Div": 1 / number if number else 0.0}.get(node.op, 1.0)
            added = {"Add": number, "Sub": -number}.get(node.op, 0.0)
            if not scale:
                return
            reals = replace(reals, tensor=output, factor=reals.factor * scale, offset=reals.offset * scale + added)
        chain.append(output)


def _holds(elem_type: int, reals: _Reals) -> bool:
    """True if a Cast to that type changes no number of `reals`."""
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(elem_type))
    if dtype == np.float32:
        return True
    if not np.issubdtype(dtype, np.integer) or (reals.factor, reals.offset % 1) != (1.0, 0.0):
        return False
    limits = np.iinfo(dtype)
    return bool(limits.min <= reals.low + reals.offset and reals.high + reals.offset <= limits.max)


def _straight_through(node: gs.Node, rounded: gs.Tensor, chain: list[gs.Tensor]) -> gs.Tensor | None:
    """Output of (rounded - v) + v where v is a tensor of the chain."""
    if node.op != "Sub" or node.inputs[0] is not rounded or not any(node.inputs[1] is one for one in chain):
        return None
    followers = list(readers(node.outputs[0]))
    if len(followers) != 1 or followers[0].op != "Add":
        return None
    others = [one for one in followers[0].inputs if one is not node.outputs[0]]
    return followers[0].outputs[0] if len(others) == 1 and others[0] is node.inputs[1] else None


def _limits(node: gs.Node) -> tuple[gs.Tensor, float, float] | None:
    """The tensor that `node` limits, and the bounds; None unless they are constant numbers."""
    if node.op == "Relu":
        return node.inputs[0], 0.0, np.inf
    computed = [one for one in node.inputs if not isinstance(one, gs.Constant)]
    if node.op == "Clip":
        computed = [node.inputs[0]]
    bounds = clip_bounds(node, computed[0]) if len(computed) == 1 else None
    return None if bounds is None else (computed[0], *bounds)


def _scalar(node: gs.Node) -> tuple[gs.Tensor, float] | None:
    """The computed input of an arithmetic node, and its constant scalar one."""
    if node.op not in ("Div", "Mul", "Add", "Sub"):
        return None
    computed = [one for one in node.inputs if not isinstance(one, gs.Constant)]
    values: list[Array] = [one.values for one in node.inputs if isinstance(one, gs.Constant)]
    if len(computed) != 1 or len(values) != 1 or values[0].size != 1:
        return None
    return computed[0], float(values[0].reshape(-1)[0])


def _grid(found: _Found) -> _Grid | None:
    """Integer type and zero point, in steps from zero; None if these are unlimited."""
    if not np.isfinite([found.low, found.high]).all() or found.low >= found.high:
        return None
    low, high = round(found.low) - found.zero, round(found.high) - found.zero
    if max(abs(found.low - round(found.low)), abs(found.high - round(found.high))) > _SAME:
        return None
    candidates: list[tuple[type[np.integer], int]] = [(np.int8, 0), (np.uint8, 0), (np.uint8, -low)]
    candidates += [(np.int16, 0), (np.uint16, 0), (np.uint16, -low)]
    for dtype, zero_point in candidates:
        limits = np.iinfo(dtype)
        inside = limits.min <= low + zero_point and high + zero_point <= limits.max
        if inside and limits.min <= zero_point <= limits.max:
            return np.dtype(dtype), zero_point
    return None


def _pair(node: gs.Node, found: _Found, grid: _Grid, names: Names) -> list[gs.Node]:
    """Q -> Clip -> DQ."""
    dtype, zero_point = grid
    source, output = found.source, found.output
    scale = gs.Constant(names(f"{node.name}_scale"), np.array(found.scale, np.float32))
    point = gs.Constant(names(f"{node.name}_zero_point"), np.array(zero_point, dtype))
    bounds = [
        gs.Constant(names(f"{node.name}_{side}"), np.array(round(bound) - found.zero + zero_point, dtype))
        for side, bound in (("min", found.low), ("max", found.high))
    ]
    integers, limited = (gs.Variable(names(f"{output.name}_{role}"), dtype, source.shape) for role in ("q", "limited"))
    last = gs.Node(DEQUANTIZE, names(f"{node.name}_dequantize"), {}, [limited, scale, point])
    take_over(last, output)
    return [
        gs.Node(QUANTIZE, names(f"{node.name}_quantize"), {}, [source, scale, point], [integers]),
        gs.Node("Clip", names(f"{node.name}_range"), {}, [integers, *bounds], [limited]),
        last,
    ]
