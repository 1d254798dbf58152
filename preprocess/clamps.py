"""Limits that training code writes out, as Clip: so that recognize_arithmetic sees the range of a fake-quant.

    Where(x < a, a, x)               =>  Max(x, a)         likewise >, <=, >=, and Min: PACT and clamps by hand
    (|x| - |x - a| + a) * 0.5        =>  Clip(x, 0, a)     PACT as its authors wrote it

The second one takes three roundings where Clip takes none.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from preprocess.passlog import PassLog
from preprocess.surgery import Array, Names, detach, produced_by, take_over, value_of

_BELOW, _ABOVE = ("Less", "LessOrEqual"), ("Greater", "GreaterOrEqual")


def write_clamps(graph: gs.Graph, log: PassLog) -> gs.Graph:
    """Replace written-out limits by constant scalars by Min, Max and Clip."""
    names = Names(graph)
    made: list[gs.Node] = []
    graph.toposort()
    for node in graph.nodes:
        if not node.outputs:
            continue
        written = _by_choice(node) if node.op == "Where" else _by_size(node) if node.op in ("Mul", "Div") else None
        if written is None:
            continue
        op, data, bounds = written
        output = node.outputs[0]
        constants = [gs.Constant(names(f"{output.name}_limit"), np.array(bound, np.float32)) for bound in bounds]
        detach(node)
        limit = gs.Node(op, names(f"{node.name}_limit"), {}, [data, *constants], [])
        take_over(limit, output)
        made.append(limit)
        log.note(node.name, f"a limit written with {node.op} is a {op}")
    graph.nodes.extend(made)
    return graph.cleanup().toposort() if made else graph


def _by_choice(node: gs.Node) -> tuple[str, gs.Tensor, list[float]] | None:
    """Where that replaces what lies beyond a bound by the bound."""
    compared = produced_by(node.inputs[0], *_BELOW, *_ABOVE)
    if compared is None:
        return None
    tensor, bound = compared.inputs[0], _number(compared.inputs[1])
    below = compared.op in _BELOW
    if bound is None:  # a < x
        tensor, bound, below = compared.inputs[1], _number(compared.inputs[0]), not below
    if bound is None:
        return None
    chosen, other = node.inputs[1], node.inputs[2]
    if _number(chosen) is None:  # Where(x >= a, x, a)
        chosen, other, below = other, chosen, not below
    if _number(chosen) != bound or other.dtype != np.float32 or not _limits_of(other, tensor):
        return None
    return "Max" if below else "Min", other, [bound]


def _limits_of(tensor: gs.Tensor, data: gs.Tensor) -> bool:
    """True if `tensor` is `data`, or a limit of it: what lies beyond a bound in one does so in the other."""
    while tensor is not data:
        maker = produced_by(tensor, "Min", "Max", "Clip", "Relu")
        if maker is None:
            return False
        computed = [one for one in maker.inputs if not isinstance(one, gs.Constant)]
        tensor = computed[0]
    return True


def _by_size(node: gs.Node) -> tuple[str, gs.Tensor, list[float]] | None:
    """Half of |x| - |x - a| + a."""
    total, half = _operands(node)
    wanted = 0.5 if node.op == "Mul" else 2.0
    add = None if total is None or half != wanted else produced_by(total, "Add")
    difference, top = (None, None) if add is None else _operands(add)
    sub = None if difference is None else produced_by(difference, "Sub")
    left, right = (None, None) if sub is None else (produced_by(one, "Abs") for one in sub.inputs)
    if left is None or right is None or top is None or top <= 0:
        return None
    shifted = produced_by(right.inputs[0], "Sub")
    if shifted is None or shifted.inputs[0] is not left.inputs[0] or _number(shifted.inputs[1]) != top:
        return None
    return "Clip", left.inputs[0], [0.0, top]


def _operands(node: gs.Node) -> tuple[gs.Tensor | None, float | None]:
    """The computed input of a node of two, and the number that is the other."""
    for data, other in (node.inputs, node.inputs[::-1]):
        if not isinstance(data, gs.Constant) and _number(other) is not None:
            return data, _number(other)
    return None, None


def _number(tensor: gs.Tensor) -> float | None:
    """The one value of a constant of any shape."""
    value: Array | None = value_of(tensor)
    if value is None or not value.size or value.dtype != np.float32:
        return None
    first = value.reshape(-1)[0]
    return float(first) if (value == first).all() else None
