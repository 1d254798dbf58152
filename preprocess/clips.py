"""Range limits in one form: ReLU6 and its kin are one Clip, whatever the exporter wrote.

    Max(Min(x, 6), 0)   =>   Clip(x, 0, 6)
    Relu -> Min(6)      =>   Clip(x, 0, 6)
    Max(x, 0)           =>   Relu(x)
    Clip -> Clip        =>   Clip

Two limits in a row are clip(clip(x, a, b), c, d) = clip(x, clip(a, c, d), clip(b, c, d)), for any a <= b and c <= d.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from preprocess.passlog import PassLog
from preprocess.surgery import Names, optional_input, produced_by, sole_consumer, value_of


def merge_clips(graph: gs.Graph, log: PassLog) -> gs.Graph:
    """Write every Min, Max and Clip by constant scalars as Relu or Clip, and merge neighbours."""
    graph.toposort()
    names = Names(graph)
    for node in graph.nodes:
        limits = _limits(node) if node.outputs else None
        if limits is None:
            continue
        data, low, high = limits
        before = produced_by(data, "Clip", "Relu")
        if before is not None and sole_consumer(graph, data) is node:
            inner = _limits(before)
            if inner is not None:
                data, low, high = inner[0], *(float(np.clip(bound, low, high)) for bound in inner[1:])
        elif node.op in ("Clip", "Relu"):
            continue
        _write(node, data, low, high, names)
    return graph.cleanup()


def _limits(node: gs.Node) -> tuple[gs.Tensor, float, float] | None:
    """The tensor that `node` limits, and its bounds; None unless they are constant scalars."""
    if node.op == "Relu":
        return node.inputs[0], 0.0, np.inf
    if node.op in ("Min", "Max") and len(node.inputs) == 2:
        index = 0 if value_of(node.inputs[0]) is None else 1
        bound = _scalar(node.inputs[1 - index], node.inputs[index])
        if bound is None:
            return None
        return node.inputs[index], *((-np.inf, bound) if node.op == "Min" else (bound, np.inf))
    if node.op != "Clip" or node.inputs[0].dtype != np.float32:
        return None
    bounds = [-np.inf, np.inf]
    for index in (1, 2):
        tensor = optional_input(node, index)
        if tensor is None:
            continue
        bound = _scalar(tensor, node.inputs[0])
        if bound is None:
            return None
        bounds[index - 1] = bound
    return (node.inputs[0], *bounds) if bounds[0] <= bounds[1] else None


def _scalar(tensor: gs.Tensor, data: gs.Tensor) -> float | None:
    """Value of a float constant of one element that does not enlarge `data` by broadcasting."""
    value = value_of(tensor)
    if value is None or value.size != 1 or value.dtype != np.float32 or np.isnan(value).any():
        return None
    if data.shape is None or value.ndim > len(data.shape):
        return None
    return float(value.reshape(-1)[0])


def _write(node: gs.Node, data: gs.Tensor, low: float, high: float, names: Names) -> None:
    """Turn `node` into the limit of `data` to low..high."""
    output = node.outputs[0]
    node.attrs = {}
    if (low, high) == (0.0, np.inf):
        node.op, node.inputs = "Relu", [data]
    else:
        node.op = "Clip"
        node.inputs = [data, _bound(low, f"{output.name}_min", names), _bound(high, f"{output.name}_max", names)]


def _bound(value: float, name: str, names: Names) -> gs.Tensor:
    """A scalar, or the empty tensor where there is no bound."""
    return gs.Variable.empty() if np.isinf(value) else gs.Constant(names(name), np.array(value, np.float32))
