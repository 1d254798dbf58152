from __future__ import annotations

import numpy as np
import onnx
import pytest

from tests.preprocess.building import fold, inputs, model, node, normal, ops

HEAD = """
net (float[1,3,6,6] x) => (float[1,4,6,6] y) <float sx = {0.03}, uint8 zx = {120}>
{
  qx = QuantizeLinear (x, sx, zx)
  dx = DequantizeLinear (qx, sx, zx)
  %s
  w = DequantizeLinear <axis=0> (q0, s, z)
"""
Q = np.random.default_rng(3).integers(-127, 127, (4, 3, 3, 3)).astype(np.int8)
SCALE = np.array([0.01, 0.02, 0.015, 0.03], np.float32)
BASE = {"q0": Q, "s": SCALE, "z": np.zeros(4, np.int8)}
STEPS = np.array([1000, -20000, 3, 123456], np.int32)
GRID = (np.float64(np.float32(0.03)) * SCALE).astype(np.float32)


def bias_of(result_model: onnx.ModelProto) -> tuple[np.ndarray, ...]:
    name = node(result_model, "Conv").input[2]
    maker = next(one for one in result_model.graph.node if name in one.output)
    return tuple(inputs(result_model, maker))


def test_trained_int32_bias_keeps_its_integers() -> None:
    body = "  b = DequantizeLinear <axis=0> (qb, sb, zb)\n  y = Conv <pads=[1,1,1,1]> (dx, w, b)\n}"
    source = model(HEAD % "" + body, qb=STEPS, sb=GRID, zb=np.zeros(4, np.int32), **BASE)
    q, scale, zero_point = bias_of(fold(source).model)
    np.testing.assert_array_equal(q, STEPS)
    assert q.dtype == zero_point.dtype == np.int32
    np.testing.assert_allclose(scale, GRID, rtol=1e-6)


def test_grid_is_inherited_through_relu_and_pooling() -> None:
    body = """
  r = Relu (dx)
  p = MaxPool <kernel_shape=[3,3], pads=[1,1,1,1]> (r)
  b = DequantizeLinear <axis=0> (qb, sb, zb)
  y = Conv <pads=[1,1,1,1]> (p, w, b)
}"""
    source = model(HEAD % "" + body, qb=STEPS, sb=GRID, zb=np.zeros(4, np.int32), **BASE)
    np.testing.assert_array_equal(bias_of(fold(source).model)[0], STEPS)


def test_float_bias_on_the_grid_becomes_int32() -> None:
    body = "  y = Conv <pads=[1,1,1,1]> (dx, w, b)\n}"
    source = model(HEAD % "" + body, b=(STEPS * np.float64(GRID)).astype(np.float32), **BASE)
    np.testing.assert_array_equal(bias_of(fold(source, rtol=1e-6).model)[0], STEPS)


def test_float_bias_off_the_grid_is_not_rounded() -> None:
    bias = normal(4)
    source = model(HEAD % "" + "  y = Conv <pads=[1,1,1,1]> (dx, w, b)\n}", b=bias, **BASE)
    result = fold(source)
    np.testing.assert_array_equal(inputs(result.model, node(result.model, "Conv"))[2], bias)


def test_int8_bias_becomes_float() -> None:
    body = "  b = DequantizeLinear (qb, sb, zb)\n  y = Conv <pads=[1,1,1,1]> (dx, w, b)\n}"
    source = model(
        HEAD % "" + body, qb=np.array([5, -9, 100, 0], np.int8), sb=np.float32(0.0123), zb=np.int8(3), **BASE
    )
    result = fold(source)
    expected = np.array([2, -12, 97, -3], np.float32) * np.float32(0.0123)
    np.testing.assert_array_equal(inputs(result.model, node(result.model, "Conv"))[2], expected)
    assert any("float32" in note.reason for note in result.log if note.action == "folded")


def test_bias_of_a_layer_with_float_input_stays_float() -> None:
    text = """
net (float[1,3,6,6] x) => (float[1,4,6,6] y)
{
  w = DequantizeLinear <axis=0> (q0, s, z)
  b = DequantizeLinear <axis=0> (qb, sb, zb)
  y = Conv <pads=[1,1,1,1]> (x, w, b)
}"""
    result = fold(model(text, qb=STEPS, sb=GRID, zb=np.zeros(4, np.int32), **BASE))
    assert ops(result.model) == {"DequantizeLinear": 1, "Conv": 1}


@pytest.mark.parametrize("value", [2.0**40, 1e30])
def test_bias_beyond_int32_stays_float(value: float) -> None:
    source = model(
        HEAD % "" + "  y = Conv <pads=[1,1,1,1]> (dx, w, b)\n}", b=np.full(4, value * GRID[0], np.float32), **BASE
    )
    assert ops(fold(source).model)["DequantizeLinear"] == 2


def test_beside_a_grid_far_coarser_than_any_bias_they_stay_float() -> None:
    """They would all be zero."""
    bias = np.float32(1e-5) * GRID * np.arange(4, dtype=np.float32)
    result = fold(model(HEAD % "" + "  y = Conv <pads=[1,1,1,1]> (dx, w, b)\n}", b=bias, **BASE))
    np.testing.assert_array_equal(inputs(result.model, node(result.model, "Conv"))[2], bias)
