"""What keeps imported operators inside their tensors: indices are clamped, and integers not divided by zero.

TVM's code trusts its operands. For indices i that count in n entries, negative ones from the end:

    i' = min(max(i < 0 ? i + n : i, 0), n - 1)

An index inside stays as it is. Integers are divided by 1 instead of 0, and -x by 1 instead of x by -1: the processor
ends the process where the smallest one is divided by -1.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnx.helper as oh
import onnx.numpy_helper

from drpai_qat.core.indexing import Indices, indices_of
from drpai_qat.graph.canonical import Node
from drpai_qat.lowering.context import Context

Guard = tuple[list[onnx.NodeProto], list[onnx.TensorProto]]
"""Nodes in front of an operator, and their constants."""


def guard(context: Context, node: Node, proto: onnx.NodeProto) -> Guard:
    """Put checks in front of an operator.

    Args:
        node: as it stands in the network.
        proto: the same node with the names that it is imported under; reads the checked operand afterwards.
    """
    shapes = [context.shape(name) if name else () for name in node.inputs]
    found = indices_of(node.op, node.attributes, shapes, context.shape(node.output))
    if found is not None and not context.graph.is_constant(node.inputs[found.at]):
        return _clamped(proto, found, context.graph.dtypes[node.inputs[found.at]])
    if node.op in ("Div", "Mod") and context.graph.dtypes.get(node.output, "float32")[0] in "iu":
        divisor = context.graph.constant(node.inputs[1])
        if divisor is None or np.isin(divisor, (0, -1)).any():
            return _divided(proto, context.graph.dtypes[node.output])
    return [], []


def _clamped(proto: onnx.NodeProto, found: Indices, dtype: str) -> Guard:
    name = proto.input[found.at]
    extents = np.asarray(found.extents if len(set(found.extents)) > 1 else found.extents[0], dtype)
    values: Mapping[str, np.ndarray] = {"extents": extents, "last": extents - 1, "zero": np.zeros_like(extents)}
    nodes = []
    if found.from_end:
        nodes += [
            oh.make_node("Less", [name, "guard_zero"], ["guard_negative"]),
            oh.make_node("Add", [name, "guard_extents"], ["guard_wrapped"]),
            oh.make_node("Where", ["guard_negative", "guard_wrapped", name], ["guard_counted"]),
        ]
        name = "guard_counted"
    nodes += [
        oh.make_node("Max", [name, "guard_zero"], ["guard_least"]),
        oh.make_node("Min", ["guard_least", "guard_last"], ["guard_inside"]),
    ]
    proto.input[found.at] = "guard_inside"
    return nodes, _constants(values)


def _divided(proto: onnx.NodeProto, dtype: str) -> Guard:
    x, divisor = proto.input
    values = {"zero": np.zeros((), dtype), "one": np.ones((), dtype)}
    nodes = [
        oh.make_node("Equal", [divisor, "guard_zero"], ["guard_by_zero"]),
        oh.make_node("Where", ["guard_by_zero", "guard_one", divisor], ["guard_divisor"]),
    ]
    proto.input[1] = "guard_divisor"
    if dtype[0] == "i":
        values["minus"] = -np.ones((), dtype)
        nodes += [
            oh.make_node("Equal", [divisor, "guard_minus"], ["guard_by_minus"]),
            oh.make_node("Neg", [x], ["guard_opposite"]),
            oh.make_node("Where", ["guard_by_minus", "guard_opposite", x], ["guard_dividend"]),
            oh.make_node("Where", ["guard_by_minus", "guard_one", "guard_divisor"], ["guard_positive"]),
        ]
        proto.input[:] = ["guard_dividend", "guard_positive"]
    return nodes, _constants(values)


def _constants(values: Mapping[str, np.ndarray]) -> list[onnx.TensorProto]:
    return [onnx.numpy_helper.from_array(np.asarray(value), f"guard_{name}") for name, value in values.items()]
