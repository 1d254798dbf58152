"""What a trained range lets happen and arithmetic has no answer for: x / 0, the logarithm of 0, the root of -1.

Samples may miss it; a board meets it one day, and what integer a NaN becomes is up to its CPU.
"""

from __future__ import annotations

import math

import onnx_graphsurgeon as gs

from drpai_qat.core.moving import KEEPS_GRID
from preprocess.passlog import PassLog, label
from preprocess.quantize_nodes import DEQUANTIZE
from preprocess.surgery import clip_bounds, params_of, producer

_READS = {"Div": 1, "Reciprocal": 0, "Log": 0, "Sqrt": 0}
"""The input that is critical, by operator."""

_TOLD = {
    "Div": "divides by a tensor whose trained range holds 0: x / 0 is infinite, and 0 / 0 is NaN",
    "Reciprocal": "divides by a tensor whose trained range holds 0: 1 / 0 is infinite",
    "Log": "the trained range of its input holds 0 or less: the logarithm is infinite or NaN there",
    "Sqrt": "the trained range of its input holds numbers below 0: the root is NaN there",
}


def warn_if_undefined(graph: gs.Graph, log: PassLog) -> gs.Graph:
    """Warn of operators whose input can be, by its grid, what they have no finite result for."""
    for node in graph.nodes:
        if node.op not in _READS or len(node.inputs) <= _READS[node.op]:
            continue
        ends = _ends(node.inputs[_READS[node.op]])
        if ends is None:
            continue
        low, high = ends
        critical = {"Log": low <= 0, "Sqrt": low < 0}.get(node.op, low <= 0 <= high)
        if critical:
            log.warn(label(node), f"{_TOLD[node.op]}; keep it away, with a Clip behind the quantizer")
    return graph


def _ends(tensor: gs.Tensor) -> tuple[int, int] | None:
    """The ends of the grid that a tensor lies on, in steps from zero; None if it is on none, or on several."""
    maker, positive = producer(tensor), False
    while maker is not None and maker.op in KEEPS_GRID:
        positive |= maker.op == "Relu"
        maker = producer(maker.inputs[0])
    if maker is None or maker.op != DEQUANTIZE:
        return None
    params = params_of(maker)
    if params.axis is not None:
        return None
    scale, zero = float(params.scale), int(params.zero_point)
    low, high = params.qmin - zero, params.qmax - zero
    quantize = producer(maker.inputs[0])
    bounds = None if quantize is None else _bounds(producer(quantize.inputs[0]))
    if bounds is not None:
        low, high = (round(min(max(bound / scale, low), high)) for bound in bounds)
    return max(low, 0) if positive else low, high


def _bounds(node: gs.Node | None) -> tuple[float, float] | None:
    """What the step in front of a quantizer leaves; None if it bounds nothing."""
    if node is not None and node.op == "Relu":
        return 0.0, math.inf
    return clip_bounds(node, node.inputs[0]) if node is not None and node.op in ("Clip", "Max", "Min") else None
