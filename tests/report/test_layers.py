import onnx
import onnx.parser
import pytest

from drpai_qat.core.coverage import KernelCall, LoweredNode
from drpai_qat.graph.canonical import read_graph
from drpai_qat.report.layers import describe_layers, with_code
from drpai_qat.report.size import CodeUse

BLOCK = """
<ir_version: 8, opset_import: ["" : 13]>
net (float[1,2,4,4] x) => (float[1,2,4,4] y)
<float s = {0.1}, uint8 z = {10}, int8[2,2,1,1] w = {1,2,3,4}, float[2] sw = {0.5,0.5}, int8[2] zw = {0,0},
 float low = {-1.0}, float high = {11.7}>
{
  [in] qx = QuantizeLinear (x, s, z)
  dx = DequantizeLinear (qx, s, z)
  dw = DequantizeLinear <axis=0> (w, sw, zw)
  [one] a = Conv (dx, dw)
  [range] ac = Clip (a, low, high)
  [qa] qqa = QuantizeLinear (ac, s, z)
  da = DequantizeLinear (qqa, s, z)
  [two] b = Conv (da, dw)
  [sum] c = Add (b, da)
  [relu] d = Relu (c)
  [pool] y = MaxPool <kernel_shape=[1,1]> (d)
}
"""


def block():
    model = onnx.parser.parse_model(BLOCK)
    for node in model.graph.node:
        if not node.name:
            node.name = f"n_{node.output[0]}"
    return onnx.shape_inference.infer_shapes(model)


def test_what_is_fused_belongs_to_the_layer_it_runs_with():
    coverage = [
        LoweredNode("in", "FakeQuant", "int8"),
        LoweredNode("one", "Conv", "int8", 64),
        LoweredNode("two", "Conv", "float32", 64, "its input has no trained range"),
        LoweredNode("pool", "MaxPool", "view"),
    ]
    quantize, one, two, pool = describe_layers(read_graph(block()), coverage)
    assert (quantize.op, quantize.inputs, quantize.tensors) == ("Quantize", (-1,), ("qx",))
    assert (one.fused, one.inputs, one.tensors) == ((), (0,), ("qqa",))  # the range's own Clip is no step
    assert (two.fused, two.inputs, two.reason) == (("Add", "Relu"), (1,), "its input has no trained range")
    assert (pool.inputs, pool.kernel, pool.shape) == ((2,), (1, 1), (1, 2, 4, 4))
    assert one.grid is not None
    assert two.grid is None  # a sum without a range
    assert one.parameters == 4 + 8 + 8  # weights, their scales, the range's ends
    assert one.weights is not None
    assert one.to_json()["grid"] == {"dtype": "uint8", "scale": pytest.approx(0.1), "zero_point": 10}


def test_code_is_told_once_for_each_layer_and_as_shared_where_it_is():
    coverage = [LoweredNode(name, "Conv", "int8", 64) for name in ("one", "two")] + [
        LoweredNode("pool", "MaxPool", "view")
    ]
    layers = describe_layers(read_graph(block()), coverage)
    steps = [
        KernelCall("conv", "one"),
        KernelCall("pack", "two"),
        KernelCall("conv", "two"),
        KernelCall("copy", "gone"),
    ]
    code = CodeUse(
        {"conv_1": 500, "pack_2": 20, "copy_3": 7}, (("conv_1",), ("pack_2", "conv_1"), ("conv_1",), ("copy_3",))
    )
    one, two, pool = with_code(layers, steps, code)
    assert [(layer.code, len(layer.sharing)) for layer in (one, two, pool)] == [(500, 1), (520, 1), (0, 0)]
    assert with_code(layers, steps[:-1], code) == layers  # another network's


def test_accounts_of_copies_and_of_nodes_that_the_graph_does_not_have():
    coverage = [
        LoweredNode("in", "FakeQuant", "int8"),
        LoweredNode("one:0", "Conv", "int8", 32),
        LoweredNode("one:1", "Conv", "float32", 32, "why"),
        LoweredNode("made", "Mul", "tvm", 0, "Mul has no integer kernel"),
    ]
    layers = describe_layers(read_graph(block()), coverage)
    assert [(one.name, one.compute, one.macs) for one in layers] == [
        ("in", "int8", 0),
        ("one", "float32", 64),
        ("made", "tvm", 0),
    ]
    assert layers[1].fused == ("Conv", "Add", "Relu", "MaxPool")
    assert [one.covers for one in layers] == [("in",), ("one:0", "one:1"), ("made",)]


def test_an_unrolled_lstm_is_one_layer():
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 13]>
        net (float[3,1,2] x) => (float[3,1,1,2] y) <float[1,8,2] w, float[1,8,2] r>
        { [lstm] y = LSTM <hidden_size=2> (x, w, r) }
    """)
    coverage = [LoweredNode("node_matmul", "MatMul", "int8", 5), LoweredNode("node_tanh", "Tanh", "float32", 0, "why")]
    (layer,) = describe_layers(read_graph(model), coverage)
    assert (layer.op, layer.macs, layer.compute, layer.reason) == ("LSTM", 5, "int8", "")  # as its products are
