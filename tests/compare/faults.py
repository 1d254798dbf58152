"""A small trained network, and copies of it that have exactly one fault each."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
from onnx import numpy_helper

import preprocess

_TEXT = """
<ir_version: 8, opset_import: ["" : 13]>
net (float[1,3,8,8] x) => (float[1,4] y)
<float sx = {0.0078}, uint8 zx = {128}, float sc = {0.011}, uint8 zc = {128}, float sr = {0.009}, uint8 zr = {64},
 float so = {0.021}, int8 zo = {0}>
{
  qx = QuantizeLinear (x, sx, zx)
  dx = DequantizeLinear (qx, sx, zx)
  c = Conv <kernel_shape=[3,3], pads=[1,1,1,1]> (dx, w1, b1)
  qc = QuantizeLinear (c, sc, zc)
  dc = DequantizeLinear (qc, sc, zc)
  n = BatchNormalization (dc, gamma, beta, mean, var)
  r = Relu (n)
  qr = QuantizeLinear (r, sr, zr)
  dr = DequantizeLinear (qr, sr, zr)
  c2 = Conv <kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]> (dr, w2, b2)
  q2 = QuantizeLinear (c2, sc, zc)
  d2 = DequantizeLinear (q2, sc, zc)
  f = Flatten (d2)
  g = Gemm <transB=1> (f, w3, b3)
  qo = QuantizeLinear (g, so, zo)
  y = DequantizeLinear (qo, so, zo)
}
"""


def trained() -> onnx.ModelProto:
    """Conv, batch norm behind a rounding, ReLU, conv, flatten, dense: canonical."""
    generator = np.random.default_rng(0)
    text = _TEXT
    constants: dict[str, np.ndarray] = {}
    for name, shape in (("w1", (6, 3, 3, 3)), ("w2", (5, 6, 3, 3)), ("w3", (4, 80))):
        values = generator.normal(0, 1.2 / np.sqrt(np.prod(shape[1:])), shape).astype(np.float32)
        scale = (np.abs(values).max(axis=tuple(range(1, len(shape)))) / 127).astype(np.float32)
        constants |= {f"{name}_f": values, f"{name}_s": scale, f"{name}_z": np.zeros(shape[0], np.int8)}
        made = (
            f"{name}_q = QuantizeLinear <axis=0> ({name}_f, {name}_s, {name}_z)\n"
            f"  {name} = DequantizeLinear <axis=0> ({name}_q, {name}_s, {name}_z)\n  qx ="
        )
        text = text.replace("qx =", made, 1)
        constants[name.replace("w", "b")] = generator.normal(0, 0.1, shape[0]).astype(np.float32)
    constants |= {
        "gamma": generator.uniform(0.6, 1.4, 6).astype(np.float32),
        "beta": generator.normal(0, 0.1, 6).astype(np.float32),
        "mean": generator.normal(0, 0.1, 6).astype(np.float32),
        "var": generator.uniform(0.7, 1.3, 6).astype(np.float32),
    }
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    return preprocess.preprocess(model).model


def node_of(model: onnx.ModelProto, output: str) -> onnx.NodeProto:
    """What computes a tensor."""
    return next(node for node in model.graph.node if output in node.output)


def constant(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    """An initializer."""
    return next(one for one in model.graph.initializer if one.name == name)


def set_constant(model: onnx.ModelProto, name: str, values: np.ndarray) -> None:
    """Give an initializer other values."""
    constant(model, name).CopyFrom(numpy_helper.from_array(values, name))


def add(model: onnx.ModelProto, name: str, values: object) -> str:
    """A new float constant."""
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(values, np.float32), name))
    return name


def insert_before(model: onnx.ModelProto, output: str, op: str, *operands: str, perm: list[int] | None = None) -> None:
    """Put an operator between the node that computes `output` and that node's first input."""
    node = node_of(model, output)
    made = f"{node.input[0]}_{op}"
    new = onnx.helper.make_node(
        op, [node.input[0], *operands], [made], name=made, **({} if perm is None else {"perm": perm})
    )
    place = list(model.graph.node).index(node)
    model.graph.node.insert(place, new)
    node.input[0] = made
    source = next((one for one in model.graph.value_info if one.name == new.input[0]), None)
    if source is None:
        source = next(one for one in model.graph.input if one.name == new.input[0])
    value = onnx.ValueInfoProto()
    value.CopyFrom(source)
    value.name = made
    dims = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    for dim, axis in zip(value.type.tensor_type.shape.dim, perm or range(len(dims)), strict=True):
        dim.dim_value = dims[axis]
    model.graph.value_info.append(value)


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    made = onnx.ModelProto()
    made.CopyFrom(model)
    return made


def recalibrated(model: onnx.ModelProto) -> onnx.ModelProto:
    """The range behind the first ReLU was found anew."""
    made = _copy(model)
    node, reader = node_of(made, "qr"), node_of(made, "dr")
    node.input[1] = reader.input[1] = add(made, "new_scale", 0.0085)
    return made


def rounding_down(model: onnx.ModelProto) -> onnx.ModelProto:
    """floor instead of round, behind the second convolution."""
    made = _copy(model)
    insert_before(made, "q2", "Sub", add(made, "half", 0.011 / 2))
    return made


def saturating_early(model: onnx.ModelProto) -> onnx.ModelProto:
    """The second convolution's integers end at 90 steps above zero and below."""
    made = _copy(model)
    insert_before(made, "q2", "Clip", add(made, "low", -0.011 * 90), add(made, "high", 0.011 * 90))
    return made


def coarse_bias(model: onnx.ModelProto) -> onnx.ModelProto:
    """Biases of a few bits."""
    made = _copy(model)
    name = node_of(made, "c2").input[2]
    values = numpy_helper.to_array(constant(made, name))
    step = np.float32(np.abs(values).max() / 8)
    set_constant(made, name, np.rint(values / step) * step)
    return made


def folded_batch_norm(model: onnx.ModelProto) -> onnx.ModelProto:
    """The batch norm is in the first convolution's weights, and the rounding in front of it is gone."""
    made = _copy(model)
    values = {one.name: numpy_helper.to_array(one) for one in made.graph.initializer}
    conv, norm = node_of(made, "c"), node_of(made, "n")
    gamma, beta, mean, var = (values[name].astype(np.float64) for name in norm.input[1:5])
    factor = gamma / np.sqrt(var + 1e-5)
    weight = node_of(made, conv.input[1])
    set_constant(made, weight.input[1], (values[weight.input[1]] * factor).astype(np.float32))
    set_constant(made, conv.input[2], ((values[conv.input[2]] - mean) * factor + beta).astype(np.float32))
    node_of(made, "r").input[0] = "c"
    for name in ("qc", "dc", "n"):
        made.graph.node.remove(node_of(made, name))
    return made


def without_relu(model: onnx.ModelProto) -> onnx.ModelProto:
    """The ReLU is gone."""
    made = _copy(model)
    relu = node_of(made, "r")
    node_of(made, "qr").input[0] = relu.input[0]
    made.graph.node.remove(relu)
    return made


def with_relu(model: onnx.ModelProto) -> onnx.ModelProto:
    """A ReLU behind the second convolution."""
    made = _copy(model)
    insert_before(made, "q2", "Relu")
    return made


def flattened_channels_last(model: onnx.ModelProto) -> onnx.ModelProto:
    """The dense layer reads height, width, channels, with weights for the other order."""
    made = _copy(model)
    insert_before(made, "f", "Transpose", perm=[0, 2, 3, 1])
    return made


def weights_channels_last(model: onnx.ModelProto) -> onnx.ModelProto:
    """The dense layer's weights are for height, width, channels, what it reads is in the other order."""
    made = _copy(model)
    weight = node_of(made, node_of(made, "g").input[1])
    values = numpy_helper.to_array(constant(made, weight.input[0]))
    turned = values.reshape(4, 5, 4, 4).transpose(0, 2, 3, 1).reshape(4, 80)
    set_constant(made, weight.input[0], np.ascontiguousarray(turned))
    return made


def input_of_bytes(model: onnx.ModelProto) -> onnx.ModelProto:
    """It wants pixels of 0..255."""
    made = _copy(model)
    insert_before(made, "qx", "Mul", add(made, "byte", 1 / 255))
    return made


def channels_reversed(model: onnx.ModelProto) -> onnx.ModelProto:
    """It wants BGR."""
    made = _copy(model)
    weight = node_of(made, node_of(made, "c").input[1])
    values = numpy_helper.to_array(constant(made, weight.input[0]))
    set_constant(made, weight.input[0], np.ascontiguousarray(values[:, ::-1]))
    return made


def other_checkpoint(model: onnx.ModelProto) -> onnx.ModelProto:
    """A few weights of the second convolution are others."""
    made = _copy(model)
    weight = node_of(made, node_of(made, "c2").input[1])
    values = numpy_helper.to_array(constant(made, weight.input[0])).copy()
    values[2, :, 1] = -values[2, :, 1]
    set_constant(made, weight.input[0], values)
    return made


def dilated(model: onnx.ModelProto) -> onnx.ModelProto:
    """The second convolution looks elsewhere: none of the causes that compare knows."""
    made = _copy(model)
    pads = next(one for one in node_of(made, "c2").attribute if one.name == "pads")
    del pads.ints[:]
    pads.ints.extend([0, 1, 2, 1])
    return made


FAULTS = {
    recalibrated: "re-calibrated range",
    rounding_down: "rounding mode",
    saturating_early: "saturation",
    coarse_bias: "bias rounding",
    folded_batch_norm: "folded batch norm",
    without_relu: "fused activation",
    with_relu: "fused activation",
    flattened_channels_last: "layout",
    weights_channels_last: "layout",
    input_of_bytes: "preprocessing",
    channels_reversed: "preprocessing",
    other_checkpoint: "other weights",
    dilated: "unknown",
}
"""Makers of faulty copies, and the cause that must be named."""


def float_twin(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same network without grids: activations are not rounded, weights are the reals of their integers."""
    made = _copy(model)
    values = {one.name: numpy_helper.to_array(one) for one in made.graph.initializer}
    called: dict[str, str] = {}
    kept = []
    for node in made.graph.node:
        node.input[:] = [called.get(name, name) for name in node.input]
        if node.op_type == "QuantizeLinear" or (node.op_type == "DequantizeLinear" and node.input[0] not in values):
            called[node.output[0]] = node.input[0]
        elif node.op_type == "DequantizeLinear":
            integers, scale = values[node.input[0]].astype(np.float32), values[node.input[1]]
            add(made, node.output[0], integers * scale.reshape([-1] + [1] * (integers.ndim - 1)))
        else:
            kept.append(node)
    del made.graph.node[:]
    kept[-1].output[0] = "y"
    made.graph.node.extend(kept)
    return made
