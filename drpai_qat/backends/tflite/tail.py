"""The steps behind an operator that its own rounding to integers takes in: bias, limits, and the trained rounding.

    Conv -> Add(bias) -> Relu -> FakeQuant     =>  CONV_2D whose output has the FakeQuant's grid
    FakeQuant -> Relu                          =>  the same integers, cut at the zero point

Rounding is monotonic, so limits in front of it become limits of its integers: exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from drpai_qat.core.quantization import QuantParams
from drpai_qat.graph.canonical import FAKE_QUANT, Array, Graph, Node
from drpai_qat.graph.ranges import clip_limits

Reals: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Tail:
    """What follows an operator within its own rounding.

    Attributes:
        output: the tensor that leaves.
        nodes: those taken in.
        low, high: limits of the real value.
        params: the trained grid; None where there is none.
        bias: constant added before all of it, one per channel; None where there is none.
    """

    output: str
    nodes: tuple[Node, ...] = ()
    low: float = -math.inf
    high: float = math.inf
    params: QuantParams | None = None
    bias: Reals | None = None


# Limits that float operators can apply themselves.
FUSED = {(0.0, math.inf): "RELU", (0.0, 6.0): "RELU6", (-1.0, 1.0): "RELU_N1_TO_1"}


def follow(
    graph: Graph,
    consumers: dict[str, list[Node]],
    node: Node,
    channels: tuple[int, int] | None = None,
    real: bool = False,
) -> Tail:
    """The tail of a node.

    Args:
        channels: axis and number of output channels, where the operator can add a bias.
        real: computed in float32: one limit is taken in, if TFLite has it as a fused activation, and no rounding.
    """  # fmt: skip
    name, params = node.output, None
    bias: Reals | None = None
    low, high = -math.inf, math.inf
    nodes: list[Node] = []
    if node.op == FAKE_QUANT:
        params = node.params
    while name not in graph.outputs and len(consumers.get(name, ())) == 1:
        (reader,) = consumers[name]
        limits = clip_limits(graph, reader)
        unlimited = (low, high) == (-math.inf, math.inf)
        if reader.op in ("Add", "Sub") and channels is not None and params is None and unlimited:
            constant = _per_channel(graph, reader, name, *channels)
            if constant is None:
                break
            bias = constant if bias is None else bias + constant
        elif limits is not None and real:
            if not unlimited or limits not in FUSED:
                break
            low, high = limits
        elif limits is not None:
            if params is not None and not _on_grid(params, limits):
                break
            low, high = (float(np.clip(end, *limits)) for end in (low, high))
        elif reader.op == FAKE_QUANT and not real:
            if params is not None and params != reader.params:
                break
            if reader.params is not None and reader.params.per_channel:
                break
            params = reader.params
        else:
            break
        nodes.append(reader)
        name = reader.output
    return Tail(name, tuple(nodes), low, high, params, bias)


def _per_channel(graph: Graph, node: Node, data: str, axis: int, count: int) -> Reals | None:
    """The constant of an Add (or of x - constant) where it has one number, or one per channel."""
    others = [name for name in node.inputs if name != data]
    if len(node.inputs) != 2 or len(others) != 1 or (node.op == "Sub" and node.inputs[0] != data):
        return None
    value = graph.constant(others[0])
    if value is None or graph.shapes[node.output] != graph.shapes[data]:
        return None
    values = along_axis(value, len(graph.shapes[data]), axis, count)
    return None if values is None else (values if node.op == "Add" else -values)


def along_axis(value: Array, rank: int, axis: int, count: int) -> Reals | None:
    """One number per channel out of a constant that broadcasts against a tensor; None where it varies otherwise."""
    if value.size == 1:
        return np.full(count, value.reshape(-1)[0], np.float64)
    shape = (1,) * (rank - value.ndim) + value.shape
    if len(shape) != rank or value.size != count or shape[axis] != count:
        return None
    return value.reshape(-1).astype(np.float64)


def _on_grid(params: QuantParams, limits: tuple[float, float]) -> bool:
    low, high = (float(end) for end in params.real_range())
    return keeps_steps(float(params.scale), (low, high), limits)


def keeps_steps(scale: float, values: tuple[float, float], limits: tuple[float, float]) -> bool:
    """Limits of rounded values give values of the same grid: they are steps of it, or beyond its ends."""
    if limits[0] > values[1] or limits[1] < values[0]:
        return False  # all values become one that the grid may not hold
    inside = [end / scale for end in limits if values[0] < end < values[1]]
    return all(abs(steps - np.rint(steps)) <= 1e-5 * max(1.0, abs(steps)) for steps in inside)


def limited_more(tail: Tail, limits: tuple[float, float]) -> Tail:
    """The tail of an operator that limits its result itself, before all of the tail."""
    low, high = (float(np.clip(end, tail.low, tail.high)) for end in limits)
    return replace(tail, low=low, high=high)
