from __future__ import annotations

import numpy as np
import onnx
import pytest

from drpai_qat.core.errors import ModelError, QuantizationError
from preprocess import preprocess
from tests.preprocess.building import fold, inputs, model, node, ops, weights_of

PAIR = """
net (float[2,4] x) => (float[2,4] y)
{
  q = QuantizeLinear (x, s, z)
  y = DequantizeLinear (q, s, z)
}"""
OMITTED = PAIR.replace("s, z", "s")


@pytest.mark.parametrize(
    ("scale", "zero_point"), [(np.float32(0.02), np.uint8(7)), (np.array([0.02], np.float32), np.array([7], np.uint8))]
)
def test_single_values_become_scalars(scale: np.ndarray, zero_point: np.ndarray) -> None:
    result = fold(model(PAIR, s=scale, z=zero_point))
    assert [np.shape(one) for one in inputs(result.model, node(result.model, "QuantizeLinear"))[1:]] == [(), ()]


def test_zero_point_of_a_wrong_but_clear_shape() -> None:
    result = preprocess(model(PAIR, s=np.float32(0.02), z=np.array([[7]], np.uint8)))
    assert inputs(result.model, node(result.model, "QuantizeLinear"))[2].shape == ()


def test_omitted_zero_point_is_uint8_zero() -> None:
    result = fold(model(OMITTED, s=np.float32(0.02)))
    zero_point = inputs(result.model, node(result.model, "QuantizeLinear"))[2]
    assert (zero_point, zero_point.dtype) == (0, np.uint8)


def test_omitted_zero_point_of_constants_has_their_type() -> None:
    text = """
net (float[2,4] x) => (float[2,3] y) <float sx = {0.02}>
{
  q = QuantizeLinear (x, sx)
  d = DequantizeLinear (q, sx)
  w = DequantizeLinear (q0, s)
  y = MatMul (d, w)
}"""
    q0 = np.random.default_rng(0).integers(-127, 127, (4, 3)).astype(np.int8)
    fold(model(text, q0=q0, s=np.float32(0.1)))


def test_zero_points_from_constant_of_shape_and_cast() -> None:
    text = """
net (float[2,4] x) => (float[2,4] y) <int64[1] one = {1}>
{
  wide = ConstantOfShape <value = int64[1] {9}> (one)
  z = Cast <to=2> (wide)
  q = QuantizeLinear (x, s, z)
  y = DequantizeLinear (q, s, z)
}"""
    result = fold(model(text, s=np.array([0.02], np.float32)))
    assert inputs(result.model, node(result.model, "QuantizeLinear"))[2] == 9


def test_negative_axis_counts_from_the_end() -> None:
    text = """
net (float[2,4] x) => (float[2,3] y) <float sx = {0.02}, uint8 zx = {100}>
{
  qx = QuantizeLinear (x, sx, zx)
  dx = DequantizeLinear (qx, sx, zx)
  w = DequantizeLinear <axis=-1> (q0, s, z)
  y = MatMul (dx, w)
}"""
    q0 = np.random.default_rng(0).integers(-127, 127, (4, 3)).astype(np.int8)
    result = fold(model(text, q0=q0, s=np.array([0.1, 0.2, 0.3], np.float32), z=np.zeros(3, np.int8)))
    assert [one.i for n in result.model.graph.node for one in n.attribute if one.name == "axis"] == [1]


@pytest.mark.parametrize(("dtype", "low", "high"), [("INT4", -8, 7), ("UINT4", 0, 15)])
def test_four_bit_activations_become_a_range_of_eight(dtype: str, low: int, high: int) -> None:
    elem = getattr(onnx.TensorProto, dtype)
    source = onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 21]>' + PAIR)
    source.graph.initializer.extend(
        [
            onnx.helper.make_tensor("s", onnx.TensorProto.FLOAT, [], [0.2]),
            onnx.helper.make_tensor("z", elem, [], [3]),
        ]
    )
    result = fold(source, spread=3)
    assert ops(result.model) == {"Clip": 1, "QuantizeLinear": 1, "DequantizeLinear": 1}
    bounds = inputs(result.model, node(result.model, "Clip"))[1:]
    np.testing.assert_allclose(bounds, [(low - 3) * 0.2, (high - 3) * 0.2], rtol=1e-6)


def test_four_bit_weights_become_int8() -> None:
    text = """<ir_version: 10, opset_import: ["" : 21]>
net (float[2,4] x) => (float[2,3] y) <float sx = {0.02}, uint8 zx = {100}>
{
  qx = QuantizeLinear (x, sx, zx)
  dx = DequantizeLinear (qx, sx, zx)
  w = DequantizeLinear <axis=1> (q0, s, z)
  y = MatMul (dx, w)
}"""
    source = onnx.parser.parse_model(text)
    q0 = np.random.default_rng(0).integers(-8, 8, 12)
    source.graph.initializer.extend(
        [
            onnx.helper.make_tensor("q0", onnx.TensorProto.INT4, [4, 3], q0),
            onnx.helper.make_tensor("s", onnx.TensorProto.FLOAT, [3], [0.1, 0.2, 0.3]),
            onnx.helper.make_tensor("z", onnx.TensorProto.INT4, [3], [0, 0, 0]),
        ]
    )
    result = fold(source)
    weights = weights_of(result.model, "MatMul")[0]
    assert weights.dtype == np.int8
    np.testing.assert_array_equal(weights.reshape(-1), q0)


@pytest.mark.parametrize(
    ("scale", "says"),
    [
        (0.0, "is zero"),
        (-0.1, "is negative"),
        (np.nan, "is NaN"),
        (np.inf, "is infinite"),
        (1e-40, "is denormal"),
        (3e38, "is so large"),
    ],
)
def test_scales_that_mean_nothing_are_named(scale: float, says: str) -> None:
    with pytest.raises(QuantizationError, match=rf"node QuantizeLinear_q, tensor s: scale = \S+ {says}"):
        preprocess(model(PAIR, s=np.float32(scale), z=np.uint8(0)))


def test_the_channel_with_a_bad_scale_is_named() -> None:
    text = PAIR.replace("Linear (", "Linear <axis=1> (")
    with pytest.raises(QuantizationError, match=r"scale\[2\] = 0 is zero"):
        preprocess(model(text, s=np.array([1, 2, 0, 3], np.float32), z=np.zeros(4, np.uint8)))


def test_lengths_that_do_not_match_are_refused() -> None:
    text = PAIR.replace("Linear (", "Linear <axis=1> (")
    with pytest.raises(QuantizationError, match="3 scales along axis 1 of a tensor of shape"):
        preprocess(model(text, s=np.array([1, 2, 3], np.float32), z=np.zeros(3, np.uint8)))
    with pytest.raises(QuantizationError, match="4 scales and 3 zero points"):
        preprocess(model(text, s=np.array([1, 2, 3, 4], np.float32), z=np.zeros(3, np.uint8)))


def test_scales_computed_at_run_time_are_refused() -> None:
    text = PAIR.replace("{\n", "{\n  s = ReduceMax <keepdims=0> (x)\n", 1)
    with pytest.raises(ModelError, match="tensor s: scale is computed at run time"):
        preprocess(model(text, z=np.uint8(0)))


def test_missing_scale_is_refused() -> None:
    source = onnx.parser.parse_model('<ir_version: 8, opset_import: ["" : 13]>' + PAIR.replace("(q, s, z)", "(q)"))
    source.graph.initializer.extend([
        onnx.numpy_helper.from_array(np.array(0.1, np.float32), "s"),
        onnx.numpy_helper.from_array(np.array(0, np.uint8), "z"),
    ])  # fmt: skip
    with pytest.raises(ModelError, match="has no scale"):
        preprocess(source)


def test_fp8_is_refused() -> None:
    source = onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 21]>' + PAIR)
    source.graph.initializer.extend(
        [
            onnx.helper.make_tensor("s", onnx.TensorProto.FLOAT, [], [0.2]),
            onnx.helper.make_tensor("z", onnx.TensorProto.FLOAT8E4M3FN, [], [0.0]),
        ]
    )
    with pytest.raises(ModelError, match="float8_e4m3fn; export an INT8"):
        preprocess(source)
