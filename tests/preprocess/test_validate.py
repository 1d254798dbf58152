from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from drpai_qat.core.errors import ModelError
from preprocess import preprocess, validate
from tests.preprocess.building import model, node, normal, scales_for

TEXT = """
net (float[1,3,6,6] x) => (float[1,4,6,6] y) <float sx = {0.03}, uint8 zx = {120}>
{
  qx = QuantizeLinear (x, sx, zx)
  dx = DequantizeLinear (qx, sx, zx)
  q = QuantizeLinear <axis=0> (w0, s, z)
  w = DequantizeLinear <axis=0> (q, s, z)
  b = DequantizeLinear <axis=0> (qb, sb, zb)
  c = Conv <pads=[1,1,1,1]> (dx, w, b)
  qc = QuantizeLinear (c, sx, zx)
  dc = DequantizeLinear (qc, sx, zx)
  n = BatchNormalization (dc, g, b1, m, v)
  y = Relu (n)
}"""
W = normal(4, 3, 3, 3)


def canonical() -> onnx.ModelProto:
    scale = scales_for(W, 0)
    source = model(
        TEXT,
        w0=W, s=scale, z=np.zeros(4, np.int8), qb=np.arange(4, dtype=np.int32) * 999,
        sb=(np.float64(np.float32(0.03)) * scale).astype(np.float32), zb=np.zeros(4, np.int32),
        g=np.ones(4, np.float32), b1=normal(4), m=normal(4), v=np.ones(4, np.float32),
    )  # fmt: skip
    return preprocess(source).model


def set_constant(made: onnx.ModelProto, name: str, value: object) -> None:
    tensor = next(one for one in made.graph.initializer if one.name == name)
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.asarray(value), name))


def parameter(made: onnx.ModelProto, layer_input: int, index: int) -> str:
    """Name of input `index` of the DequantizeLinear at an input of the convolution."""
    name = node(made, "Conv").input[layer_input]
    return str(next(one for one in made.graph.node if name in one.output).input[index])


def uint8_weights(made: onnx.ModelProto) -> None:
    set_constant(made, parameter(made, 1, 0), np.zeros((4, 3, 3, 3), np.uint8))
    set_constant(made, parameter(made, 1, 2), np.zeros(4, np.uint8))


def zero_point_of_another_shape(made: onnx.ModelProto) -> None:
    set_constant(made, parameter(made, 1, 2), np.int8(0))


def bias_on_another_grid(made: onnx.ModelProto) -> None:
    set_constant(made, parameter(made, 2, 1), np.full(4, 0.5, np.float32))


def pair_of_two_grids(made: onnx.ModelProto) -> None:
    made.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0.5], np.float32)[0:1].reshape(()), "other"))
    name = node(made, "QuantizeLinear").output[0]
    next(one for one in made.graph.node if name in one.input).input[1] = "other"


def automatic_padding(made: onnx.ModelProto) -> None:
    node(made, "Conv").attribute.append(onnx.helper.make_attribute("auto_pad", "VALID"))


def training_mode(made: onnx.ModelProto) -> None:
    node(made, "BatchNormalization").attribute.append(onnx.helper.make_attribute("training_mode", 1))


def constant_node(made: onnx.ModelProto) -> None:
    value = onnx.numpy_helper.from_array(np.array([1], np.float32))
    made.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["k"], name="k", value=value))
    node(made, "Relu").op_type = "PRelu"
    node(made, "PRelu").input.append("k")


def dynamic_shape(made: onnx.ModelProto) -> None:
    next(one for one in made.graph.value_info if one.name == "c").type.tensor_type.shape.dim[0].dim_param = "N"


def old_opset(made: onnx.ModelProto) -> None:
    made.opset_import[0].version = 12


def other_reader(made: onnx.ModelProto) -> None:
    name = node(made, "QuantizeLinear").output[0]
    made.graph.node.append(onnx.helper.make_node("Cast", [name], ["k"], name="spy", to=1))
    made.graph.output.append(onnx.helper.make_tensor_value_info("k", 1, [1, 3, 6, 6]))


def test_a_canonical_graph_passes() -> None:
    validate(canonical())


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (uint8_weights, "invariant 1, .*are uint8"),
        (zero_point_of_another_shape, "invariant 4, .*differ in shape"),
        (bias_on_another_grid, r"invariant 2, .*isn't s_x \* s_w"),
        (pair_of_two_grids, "invariant 3, .*other parameters"),
        (other_reader, "invariant 3, .*read by Cast spy"),
        (automatic_padding, "invariant 4, .*auto_pad VALID"),
        (training_mode, "invariant 4, .*training form"),
        (constant_node, "invariant 4, k: Constant node"),
        (dynamic_shape, "invariant 5, c: shape .* isn't static"),
        (old_opset, "invariant 5, model: opset 12"),
    ],
)
def test_each_invariant_is_checked(spoil: Callable[[onnx.ModelProto], None], says: str) -> None:
    made = canonical()
    spoil(made)
    with pytest.raises(ModelError, match=says):
        validate(made)
