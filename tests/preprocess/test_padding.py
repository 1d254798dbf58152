from __future__ import annotations

import numpy as np
import onnx
import pytest

from preprocess import Preprocessed
from tests.preprocess.building import fold, model, node, normal, ops

GRID = {"s": np.float32(0.05), "z": np.uint8(90)}


def attribute(result: Preprocessed, op: str, name: str) -> object:
    found = [onnx.helper.get_attribute_value(one) for one in node(result.model, op).attribute if one.name == name]
    return found[0] if found else None


def padded(between: str, out: str, pads: list[int], value: float = 0.0, conv: str = "") -> onnx.ModelProto:
    return model(
        f"""
net (float[1,4,8,8] x) => (float[1,3,{out}] y)
{{
  q0 = QuantizeLinear (x, s, z)
  r0 = DequantizeLinear (q0, s, z)
  p = Pad (r0, pads, value)
  {between}
  y = Conv {conv} (r, w)
}}""",
        pads=np.array(pads, np.int64), value=np.float32(value), w=normal(3, 4, 3, 3), half=np.float32(0.5), **GRID,
    )  # fmt: skip


PAIR = "q = QuantizeLinear (p, s, z)  r = DequantizeLinear (q, s, z)"


@pytest.mark.parametrize(
    "between", ["r = Relu (p)", PAIR, "n = Relu (p) q = QuantizeLinear (n, s, z) r = DequantizeLinear (q, s, z)"]
)
def test_zeros_become_pads_of_the_convolution(between: str) -> None:
    result = fold(padded(between, "4,4", [0, 0, 0, 0, 0, 0, 1, 1], conv="<strides = [2,2]>"), "tensorflow")
    assert ops(result.model)["Pad"] == 0
    assert attribute(result, "Conv", "pads") == [0, 0, 1, 1]


def test_they_add_to_the_pads_that_are_there() -> None:
    result = fold(padded(PAIR, "11,10", [0, 0, 1, 0, 0, 0, 2, 2], conv="<pads = [1,1,1,1]>"), "tensorflow")
    assert attribute(result, "Conv", "pads") == [2, 1, 3, 3]


def test_other_values_stay() -> None:
    assert ops(fold(padded(PAIR, "8,8", [0, 0, 1, 1, 0, 0, 1, 1], value=1.5), "tensorflow").model)["Pad"] == 1


def test_cropping_stays() -> None:
    assert ops(fold(padded(PAIR, "6,6", [0, 0, 1, 1, 0, 0, -1, -1]), "tensorflow").model)["Pad"] == 1


def test_clip_that_moves_zero_stays() -> None:
    source = padded("r = Clip (p, half)", "8,8", [0, 0, 1, 1, 0, 0, 1, 1])
    assert ops(fold(source, "tensorflow").model)["Pad"] == 1


def test_padding_that_something_else_reads_stays() -> None:
    source = padded("r = Relu (p)", "8,8", [0, 0, 1, 1, 0, 0, 1, 1])
    source.graph.node.append(onnx.helper.make_node("Sigmoid", ["r"], ["z2"]))
    source.graph.output.append(onnx.helper.make_tensor_value_info("z2", onnx.TensorProto.FLOAT, [1, 4, 10, 10]))
    assert ops(fold(source, "tensorflow").model)["Pad"] == 1


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("op", ["Conv (r, w)", "MaxPool (r)", "AveragePool (r)"])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (2, 1), (5, 3)])
def test_automatic_padding_is_written_out(mode: str, op: str, kernel: int, stride: int) -> None:
    size = -(-(8 - kernel + 1) // stride) if mode == "VALID" else -(-8 // stride)
    attrs = f'<auto_pad = "{mode}", kernel_shape = [{kernel},{kernel}], strides = [{stride},{stride}]>'
    source = model(
        f"""
net (float[1,4,8,8] x) => (float[1,4,{size},{size}] y)
{{
  q = QuantizeLinear (x, s, z)
  r = DequantizeLinear (q, s, z)
  y = {op.replace(" ", " " + attrs + " ", 1)}
}}""",
        w=normal(4, 4, kernel, kernel), **GRID,
    )  # fmt: skip
    result = fold(source, "tensorflow", rtol=1e-6)
    assert attribute(result, op.split()[0], "auto_pad") is None


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (4, 2), (5, 3), (2, 2)])
def test_automatic_padding_of_a_transposed_convolution(mode: str, kernel: int, stride: int) -> None:
    size = 8 * stride
    source = model(
        f"""
net (float[1,4,8,8] x) => (float[1,4,{size},{size}] y)
{{
  q = QuantizeLinear (x, s, z)
  r = DequantizeLinear (q, s, z)
  y = ConvTranspose <auto_pad = "{mode}", strides = [{stride},{stride}]> (r, w)
}}""",
        w=normal(4, 4, kernel, kernel), **GRID,
    )  # fmt: skip
    for qat_type in ("pytorch", "tensorflow"):
        result = fold(source, qat_type, rtol=1e-6)
        assert attribute(result, "ConvTranspose", "auto_pad") is None


@pytest.mark.parametrize("size", [15, 16, 17, 18])
@pytest.mark.parametrize("mode", ["NOTSET", "SAME_UPPER", "SAME_LOWER"])
def test_a_given_output_shape_becomes_pads(mode: str, size: int) -> None:
    source = model(
        f"""
net (float[1,4,8,8] x) => (float[1,4,{size},{size}] y)
{{
  q = QuantizeLinear (x, s, z)
  r = DequantizeLinear (q, s, z)
  y = ConvTranspose <auto_pad = "{mode}", strides = [2,2], output_shape = [{size},{size}]> (r, w)
}}""",
        w=normal(4, 4, 3, 3), **GRID,
    )  # fmt: skip
    assert attribute(fold(source, rtol=1e-6), "ConvTranspose", "output_shape") is None


def test_causal_padding_in_front_of_a_wrapped_one_dimensional_convolution() -> None:
    source = model(
        """
net (float[1,9,4] x) => (float[1,3,1,9] y)
{
  q = QuantizeLinear (x, s, z)
  r = DequantizeLinear (q, s, z)
  p = Pad (r, pads)
  u = Unsqueeze (p, axes)
  t = Transpose <perm = [0,3,1,2]> (u)
  y = Conv <dilations = [1,2]> (t, w)
}""",
        pads=np.array([0, 4, 0, 0, 0, 0], np.int64), axes=np.array([-3], np.int64), w=normal(3, 4, 1, 3), **GRID,
    )  # fmt: skip
    result = fold(source, "tensorflow")
    assert ops(result.model)["Pad"] == 0
    assert attribute(result, "Conv", "pads") == [0, 4, 0, 0]


def test_padded_channels_stay() -> None:
    source = model(
        """
net (float[1,2,8,8] x) => (float[1,3,6,6] y)
{
  q = QuantizeLinear (x, s, z)
  r = DequantizeLinear (q, s, z)
  p = Pad (r, pads)
  y = Conv (p, w)
}""",
        pads=np.array([0, 0, 0, 0, 0, 2, 0, 0], np.int64), w=normal(3, 4, 3, 3), **GRID,
    )  # fmt: skip
    assert ops(fold(source, "tensorflow").model)["Pad"] == 1


@pytest.mark.parametrize(("before", "folded"), [("n = Relu (x)", True), ("n = Identity (x)", False)])
def test_max_pooling_takes_zeros_where_nothing_is_below(before: str, folded: bool) -> None:
    source = model(
        f"""
net (float[1,4,8,8] x) => (float[1,4,4,4] y)
{{
  {before}
  q = QuantizeLinear (n, s, z)
  r = DequantizeLinear (q, s, z)
  p = Pad (r, pads)
  y = MaxPool <kernel_shape = [3,3], strides = [2,2]> (p)
}}""",
        pads=np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64), **GRID,
    )  # fmt: skip
    assert ops(fold(source, "tensorflow").model)["Pad"] == (not folded)


def test_strides_beyond_the_image_fit_int32() -> None:
    """onnxruntime takes one position of the window then."""
    result = fold(padded(PAIR, "1,4", [0] * 8, conv="<strides = [4611686018427387904, 2], pads = [1,1,1,1]>"))
    assert attribute(result, "Conv", "strides") == [10, 2]
