import onnx
import pytest
from onnx import TensorProto, helper

from drpai_qat.core.errors import ModelError
from drpai_qat.source.growth import check_growth

OPSETS = [helper.make_opsetid("", 13), helper.make_opsetid("l", 1)]


def doubling(depth: int, last: str = "Relu") -> onnx.ModelProto:
    """Functions that call the one below twice."""
    functions = []
    for level in range(depth):
        called = f"F{level - 1}" if level else last
        domain = "l" if called.startswith("F") else ""
        nodes = [helper.make_node(called, [a], [b], domain=domain) for a, b in (("a", "q"), ("q", "b"))]
        functions.append(helper.make_function("l", f"F{level}", ["a"], ["b"], nodes, OPSETS))
    graph = helper.make_graph(
        [helper.make_node(f"F{depth - 1}", ["x"], ["y"], domain="l")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])],
    )
    return helper.make_model(graph, functions=functions, opset_imports=OPSETS)


def test_functions_are_counted_written_out():
    check_growth("m.onnx", doubling(17))
    with pytest.raises(ModelError, match=r"m\.onnx: 262144 nodes"):
        check_growth("m.onnx", doubling(18))
    with pytest.raises(ModelError, match=r"over 10\^301 nodes"):
        check_growth("m.onnx", doubling(1000))


def test_functions_that_call_themselves():
    with pytest.raises(ModelError, match="calls itself"):
        check_growth("m.onnx", doubling(3, last="F2"))


def test_inputs_by_the_thousand():
    names = [f"x{i}" for i in range(1025)]
    graph = helper.make_graph(
        [helper.make_node("Sum", names, ["y"])],
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in names],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])],
    )
    with pytest.raises(ModelError, match="1025 inputs"):
        check_growth("m.onnx", helper.make_model(graph))
    node = helper.make_node("Sum", ["x0"] * 10_001, ["y"])
    for hidden in (node, helper.make_node("If", ["c"], ["y"], then_branch=helper.make_graph([node], "then", [], []))):
        graph = helper.make_graph([hidden], "g", [], [])
        with pytest.raises(ModelError, match=r"node 'Sum' \(Sum\) has 10001 inputs"):
            check_growth("m.onnx", helper.make_model(graph))
