"""Operators that converters from TensorFlow leave in a file although ONNX, or its opset, has none of the name.

    HardSwish below opset 14   =>  x * HardSigmoid(x; 1/6, 1/2)
    Log1p, Expm1               =>  Log(x + 1), Exp(x) - 1
    TFL_GELU(approximate)      =>  0.5 x (1 + tanh(...)), or with Erf
    TFL_HARD_SWISH, TFL_RELU_0_TO_1, ...

FakeQuantWithMinMaxVars and its kin hold trained ranges: fake_quantize.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TypeAlias

import onnx
import onnx.helper as oh

from preprocess.fake_quantize import OF_TENSORFLOW
from preprocess.passlog import PassLog

_Step: TypeAlias = tuple[str, list[str | float], dict[str, float]]
"""Operator, inputs (earlier steps by "#0", numbers as constants), attributes; the last step writes the output."""

TENSORFLOW = "tensorflow"
"""Domain of TensorFlow's own operators, as long as they are in a model."""
_HARD_SWISH_OPSET = 14


def _hard_swish(x: str, node: onnx.NodeProto) -> list[_Step]:
    return [("HardSigmoid", [x], {"alpha": 1 / 6, "beta": 0.5}), ("Mul", [x, "#0"], {})]


def _gelu(x: str, node: onnx.NodeProto) -> list[_Step]:
    if any(one.name == "approximate" and (one.i or one.s in (b"tanh", b"true")) for one in node.attribute):
        curve: list[_Step] = [
            ("Mul", [x, x], {}), ("Mul", ["#0", x], {}), ("Mul", ["#1", 0.044715], {}), ("Add", ["#2", x], {}),
            ("Mul", ["#3", math.sqrt(2 / math.pi)], {}), ("Tanh", ["#4"], {}),
        ]  # fmt: skip
    else:
        curve = [("Div", [x, math.sqrt(2)], {}), ("Erf", ["#0"], {})]
    last = len(curve) - 1
    return [
        *curve,
        ("Add", [f"#{last}", 1.0], {}),
        ("Mul", [x, f"#{last + 1}"], {}),
        ("Mul", [f"#{last + 2}", 0.5], {}),
    ]


def _between(low: float, high: float) -> Callable[[str, onnx.NodeProto], list[_Step]]:
    return lambda x, node: [("Max", [x, low], {}), ("Min", ["#0", high], {})]


_WRITTEN: dict[str, Callable[[str, onnx.NodeProto], list[_Step]]] = {
    "Log1p": lambda x, node: [("Add", [x, 1.0], {}), ("Log", ["#0"], {})],
    "Expm1": lambda x, node: [("Exp", [x], {}), ("Sub", ["#0", 1.0], {})],
    "TFL_GELU": _gelu,
    "TFL_HARD_SWISH": _hard_swish,
    "TFL_RELU_0_TO_1": _between(0, 1),
    "TFL_RELU_N1_TO_1": _between(-1, 1),
    "TFL_RELU6": _between(0, 6),
}


def is_leftover(node: onnx.NodeProto, opset: int) -> bool:
    """True if `node` is written with standard operators before anything else is done."""
    return node.op_type in _WRITTEN or (node.op_type == "HardSwish" and opset < _HARD_SWISH_OPSET and not node.domain)


def write_leftovers(model: onnx.ModelProto, opset: int, log: PassLog) -> None:
    """Replace leftovers of the main graph by standard operators. Changes `model`."""
    ranged = [node for node in model.graph.node if node.op_type in OF_TENSORFLOW and not node.domain]
    for node in ranged:
        node.domain = TENSORFLOW  # until the opset is converted, which refuses unknown standard operators
    if ranged:
        model.opset_import.append(oh.make_opsetid(TENSORFLOW, 1))
    if not any(is_leftover(node, opset) for node in model.graph.node):
        return
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if not is_leftover(node, opset):
            nodes.append(node)
            continue
        steps = _hard_swish if node.op_type == "HardSwish" else _WRITTEN[node.op_type]
        nodes += _nodes(node, steps(node.input[0], node), model)
        log.note(node.name or node.output[0], f"{node.op_type} is written with standard operators")
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)


def _nodes(node: onnx.NodeProto, steps: list[_Step], model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    base = node.output[0]
    for index, (op, operands, attributes) in enumerate(steps):
        names = []
        for at, operand in enumerate(operands):
            if isinstance(operand, str):
                names.append(f"{base}_step_{operand[1:]}" if operand.startswith("#") else operand)
                continue
            names.append(f"{base}_constant_{index}_{at}")
            model.graph.initializer.append(oh.make_tensor(names[-1], onnx.TensorProto.FLOAT, [], [operand]))
        output = base if index == len(steps) - 1 else f"{base}_step_{index}"
        yield oh.make_node(op, names, [output], name=f"{node.name or base}_{op.lower()}_{index}", **attributes)
